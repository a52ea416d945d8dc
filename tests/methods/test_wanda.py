from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ntt_cli.masks.masks import keep_top
from ntt_cli.methods.wanda import layer_input_norms, wanda_scores
from ntt_cli.networks.functional import functional_model


def test_by_hand() -> None:
    weight = torch.tensor([[3.0, -1.0, 2.0], [0.1, 0.2, -0.3]])
    norms = {"w": torch.tensor([1.0, 6.0, 2.0]).double()}
    score = wanda_scores({"w": weight}, norms, ["w"])["w"]
    # Products: 3, 6, 4 and 0.1, 1.2, 0.6.
    assert keep_top(score, n_keep=2).tolist() == [[False, True, False], [False, True, False]]
    assert keep_top(score, n_keep=3).tolist() == [[False, True, True], [False, True, False]]
    assert keep_top(score, n_keep=4).tolist() == [[False, True, True], [False, True, True]]
    plain = wanda_scores({"w": weight}, {}, ["w"])["w"]
    assert keep_top(plain, n_keep=2).tolist() == [[True, False, False], [False, False, True]]


def test_input_norms_of_linear_and_convolutional_layers() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
        x = torch.randn(5, 2, 4, 4)
    model = functional_model(module)
    norms = layer_input_norms(model.bind(), model.params, ["0.weight", "3.weight"], x.split([3, 2]))
    padded = F.pad(x, (1, 1, 1, 1))
    for i in range(2):
        for row in range(3):
            for column in range(3):
                seen = padded[:, i, row : row + 4 : 2, column : column + 4 : 2]
                assert norms["0.weight"][i, row, column] == pytest.approx(float(seen.norm()), rel=1e-5)
    torch.testing.assert_close(norms["3.weight"].float(), module[:3](x).norm(dim=0))


def test_a_layer_of_another_kind_counts_by_magnitude() -> None:
    model = functional_model(nn.Sequential(nn.Conv1d(2, 2, 3), nn.Flatten(), nn.Linear(4, 2)))
    norms = layer_input_norms(model.bind(), model.params, ["0.weight", "2.weight"], [torch.ones(1, 2, 4)])
    assert set(norms) == {"2.weight"}
