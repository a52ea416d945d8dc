"""Networks for sequences, for the other benchmarks: a decoder with tied embeddings, an LSTM and a GRU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Decoder(nn.Module):
    """Causal attention over tokens; the output's weights are the embedding's."""

    def __init__(self, tokens: int, length: int, dim: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, dim)
        self.position = nn.Parameter(0.02 * torch.randn(length, dim))
        layer = nn.TransformerEncoderLayer(dim, 4, 4 * dim, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(dim, tokens, bias=False)
        self.head.weight = self.embedding.weight
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        hidden = self.layers(self.embedding(x) + self.position, mask=mask, is_causal=True)
        logits: Tensor = self.head(hidden)
        return logits


class Recurrent(nn.Module):
    """The last state's logits."""

    def __init__(self, kind: type[nn.LSTM | nn.GRU], features: int, dim: int, classes: int) -> None:
        super().__init__()
        self.recurrent = kind(features, dim, num_layers=2, batch_first=True)
        self.head = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.recurrent(x)[0][:, -1])
        return logits


def decoder(tokens: int = 1000, length: int = 64, dim: int = 128, depth: int = 4) -> nn.Module:
    return Decoder(tokens, length, dim, depth)


def lstm(features: int = 64, dim: int = 256, classes: int = 10) -> nn.Module:
    return Recurrent(nn.LSTM, features, dim, classes)


def gru(features: int = 64, dim: int = 256, classes: int = 10) -> nn.Module:
    return Recurrent(nn.GRU, features, dim, classes)
