"""Whether weights have the patterns that their file records. Needs no torch."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ntt_cli.config.pattern import Groups
from ntt_cli.errors import CheckpointError
from ntt_cli.files.metadata import AGAIN, CheckpointRecord, Header, PackedRecord
from ntt_cli.files.packed_index import ITEMSIZE, MASKS, open_packed
from ntt_cli.files.safetensors_header import read_raw_header

if TYPE_CHECKING:  # numpy is loaded where there are groups: `ntt --help` needs none
    import numpy as np
    from numpy.typing import NDArray

    Kept = NDArray[np.bool_]


def groups_of(record: CheckpointRecord) -> dict[str, Groups]:
    """By weight, where it has a pattern; weights without one are left out."""
    return {name: layer.groups for name, layer in record.layers.items() if layer.groups is not None}


def first_broken(kept: Kept, groups: Groups) -> str | None:
    """The first group, in row-major order, that does not keep what its pattern says; `None`: all do.

    Args:
        kept: which entries are kept, in the shape of the weight.
        groups: of the weight.
    """
    import numpy as np

    axis, of = groups.axis, groups.of
    if axis >= kept.ndim or kept.shape[axis] % of:
        return f" of shape {'×'.join(map(str, kept.shape))} has no groups of {of} along axis {axis}"
    divided = kept.reshape(*kept.shape[:axis], -1, of, *kept.shape[axis + 1 :])
    counts = np.count_nonzero(divided, axis=axis + 1)
    broken = np.argwhere(counts != groups.keep)
    if not len(broken):
        return None
    first = broken[0].tolist()
    places = [f"{at * of}:{at * of + of}" if side == axis else str(at) for side, at in enumerate(first)]
    return f"[{', '.join(places)}] keeps {counts[tuple(first)]} of {of} weights, not {groups.keep}"


def check_groups(path: Path, header: Header) -> dict[str, int]:
    """Check every group of a checkpoint, plain or packed, and return how many there are, by pattern.

    Raises:
        CheckpointError: if a group keeps more or fewer weights than its pattern says; it names the first.
    """
    checked: dict[str, int] = {}
    for name, kept, groups in _grouped(path, header):
        if broken := first_broken(kept, groups):
            raise CheckpointError(path, f"{name:.99}{broken}", hint=AGAIN)
        pattern = f"{groups.keep}:{groups.of}"
        checked[pattern] = checked.get(pattern, 0) + kept.size // groups.of
    return checked


def _grouped(path: Path, header: Header) -> Iterator[tuple[str, Kept, Groups]]:
    """Each weight with a pattern, and which of its entries are kept."""
    if isinstance(header.record, PackedRecord):
        yield from _of_packed(path, header)
    elif isinstance(header.record, CheckpointRecord) and (groups := groups_of(header.record)):
        import numpy as np

        parts = read_raw_header(path).parts
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for name, own in groups.items():
                tensor = header.tensors[name]
                bits = np.frombuffer(data[parts[name]], f"u{ITEMSIZE[tensor.dtype]}")
                yield name, (bits << 1 != 0).reshape(tensor.shape), own  # without the sign: -0.0 is zero, too


def _of_packed(path: Path, header: Header) -> Iterator[tuple[str, Kept, Groups]]:
    parts = open_packed(path, header)
    if parts.index.record is None or not (groups := groups_of(parts.index.record)):
        return
    import numpy as np

    bits = np.frombuffer(parts.part(MASKS), np.uint8)
    for name, entry in parts.index.tensors.items():
        of_it, bits = np.split(bits, [entry.mask_bytes])
        if name in groups:
            yield name, np.unpackbits(of_it, count=entry.size).astype(bool).reshape(entry.shape), groups[name]
