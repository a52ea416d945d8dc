"""The device that computes."""

from __future__ import annotations

import os

import torch

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
