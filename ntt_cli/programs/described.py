"""What a program says about itself, in its file and to its user."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram

from ntt_cli import __version__
from ntt_cli.files.metadata import Normalisation
from ntt_cli.masks.masks import count_kept, without_biases
from ntt_cli.networks.loading.open import Weights
from ntt_cli.networks.outputs import Heads
from ntt_cli.programs.trace import BATCH

LENGTH = "length"
"""The name of the second axis, where it is free."""

Axes = list[int | str]


@dataclass(frozen=True)
class Described:
    """Types and shapes of a program's inputs and outputs by their names; `axes` names free axes, by torch's symbols."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    axes: dict[str, str]

    @property
    def of_any_length(self) -> set[str]:
        """The inputs whose second axis is free."""
        return {name for name, of in self.inputs.items() if len(of["shape"]) > 1 and isinstance(of["shape"][1], str)}


def describe(program: ExportedProgram, heads: Heads) -> Described:
    """What a traced program takes and returns."""
    nodes = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    inputs = {name: nodes[name] for name in map(str, program.graph_signature.user_inputs)}
    outputs = dict(zip(heads.shapes, (nodes[str(name)] for name in program.graph_signature.user_outputs), strict=True))
    names: dict[str, str] = {}
    for value in inputs.values():
        for axis, size in enumerate(value.shape):
            if not isinstance(size, int) and str(size) not in names:
                number = f"{len(names)}" if axis and len(names) > 1 else ""
                names[str(size)] = f"{LENGTH}{number}" if axis else BATCH
    takes, returns = ({name: _of(value, names) for name, value in part.items()} for part in (inputs, outputs))
    return Described(takes, returns, names)


def _of(value: torch.Tensor, names: dict[str, str]) -> dict[str, Any]:
    shape: Axes = [
        size if isinstance(size, int) else re.sub(r"\w+", lambda found: names.get(found[0], found[0]), str(size))
        for size in value.shape
    ]
    return {"dtype": str(value.dtype).removeprefix("torch."), "shape": shape}


def in_words(signature: dict[str, Any]) -> dict[str, str]:
    """`float32 [batch, 1, 28, 28]` for each."""
    return {name: f"{of['dtype']} [{', '.join(map(str, of['shape']))}]" for name, of in signature.items()}


def facts_of(
    weights: Weights, normalisation: Normalisation | None, *, model: str, sha256: str | None
) -> dict[str, Any]:
    """Where a program comes from, how sparse its weights are, and what its inputs are to be normalised by."""
    masks = without_biases(weights.masks)
    kept, size = count_kept(masks), sum(mask.numel() for mask in masks.values())
    by = None if normalisation is None else normalisation.by
    checkpoint = weights.checkpoint
    return {
        "format_version": 1,
        "source": None if checkpoint is None else checkpoint.path.name,
        "source_sha256": sha256,
        "model": model,
        "prunable": size,
        "kept": kept,
        "sparsity": 1 - kept / size if size else 0.0,
        "mean": None if by is None else list(by.mean),
        "std": None if by is None else list(by.std),
        "class_names": None if weights.class_names is None else list(weights.class_names),
        "versions": {"ntt": __version__, "torch": torch.__version__},
    }
