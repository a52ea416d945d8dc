"""How large a checkpoint is packed, estimated from shapes and counts alone: nothing is read or compressed for it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ntt_cli.files.packed_index import ITEMSIZE
from ntt_cli.files.safetensors_header import TensorRecord
from ntt_cli.results import Sizes

FLOAT_BITS = {"F64": 57.0, "F32": 26.4, "F16": 13.0, "BF16": 10.5}
"""Bits of a stored weight, compressed. Of a trained weight little but sign and exponent compresses."""

WHOLE_BITS = 8.0
"""Bits of a stored whole number: most are small."""

HEAD, OF_LAYER, OF_TENSOR = 1600, 45, 2
"""Bytes of the header, and those of the index for each layer with a mask and for each tensor."""


def packed_sizes(tensors: Mapping[str, TensorRecord], kept: Mapping[str, int]) -> Sizes:
    """Estimates for these tensors, of which `kept` entries are stored where there is a mask.

    A mask takes its entropy: `n H(kept / n)` bits, with `H(p) = -p log2 p - (1 - p) log2 (1 - p)`.
    """
    head = HEAD + OF_LAYER * len(kept) + OF_TENSOR * len(tensors)
    packed = half = 8.0 * head
    for name, tensor in tensors.items():
        size = math.prod(tensor.shape)
        stored = kept.get(name, size)
        mask = _entropy(stored, size)
        floating = tensor.dtype in FLOAT_BITS
        packed += mask + stored * FLOAT_BITS.get(tensor.dtype, WHOLE_BITS)
        half += mask + stored * (min(FLOAT_BITS["F16"], FLOAT_BITS[tensor.dtype]) if floating else WHOLE_BITS)
    dense = sum(math.prod(tensor.shape) * ITEMSIZE.get(tensor.dtype, 1) for tensor in tensors.values())
    return Sizes(dense=dense, packed=round(packed / 8), packed_float16=round(half / 8))


def _entropy(kept: int, size: int) -> float:
    parts = [count for count in (kept, size - kept) if count]
    return -sum(count * math.log2(count / size) for count in parts)
