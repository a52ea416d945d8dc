"""Shapes in signatures are checked by beartype in every call that the tests make."""

import os
import warnings
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook
from torch.autograd import forward_ad

MATHEMATICS = [
    "data.normalise",
    "kernels.backward",
    "kernels.exact",
    "kernels.product",
    "kernels.spectrum",
    "masks.allocation",
    "masks.masks",
    "masks.rounds",
    "masks.schedule",
    "masks.zeros",
    "methods.grasp",
    "methods.logit_snip",
    "methods.snip",
    "methods.ntk_sap",
    "methods.obc",
    "methods.sparsegpt",
    "methods.ntt.affinity",
    "methods.ntt.compiled",
    "methods.ntt.objective",
    "methods.ntt.saliency",
    "methods.ntt.step",
    "methods.synflow",
    "methods.wanda",
    "methods.magnitude",
    "methods.random",
    "networks.batch_norm",
    "networks.copying",
    "networks.flops",
    "networks.fragile",
    "networks.functional",
    "networks.initialise",
    "networks.layer_calls",
    "networks.layer_inputs",
    "networks.multiplied",
    "networks.outputs",
    "networks.prunable",
    "networks.second_order",
    "tasks.metrics",
    "training.step",
]
"""Modules that know no files, clock or global randomness."""

install_import_hook([f"ntt_cli.{name}" for name in MATHEMATICS], "beartype.beartype")

from ntt_cli.config import DataOptions  # noqa: E402
from ntt_cli.data.inputs import Inputs  # noqa: E402
from ntt_cli.networks.normalisation import open_inputs  # noqa: E402
from ntt_cli.runs.sources import AS_NAMED  # noqa: E402
from tests.parts import CPU, loaded  # noqa: E402

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


@pytest.fixture(scope="session", autouse=True)
def _forward_mode() -> None:
    """Load torch's forward mode, which warns of its own use of `torch.jit`; the command line ignores that too."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
        with forward_ad.dual_level():
            forward_ad.make_dual(torch.zeros(1), torch.zeros(1))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def digits(folder: Path) -> Inputs:
    options = DataOptions(data="digits")
    samples = AS_NAMED.load_samples(options, loaded("plain"), split="train")
    return open_inputs(samples, device=CPU, known=None, on_event=lambda _: None)
