"""Small networks of each kind that `ntt export` takes, and of each that it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ntt_cli.data.batch import Batch


def images() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(), nn.Linear(64, 3)
    )


@dataclass
class Fields:
    """As transformers returns its outputs."""

    states: Tensor
    pooled: Tensor
    nothing: Tensor | None = None


class Text(nn.Module):
    """Takes keyword arguments in any order, and text of any length up to 12."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 8), nn.Embedding(12, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, **given: Any) -> Fields:
        ids, mask = given["input_ids"], given["attention_mask"]
        at = torch.arange(ids.shape[1], device=ids.device)
        states = self.block(self.words(ids) + self.places(at), src_key_padding_mask=mask == 0)
        weight = mask[..., None].float()
        return Fields(states * weight, (states * weight).sum(1) / weight.sum(1))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return self.left(a) + self.right(b), self.right(b)


class Twice(NamedTuple):
    first: Tensor
    second: Tensor


class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Twice:
        states, _ = self.rnn(x)
        return Twice(self.head(states[:, -1]), states)


def tokens(n: int = 9) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 20, (n, 6), generator=draw)
    mask = (torch.arange(6) < torch.randint(3, 7, (n, 1), generator=draw)).long()
    return {"input_ids": ids, "attention_mask": mask}


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


KINDS: dict[str, tuple[Callable[[], nn.Module], Batch]] = {
    "images": (images, noise(9, 2, 6, 6)),
    "text": (Text, tokens()),
    "pair": (Pair, (noise(9, 4), noise(9, 5))),
    "series": (Series, noise(9, 7, 3)),
    "float64": (lambda: nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double(), noise(9, 4)),
}


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)


class Branches(Linear):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return torch.as_tensor(self.layer(x))
        return torch.as_tensor(self.layer(-x))


class Loops(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layer(row) for row in x])


class Leaves(Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.layer(torch.from_numpy(x.numpy() * 2)))


class Counts(Linear):
    """Returns something else in every second pass: what a program holds is one of them."""

    calls = itertools.count()

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.layer(x) + next(self.calls) % 2 * 3.0)
