"""The software and hardware that the last bits of a result depend on."""

from __future__ import annotations

import hashlib

import torch

from ntt_cli import __version__


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
