"""Panels that a single run and a comparison both show."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ntt_cli.files.report_reader import Report
from ntt_cli.pages.figures import Figure, Numbers, Panel, Series

POINTS = 200
"""The most points that a curve has; more cannot be seen."""


def averaged(values: Numbers) -> tuple[Numbers, Numbers]:
    """Steps and values of a curve, as the means of at most `POINTS` equal parts of it."""
    parts = np.array_split(np.arange(len(values)), min(POINTS, len(values)))
    return np.array([part.mean() + 1 for part in parts]), np.array([values[part].mean() for part in parts])


def transfer_figures(runs: Mapping[str, Report], of: str = "", number: int = 1) -> list[Figure]:
    """What the transfers did, step by step: one series a run. `of` is their method, the page's `number`-th."""
    moved = {label: run for label, run in runs.items() if run.history("logit_distance") is not None}
    if not moved:
        return []
    held_out = _at(moved, "validation_step", "validation_distance")
    distances = (
        Panel("Kernel distance to the teacher", "step", "relative, squared", _means(moved, "kernel_distance"), log="y"),
        Panel("Logit distance to the teacher", "step", "relative, squared", _means(moved, "logit_distance"), log="y"),
        Panel("Hidden values to the teacher's", "step", "relative, squared", _means(moved, "hidden_distance"), log="y"),
        Panel("Alignment of the kernels", "step", "cosine", _means(moved, "alignment")),
        Panel("Distance on samples held out", "step", "relative, squared", held_out, log="y"),
    )
    density, changes = (_at(moved, "mask_update_step", name) for name in ("density", "mask_changes"))
    masks = (
        Panel("Density", "step", "kept, %", density, log="y"),
        Panel("Changes of the masks", "step", "entries kept or pruned anew", changes, log="y"),
    )
    nth, whose = f"-{number}" if number > 1 else "", f" of {of}" if of else ""
    return [
        Figure(
            f"transfer{nth}",
            f"Transfer{whose}",
            "How far the student is from its teacher at each step, on the step's own samples; means of some steps."
            " Alignment is the cosine between the two kernels' products with the step's probe. On samples held out for"
            " --steps auto, both distances are added up as in the loss.",
            tuple(panel for panel in distances if panel.series),
        ),
        Figure(
            f"masks{nth}",
            f"Masks over the transfer{whose}",
            "The density falls by the schedule; what changes after that is the mask making up its mind.",
            masks,
        ),
    ]


def kernel_panels(title: str, runs: Mapping[str, Report]) -> tuple[Panel, Panel] | None:
    """Eigenvalues of the kernels, and the error that training leaves. The teacher comes first, as in the first run."""
    known = {label: run for label, run in runs.items() if "spectrum.student" in run.numbers}
    if not known:
        return None
    first = next(iter(known.values()))
    spectra = [_spectrum("teacher", first.numbers["spectrum.teacher"], dashed=True)]
    spectra += [_spectrum(label, run.numbers["spectrum.student"]) for label, run in known.items()]
    times = first.numbers["residual.times"]
    residuals = [Series("teacher", times, first.numbers["residual.teacher"], dashed=True)]
    residuals += [
        Series(label, run.numbers["residual.times"], run.numbers["residual.student"]) for label, run in known.items()
    ]
    return (
        Panel(title, "rank", "eigenvalue", tuple(spectra), log="xy"),
        Panel(title, "time of gradient flow", "error left", tuple(residuals), log="x"),
    )


SPECTRA = (
    "spectra",
    "Spectra of the kernels",
    "Eigenvalues of the tangent kernel over the same few samples, largest first. Large ones are directions that the"
    " network learns fast.",
)
"""Name, title and caption of a figure."""

PREDICTION = (
    "prediction",
    "Predicted learning",
    "How much of a random target's squared error the network linearised where it starts would leave on those samples."
    " A student that follows its teacher's curve learns as fast.",
)


def _means(runs: Mapping[str, Report], name: str) -> tuple[Series, ...]:
    found = {label: values for label, run in runs.items() if (values := run.history(name)) is not None}
    return tuple(Series(label, *averaged(values)) for label, values in found.items())


def _at(runs: Mapping[str, Report], when: str, name: str) -> tuple[Series, ...]:
    series = []
    for label, run in runs.items():
        steps, values = run.history(when), run.history(name)
        if steps is not None and values is not None:
            series.append(Series(label, steps, 100 * values if name == "density" else values))
    return tuple(series)


def _spectrum(label: str, eigenvalues: Numbers, *, dashed: bool = False) -> Series:
    positive = eigenvalues[eigenvalues > eigenvalues.max(initial=0) * 1e-12]
    return Series(label, np.arange(1.0, len(positive) + 1), positive, dashed=dashed)
