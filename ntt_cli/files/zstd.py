"""Zstandard frames, each with its size in front, so that nothing is unpacked that does not fit what was promised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ntt_cli.errors import CheckpointError
from ntt_cli.files.metadata import AGAIN


class Effort(NamedTuple):
    """How much zstd does: its level, and settings in the place of the level's own."""

    level: int
    settings: dict[str, int] = {}


FAST = Effort(1)
"""For the bytes of numbers, in which there is nothing to find but how often each byte occurs."""

MASK_BITS = Effort(16, {"search_log": 1})
"""For mask bits: 15% smaller than `FAST`. They hold no long repeats, so that a longer search only takes time."""

TEXT = Effort(19)


def compressed(parts: Sequence[bytes | memoryview], effort: Effort) -> bytes:
    """One frame of all parts. Each part starts a block, which has statistics of its own."""
    import zstandard  # most commands never need it

    settings = effort.settings | {"write_checksum": 1}
    parameters = zstandard.ZstdCompressionParameters.from_level(effort.level, **settings)
    size = sum(len(part) for part in parts)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=size)
    written = [
        written for part in parts for written in (frame.compress(part), frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
    ]
    return b"".join([*written, frame.flush(zstandard.COMPRESSOBJ_FLUSH_FINISH)])


def size_of(frame: bytes, where: str, name: str) -> int:
    """The size in bytes to which a frame unpacks, as it says itself.

    Raises:
        CheckpointError: if it does not say, or is no frame.
    """
    import zstandard

    try:
        size = zstandard.frame_content_size(frame)
    except zstandard.ZstdError as error:
        raise CheckpointError(where, f"its {name} is not compressed by zstd", hint=AGAIN) from error
    if size < 0:
        raise CheckpointError(where, f"its {name} does not say how large it is", hint=AGAIN)
    return size


def decompressed(frame: bytes, size: int, where: str, name: str) -> bytes:
    """The contents of a frame that must unpack to `size` bytes; this is checked before anything is unpacked.

    Raises:
        CheckpointError: if it does not.
    """
    import zstandard

    promised = size_of(frame, where, name)
    if promised != size:
        what = f"its {name} unpacks to {promised:,} bytes, where its shapes take {size:,}"
        raise CheckpointError(where, what, hint=AGAIN)
    try:
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CheckpointError(where, f"its {name} cannot be unpacked: {error}", hint=AGAIN) from error
