"""Scores of a network with several heads, whose scales should not matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import ntt_cli as ntt
from ntt_cli.networks.functional import with_equal_heads
from ntt_cli.networks.outputs import Heads, usual_logits
from ntt_cli.tensors import Params

HEADS = Heads(usual_logits, {"near": (3,), "far": ()})


class TwoHeads(nn.Module):
    """Two heads with a body each; one head is scaled by a power of two, which rounds nothing."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.left, self.near = nn.Linear(6, 8), nn.Linear(8, 3)
            self.right, self.far = nn.Linear(6, 8), nn.Linear(8, 1)
        self.scale = scale

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        far = self.far(torch.relu(self.right(x)))[:, 0]
        return {"near": self.near(torch.relu(self.left(x))), "far": self.scale * far}


@pytest.mark.parametrize("method", ["logit-snip", "synflow", "ntk-sap", "ntt"])
def test_a_heads_scale_does_not_change_the_masks(method: str) -> None:
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
    options = {"steps": 2, "mask_update_every": 1, "allocation": "global"} if method == "ntt" else {}
    masks = [
        ntt.prune(TwoHeads(scale), x, sparsity=0.6, method=method, **options).masks for scale in (1.0, 1024.0, 2.0**-10)
    ]
    for other in masks[1:]:
        assert all(torch.equal(mask, masks[0][name]) for name, mask in other.items())
    assert all(0 < masks[0][name].sum() < 48 for name in ("left.weight", "right.weight"))


def test_heads_are_divided_by_their_norms() -> None:
    rows = torch.tensor([[3.0, 0, 0, 2], [0, 4, 0, 0]])

    def apply(_params: Params, _x: Tensor) -> Tensor:
        return torch.ones(1, 4)

    assert torch.equal(with_equal_heads(apply, HEADS, lambda: rows)({}, rows), torch.tensor([[0.2, 0.2, 0.2, 0.5]]))
    assert with_equal_heads(apply, HEADS, lambda: 0 * rows)({}, rows).tolist() == [[1, 1, 1, 1]]
    one = Heads(usual_logits, {"output": (4,)})
    assert with_equal_heads(apply, one, lambda: rows) is apply
    assert with_equal_heads(apply, None, lambda: rows) is apply


class Masked(nn.Module):
    """Takes measurements, a mask of floats, and tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.embed = nn.Linear(5, 4), nn.Embedding(9, 4)

    def forward(self, x: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        assert set(mask.unique().tolist()) <= {0, 1}
        assert tokens.max() < 9
        return (self.a(x) * mask[..., None]).sum(1) + self.embed(tokens).mean(1)


def test_ntk_sap_draws_what_is_measured_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    data = {
        "x": torch.rand(16, 3, 5, generator=generator),
        "mask": (torch.rand(16, 3, generator=generator) < 0.7).float(),
        "tokens": torch.randint(9, (16, 3), generator=generator),
    }
    assert ntt.prune(Masked(), data, sparsity=0.5, method="ntk-sap", batch_size=8).report.kept == 10
