from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.optimize import minimize

from ntt_cli.pages.labels import LineEnd, apart, name_lines


@pytest.mark.parametrize("seed", range(20))
def test_names_are_apart_in_the_same_order(seed: int) -> None:
    generator = np.random.default_rng(seed)
    heights, gap = list(generator.uniform(size=generator.integers(1, 6))), generator.uniform(0.01, 0.3)
    places = apart(heights, gap)
    order = sorted(range(len(heights)), key=heights.__getitem__)
    assert all(places[b] - places[a] >= gap - 1e-9 for a, b in zip(order, order[1:], strict=False))
    assert np.mean(places) == pytest.approx(np.mean(heights), abs=1e-9)  # nobody is pushed to one side


@pytest.mark.parametrize("heights", [[0.5, 0.5], [0.1, 0.9, 0.12], [0.3, 0.31, 0.32, 0.8], [0.9, 0.1]])
def test_names_are_as_near_as_can_be(heights: list[float]) -> None:
    gap, order = 0.1, np.argsort(heights, kind="stable")
    wanted = np.array(heights)
    limits = [
        {"type": "ineq", "fun": lambda y, a=a, b=b: y[b] - y[a] - gap} for a, b in zip(order, order[1:], strict=False)
    ]
    best = minimize(lambda y: ((y - wanted) ** 2).sum(), wanted, constraints=limits, tol=1e-12).x
    assert apart(heights, gap) == pytest.approx(best, abs=1e-5)


def test_names_stand_at_the_ends_of_their_lines() -> None:
    ax = Figure().subplots()
    ax.set_ylim(10, 20)
    name_lines(ax, [LineEnd("middle", "red", 15.0), LineEnd("below", "blue", 3.0), LineEnd("above", "green", 90.0)])
    found = {text.get_text(): (round(text.xy[1], 9), text.get_color()) for text in ax.texts}
    assert found == {"middle": (0.5, "red"), "below ↓": (0.0, "blue"), "above ↑": (1.0, "green")}
