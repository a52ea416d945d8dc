from __future__ import annotations

from tests.cli.conftest import folder, ntt
from tests.conftest import _forward_mode

__all__ = ["_forward_mode", "folder", "ntt"]
