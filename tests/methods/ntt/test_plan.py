from __future__ import annotations

import pytest
from torch import nn

from ntt_cli.config import PruneConfig
from ntt_cli.errors import UsageError
from ntt_cli.methods.ntt.method import NTT
from ntt_cli.methods.ntt.plan import TransferPlan, plan_transfer
from ntt_cli.methods.ntt.settings import settle
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
    assert open_.steps == 9000
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
