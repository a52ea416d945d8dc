"""How much memory has been used."""

from __future__ import annotations

import sys

import torch


def peak_memory_bytes(device: torch.device) -> int | None:
    """The most that was in use at once: on the GPU by torch, on the CPU by this process; `None` where none can tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes, except on macOS
