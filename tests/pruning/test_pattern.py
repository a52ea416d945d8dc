"""Which weights can have a pattern, and what is said of the others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import ntt_cli as ntt
from ntt_cli.errors import UsageError
from tests.parts import refusal


class Tagger(nn.Module):
    """An embedding, a Bilinear layer, a Linear layer whose columns must not be empty, and another one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.both = nn.Bilinear(4, 4, 8)
        self.normed = parametrizations.weight_norm(nn.Linear(8, 4), dim=1)
        self.last = nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens).mean(1)
        return self.last(self.normed(self.both(x, x).relu()).relu())


TOKENS = torch.arange(60).view(12, 5) % 9


def pruned(**options: Any) -> Any:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = Tagger()
    return ntt.prune(network, TOKENS, pattern="2:4", method="magnitude", **options)


def test_what_stays_dense_and_why() -> None:
    result = pruned()
    assert result.report.left_out == {
        "embed.weight": "embedding",
        "normed.parametrizations.weight.original0": "vector",
        "both.weight": "no input axis is known",
        "normed.parametrizations.weight.original1": "no input may lose all its weights",
    }
    assert {layer.name: layer.kept for layer in result.report.layers} == {
        "both.weight": 128,
        "normed.parametrizations.weight.original1": 32,
        "last.weight": 6,
    }
    assert result.report.pattern_in_words.startswith("2:4; dense: both.weight (no input axis is known), normed.")


def test_what_cannot_have_it_is_not_included_in_vain() -> None:
    error = refusal(UsageError, pruned, include=("embed.*",))
    what = "has no effect with pattern=2:4: embed.weight stays dense, no input axis is known"
    assert what in str(error)


def test_a_method_with_counts_of_its_own_is_refused() -> None:
    own = ntt.NTT(allocation=lambda scores, *, density, slices: {})
    error = refusal(UsageError, ntt.prune, nn.Linear(4, 8), torch.randn(8, 4), pattern="2:4", method=own)
    assert "says how many weights each layer keeps, and so does the method's own allocation" in str(error)


def test_neither_a_sparsity_nor_a_pattern() -> None:
    with pytest.raises(UsageError, match="sparsity: is required"):
        ntt.prune(nn.Linear(4, 8))
