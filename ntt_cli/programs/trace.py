"""A network as a program of `torch.export`, with a free number of samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from inspect import Parameter, Signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from ntt_cli.data.batch import Batch, argument_names, arguments, map_batch
from ntt_cli.errors import ModelError
from ntt_cli.networks.functional import without_fast_path
from ntt_cli.networks.outputs import Heads
from ntt_cli.runtime.python_source import last_line_of, said_by

TRACED = 2
"""The number of samples in the batch that is traced: torch takes the axis of one sample for one that is always 1."""

BATCH, FIXED = "batch", "your code specialized it to be a constant"
"""The name of the first axis, and torch's words for an axis that a network fixes."""


def plain(outputs: Any) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
    """One output as it is; several as a tuple if their names are their positions, or else by name."""
    if isinstance(outputs, Tensor):
        return outputs
    in_order = [*outputs] == [str(i) for i in range(len(outputs))]
    return tuple(outputs.values()) if in_order else dict(outputs)


def trace(module: nn.Module, x: Batch, *, where: str) -> ExportedProgram:
    """The program that maps batches like `x`, of two samples or more, to what the module returns in evaluation mode.

    The first axis of each input is free. So is the second of tokens, `[n, length]`, and of what has their shape, unless
    the network fixes it. Only shapes and types of the inputs matter, and none of their values is in the program. Its
    tensors have the names of the network's state dict.

    Raises:
        ModelError: if torch cannot trace the network, or the network fixes the number of samples.
    """
    positional, named = arguments(map_batch(torch.zeros_like, x))
    free = _free_axes([*positional, *named.values()])
    try:
        with torch.no_grad(), without_fast_path(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own layers; what is left in a network shows in its outputs
            shapes = free.dynamic_shapes(module, positional, named)
            program = torch.export.export(module, positional, named, dynamic_shapes=shapes, strict=False)
    except Exception as failure:
        what, hint = _why_untraceable(failure)
        raise ModelError(where, what, hint=hint) from failure
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _free_axes(tensors: list[Tensor]) -> ShapesCollection:
    tokens = {x.shape[1] for x in tensors if x.ndim == 2 and not x.is_floating_point()}
    first, shapes = Dim(BATCH, min=1), ShapesCollection()
    for x in tensors:
        length = {1: Dim.AUTO} if x.ndim == 2 and x.shape[1] in tokens else {}
        shapes[x] = {0: first, **length}
    return shapes


@contextmanager
def returning(module: nn.Module, heads: Heads, x: Batch) -> Generator[nn.Module]:
    """While it is active, the module takes arguments as in `x`, and returns its outputs that count, in plain values.

    Containers of other packages could not be loaded where these packages are missing.

    Yields:
        the module, in evaluation mode and without gradients.
    """
    own, forward = vars(module).get("forward"), module.forward
    positional, named = arguments(x)
    names = [name for kind in argument_names(module) for name in kind][: len(positional)]
    names += [f"x{i}" for i in range(len(names), len(positional))]

    def selected(*values: Any, **by_name: Any) -> Any:
        def run() -> Any:
            return forward(*values, **by_name)

        return plain(heads(run() if heads.layers is None else heads.layers(module, run)))

    # With a signature of `**kwargs`, torch 2.14 writes guards that fail where the program is run.
    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    parameters += [Parameter(name, Parameter.KEYWORD_ONLY) for name in named]
    selected.__signature__ = Signature(parameters)  # type: ignore[attr-defined]  # mypy knows no such attribute
    module.forward = selected
    try:
        yield module.eval().requires_grad_(False)
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def _why_untraceable(failure: Exception) -> tuple[str, str]:
    """What torch could not trace, in a sentence that names the line, and what to do."""
    said = said_by(failure)
    if FIXED in said and BATCH in said:
        what = "computes for one number of samples alone: it loops over them, or writes their number into a shape"
        return what, "take sizes from the inputs, as x.flatten(1) does, and loop over no samples"
    reason = next((line.strip() for line in said.splitlines() if line.strip()), type(failure).__name__)
    if "data-dependent" in reason:
        reason = "what it computes depends on the values of its inputs"
    at = last_line_of(failure)
    what = f"cannot be written as a program{at}: {reason.rstrip('.')}"
    return what, "mend that line: if, item() and numpy() need values, and a program is written before it has any"


def outputs_of(function: Callable[..., Any], x: Batch) -> list[Tensor]:
    """What a program returns for a batch, in the order of the heads."""
    positional, named = arguments(x)
    with torch.no_grad():
        found = function(*positional, **named)
    return [found] if isinstance(found, Tensor) else list(found.values() if isinstance(found, dict) else found)
