"""Shapes in signatures are checked by beartype in every call that the tests make."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("ntt_cli.core", "beartype.beartype")

# Two workers with two threads each would wait for each other on two cores.
torch.set_num_threads(1)

FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """Debian's dataset-fashion-mnist; where CI asks for it, its absence is a failure."""
    if not FASHION_MNIST.is_dir():
        message = "Fashion-MNIST is missing: apt-get install dataset-fashion-mnist"
        if os.environ.get("NTT_REQUIRE_DATA"):
            pytest.fail(message)
        pytest.skip(message)  # never in CI, which sets the variable
    return FASHION_MNIST
