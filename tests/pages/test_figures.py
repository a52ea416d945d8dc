from __future__ import annotations

import numpy as np

from ntt_cli.pages.figures import Figure, Panel, Series


def describe(panels: tuple[Panel, ...]) -> str:
    return Figure("some", "Some figure", "How to read it.", panels).description


def test_lines_are_told_by_their_ends() -> None:
    x = np.array([1.0, 2.0, 3.0])
    series = (Series("ntt", x, np.array([1.0, 5.0, 2.5])), Series("one", x[:1], np.array([7.0])))
    assert describe((Panel("90% sparse", "epoch", "%", series),)) == "90% sparse: ntt from 1 to 2.5; one 7."


def test_dots_are_told_by_their_names() -> None:
    dots = Series("", np.array([84.125, 83.0]), np.array([0.0, 1.0]))
    panel = Panel("99%", "%", "", (dots,), form="dots", ticks=((0.0, "ntt"), (1.0, "random")))
    assert describe((panel, panel)) == "99%: ntt 84.12, random 83. 99%: ntt 84.12, random 83."


def test_layers_are_told_by_their_counts() -> None:
    places = np.array([0.0, 1.0])
    series = Series("weights", np.array([1000.0, 20.0]), places), Series("kept", np.array([10.0, 5.0]), places)
    panel = Panel("Where", "", "", series, form="layers", ticks=((0.0, "fc1"), (1.0, "fc2")))
    assert describe((panel,)) == "Where: fc1 keeps 10 of 1,000; fc2 keeps 5 of 20."
