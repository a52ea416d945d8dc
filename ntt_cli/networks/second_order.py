"""Replacements for operations whose second derivative is missing, wrong or slow in PyTorch.

The gradient of a kernel product differentiates a Jacobian-vector product once more. This is wrong for `layer_norm`,
`instance_norm`, and `batch_norm` with batch statistics, which some networks use to standardise their weights: PyTorch
silently treats the statistics as constants (pytorch/pytorch#196700). `glu` and `hardsigmoid` have no such gradient, nor
has `normalize` for an input of zero. Weight normalisation and `embedding_bag` have no forward mode. Elementary
operations give the right derivatives for all of these. The LSTM kernels of oneDNN and the recurrent kernels of cuDNN
lack derivatives too; PyTorch's own kernels have them.

Layers with more weights than inputs spend their time on the weights. In forward mode, PyTorch applies the weights to
values and to tangents separately, and later adds two gradients of their size. Here values and tangents go through the
weights together. Convolutions with fewer positions than output channels are matrix products here, because oneDNN's
gradients with respect to their weights are slow. In attention, PyTorch's tangents exponentiate all scores once more and
keep more copies of them than necessary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.autograd.forward_ad as fwAD
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.utils import _pair
from torch.overrides import TorchFunctionMode

Operation = Callable[..., Tensor]
Replacements = dict[Callable[..., Any], Callable[..., Any]]


@contextmanager
def twice_differentiable() -> Generator[None]:
    """While it is active, operations can be differentiated in forward mode, and twice.

    A single backward pass does not need this: PyTorch's own operations are faster.
    """
    # Fused attention kernels have neither derivative, and no function mode sees nn.MultiheadAttention's calls of them.
    with sdpa_kernel(SDPBackend.MATH), _Replacing(_TWICE):
        yield


def once_differentiable() -> TorchFunctionMode:
    """While it is active, recurrent layers have gradients in evaluation mode, on every device.

    Convolutions also use the memory layout of their weights, whatever the layout of their inputs.
    """
    return _Replacing(_ONCE)


def heavy_once_differentiable() -> TorchFunctionMode:
    """While it is active, the gradients of heavy convolutions are as fast as in `twice_differentiable`."""
    return _Replacing({F.conv2d: _conv2d_or_product})


class _Replacing(TorchFunctionMode):
    def __init__(self, replacements: Replacements) -> None:
        super().__init__()
        self._replacements = replacements

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        operation: Callable[..., Any] = self._replacements.get(func, func)
        return operation(*args, **(kwargs or {}))


def _normalise_over(input: Tensor, axes: Iterable[int], eps: float) -> Tensor:
    dims = tuple(axes)
    centred = input - input.mean(dims, keepdim=True)
    return centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt()


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    result = _normalise_over(input, range(-len(normalized_shape), 0), eps)
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return F.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _scale_channels(_normalise_over(input, range(2, input.dim()), eps), weight, bias)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _scale_channels(_normalise_over(input, (0, *range(2, input.dim())), eps), weight, bias)


def _scale_channels(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    channels = (-1, *(1,) * (input.dim() - 2))
    result = input if weight is None else input * weight.view(channels)
    return result if bias is None else result + bias.view(channels)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # With a third axis, PyTorch computes one derivative of a tangent by a weight for each row, and then adds them.
    if input.dim() <= 2:
        return _both_at_once(F.linear, input, weight, bias)
    result: Tensor = _both_at_once(F.linear, input.flatten(0, -2), weight, bias).unflatten(0, input.shape[:-1])
    return result


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    pairs = [fwAD.unpack_dual(x) for x in (query, key, value)]
    alike = query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    additive = attn_mask is not None and attn_mask.dtype is not torch.bool
    if any(pair.tangent is None for pair in pairs) or not alike or additive or dropout_p:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    (q, dq), (k, dk), (v, dv) = ([x.reshape(-1, *x.shape[-2:]) for x in pair] for pair in pairs)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    q, dq = q * factor, dq * factor
    scores, moved = torch.bmm(q, k.mT), torch.baddbmm(torch.bmm(dq, k.mT), q, dk.mT)
    if is_causal:
        attn_mask = scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is None:
        weights = scores.softmax(-1)
    else:
        hidden = ~attn_mask.expand(*query.shape[:-2], *scores.shape[-2:]).reshape(scores.shape)
        # A finite score, so that a query without visible keys has derivatives: zero, as its output.
        weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(hidden, 0)
    moved = weights * moved
    moved = moved - weights * moved.sum(-1, keepdim=True)
    y, dy = torch.bmm(weights, v), torch.baddbmm(torch.bmm(moved, v), weights, dv)
    shape = (*query.shape[:-1], value.shape[-1])
    return _dual(y.view(shape), dy.view(shape))


def _convolve(
    operation: Operation, input: Tensor, weight: Tensor, bias: Tensor | None = None, *geometry: Any, **named: Any
) -> Tensor:
    return _both_at_once(partial(operation, **named), input, weight, bias, *geometry)


def _conv2d(input: Tensor, weight: Tensor, *others: Any, **named: Any) -> Tensor:
    # PyTorch uses channels last if either tensor has it, and copies the other at each call. Copying inputs is cheaper.
    return F.conv2d(input.contiguous() if _channels_first(weight) else input, weight, *others, **named)


def _conv2d_or_product(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    out, _, *kernel = weight.shape
    if input.dim() == 4 and _channels_first(weight) and groups == 1 and not isinstance(padding, str):
        sides = zip(input.shape[2:], kernel, *map(_pair, (stride, padding, dilation)), strict=True)
        height, width = ((side + 2 * p - d * (k - 1) - 1) // s + 1 for side, k, s, p, d in sides)
        if len(input) * height * width < out and input.device.type == "cpu":
            patches = F.unfold(input, tuple(kernel), dilation, padding, stride).mT.flatten(0, 1)
            result: Tensor = F.linear(patches, weight.flatten(1), bias)
            return result.view(len(input), height, width, out).movedim(-1, 1)
    return _conv2d(input, weight, bias, stride, padding, dilation, groups)


def _channels_first(weight: Tensor) -> bool:
    return weight.dim() == 4 and weight.stride(1) > weight.stride(3)


def _both_at_once(operation: Operation, input: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
    x, dx = fwAD.unpack_dual(input)
    w, dw = fwAD.unpack_dual(weight)
    b, db = (None, None) if bias is None else fwAD.unpack_dual(bias)
    if dw is None or (dx is not None and (w.numel() <= x.numel() or x.dim() != w.dim())):
        return operation(input, weight, bias, *geometry)
    if dx is None:
        y, dy = operation(x, w, b, *geometry), None
    else:
        both = operation(torch.cat([x, dx]), w, None, *geometry)
        y, dy = both[: len(x)], both[len(x) :]  # unlike the parts from `chunk`, each may be changed in place
        if b is not None:
            y = y + b.view(-1, *(1,) * (y.dim() - 2))
    # Last, so that its derivative comes first: the gradient by `dw`, which frees `dw`, comes before the one by `w`.
    moved = operation(x, dw, db, *geometry)
    return _dual(y, moved if dy is None else dy + moved)


def _dual(value: Tensor, tangent: Tensor) -> Tensor:
    dual: Tensor = fwAD.make_dual(value, tangent)
    return dual


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    value, gate = input.chunk(2, dim)
    return value * gate.sigmoid()


def _hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    return F.relu6(input + 3) / 6


def _normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None) -> Tensor:
    if p != 2 or out is not None:
        return F.normalize(input, p, dim, eps, out)
    return input * input.square().sum(dim, keepdim=True).clamp_min(eps**2).rsqrt()


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    axes = [axis for axis in range(v.dim()) if dim == -1 or axis != dim]
    return v * (g * v.square().sum(axes, keepdim=dim != -1).rsqrt())


def _embedding_bag(input: Tensor, weight: Tensor, *, mode: str = "mean", **others: Any) -> Tensor:
    # torch passes all arguments except these two by name.
    asked = {name for name, value in others.items() if value is not None and value is not False}
    if input.dim() != 2 or mode == "max" or asked - {"norm_type"}:
        return F.embedding_bag(input, weight, mode=mode, **others)
    rows = F.embedding(input, weight)
    return rows.mean(1) if mode == "mean" else rows.sum(1)


def _recurrent(operation: Callable[..., Any]) -> Callable[..., Any]:
    def native(*args: Any, **kwargs: Any) -> Any:
        (before, *_) = torch.backends.mkldnn.set_flags(_enabled=False)
        try:
            with torch.backends.cudnn.flags(enabled=False):
                return operation(*args, **kwargs)
        finally:
            torch.backends.mkldnn.set_flags(_enabled=before)

    return native


_ONCE: Replacements = {
    operation: _recurrent(operation) for operation in (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)
} | {F.conv2d: _conv2d}
_TWICE: Replacements = {
    **_ONCE,
    F.linear: _linear,
    F.conv1d: partial(_convolve, F.conv1d),
    F.conv2d: partial(_convolve, _conv2d_or_product),
    F.conv3d: partial(_convolve, F.conv3d),
    F.layer_norm: _layer_norm,
    F.instance_norm: _instance_norm,
    F.batch_norm: _batch_norm,
    F.scaled_dot_product_attention: _attention,
    F.glu: _glu,
    F.hardsigmoid: _hardsigmoid,
    F.normalize: _normalize,
    F.embedding_bag: _embedding_bag,
    torch._weight_norm: _weight_norm,
}
