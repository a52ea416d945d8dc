"""The dense network to compare with, in the form that a runtime takes: written by torch's exporters for the purpose."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from ntt_cli.data.batch import arguments
from ntt_cli.errors import ModelError, NttError, UsageError
from ntt_cli.evaluation.forms import ONNX, PROGRAM, PYTORCH, Form, first_line, of_module, open_onnx
from ntt_cli.networks.copying import copy_module
from ntt_cli.runtime.events import EventSink, Noted
from ntt_cli.tensors import Masks

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
        part: inputs to trace it with, of two samples or more; the number is not fixed by that.
        fixed: whether sizes are fixed all the same, because the inputs are not cut into samples.
        threads: of onnxruntime.
        folder: where its file goes.
    """

    module: nn.Module
    part: Any
    fixed: bool
    threads: int
    folder: Path
    on_event: EventSink
    made: dict[str, Form] = field(default_factory=dict)

    def of(self, runtime: str) -> Form:
        """The form for a runtime.

        Raises:
            ModelError: if torch cannot export the network.
            UsageError: if torch's exporter lacks a package.
        """
        if runtime not in self.made:
            makers: dict[str, Callable[[], Form]] = {PYTORCH: self._module, PROGRAM: self._program, ONNX: self._onnx}
            self.made[runtime] = makers[runtime]()
        return self.made[runtime]

    def _module(self) -> Form:
        return of_module(DENSE, self.module)

    def _program(self) -> Form:
        with self._exporting(PROGRAM):
            return of_module(DENSE, self._exported(self.module, self.part).module(), PROGRAM)

    def _onnx(self) -> Form:
        path = self.folder / "dense.onnx"
        with self._exporting(ONNX):
            # On the CPU, where onnxruntime runs it.
            program = self._exported(copy_module(self.module).cpu(), _on_cpu(self.part))
            torch.onnx.export(program, f=path, dynamo=True, verbose=False)
        return replace(open_onnx(str(path), self.threads), file=DENSE)

    def _exported(self, module: nn.Module, part: Any) -> ExportedProgram:
        positional, named = arguments(part, module)
        shapes: Any = {name: _any_batch(value) for name, value in named.items()} or tuple(map(_any_batch, positional))
        return torch.export.export(module, positional, named, dynamic_shapes=None if self.fixed else shapes)

    @contextmanager
    def _exporting(self, runtime: str) -> Generator[None]:
        self.on_event(Noted(f"the dense network is exported for {runtime}, to be compared in the same runtime"))
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # of torch's own parts
                yield
        except ImportError as error:
            what = f"torch's exporter lacks a package: {error.name}"
            raise UsageError(runtime, what, hint="pip install 'ntt-cli[onnx]'") from error
        except NttError:
            raise
        except Exception as error:  # the exporters have many
            what = f"the dense network cannot be exported, to compare with: {first_line(error)}"
            raise ModelError(runtime, what, hint="leave out files of this runtime") from error


def _any_batch(value: Any) -> Any:
    return {0: Dim.AUTO} if isinstance(value, Tensor) and value.ndim else None


def _on_cpu(part: Any) -> Any:
    return torch.utils._pytree.tree_map(lambda value: value.cpu() if isinstance(value, Tensor) else value, part)
