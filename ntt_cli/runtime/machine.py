"""The device that computes, and the software and hardware that the last bits of a result depend on."""

from __future__ import annotations

import hashlib
import os

import torch

from ntt_cli import __version__
from ntt_cli.errors import UsageError


def pick_device(name: str) -> torch.device:
    """The device that `--device` names; `auto` is the fastest one here."""
    here = ["cpu"]
    if torch.backends.mps.is_available():
        here.insert(0, "mps")
    if torch.cuda.is_available():
        here = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *here]
    if name in {"auto", here[0]} and here[0] == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"  # the GPU that torchrun assigned to this process
    if name == "auto":
        return torch.device(here[0])
    if name not in here:
        raise UsageError(f"--device {name}", "there is no such device here", hint=f"use auto or {', '.join(here)}")
    return torch.device(name)


def describe_machine(device: torch.device) -> dict[str, str]:
    """Versions, build, threads and device, by the names that messages about a difference use."""
    found = {
        "ntt": __version__,
        "torch": torch.__version__,
        "torch build": hashlib.sha256(torch.__config__.show().encode()).hexdigest()[:16],
        "CPU capability": torch.backends.cpu.get_cpu_capability(),
        "threads": str(torch.get_num_threads()),
        "device": device.type,
    }
    if device.type == "cuda":
        found["device"] = f"cuda, {torch.cuda.get_device_name(device)}"
        found["cuDNN"] = str(torch.backends.cudnn.version())
    return found
