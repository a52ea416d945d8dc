"""Masks against an oracle that sorts, and zeros that stay zero in training. `make torture`: 2,000 cases of each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ntt_cli.masks.allocation import allocate
from ntt_cli.masks.masks import as_bits, choose_masks
from ntt_cli.training.step import SparseModule, make_optimiser, training_step

CASES = 2_000 if "NTT_TORTURE" in os.environ else 200

FEW = [-float("inf"), -1.5, -0.0, 0.0, 0.5, 2.0, float("inf")]  # so that ties are many


@st.composite
def scores(draw: st.DrawFn) -> dict[str, Tensor]:
    """Up to four layers' scores: arbitrary, of few values, or all the same."""
    layers: dict[str, Tensor] = {}
    for name in "abcd"[: draw(st.integers(1, 4))]:
        shape = draw(st.lists(st.integers(1, 6), min_size=2, max_size=4))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
        kind = draw(st.sampled_from(["random", "few", "equal", "rounded"]))
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        match kind:
            case "few":
                values = torch.tensor(FEW, dtype=torch.float64)[torch.randint(len(FEW), shape, generator=generator)]
            case "equal":
                values = torch.full(shape, draw(st.sampled_from(FEW)), dtype=torch.float64)
            case "rounded":
                values = values.round(decimals=1)
        layers[name] = values.to(draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])))
        if draw(st.booleans()):
            layers[name] = layers[name].transpose(0, 1)
    return layers


def best(values: list[float], n: int) -> list[int]:
    """The places of the `n` highest values, the first of equal ones."""
    return sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:n])


def global_counts(layers: Mapping[str, Tensor], n_keep: int) -> dict[str, int]:
    """Each layer's best entry, and the highest of all others."""
    counts = dict.fromkeys(layers, 1)
    rest = []
    for name, values in layers.items():
        flat = values.flatten().tolist()
        first = best(flat, 1)[0]
        rest += [(-value, len(rest) + i, name) for i, value in enumerate(flat[:first] + flat[first + 1 :])]
    for _, _, name in sorted(rest)[: n_keep - len(layers)]:
        counts[name] += 1
    return counts


@settings(max_examples=CASES, deadline=None)
@given(
    scores(),
    st.sampled_from([0.0, 1e-9, 0.01, 0.1, 0.5, 0.9, 1.0]) | st.floats(0, 1),
    st.sampled_from(["erk", "layerwise", "global"]),
)
def test_masks_are_the_oracles(layers: dict[str, Tensor], density: float, allocation: str) -> None:
    sizes = {name: values.numel() for name, values in layers.items()}
    n_keep = round(density * sum(sizes.values()))
    if density == 0 or n_keep < len(layers):
        with pytest.raises(ValueError, match=r"density must be above 0|cannot be spread over"):
            allocate(allocation, layers, density=density)
        return
    counts = allocate(allocation, layers, density=density)
    assert sum(counts.values()) == n_keep
    assert all(1 <= counts[name] <= size for name, size in sizes.items())
    if allocation == "global":
        assert counts == global_counts(layers, n_keep)
    if allocation == "layerwise":
        # Within one of the exact share, unless the floor of one takes from the others.
        if all(density * size >= 1 for size in sizes.values()):
            assert all(abs(counts[name] - n_keep * size / sum(sizes.values())) < 1 for name, size in sizes.items())
    for name, mask in choose_masks(layers, counts).items():
        assert mask.dtype == torch.bool
        assert mask.shape == layers[name].shape
        assert mask.flatten().nonzero().flatten().tolist() == best(layers[name].flatten().tolist(), counts[name])


@settings(max_examples=CASES, deadline=None)
@given(scores(), st.data())
def test_a_single_nan_is_refused(layers: dict[str, Tensor], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(layers)))
    place = tuple(data.draw(st.integers(0, side - 1)) for side in layers[name].shape)
    layers[name][place] = float("nan")
    with pytest.raises(ValueError, match="a score is NaN"):
        choose_masks(layers, dict.fromkeys(layers, 1))


@dataclass(frozen=True)
class Training:
    """How a network is trained."""

    optimiser: Literal["sgd", "adamw", "adam"]
    decay: float
    clip: float | None
    autocast: bool
    resumed: bool
    seed: int

    def make(self, module: nn.Module) -> torch.optim.Optimizer:
        if self.optimiser == "adam":  # with its decay in the gradient
            made: torch.optim.Optimizer = torch.optim.Adam(module.parameters(), lr=0.05, weight_decay=self.decay)
        else:
            made = make_optimiser(self.optimiser, module.parameters(), learning_rate=0.05, weight_decay=self.decay)
        if self.clip is not None:
            most = self.clip
            made.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(module.parameters(), most) and None)
        return made


TRAININGS = st.builds(
    Training,
    optimiser=st.sampled_from(["sgd", "adamw", "adam"]),
    decay=st.sampled_from([0.0, 0.1]),
    clip=st.sampled_from([None, 0.1]),
    autocast=st.booleans(),
    resumed=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)


@settings(max_examples=CASES, deadline=None)
@given(TRAININGS, st.floats(0.02, 0.98))
def test_zeros_stay_zero_after_every_step(training: Training, density: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(training.seed)
        module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))
        x, labels = torch.randn(8, 1, 6, 6), torch.arange(8) % 4
        masks = {name: torch.rand(p.shape) < density for name, p in module.named_parameters() if p.dim() > 1}
    parameters = dict(module.named_parameters())
    bits, optimiser = as_bits(masks, parameters), training.make(module)

    def step(mask_bits: dict[str, Tensor]) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=training.autocast):
            training_step(SparseModule(module, mask_bits), optimiser, x, labels)

    if training.resumed:  # from a state with momentum for every entry, those included that are pruned now
        for _ in range(3):
            step({})
        state = optimiser.state_dict()
        optimiser = training.make(module)
        optimiser.load_state_dict(state)
    before = {name: parameters[name].detach() * mask for name, mask in masks.items()}
    for _ in range(4):
        step(bits)
        for name, mask in masks.items():
            assert parameters[name][~mask].count_nonzero() == 0
            assert parameters[name].isfinite().all()
    if any(mask.any() for mask in masks.values()):
        assert any(not torch.equal(parameters[name], value) for name, value in before.items())  # it was trained
