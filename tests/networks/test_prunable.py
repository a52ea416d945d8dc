from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from ntt_cli.networks.functional import functional_model
from ntt_cli.networks.prunable import others, prunable_names
from tests.kernel_cases import MODEL_CASES

CASES = {case.name: case for case in MODEL_CASES}


class Tokens(nn.Module):
    """What a transformer has besides matrices: a class token, positions, normalisation over two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.position = nn.Parameter(torch.zeros(1, 3, 4))
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm((3, 4))
        self.attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
        self.head = nn.Linear(4, 1)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (CASES["mlp"].build, ["0.weight", "2.weight", "4.weight"]),
        (CASES["batch normalisation"].build, ["0.weight", "5.weight", "8.weight"]),
        (
            lambda: nn.Sequential(nn.Conv1d(1, 2, 1), nn.GroupNorm(1, 2), nn.RMSNorm((2, 3)), nn.PReLU(2)),
            ["0.weight"],
        ),
        (lambda: nn.LayerNorm((3, 4)), []),
        (
            Tokens,
            ["attention.in_proj_weight", "attention.out_proj.weight", "head.weight"],
        ),
        (CASES["tied embedding"].build, ["mix.weight"]),
        (CASES["unused"].build, ["body.weight", "idle.weight", "dropped.weight", "head.weight"]),
        (CASES["recurrent"].build, ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "head.weight"]),
        (lambda: nn.Linear(1, 1), ["weight"]),
    ],
    ids=[
        "mlp",
        "batch norm",
        "other norms",
        "a norm alone",
        "transformer",
        "tied",
        "frozen",
        "recurrent",
        "a single weight",
    ],
)
def test_which_parameters_are_prunable(build: Callable[[], nn.Module], expected: list[str]) -> None:
    assert list(prunable_names(functional_model(build()))) == expected


def test_a_weight_shared_by_two_layers_is_counted_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 4)
            self.head = nn.Linear(4, 7)
            self.head.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embedding(tokens))

    model = functional_model(Tied())
    assert prunable_names(model) == ()
    assert others(model) == {"embedding.weight": "embedding"}
    assert prunable_names(model, include=["*"]) == ("embedding.weight",)


def test_what_is_left_alone_has_a_role_and_can_be_included() -> None:
    model = functional_model(Tokens())
    norms = dict.fromkeys(["norm.weight", "norm.bias"], "normalisation")
    assert others(model) == {"position": "table", "embedding.weight": "embedding"} | norms
    assert "position" in prunable_names(model, multiplied={"position"})
    usual = prunable_names(model)
    with_token = prunable_names(model, include=["class_token", "norm.*"])
    assert set(with_token) - set(usual) == {"class_token", "norm.weight", "norm.bias"}
    assert prunable_names(model, exclude=["class*"], include=["class_token"]) == usual


@pytest.mark.parametrize("way", [weight_norm, spectral_norm, nn.utils.spectral_norm])
def test_parametrised_weights_are_those_of_their_layer(way: Callable[[nn.Module], nn.Module]) -> None:
    model = functional_model(nn.Sequential(way(nn.Linear(5, 4)), way(nn.Embedding(5, 4))))
    (name,) = prunable_names(model)
    assert name.startswith("0.")
    assert set(others(model).values()) == {"embedding"}


@pytest.mark.parametrize(
    ("exclude", "expected"),
    [
        (["0.weight"], ["2.weight", "4.weight"]),
        (["0.*", "[4-9].*"], ["2.weight"]),
        (["weight"], ["0.weight", "2.weight", "4.weight"]),
        (["?.WEIGHT"], ["0.weight", "2.weight", "4.weight"]),
        (["*"], []),
    ],
)
def test_excluded_patterns_match_whole_names(exclude: list[str], expected: list[str]) -> None:
    assert list(prunable_names(CASES["mlp"].functional(), exclude)) == expected
