"""What a package of Core ML computes, operation by operation in torch; Core ML itself is on Apple's systems alone.

Operations are those of the MIL reference, https://apple.github.io/coremltools/source/coremltools.converters.mil.html
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.frontend.milproto.load import load
from torch import Tensor
from torch.nn import functional as F

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "int32": torch.int32, "bool": torch.bool}


def run_package(path: Path, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of a package by name."""
    main = _main(path)
    found: dict[str, Any] = dict(inputs)

    def value(part: Any) -> Any:
        if isinstance(part, list | tuple):
            return [value(each) for each in part]
        if part.name not in found:
            assert part.op.op_type == "const", part
            found[part.name] = plain(part.val)
        return found[part.name]

    for operation in main.operations:
        if operation.op_type != "const":
            given = {name: value(part) for name, part in operation.inputs.items() if part is not None}
            outputs = OPERATIONS[operation.op_type](**given)
            several = outputs if len(operation.outputs) > 1 else [outputs]
            found |= zip((output.name for output in operation.outputs), several, strict=True)
    return {output.name: found[output.name] for output in main.outputs}


def package_operations(path: Path) -> list[Any]:
    return list(_main(path).operations)


def _main(path: Path) -> Any:
    model = ct.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    return load(spec, spec.specificationVersion, model.weights_dir).functions["main"]


def plain(constant: Any) -> Any:
    if isinstance(constant, str | bool):
        return constant
    array = np.asarray(constant)
    return torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "u" else array.copy())


def ints(x: Any) -> Any:
    return x.tolist() if isinstance(x, Tensor) else x


def conv(x: Tensor, weight: Tensor, bias: Any = None, *, pad_type: str, **rest: Any) -> Tensor:
    sides = {"valid": [0] * 8, "custom": None}[pad_type] or ints(rest["pad"])
    padded = F.pad(x, [side for axis in range(x.ndim - 3, -1, -1) for side in sides[2 * axis : 2 * axis + 2]])
    function = {3: F.conv1d, 4: F.conv2d}[x.ndim]
    return function(padded, weight, bias, ints(rest["strides"]), 0, ints(rest["dilations"]), int(rest["groups"]))


def pool(x: Tensor, *, kernel_sizes: Any, strides: Any, pad_type: str, ceil_mode: Any, **_: Any) -> Tensor:
    assert (pad_type, bool(ceil_mode)) == ("valid", False) or not any(ints(_["pad"]))
    return F.max_pool2d(x, ints(kernel_sizes), ints(strides))


def sparse(nonzero_data: Tensor, mask: Tensor, shape: Tensor) -> Tensor:
    size = int(np.prod(ints(shape)))
    kept = torch.from_numpy(np.unpackbits(mask.numpy().astype(np.uint8), count=size, bitorder="little")).bool()
    assert int(kept.sum()) == nonzero_data.numel()
    return torch.zeros(size, dtype=nonzero_data.dtype).masked_scatter(kept, nonzero_data).view(ints(shape))


def slice_by_index(x: Tensor, begin: Any, end: Any, **masks: Any) -> Tensor:
    false = [False] * x.ndim
    begins, ends, squeezes = (ints(masks.get(f"{name}_mask", false)) for name in ("begin", "end", "squeeze"))
    steps = ints(masks.get("stride", [1] * x.ndim))
    where: list[Any] = []
    for axis, (first, last) in enumerate(zip(map(int, begin), map(int, end), strict=True)):
        span = slice(None if begins[axis] else first, None if ends[axis] else last, steps[axis])
        where.append(first if squeezes[axis] else span)
    return x[tuple(where)]


def reshape(x: Tensor, shape: Any) -> Tensor:
    return x.reshape([x.shape[axis] if size == 0 else size for axis, size in enumerate(ints(shape))])


def concat(values: Any, axis: Any, interleave: Any = False) -> Tensor:
    assert not bool(interleave)
    parts = [torch.atleast_1d(part) for part in values]
    return torch.cat([part.to(parts[0].dtype) for part in parts], int(axis))


def matmul(x: Tensor, y: Tensor, transpose_x: Any = False, transpose_y: Any = False) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def divided(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="floor")


def layer_norm(x: Tensor, axes: Any, gamma: Tensor, beta: Tensor, epsilon: Any) -> Tensor:
    assert ints(axes) in ([-1], [x.ndim - 1])
    return F.layer_norm(x, [x.shape[-1]], gamma, beta, float(epsilon))


def split(x: Tensor, axis: Any, num_splits: Any = None, split_sizes: Any = None) -> tuple[Tensor, ...]:
    if split_sizes is not None:
        return x.split(ints(split_sizes), int(axis))
    return x.chunk(int(num_splits), int(axis))


def expand_dims(x: Tensor, axes: Any) -> Tensor:
    for axis in sorted(axis % (x.ndim + len(axes)) for axis in ints(axes)):
        x = x.unsqueeze(axis)
    return x


OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "cast": lambda x, dtype: x.to(TYPES[dtype]),
    "concat": concat,
    "constexpr_sparse_to_dense": sparse,
    "conv": conv,
    "equal": lambda x, y: x == y,
    "exp": torch.exp,
    "expand_dims": expand_dims,
    "fill": lambda shape, value: torch.full(ints(shape), value.item(), dtype=value.dtype),
    "fill_like": lambda ref_tensor, value: torch.full(ref_tensor.shape, value.item(), dtype=value.dtype),
    "gather": lambda x, indices, axis, batch_dims=0: torch.index_select(
        x, int(axis), indices.reshape(-1).long()
    ).reshape([*indices.shape, *x.shape[1:]]),
    "gelu": lambda x, mode: F.gelu(x, approximate={"EXACT": "none"}[mode]),
    "layer_norm": layer_norm,
    "linear": F.linear,
    "logical_xor": lambda x, y: x ^ y,
    "logical_not": torch.logical_not,
    "matmul": matmul,
    "max_pool": pool,
    "mul": lambda x, y: x * y,
    "range_1d": lambda start, end, step: torch.arange(int(start), int(end), int(step)),
    "real_div": divided,
    "reduce_max": lambda x, axes, keep_dims: x.amax(ints(axes), keepdim=bool(keep_dims)),
    "reduce_mean": lambda x, axes, keep_dims: x.mean(ints(axes), keepdim=bool(keep_dims)),
    "reduce_sum": lambda x, axes, keep_dims: x.sum(ints(axes), keepdim=bool(keep_dims)),
    "relu": torch.relu,
    "reshape": reshape,
    "select": lambda cond, a, b: torch.where(cond, a, b),
    "shape": lambda x: torch.tensor(x.shape),
    "slice_by_index": slice_by_index,
    "softmax": lambda x, axis: x.softmax(int(axis)),
    "split": split,
    "squeeze": lambda x, axes: x.squeeze(ints(axes)),
    "sub": lambda x, y: x - y,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "tile": lambda x, reps: x.tile(ints(reps)),
    "transpose": lambda x, perm: x.permute(ints(perm)),
}
