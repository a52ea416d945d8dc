"""The heads of an attention, as groups of channels: a head is removed as a whole, with what makes it and what uses it.

Torch-Pruning finds the layers of an attention that is written out, but not that its outputs are heads. How many there
are is an attribute of the module that calls the layers, as its code reads it. Torch's own attention is a layer of its
own, whose code takes no fewer heads than fit its width; `FewerHeads` takes its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ntt_cli.masks.channels import ChannelGroup, Slices

_OF_ONE_HEAD = ("dim", "size", "width", "channels", "features")
"""Attributes with such a word in their name say how wide a head is, and not how many there are."""


def attention_groups(network: nn.Module) -> Iterator[ChannelGroup]:
    """The heads of each of torch's own attentions, unless it adds keys and values of its own."""
    for path, attention in network.named_modules(remove_duplicate=False):
        if not isinstance(attention, nn.MultiheadAttention) or attention.num_heads < 2:
            continue
        if attention.bias_k is None and not attention.add_zero_attn:
            yield _group_of(path, attention)


def grouped_by_heads(network: nn.Module, group: ChannelGroup) -> Iterator[ChannelGroup]:
    """The channels of a group as heads, for each number of them that the attributes of the module around it suggest."""
    around = network.get_submodule(group.layer.rpartition(".")[0])
    for heads in dict.fromkeys(_numbers(around, group.size)):
        width = group.size // heads
        channels = torch.arange(group.size).split(width)
        roots = tuple(tuple(sorted(root for i in own.tolist() for root in group.roots[i])) for own in channels)
        slices = tuple(
            replace(part, channel=torch.where(part.channel < 0, -1, part.channel // width)) for part in group.slices
        )
        yield ChannelGroup(group.layer, roots, slices, head_width=width)


def tell_heads(network: nn.Module, layer: str, *, heads: int, left: int, width: int) -> None:
    """Let the module around a layer know, in place, how many of its `heads`, each so wide, are left.

    Its attributes that count heads, or are as large as all heads together, become smaller.
    """
    around = network.get_submodule(layer.rpartition(".")[0])
    for name, value in list(vars(around).items()):
        if type(value) is int and value == heads and _counts_heads(name):
            setattr(around, name, left)
        elif type(value) is int and value == heads * width:
            setattr(around, name, left * width)


def remove_heads(attention: nn.MultiheadAttention, gone: Sequence[int]) -> None:
    """Remove heads from torch's own attention, in place.

    Raises:
        IndexError: if it has no such heads.
    """
    group = next(attention_groups(attention), None)
    if group is None:
        raise IndexError("an attention without heads to remove")
    stays = torch.ones(group.size, dtype=torch.bool)
    stays[list(gone)] = False
    parameters = dict(attention.named_parameters())
    for part in group.slices:
        p = parameters[part.name]
        p.data = p.data.index_select(part.axis, part.of(stays).to(p.device))
        p.grad = None
    attention.num_heads = int(stays.sum())
    attention.out_proj.in_features = attention.out_proj.weight.shape[1]
    attention.__class__ = FewerHeads


class FewerHeads(nn.MultiheadAttention):
    """Torch's attention with so few heads that they are narrower than its inputs; in evaluation mode."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch's, but for an `attn_mask` that differs by head. `is_causal` says what `attn_mask` shows."""
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = (
            functional.linear(x, weight, bias).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
            for x, weight, bias in zip((query, key, value), self._weights(), self._biases(), strict=True)
        )
        mask = _as_numbers(attn_mask, q)
        if (padding := _as_numbers(key_padding_mask, q)) is not None:
            padding = padding[:, None, None]
            mask = padding if mask is None else mask + padding
        weights = None
        if need_weights:
            found = q @ k.transpose(2, 3) * self.head_dim**-0.5
            shares = (found if mask is None else found + mask).softmax(-1)
            out = shares @ v
            weights = shares.mean(1) if average_attn_weights else shares
            weights = weights if batched else weights[0]
        else:
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if not self.batch_first:
            out = out.transpose(0, 1)
        return (out if batched else out.squeeze(0 if self.batch_first else 1)), weights

    def _weights(self) -> Sequence[Float[Tensor, "e i"]]:
        if self._qkv_same_embed_dim:
            return self.in_proj_weight.chunk(3)
        return self.q_proj_weight, self.k_proj_weight, self.v_proj_weight

    def _biases(self) -> Sequence[Float[Tensor, " e"] | None]:
        return (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)


def _as_numbers(mask: Tensor | None, like: Tensor) -> Tensor | None:
    """A mask as numbers that are added: of a bool mask, `True` is left out."""
    if mask is None or mask.dtype is not torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -torch.inf)


def _group_of(path: str, attention: nn.MultiheadAttention) -> ChannelGroup:
    heads, size = attention.num_heads, attention.num_heads * attention.head_dim
    within = f"{path}.".lstrip(".")
    head = torch.arange(heads).repeat_interleave(size // heads)
    names = ["in_proj_weight"] if attention._qkv_same_embed_dim else [f"{x}_proj_weight" for x in "qkv"]
    times = 3 if attention._qkv_same_embed_dim else 1
    slices = [Slices(f"{within}{name}", 0, head.repeat(times), is_weight=True, uses=False) for name in names]
    if attention.in_proj_bias is not None:
        slices.append(Slices(f"{within}in_proj_bias", 0, head.repeat(3), is_weight=False, uses=False))
    slices.append(Slices(f"{within}out_proj.weight", 1, head, is_weight=True, uses=True))
    roots = tuple(tuple(own.tolist()) for own in torch.arange(size).split(size // heads))
    return ChannelGroup(path, roots, tuple(slices), head_width=size // heads)


def _numbers(around: nn.Module, size: int) -> Iterator[int]:
    """The numbers of heads that its attributes suggest for so many channels."""
    for name, value in vars(around).items():
        if "head" in name and type(value) is int and 1 < value < size and size % value == 0:
            yield value if _counts_heads(name) else size // value


def _counts_heads(name: str) -> bool:
    return "head" in name and not any(word in name for word in _OF_ONE_HEAD)
