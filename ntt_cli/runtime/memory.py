"""How much memory there is, how much has been used, and giving back free memory."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

import torch

from ntt_cli.files.free_memory import container_limit

STATUS = Path("/proc/self/status")


def memory_bytes(device: torch.device) -> int | None:
    """Total memory of the GPU, or of the machine or its container; `None` if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if sys.platform == "win32":
        return None
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(machine, container_limit() or machine)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Peak memory, on the GPU of torch, on the CPU of this process; `None` if the system does not report it."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    if STATUS.exists():  # the count below includes the peak of the parent process
        return 1024 * int(STATUS.read_text().partition("VmHWM:")[2].split()[0])
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes, except on macOS


def give_back_free_memory() -> None:
    """Return freed memory to the system, which glibc would keep; without glibc, do nothing."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)
