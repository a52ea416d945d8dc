from __future__ import annotations

from tests.cli.conftest import folder, ntt
from tests.workflows.conftest import _forward_mode

__all__ = ["_forward_mode", "folder", "ntt"]
