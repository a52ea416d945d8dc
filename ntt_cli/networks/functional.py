"""A module as a pure function of its parameters: `apply(params, x) -> outputs`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ntt_cli.data.batch import Batch, arguments, batch_size
from ntt_cli.data.bundle import Bundle, map_tensors
from ntt_cli.networks.copying import copy_module
from ntt_cli.networks.output_mask import OutputMask, mask_of
from ntt_cli.networks.outputs import ONLY, Heads, SelectOutputs, flat, heads_in, usual_logits
from ntt_cli.networks.precision import Dtypes, in_own_types
from ntt_cli.networks.second_order import once_differentiable
from ntt_cli.tensors import Apply, Params


@dataclass(frozen=True)
class FunctionalModel:
    """A module as a function and its values.

    Attributes:
        module: a private copy in evaluation mode: no Dropout, normalisation by running statistics. Its parameters have
            shapes but no values.
        params: the trainable parameters by name, detached; a tied parameter appears once.
        buffers: buffers and frozen parameters by name, detached.
        select_outputs: maps what the module returns to its outputs, `[n, ..., c]`; `Heads`, once a pass has shown them.
        places: pairs of a name in the module and the name of its value, one pair for each place.
        saved: the tensors of its state dict before any forward pass, by name.
        scratch: buffers that a pass may write into: all but running statistics.
        dtypes: the types that its state dict has, where they are not those that it computes in.
        output_mask: gives, for a batch, a bool tensor that says which outputs count, or a dict of such by head.
    """

    module: nn.Module
    params: Params
    buffers: Params
    select_outputs: SelectOutputs
    places: dict[str, str]
    saved: frozenset[str]
    scratch: frozenset[str]
    dtypes: Dtypes = field(default_factory=dict)
    output_mask: OutputMask | None = None

    def bind(self, buffers: Params | None = None, *, batch_statistics: bool = False) -> BoundModel:
        """The function `apply(params, x) -> [n, outputs]` at the given buffers, by default the model's own."""
        return BoundModel(self, self.buffers if buffers is None else buffers, batch_statistics)

    @property
    def heads(self) -> Heads | None:
        """The outputs that count and their places in `[n, outputs]`; `None` before `check_forward` found them."""
        return self.select_outputs if isinstance(self.select_outputs, Heads) else None

    @property
    def without_hidden_heads(self) -> FunctionalModel:
        """The network with its own heads alone (`hidden.py`)."""
        own = None if self.heads is None else self.heads.own
        return self if own is None else replace(self, select_outputs=own)

    def mask_of(self, x: Any, name: str, head: Tensor) -> Tensor | None:
        """Where a head counts, in a shape that can be broadcast to it; `None` if all of it does.

        By `output_mask`, or else by an input `attention_mask`.
        """
        return mask_of(self.output_mask, x, name, head)

    def counted(self, x: Batch) -> int | None:
        """The number of outputs of a batch that count; `None` if all do. The sizes of a bundle must be known."""
        if isinstance(x, Bundle):
            return sum(x.counts or ())
        assert self.heads is not None
        found, masked, n = 0, False, batch_size(x)
        for name, shape in self.heads.shapes.items():
            head = torch.empty((n, *shape), device="meta")
            mask = self.mask_of(x, name, head)
            masked |= mask is not None
            found += head.numel() if mask is None else count_of(mask, head)
        return found if masked else None

    def sized(self, x: Batch) -> Any:
        """A bundle with its sizes and counts, by a pass through the network; any other batch as it is."""
        return self.bind().sized(self.params, x) if isinstance(x, Bundle) and x.sizes is None else x

    def returned(self, x: Any) -> Any:
        """The module's own return value at its own values, for a batch or for a part of a bundle."""
        return self._returned(self.params, self.buffers, x, batch_statistics=False)

    def run(self, *positional: Any, **named: Any) -> Any:
        """The same, for these arguments."""
        return self._run(self.params, self.buffers, positional, named)

    def _selected(self, params: Params, buffers: Params, x: Any, *, batch_statistics: bool) -> Any:
        def run() -> Any:
            return self._returned(params, buffers, x, batch_statistics=batch_statistics)

        layers = None if self.heads is None else self.heads.layers
        return self.select_outputs(run() if layers is None else layers(self.module, run))

    def state_dict(self, params: Params, buffers: Params) -> dict[str, Tensor]:
        """The module's state dict at these values, with tied tensors under all of their names.

        Entries that exist only after a forward pass are left out, because a new network has no place for them.

        Raises:
            DivergedError: if a number is beyond the range of the network's own type.
        """
        values = {f"module.{place}": value for place, value in self.placed(params, buffers).items()}
        state = functional_call(_StateDict(self.module), values, (), tie_weights=False)
        return in_own_types({name: value for name, value in state.items() if name in self.saved}, self.dtypes)

    def _returned(self, params: Params, buffers: Params, x: Any, *, batch_statistics: bool) -> Any:
        with _normalising_by_batch(self.module) if batch_statistics else nullcontext():
            return self._run(params, buffers, *arguments(x, self.module))

    def _run(self, params: Params, buffers: Params, positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        with without_fast_path(), once_differentiable():
            # Copies, because the forward pass may write into its inputs and buffers, and they are used again.
            positional, named = map_tensors(Tensor.clone, (positional, named))
            written = {name: value.clone() for name, value in buffers.items() if name in self.scratch}
            placed = self.placed(params, buffers | written)
            return functional_call(self.module, placed, positional, named, tie_weights=False)

    def placed(self, params: Params, buffers: Params) -> Params:
        """These values by their places, for `functional_call` without `tie_weights`.

        With `tie_weights`, a layer with two names gets its values twice, one of them stays there afterwards, and later
        calls no longer tie the weights.
        """
        values = params | buffers
        return {place: values[name] for place, name in self.places.items()}


@dataclass(frozen=True, eq=False)
class BoundModel:
    """A network with fixed buffers: `apply(params, x) -> [n, outputs]`.

    With `batch_statistics`, batch norms normalise by the mean and the variance of the batch, as in training. Samples
    then depend on each other. One sample, or a bundle, is normalised by the running statistics all the same.

    If a sample has a row of logits for each of its positions, all rows together are its outputs. Several heads follow
    each other, as `flat` puts them. Outputs that do not count, such as those at padding, are zero, so that sums over
    outputs, distances and kernels skip them. All outputs of a part of a bundle are one row, filled with zeros to the
    length of the longest.
    """

    model: FunctionalModel
    buffers: Params
    batch_statistics: bool = False

    def __call__(self, params: Params, x: Batch) -> Tensor:
        if not isinstance(x, Bundle):
            return flat(self._outputs(params, x, batch_size(x)))
        rows = [[head.reshape(-1) for head in self._outputs(params, part).values()] for part in x.parts]
        sizes = x.sizes or _largest(rows)
        return torch.stack([torch.cat([_filled(h, n) for h, n in zip(row, sizes, strict=True)]) for row in rows])

    def sized(self, params: Params, x: Bundle) -> Bundle:
        """A bundle with its sizes and counts, by a pass through the network."""
        rows, counts = [], []
        with torch.no_grad():
            for part in x.parts:
                heads = self._outputs(params, part)
                rows.append(list(heads.values()))
                counts.append(sum(count_of(self.model.mask_of(part, name, h), h) for name, h in heads.items()))
        return Bundle(x.parts, _largest(rows), tuple(counts))

    def _outputs(self, params: Params, x: Any, samples: int | None = None) -> dict[str, Tensor]:
        """The heads by name; zero where they do not count."""
        by_batch = self.batch_statistics and samples is not None and samples > 1
        outputs = self.model._selected(params, self.buffers, x, batch_statistics=by_batch)
        if isinstance(outputs, Tensor):
            outputs = {ONLY if self.model.heads is None else next(iter(self.model.heads.shapes)): outputs}
        elif self.model.heads is None:
            outputs = heads_in(outputs, samples)
        return {name: without(self.model.mask_of(x, name, head), head) for name, head in outputs.items()}


def outputs_in(x: Batch, usual: int) -> int:
    """The number of outputs of a sample of this batch: of a bundle, that of its longest row."""
    return sum(x.sizes) if isinstance(x, Bundle) and x.sizes else usual


def without(mask: Tensor | None, outputs: Tensor) -> Tensor:
    """The outputs, zero where a mask that can be broadcast to them is `False`."""
    return outputs if mask is None else outputs.masked_fill(~mask, 0)


def count_of(mask: Tensor | None, outputs: Tensor) -> int:
    """The number of outputs where the mask is `True`."""
    return outputs.numel() if mask is None else int(mask.expand(outputs.shape).sum())


def _largest(rows: list[list[Tensor]]) -> tuple[int, ...]:
    return tuple(max(head.numel() for head in heads) for heads in zip(*rows, strict=True))


def _filled(head: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(head, (0, size - len(head)))


def functional_model(module: nn.Module, select_outputs: SelectOutputs = usual_logits) -> FunctionalModel:
    """The module as a function; `module` itself is unchanged."""
    private = copy_module(module).eval()
    for layer in private.modules():
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            layer.scale_grad_by_freq = False  # it would scale gradients, but here gradients must be exact derivatives
    named = list(private.named_parameters())
    values = {name: p.detach() for name, p in named}
    for _, p in named:  # values are always passed in; values here would be a second copy
        p.data = p.data.new_zeros(()).expand(p.shape)
    return FunctionalModel(
        module=private,
        params={name: values[name] for name, p in named if p.requires_grad},
        buffers={name: values[name] for name, p in named if not p.requires_grad}
        | {name: b.detach().clone() for name, b in private.named_buffers()},
        select_outputs=select_outputs,
        places=_places(private),
        saved=frozenset(saved_tensors(private)),
        scratch=frozenset(_scratch(private)),
    )


def with_equal_heads(apply: Apply, heads: Heads | None, rows_of: Callable[[], Tensor]) -> Apply:
    """The function with each head divided by its norm in rows `[n, c]`, so that heads of any scale count the same.

    So do the distances between outputs, which are relative to each head's norm. With one head it is `apply` itself.
    """
    if heads is None or len(heads.sizes) < 2:
        return apply
    with torch.no_grad():
        norms = [part.norm() for part in rows_of().split(heads.sizes, dim=1)]
    divisors = [torch.where(norm > 0, norm, 1).expand(size) for norm, size in zip(norms, heads.sizes, strict=True)]
    by = torch.cat(divisors)
    return lambda params, x: apply(params, x) / by


def saved_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of its state dict, which may also hold the extra state of a layer, of any type."""
    return {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _scratch(module: nn.Module) -> set[str]:
    """The buffers of layers other than batch normalisation, which in evaluation only reads its own."""
    statistics = {
        id(buffer)
        for layer in module.modules()
        if isinstance(layer, nn.modules.batchnorm._NormBase)
        for buffer in layer.buffers(recurse=False)
    }
    return {name for name, buffer in module.named_buffers() if id(buffer) not in statistics}


def _places(module: nn.Module) -> dict[str, str]:
    first = {id(tensor): name for name, tensor in [*module.named_parameters(), *module.named_buffers()]}
    return {
        f"{prefix}.{name}".lstrip("."): first[id(tensor)]
        for prefix, layer in module.named_modules()
        for name, tensor in [
            *layer.named_parameters(recurse=False, remove_duplicate=False),
            *layer.named_buffers(recurse=False, remove_duplicate=False),
        ]
    }


@contextmanager
def _normalising_by_batch(module: nn.Module) -> Generator[None]:
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    before = [layer.track_running_stats for layer in layers]
    try:
        for layer in layers:
            layer.training, layer.track_running_stats = True, False  # so that no running statistics are written
        yield
    finally:
        for layer, tracks in zip(layers, before, strict=True):
            layer.training, layer.track_running_stats = False, tracks


@contextmanager
def without_fast_path() -> Generator[None]:
    """Let `nn.MultiheadAttention` compute by plain operations: its fast path has no derivative, and no ONNX."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


class _StateDict(nn.Module):
    """A module for `functional_call` whose forward pass returns another module's state dict, made by its own hooks."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self) -> dict[str, Tensor]:
        return saved_tensors(self.module)
