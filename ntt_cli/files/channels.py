"""Whether the channels that a checkpoint says are gone are zero as a whole. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from ntt_cli.errors import CheckpointError
from ntt_cli.files.atomic import sha256_of
from ntt_cli.files.metadata import AGAIN, CheckpointRecord


def check_channels(path: Path, record: CheckpointRecord) -> int | None:
    """The number of channels that are gone; `None` if single weights are pruned.

    Each mask must be that of the recorded slices: its recorded hash, which the zeros have too, must be theirs.

    Raises:
        CheckpointError: if a mask is another.
    """
    if record.channels is None:
        return None
    import numpy as np  # verifying other files, and its help, never need it

    masks = {name: np.ones(layer.shape, bool) for name, layer in record.layers.items()}
    for found in record.channels.values():
        for part in found.slices:
            mask = masks.get(part.tensor)
            if mask is None or part.axis >= mask.ndim or max(part.removed, default=-1) >= mask.shape[part.axis]:
                raise CheckpointError(path, f"has no such slices of {part.tensor:.99} as it records", hint=AGAIN)
            np.moveaxis(mask, part.axis, 0)[list(part.removed)] = False
    for name, mask in masks.items():
        if sha256_of(np.packbits(mask.ravel()).tobytes()) != record.layers[name].mask_sha256:
            raise CheckpointError(path, f"its zeros of {name:.99} are not whole channels, as it records", hint=AGAIN)
    return sum(len(found.removed) for found in record.channels.values())
