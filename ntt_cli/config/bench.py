"""Options of `ntt bench`."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ntt_cli.config.fields import Group
from ntt_cli.config.options import DataOptions, MachineOptions, ModelOptions, WeightsOptions


class BenchConfig(ModelOptions, WeightsOptions, DataOptions, MachineOptions):
    """`ntt bench`."""

    arguments: ClassVar[tuple[str, ...]] = ("checkpoint", "exported")

    checkpoint: Annotated[
        str, Field(description="The sparse weights: a .safetensors or .pt file, or a folder with one."), Group.MODEL
    ]
    exported: tuple[str, ...] = Group.MODEL.option(
        (),
        "The same network in other forms, as ntt export writes them: .onnx files, .pt2 programs, packed or plain"
        " checkpoints. Programs are run: name only files that you trust.",
    )
    batch_size: int = Group.MACHINE.option(
        64, "Samples a pass for the throughput; 1 measures the latency of single samples alone.", ge=1, lt=2**31
    )
    seconds: float = Group.MACHINE.option(
        3.0, "Seconds for each comparison with the dense network; six pairs of times are taken in any case.", gt=0
    )
    threads: int | None = Group.MACHINE.option(
        None, "Threads of PyTorch and of onnxruntime. Default: as many as PyTorch takes.", ge=1, le=1024
    )
