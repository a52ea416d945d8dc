from __future__ import annotations

from collections.abc import Generator

import pytest

from ntt_cli.config import built_in_methods, methods
from tests.cli.conftest import ntt as command

__all__ = ["command"]


@pytest.fixture(autouse=True)
def _no_more_methods() -> Generator[None]:
    """What a test registers is forgotten after it."""
    yield
    for name in set(methods._REGISTERED) - set(built_in_methods()):
        del methods._REGISTERED[name]
