from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import ntt_cli as ntt
from ntt_cli.config import PruneConfig
from ntt_cli.errors import UsageError
from ntt_cli.methods.ntt import loop
from ntt_cli.methods.ntt.loop import take_step
from ntt_cli.methods.ntt.method import NTT
from ntt_cli.methods.ntt.objective import TransferLoss
from ntt_cli.methods.ntt.plan import TransferPlan, plan_transfer
from ntt_cli.methods.ntt.settings import settle
from ntt_cli.methods.ntt.step import Student
from ntt_cli.networks.functional import functional_model


def plan(*, learned: bool = True, **options: object) -> TransferPlan:
    config = PruneConfig.model_validate({"model": "x", "sparsity": 0.9} | options)
    model = functional_model(nn.Linear(4, 3))
    settings = settle(config, model, ["weight"], samples=100, trained=config.weights is not None, method=NTT)
    return plan_transfer(settings, learned=learned)


def looks(plan: TransferPlan) -> list[int]:
    return [step for step in range(plan.steps) if plan.is_validation_step(step)]


def test_a_length_that_is_given_is_kept() -> None:
    fixed = plan(steps=3000)
    assert (fixed.steps, fixed.updates) == (3000, range(0, 2900, 100))
    assert not looks(fixed)
    assert fixed.density(0) == pytest.approx(0.1 + 0.9 * (1 - 100 / 1500) ** 3)


def test_the_rate_falls_with_a_trained_teacher() -> None:
    """By hand, over the last window of 40 steps."""
    falling = plan(steps=400, weights="dense.safetensors")
    by_hand = {0: 1.0, 200: 1.0, 360: 1.0, 370: 0.75, 380: 0.5, 399: 1 / 40}
    assert {step: falling.rate(step) for step in by_hand} == pytest.approx(by_hand)
    assert plan(steps=1, weights="dense.safetensors").rate(0) == 1


@pytest.mark.parametrize("options", [{}, {"weights": "dense.safetensors", "preset": "paper"}])
def test_the_rate_stays_with_a_random_teacher_and_in_the_paper(options: dict[str, str]) -> None:
    constant = plan(steps=400, **options)
    assert {constant.rate(step) for step in range(400)} == {1.0}


def test_the_rate_of_auto_falls_in_its_last_window() -> None:
    open_ = plan(steps="auto", weights="dense.safetensors")
    assert {open_.rate(step) for step in range(open_.steps - open_.window)} == {1.0}
    flat = open_.after_validation({600: 1.0, 700: 1.0, 800: 1.0, 900: 1.0})
    assert (flat.steps, flat.rate(900), flat.rate(950), flat.rate(999)) == (1000, 1.0, 0.5, 0.01)


def test_each_step_takes_the_rate_of_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    def noted(student: Student, *rest: Any) -> TransferLoss:
        rates.append(student.optimiser.param_groups[0]["lr"])
        return take_step(student, *rest)

    monkeypatch.setattr(loop, "take_step", noted)
    ntt.prune(nn.Linear(4, 3), torch.randn(32, 4), sparsity=0.5, steps=20, batch_size=4, learning_rate=0.1)
    assert rates == pytest.approx([0.1] * 19 + [0.05])


def test_auto_by_hand() -> None:
    """The density falls over 500 steps; a window later the distance is looked at before each mask update."""
    open_ = plan(steps="auto")
    assert (open_.steps, open_.updates) == (3000, range(0, 2900, 100))
    assert open_.density(0) == pytest.approx(0.1 + 0.9 * (1 - 100 / 500) ** 3)
    assert open_.density(400) == pytest.approx(0.1)
    assert looks(open_) == list(range(600, 3000, 100))


def test_flattened_distances_leave_one_window() -> None:
    open_ = plan(steps="auto")
    falling = {600: 1.0, 700: 0.8, 800: 0.6, 900: 0.5}
    assert open_.after_validation(falling) == open_
    flat = open_.after_validation(falling | {1000: 0.49, 1100: 0.48, 1200: 0.52})
    assert (flat.steps, flat.updates[-1], flat.undecided) == (1300, 1200, False)
    assert not looks(flat)
    assert flat.after_validation({1300: 1.0}) == flat
    assert flat.density(1200) == pytest.approx(0.1)


def test_a_run_that_never_flattens_ends_at_the_most() -> None:
    open_ = plan(steps="auto", weights="dense.safetensors")
    assert open_.steps == 6000
    falling = {step: 0.9**n for n, step in enumerate(looks(open_))}
    assert open_.after_validation(falling) == open_


def test_held_masks_are_put_on_once() -> None:
    fixed_masks = plan(learned=False, steps="auto")
    assert list(fixed_masks.updates) == [0]
    assert looks(fixed_masks) == list(range(100, 3000, 100))
    flat = fixed_masks.after_validation(dict.fromkeys((100, 200, 300, 400), 1.0))
    assert (flat.steps, list(flat.updates)) == (500, [0])


def test_shorter_windows_stay() -> None:
    assert plan(steps="auto", mask_update_every=30).window == 30
    with pytest.raises(UsageError, match="--mask-update-every 400: with --steps auto masks change every 100 steps"):
        plan(steps="auto", mask_update_every=400)
