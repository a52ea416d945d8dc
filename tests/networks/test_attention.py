"""Heads of attentions: found in code that nobody here wrote for it, and removed as a whole."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ntt_cli.masks.channels import Channels
from ntt_cli.networks.attention import remove_heads
from ntt_cli.networks.channels import find_channels, removed_of, shrink
from ntt_cli.networks.functional import functional_model

WIDTH, HEADS = 16, 4  # as many heads as values in each: an attribute of 4 may be either


class Separate(nn.Module):
    """As in transformers: three layers, and attributes that say all sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size, self.all_head_size = HEADS, WIDTH // HEADS, WIDTH
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.dense = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], self.num_attention_heads, self.attention_head_size)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        shares = (q @ k.transpose(2, 3) * self.attention_head_size**-0.5).softmax(-1)
        return self.dense((shares @ v).transpose(1, 2).reshape(*x.shape[:2], self.all_head_size))


class Open(Separate):
    """The number of heads follows from the width of one."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:2], -1, self.attention_head_size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        return self.dense(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Fused(nn.Module):
    """As in timm: one layer for queries, keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.head_dim = HEADS, WIDTH // HEADS
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))


class Unnamed(nn.Module):
    """No attribute says how many heads there are."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, WIDTH))


class Torchs(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x)[0]


ATTENTIONS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "separate": (Separate, "1.value"),
    "open": (Open, "1.value"),
    "fused": (Fused, "1.qkv"),
    "torch's": (Torchs, "1.attend"),
    "torch's, no bias": (lambda: Torchs(bias=False), "1.attend"),
    "encoder": (lambda: nn.TransformerEncoderLayer(WIDTH, HEADS, 24, batch_first=True), "1.self_attn"),
    "decoder": (lambda: Decoder(), "1.layer.multihead_attn"),
}


class Decoder(nn.Module):
    """With keys from elsewhere, and a causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 24)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        mask = nn.Transformer.generate_square_subsequent_mask(len(x), dtype=x.dtype)
        return self.layer(x, x[:2].flip(0), tgt_mask=mask, tgt_is_causal=True).transpose(0, 1)


def around(attention: nn.Module) -> nn.Module:
    layers = (nn.Linear(6, WIDTH), attention, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3))
    network = nn.Sequential(*layers).double().eval()
    for p in network.parameters():
        nn.init.uniform_(p, -0.7, 0.9)
    return network


@pytest.mark.parametrize("case", ATTENTIONS)
def test_the_network_without_a_head_equals_the_one_with_zeros(case: str) -> None:
    build, layer = ATTENTIONS[case]
    torch.manual_seed(0)
    network, x = around(build()), torch.randn(2, 5, 6, dtype=torch.double)
    model = functional_model(copy.deepcopy(network))
    names = [name for name, p in model.params.items() if p.ndim > 1]
    found = find_channels(model, x, names, where="net")
    (group,) = [group for group in found.groups if group.layer == layer]
    assert (group.size, group.head_width) == (HEADS, WIDTH // HEADS)

    stays = [torch.ones(other.size, dtype=torch.bool) for other in found.groups]
    stays[found.groups.index(group)][1] = False
    weights = {name: p.shape for name, p in network.named_parameters() if p.ndim > 1}
    masks = Channels(found.groups, weights, {}, 0, by_flops=False).masks(stays, dict(network.named_parameters()))
    whole = network(x)
    for name, p in network.named_parameters():
        p.data *= masks[name] if name in masks else 1
    expected = network(x)
    assert (whole - expected).abs().max() > 1e-3
    removed = {g.layer: removed_of(g, s) for g, s in zip(found.groups, stays, strict=True)}
    smaller = shrink(functional_model(network), removed, x, where="net")
    torch.testing.assert_close(smaller(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(smaller(x[:1, :3]), network(x[:1, :3]), rtol=1e-12, atol=1e-12)
    gone = sum(p.numel() for p in network.parameters()) - sum(p.numel() for p in smaller.parameters())
    assert gone in {4 * 4 * WIDTH, 4 * 4 * WIDTH + 3 * 4}  # a quarter of four weights, and of three biases


def test_heads_that_no_attribute_counts_are_left_out() -> None:
    model, x = functional_model(around(Unnamed())), torch.randn(2, 5, 6, dtype=torch.double)
    found = find_channels(model, x, [name for name, p in model.params.items() if p.ndim > 1], where="net")
    assert found.left_out["1.qkv"] == "a smaller network would not give the same outputs"
    assert not [group for group in found.groups if group.head_width]


@pytest.mark.parametrize("options", [{}, {"kdim": 5, "vdim": 7}, {"bias": False}], ids=["equal", "widths", "no bias"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("mask", [None, "causal", "bool", "padding", "both", "unbatched"])
def test_fewer_heads_compute_what_torch_does_with_zeros(
    options: dict[str, object], first: bool, weights: bool, mask: str | None
) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=first, **options).double().eval()
    for p in attention.parameters():
        nn.init.uniform_(p, -0.7, 0.9)
    with torch.no_grad():
        attention.out_proj.weight[:, 8:12] = 0
    batch = () if mask == "unbatched" else (2,)

    def inputs(length: int, width: int) -> Tensor:
        return torch.randn(*((*batch, length) if first else (length, *batch)), width, dtype=torch.double)

    given = inputs(3, WIDTH), inputs(4, attention.kdim), inputs(4, attention.vdim)
    masks: dict[str, Tensor] = {}
    if mask in {"causal", "both"}:
        masks["attn_mask"] = torch.full((3, 4), -torch.inf, dtype=torch.double).triu(1)
    if mask == "bool":
        masks["attn_mask"] = torch.ones(3, 4, dtype=torch.bool).triu(1)
    if mask in {"padding", "both"}:
        masks["key_padding_mask"] = torch.tensor([[False] * 4, [False, True, False, True]])
        if mask == "both":
            masks["key_padding_mask"] = torch.zeros(2, 4, dtype=torch.double).masked_fill(
                masks["key_padding_mask"], -torch.inf
            )
    expected, _ = attention(*given, need_weights=weights, **masks)
    smaller = copy.deepcopy(attention)
    remove_heads(smaller, [2])
    found, shares = smaller(*given, need_weights=weights, **masks)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert (smaller.num_heads, smaller.out_proj.weight.shape) == (3, (WIDTH, 12))
    _, each = attention(*given, average_attn_weights=False, **masks)
    if weights:
        assert shares is not None
        torch.testing.assert_close(shares, each[..., [0, 1, 3], :, :].mean(-3), rtol=1e-12, atol=1e-12)
    else:
        assert shares is None


def test_an_attention_with_keys_of_its_own_keeps_its_heads() -> None:
    attention = nn.MultiheadAttention(WIDTH, HEADS, add_zero_attn=True)
    with pytest.raises(IndexError, match="an attention without heads to remove"):
        remove_heads(attention, [0])
