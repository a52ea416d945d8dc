"""The dense network to compare with, in the form that a runtime takes: written as `ntt export` writes programs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from ntt_cli.data.batch import Batch, to_device
from ntt_cli.errors import UsageError
from ntt_cli.networks.copying import copy_module
from ntt_cli.networks.outputs import Heads
from ntt_cli.programs.described import describe
from ntt_cli.programs.onnx import write_onnx
from ntt_cli.programs.program import Program
from ntt_cli.programs.pt2 import write_pt2
from ntt_cli.programs.trace import returning, trace
from ntt_cli.runtime.events import EventSink, Noted
from ntt_cli.runtime.seeding import CPU
from ntt_cli.tensors import Masks
from ntt_cli.timing.forms import INSTALL, ONNX, PROGRAM, PYTORCH, Form, of_module, open_onnx, open_program

DENSE = "dense"

SMALL = 0.01
"""Pruned weights of the dense network, as a fraction of their layer's largest: no pass may overflow because of them."""


def filled(module: nn.Module, masks: Masks) -> nn.Module:
    """A copy with small numbers in the place of pruned weights. Times do not depend on values."""
    dense = copy_module(module).eval()
    values, generator = dict(dense.named_parameters(remove_duplicate=False)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, mask in masks.items():
            value = values[name]
            signs = torch.randint(2, mask.shape, generator=generator).to(value) * 2 - 1
            value.copy_(torch.where(mask.to(value.device), value, SMALL * value.abs().max() * signs))
    return dense


@dataclass(frozen=True, eq=False)
class DenseForms:
    """The dense network in the form of each runtime, made when it is first asked for.

    Attributes:
        module: the dense network.
        heads: its outputs that count, which programs return.
        two: two samples, to trace it with.
        where: the network, as the user named it.
        threads: of onnxruntime.
        folder: where its files go.
    """

    module: nn.Module
    heads: Heads
    two: Batch
    where: str
    threads: int
    folder: Path
    on_event: EventSink
    made: dict[str, Form] = field(default_factory=dict)

    def of(self, runtime: str) -> Form:
        """The form for a runtime.

        Raises:
            ModelError: if torch cannot export the network.
            UsageError: if a package is missing.
        """
        if runtime not in self.made:
            makers: dict[str, Callable[[], Form]] = {PYTORCH: self._module, PROGRAM: self._program, ONNX: self._onnx}
            self.made[runtime] = makers[runtime]()
        return self.made[runtime]

    def _module(self) -> Form:
        return of_module(DENSE, self.module)

    def _program(self) -> Form:
        path = self.folder / "dense.pt2"
        write_pt2(path, self._traced(PROGRAM))
        return replace(open_program(str(path), next(self.module.parameters()).device), file=DENSE)

    def _onnx(self) -> Form:
        for package in ("onnx", "onnxscript"):
            if find_spec(package) is None:
                what = f"needs {package}, to export the dense network too; it is not installed"
                raise UsageError(ONNX, what, hint=INSTALL)
        path = self.folder / "dense.onnx"
        write_onnx(path, self._traced(ONNX))
        return replace(open_onnx(str(path), self.threads), file=DENSE)

    def _traced(self, runtime: str) -> Program:
        self.on_event(Noted(f"the dense network is exported too, to be compared in {runtime}"))
        two: Batch = to_device(self.two, CPU)
        with returning(copy_module(self.module).cpu(), self.heads, two) as module:
            traced = trace(module, two, where=self.where)
            found = describe(traced, self.heads)
        return Program(traced, found.axes, {"inputs": found.inputs, "outputs": found.outputs}, [], self.where)
