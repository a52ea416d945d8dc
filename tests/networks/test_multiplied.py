from __future__ import annotations

import torch
from torch import Tensor, nn

from ntt_cli.networks.functional import functional_model
from ntt_cli.networks.multiplied import multiplied_parameters


class Custom(nn.Module):
    """Bare parameters, used in every way."""

    def __init__(self) -> None:
        super().__init__()
        for name, shape in {
            "position": (1, 5, 4),
            "looked_up": (9, 3),
            "relative": (9, 4),
            "gate": (5, 4),
            "matrix": (4, 4),
            "standardised": (4, 4),
            "low_rank_a": (4, 2),
            "low_rank_b": (2, 4),
            "mixed": (3, 4, 4),
            "kernel": (6, 4, 3),
            "unused": (4, 4),
        }.items():
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))
        self.register_buffer("index", torch.arange(5))

    def forward(self, x: Tensor) -> Tensor:
        h = (x + self.position) * self.gate.sigmoid()
        h = h + self.looked_up[self.index, :1]
        h = h + torch.einsum("nld,md->nlm", h, self.relative[self.index])[..., :4]
        h = torch.einsum("nld,de->nle", h @ self.matrix, self.standardised - self.standardised.mean(1, keepdim=True))
        h = h + nn.functional.linear(h, self.low_rank_a @ self.low_rank_b)
        h = torch.matmul(h[:, None], self.mixed.transpose(1, 2)).sum(1)
        return nn.functional.conv1d(h.transpose(1, 2), self.kernel).flatten(1)


def test_factors_are_told_from_tables() -> None:
    model = functional_model(Custom())
    found = multiplied_parameters(model.bind(), model.params, torch.randn(2, 5, 4))
    assert found == {"matrix", "standardised", "low_rank_a", "low_rank_b", "mixed", "kernel"}


def test_learned_inputs_and_embeddings_are_no_factors() -> None:
    """Products of parameters with each other say nothing of which is the weight."""

    class Similarity(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = (nn.Parameter(torch.randn(7, 4)) for _ in range(2))
            self.head = nn.Parameter(torch.randn(7, 3))

        def forward(self, rows: Tensor) -> Tensor:
            return (self.users[rows] @ self.items.T) @ self.head

    model = functional_model(Similarity())
    found = multiplied_parameters(model.bind(), model.params, torch.tensor([0, 3]))
    assert found == {"items", "head"}
