"""A small vision transformer on 4x4 patches: Dosovitskiy et al., "An Image is Worth 16x16 Words", arXiv 2010.11929.

The mean over all patches takes the place of the class token. The classifier does not start at zero, as some ViTs do:
below a zero classifier the kernel of every layer is zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DATA = "fashion-mnist"
INPUT_SHAPE = (1, 28, 28)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each [n, heads, tokens, head_dim]
        mixed = F.scaled_dot_product_attention(q, k, v)
        projected: Tensor = self.out(mixed.transpose(1, 2).reshape(n, tokens, -1))
        return projected


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, 2 * dim)
        self.fc2 = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return x


class ViT(nn.Module):
    def __init__(self, channels: int, size: int, classes: int, dim: int, depth: int, heads: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, kernel_size=patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn((size // patch) ** 2, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(tokens)).mean(dim=1))
        return logits


def build_model(
    channels: int = 1,
    size: int = 28,
    classes: int = 10,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
    patch: int = 4,
) -> nn.Module:
    return ViT(channels, size, classes, dim, depth, heads, patch)
