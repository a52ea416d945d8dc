"""The command that goes on from what was just written, as it can be pasted."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from ntt_cli.config import FinetuneConfig, PruneConfig, flag

KEPT = ("model_arg", "logits", "data", "data_root", "image_size", "grayscale", "mean", "std", "device")
"""Options that say what the network and its inputs are, and where: without them the next command has others."""

OF_DATA = ("data", "data_root")

LABELLED = "LABELLED"
"""Stands for the data that the user has to name."""


def next_command(name: str, done: PruneConfig | FinetuneConfig, checkpoint: str, *, labelled: bool = True) -> str:
    """`ntt NAME` on the checkpoint, for the same network and data; with data still to name unless it is `labelled`."""
    # A model file whose name begins with a dash would be taken for an option.
    model = f"./{done.model}" if done.model.startswith("-") else done.model
    words = ["ntt", name, model, "--checkpoint", checkpoint]
    for option in KEPT:
        if done.gives(option) and (labelled or option not in OF_DATA):
            words += _words(option, getattr(done, option))
    return shlex.join(words if labelled else [*words, "--data", LABELLED])


def has_labels(data: str | None) -> bool:
    """Whether what a network was pruned on may have labels: noise and bare inputs have none, nor has no data at all."""
    return data is not None and data.partition(":")[0] != "noise" and not data.lower().endswith(".npy")


def _words(option: str, value: str | bool | tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, bool):
        yield flag(option)
        return
    for one in value if isinstance(value, tuple) else [value]:
        yield from (flag(option), one)
