"""Beside means, deviations and differences that were worked out by hand."""

from __future__ import annotations

import pytest

from ntt_cli.comparison.results import CompareRow
from ntt_cli.comparison.verdicts import findings_of, methods_in_colour, note_on, sentences_of
from ntt_cli.pages.plots import COLOURS


def row(
    method: str,
    mean: float,
    std: float | None = 0.003,
    *,
    at: float | None = 0.9,
    seeds: int = 4,
    labels: bool = False,
    lower: bool = False,
) -> CompareRow:
    return CompareRow(
        method=method,
        sparsity=at,
        labels_before_training=labels,
        learning_rate=0.1,
        seeds=seeds,
        mean=mean,
        std=std,
        mean_as_pruned=0.1,
        best=False,
        metric="loss" if lower else "accuracy",
        higher_is_better=not lower,
    )


def sentence(*rows: CompareRow) -> str:
    (found,) = sentences_of(rows, None, [each.method for each in rows]).values()
    return found


def test_a_sentence() -> None:
    rows = row("snip", 0.9, labels=True), row("random", 0.87), row("synflow", 0.86), row("ntt", 0.88)
    assert sentence(*rows) == (
        "ntt reaches 88.00 ± 0.30; the best other label-free method, random, 87.00 ± 0.30: better by 1.00."
    )


@pytest.mark.parametrize(
    ("difference", "verdict"),
    [
        (0.0, "level"),
        (0.0024, "level"),  # of 3 and 4 permille over 4 seeds: sqrt(9 / 4 + 16 / 4) = 2.5 permille
        (-0.0024, "level"),
        (0.0026, "better by 0.26"),
        (-0.0026, "worse by 0.26"),
    ],
)
def test_level_is_within_one_standard_error_of_the_difference(difference: float, verdict: str) -> None:
    assert sentence(row("ntt", 0.8 + difference, 0.003), row("random", 0.8, 0.004)).endswith(f": {verdict}.")


def test_a_deviation_over_more_seeds_counts_less() -> None:
    """With 4 and 16 seeds the error is sqrt(9 / 4 + 16 / 16) = 1.803 permille."""
    for difference, verdict in ((0.0018, "level"), (0.00181, "better by 0.18")):
        rows = row("ntt", 0.8 + difference, 0.003), row("random", 0.8, 0.004, seeds=16)
        assert findings_of(rows, ["ntt", "random"])[0.9].verdict == verdict


def test_where_less_is_better() -> None:
    assert sentence(row("ntt", 0.3, 0.01, lower=True), row("random", 0.5, 0.01, lower=True)) == (
        "ntt reaches 0.3 ± 0.01; the other label-free method, random, 0.5 ± 0.01: better by 0.2."
    )
    rows = [row("ntt", 0.5, lower=True), row("random", 0.4, lower=True), row("synflow", 0.3, lower=True)]
    rival = findings_of(rows, ["synflow", "random", "ntt"])[0.9].rival
    assert rival is not None
    assert rival.method == "synflow"
    assert note_on(rows, [1, 2, 3, 4]).startswith("Test loss, lower is better, mean ±")


def test_a_single_seed_decides_nothing() -> None:
    rows = row("ntt", 0.8, None, seeds=1), row("random", 0.7, None, seeds=1)
    assert sentence(*rows).endswith("random, 70.00: better by 10.00, but a single seed may do that by chance.")
    assert "of one seed" in note_on(rows, [1])


def test_one_method_alone() -> None:
    assert sentence(row("ntt", 0.8)) == "ntt reaches 80.00 ± 0.30."


@pytest.mark.parametrize(
    ("rows", "about", "against"),
    [
        ([row("random", 0.9), row("ntt:steps=9", 0.7)], "ntt:steps=9", "random"),
        ([row("snip", 0.9, labels=True), row("random", 0.8), row("synflow", 0.7)], "random", "synflow"),
        ([row("snip", 0.9, labels=True), row("grasp", 0.8, labels=True)], "snip", "grasp"),
        ([row("trained-magnitude", 0.9, labels=True), row("ntt", 0.8)], "ntt", None),  # measured beside the methods
        ([row("ntt-fresh", 0.9), row("ntt", 0.8)], "ntt", "ntt-fresh"),
    ],
)
def test_what_a_comparison_is_about(rows: list[CompareRow], about: str, against: str | None) -> None:
    found = findings_of(rows, [each.method for each in rows])[0.9]
    assert found.row.method == about
    assert (found.rival and found.rival.method) == against


def test_a_method_that_lacks_a_sparsity() -> None:
    rows = [row("ntt", 0.9), row("random", 0.8), row("random", 0.7, at=0.95, seeds=3)]
    found = findings_of(rows, ["ntt", "random"])
    assert [each.row.method for each in found.values()] == ["ntt", "random"]
    assert note_on(rows, [1, 2, 3, 4]).endswith("Fewer seeds: random at 95% (3).")


def test_the_dense_network_and_networks_as_pruned() -> None:
    rows = [row("dense", 0.95, at=None), row("ntt", 0.9), row("wanda", 0.8)]
    before = [row("dense", 0.94, at=None), row("ntt", 0.5), row("wanda", 0.7)]
    dense, found = sentences_of(rows, before, ["ntt", "wanda", "dense"]).items()
    assert dense == ("Dense", "the network reaches 95.00 ± 0.30 with all of its weights.")
    assert found == (
        "At 90%",
        "as pruned, ntt reaches 50.00 ± 0.30; the other label-free method, wanda, 70.00 ± 0.30: worse by 20.00. After"
        " fine-tuning, ntt reaches 90.00 ± 0.30; the other label-free method, wanda, 80.00 ± 0.30: better by 10.00.",
    )


def test_methods_that_sentences_name_have_a_colour() -> None:
    few = [row("random", 0.9), row("ntt", 0.8), row("dense", 0.95, at=None)]
    names = ["random", "ntt", "dense"]
    assert methods_in_colour(few, list(findings_of(few, names).values()), names) == ("ntt", "random")
    many = [row(f"synflow:batch-size={i}", 0.5 - i / 100) for i in range(9)] + [
        row("ntt", 0.4),
        row("snip", 0.3, labels=True),
    ]
    names = [each.method for each in many]
    coloured = methods_in_colour(many, list(findings_of(many, names).values()), names)
    assert coloured == ("ntt", "synflow:batch-size=0", "snip")
    levels = [row(f"synflow:batch-size={i}", 0.9, at=0.5 + i / 20) for i in range(9)]
    levels += [row("ntt", 0.4, at=each.sparsity) for each in levels]
    names = list(dict.fromkeys(each.method for each in levels))
    coloured = methods_in_colour(levels, list(findings_of(levels, names).values()), names)
    assert coloured[0] == "ntt"
    assert len(coloured) == len(COLOURS)
