"""The weights of a network, from a file, its factory or at random, and the meaning of their zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ntt_cli.config import EvaluateConfig, FinetuneConfig, WeightsOptions
from ntt_cli.config.pattern import Groups
from ntt_cli.data.batch import Batch
from ntt_cli.errors import CheckpointError, UsageError, listed
from ntt_cli.files.checkpoint import Checkpoint, read_checkpoint
from ntt_cli.files.metadata import ChannelRecord
from ntt_cli.files.shards import find_weights
from ntt_cli.masks.masks import count_kept, layer_densities, without_biases
from ntt_cli.masks.zeros import has_many_zeros, looks_pruned
from ntt_cli.networks.flops import zeros_not_in_use
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.loading.weights import ReadAs, load_into
from ntt_cli.runtime.events import EventSink, Noted, Warned
from ntt_cli.tensors import Masks

Origin = Literal["ntt", "foreign", "factory", "random"]

MOST_NAMED = 4
"""The most layers that a line names."""


@dataclass(frozen=True)
class Weights:
    """A network's weights, their origin and their masks.

    Attributes:
        origin: a file that ntt wrote, a file from elsewhere, the factory (`TRAINED = True`), or a seed.
        checkpoint: the file, where there is one.
        masks: of its pruned weights, from the record of the file or, without a record, from its zeros.
        recorded: whether the file itself says which weights are pruned.
        other_zeros: the fraction of zeros in weights that have many zeros but no mask. Zero may be one of few values
            of quantised weights, and a layer of zeros alone may just be initialised.
        groups: of the weights that have a pattern, from the record of the file.
    """

    origin: Origin
    checkpoint: Checkpoint | None
    masks: Masks
    recorded: bool
    other_zeros: dict[str, float] = field(default_factory=dict)
    groups: dict[str, Groups] = field(default_factory=dict)

    @property
    def trained(self) -> bool:
        """Whether the weights are trained, not only initialised."""
        return self.origin != "random"

    @property
    def from_elsewhere(self) -> bool:
        """Whether the weights were trained without ntt, so that there is no record of how."""
        return self.origin in {"foreign", "factory"}

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the network's classes; `None` if the file does not record them."""
        return self.checkpoint.class_names if self.checkpoint else None

    @property
    def channels(self) -> Mapping[str, ChannelRecord] | None:
        """What the file says of whole channels that are gone; `None` if none are."""
        record = self.checkpoint.record if self.checkpoint else None
        return record.channels if record else None

    @property
    def pruned(self) -> dict[str, float]:
        """The fraction of zeros in each weight that has pruned entries."""
        return {name: 1 - density for name, density in layer_densities(self.masks).items() if density < 1}


def open_weights(
    named: str | Checkpoint | None,
    loaded: LoadedModel,
    on_event: EventSink,
    *,
    role: str = "weights",
    options: WeightsOptions | None = None,
) -> Weights:
    """Load a file, or a checkpoint in memory, into the network; a note says how its tensors were mapped.

    Without either, the weights are the network's own.

    Raises:
        UsageError: if an option about the file has no effect.
        CheckpointError: if the file cannot be read, or belongs to another model.
    """
    if named is None:
        return Weights("factory" if loaded.trained else "random", None, {}, recorded=False)
    if not named:  # an empty path would be the current folder
        raise CheckpointError("''", "is no name of a file", hint="name a .safetensors or .pt file")
    checkpoint = read_checkpoint(Path(named)) if isinstance(named, str) else named
    read_as = ReadAs(options.weights_prefix, options.ignore_extra) if options else ReadAs()
    found = load_into(loaded.module, checkpoint, read_as)
    by = f" (by ntt {checkpoint.record.kind})" if checkpoint.record else ""
    shards = len(find_weights(Path(named)).files) if isinstance(named, str) else 1
    count = f"{len(checkpoint.tensors)} tensors" + (f" in {shards} shards" if shards > 1 else "")
    on_event(Noted(", ".join([f"{role}: {checkpoint.path}{by}: {count}", *found.notes])))
    if checkpoint.record is not None:
        return Weights("ntt", checkpoint, found.masks, recorded=True, groups=found.groups)
    masks, other_zeros = _zeros_of(loaded.module, found.tensors, found.masks)
    return Weights("foreign", checkpoint, masks, recorded=bool(found.masks), other_zeros=other_zeros)


def _zeros_of(module: nn.Module, tensors: Mapping[str, Tensor], recorded: Masks) -> tuple[Masks, dict[str, float]]:
    """The masks of a file from elsewhere, from its zeros if it records none, and other weights with many zeros."""
    embeddings = {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, layer in module.named_modules()
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag)
    }
    names = [name for name, p in module.named_parameters() if p.requires_grad and p.ndim > 1 and name in tensors]
    masks = recorded or {
        name: tensors[name] != 0 for name in names if looks_pruned(tensors[name], embeds=name in embeddings)
    }
    others = {
        name: 1 - int(tensors[name].count_nonzero()) / tensors[name].numel()
        for name in names
        if name not in masks and has_many_zeros(tensors[name], embeds=name in embeddings)
    }
    if not masks and all(share == 1 for share in others.values()):
        others = {}  # a head or an adapter that starts at zero, in a network that is not pruned
    return masks, others


def fixed_masks(
    weights: Weights, module: nn.Module, options: FinetuneConfig | EvaluateConfig, on_event: EventSink
) -> Masks:
    """The masks under which the network is trained and measured; a warning names zeros that no record explains."""
    path = options.checkpoint or "the network"
    if options.dense and not weights.masks and not weights.other_zeros:
        raise UsageError("--dense", f"does nothing: no zeros of {path} would be kept", hint="leave it out")
    if options.keep_zeros:
        if weights.recorded and not weights.other_zeros:
            hint = "leave it out, or train them with --dense"
            raise UsageError("--keep-zeros", f"does nothing: {path} says itself which zeros to keep", hint=hint)
        trained = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad and p.ndim > 1}
        masks = {name: p != 0 for name, p in trained.items() if (p == 0).any()}
        if not masks:
            raise UsageError("--keep-zeros", f"does nothing: no weight of {path} holds a zero", hint="leave it out")
        return masks | (weights.masks if weights.recorded else {})
    if options.dense:
        on_event(Noted(f"zeros are weights like all others: {described(weights.pruned | weights.other_zeros)}"))
        return {}
    if weights.masks and not weights.recorded:
        what = (
            f"{path} does not say which of its weights are pruned; its zeros stay zero:"
            f" {described(weights.pruned)}; --keep-zeros says that this is meant, --dense that they are weights"
        )
        on_event(Warned(what))
    if weights.other_zeros:
        what = (
            f"zeros of {path} that do not stay zero but are weights like all others:"
            f" {described(weights.other_zeros)};"
            " they look like values of a grid (ternary or quantised weights) or like an initialisation;"
            " --keep-zeros keeps all zeros, --dense says that they are weights"
        )
        on_event(Warned(what))
    return weights.masks


def describe_sparse_teacher(weights: Weights, on_event: EventSink, *, sparsity: float | None = None) -> None:
    """Note that a teacher has pruned weights, and what happens to them if it is pruned further."""
    if not weights.pruned:
        return
    counted = without_biases(weights.masks)
    size = sum(mask.numel() for mask in counted.values())
    share = 1 - count_kept(counted) / size if size else 0.0
    what = f"the teacher is sparse already, {share:.1%} of {size:,} weights: {described(weights.pruned)}"
    if sparsity is not None:
        what += "; the student starts from its zeros and may use them again"
        if sparsity < share:
            what += f", and --sparsity {sparsity:g} asks for less"
    on_event(Warned(what))


def warn_of_filled_zeros(model: FunctionalModel, x: Batch, names: Sequence[str], on_event: EventSink) -> None:
    """Warn of weights whose zeros save nothing, because the network computes other, nonzero weights from them."""
    filled = zeros_not_in_use(model.bind(), model.params, x, names, generator=torch.Generator().manual_seed(0))
    if filled:
        what = (
            f"zeros of {listed(filled, MOST_NAMED)} are none where they are used: the network computes other weights"
            " from these, as weight standardisation does. FLOPs count what is used; --exclude leaves such weights dense"
        )
        on_event(Warned(what))


def described(sparsities: Mapping[str, float]) -> str:
    """The first layers and their fractions of zeros, in words."""
    return listed([f"{name} {sparsity:.1%}" for name, sparsity in sparsities.items()], MOST_NAMED)


def mostly_differ(module: nn.Module, another: nn.Module) -> bool:
    """Whether most weights of two networks of one factory differ, constants aside.

    What a parametrisation is made of may be drawn in a buffer, as in `parametrizations.orthogonal`.
    """
    other = _drawn(another)
    same = different = 0
    for name, p in _drawn(module).items():
        if p.ndim < 2 or p.numel() < 2 or bool((p == p.flatten()[0]).all()):
            continue
        if name in other and torch.equal(p, other[name]):
            same += p.numel()
        else:
            different += p.numel()
    return different >= same


def _drawn(module: nn.Module) -> dict[str, Tensor]:
    parametrised = {name: b for name, b in module.named_buffers() if "parametrizations." in name}
    return dict(module.named_parameters()) | parametrised
