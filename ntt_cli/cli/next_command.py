"""The next command for a checkpoint that was just written, ready to paste."""

from __future__ import annotations

import shlex

from ntt_cli.config import FinetuneConfig, PruneConfig, flag

KEPT = ("model_arg", "logits", "outputs", "data", "data_root", "image_size", "grayscale", "mean", "std", "device")
"""Options that describe the network and its inputs; the next command needs the same."""

LABELLED = "LABELLED"
"""Placeholder for the data that the user must name."""


def next_command(name: str, done: PruneConfig | FinetuneConfig, checkpoint: str, *, labelled: bool = True) -> str:
    """`ntt NAME` on the checkpoint, for the same network; a placeholder replaces data that is not `labelled`."""
    # A model file whose name begins with a dash would be taken for an option.
    model = f"./{done.model}" if done.model.startswith("-") else done.model
    words = ["ntt", name, model, "--checkpoint", checkpoint]
    for option in KEPT:
        if done.gives(option) and (labelled or option not in ("data", "data_root")):
            value = getattr(done, option)
            for one in value if isinstance(value, tuple) else [value]:
                words += [flag(option)] if one is True else [flag(option), one]
    return shlex.join(words if labelled else [*words, "--data", LABELLED])


def has_labels(data: str | None) -> bool:
    """Whether data that a network was pruned on may have labels: noise and .npy files have none."""
    return data is not None and data.partition(":")[0] != "noise" and not data.lower().endswith(".npy")
