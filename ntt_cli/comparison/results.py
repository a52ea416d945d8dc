"""What `ntt compare` reports: trials, failures, and rows over seeds. Needs no torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Annotated
from urllib.parse import quote

from pydantic import ConfigDict, Field, model_validator

from ntt_cli.config import method_of
from ntt_cli.documents import Document, Summary
from ntt_cli.files.atomic import sha256_of
from ntt_cli.files.results import Result
from ntt_cli.results import metric_words

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]

LONGEST_NAME = 100


def trial_name(method: str, sparsity: float | None, seed: int) -> str:
    """A trial's name, which is that of its folder."""
    level = "" if sparsity is None else f"-{sparsity!r}"
    # Some file systems have no colons; a comma cannot be in the method.
    name = quote(method.replace(":", ","), safe=",=*")
    if len(name) > LONGEST_NAME:  # an option may be a long path; file systems allow 255 letters
        name = f"{name[:LONGEST_NAME]}~{sha256_of(name.encode())[:16]}"
    return f"{name}{level}-seed{seed}"


class TrialResult(Summary, Result):
    """The result of one trial. It is read from a file that anyone may have written.

    Accuracies are fractions. `accuracy` is on the test data after fine-tuning, `accuracy_as_pruned` on the test data
    before it. `validation_accuracy` is on the validation samples, which choose the epoch, and on the first seed the
    learning rate. Tasks without accuracy have another `metric`, and its values in `metrics` and `metrics_as_pruned`.
    `trained` says that the network had trained weights before it was pruned.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    method: str
    sparsity: Annotated[float, Field(gt=0, lt=1)] | None
    seed: Count
    labels_before_training: bool
    learning_rate: Annotated[float, Field(gt=0)]
    accuracy: Fraction | None
    accuracy_as_pruned: Fraction | None
    validation_accuracy: Fraction | None
    validation_by_rate: dict[str, float | None]
    loss: float
    kept: Count
    prunable: Count
    flops_sparse: Count
    seconds: Annotated[float, Field(ge=0)]
    task: str = "classification"
    metric: str = "accuracy"
    higher_is_better: bool = True
    metrics: dict[str, float] = {}
    metrics_as_pruned: dict[str, float] = {}
    trained: bool = False

    @property
    def value(self) -> float:
        """The task's metric on the test data, after fine-tuning."""
        return self.metrics[self.metric] if self.accuracy is None else self.accuracy

    @property
    def value_as_pruned(self) -> float:
        """The task's metric on the test data, before fine-tuning."""
        found = self.accuracy_as_pruned
        return self.metrics_as_pruned[self.metric] if found is None else found

    @property
    def trial(self) -> str:
        return trial_name(self.method, self.sparsity, self.seed)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> TrialResult:
        name, _ = method_of(self.method)
        if (name == "dense") != (self.sparsity is None):
            raise ValueError("the dense network alone has no sparsity")
        if self.kept > self.prunable:
            raise ValueError("more weights are kept than there are")
        if self.metric == "accuracy":
            if self.accuracy is None or self.accuracy_as_pruned is None:
                raise ValueError("there is no accuracy")
            if any(not 0 <= value <= 1 for value in self.validation_by_rate.values() if value is not None):
                raise ValueError("an accuracy is not between 0 and 1")
        elif not {self.metric} <= self.metrics.keys() & self.metrics_as_pruned.keys():
            raise ValueError(f"there is no {self.metric}")
        return self


class TrialFailure(Summary):
    """A trial without a result: what was wrong; `exit_code` is that of a command that fails in the same way."""

    trial: str
    what: str
    exit_code: int


class CompareRow(Summary):
    """A method at a sparsity over its seeds.

    `std` is `None` for one seed; `best` is the best mean among the sparse networks at that sparsity.
    """

    method: str
    sparsity: float | None
    labels_before_training: bool
    learning_rate: float
    seeds: int
    mean: float
    std: float | None
    mean_as_pruned: float
    best: bool
    metric: str = "accuracy"
    higher_is_better: bool = True

    @property
    def in_words(self) -> str:
        """The mean, and the deviation where there is one; accuracy in percent."""
        return self.shown(self.mean) + ("" if self.std is None else f" ± {self.shown(self.std)}")

    def shown(self, value: float) -> str:
        """A value of the metric."""
        return f"{100 * value:.2f}" if self.metric == "accuracy" else f"{value:.4g}"

    @property
    def sign(self) -> int:
        """Times the mean, better is higher."""
        return 1 if self.higher_is_better else -1


class CompareReport(Document):
    """What `ntt compare` found; `page` shows all of it, and is not written for a single trial."""

    document = "compare"

    output: str
    page: str | None
    rows: list[CompareRow]
    results: list[TrialResult]
    failed: list[TrialFailure]


class PlannedTrial(Summary):
    """One trial of a comparison; `number` is what `--trial` takes."""

    number: int
    trial: str
    done: bool


class ComparePlan(Document):
    """What `ntt compare --plan` says; `estimated_seconds` is for the trials not done, one after the other."""

    document = "compare-plan"

    output: str
    trials: list[PlannedTrial]
    estimated_seconds: float


def rows_of(results: Sequence[TrialResult], *, as_pruned: bool = False) -> list[CompareRow]:
    """One row for each method and sparsity, in the order of the results; `as_pruned`, of before fine-tuning."""
    groups: dict[tuple[str, float | None], list[TrialResult]] = {}
    for result in results:
        groups.setdefault((result.method, result.sparsity), []).append(result)
    rows = []
    for (method, sparsity), group in groups.items():
        values = [result.value_as_pruned if as_pruned else result.value for result in group]
        rows.append(
            CompareRow(
                method=method,
                sparsity=sparsity,
                labels_before_training=group[0].labels_before_training,
                learning_rate=group[0].learning_rate,
                seeds=len(group),
                mean=statistics.fmean(values),
                std=statistics.stdev(values) if len(group) > 1 else None,
                mean_as_pruned=statistics.fmean(result.value_as_pruned for result in group),
                best=False,
                metric=group[0].metric,
                higher_is_better=group[0].higher_is_better,
            )
        )
    levels = {row.sparsity for row in rows} - {None}
    best = {level: max(row.sign * row.mean for row in rows if row.sparsity == level) for level in levels}
    return [row.model_copy(update={"best": row.sign * row.mean == best.get(row.sparsity)}) for row in rows]


def columns_of(rows: Sequence[CompareRow]) -> dict[float | None, str]:
    """A table's headings, by sparsity; the dense network, which has none, comes first if it takes part."""
    levels = sorted({row.sparsity for row in rows if row.sparsity is not None})
    dense = {None: "dense"} if any(row.sparsity is None for row in rows) else {}
    return dense | {level: percent(level) for level in levels}


def lines_of(rows: Sequence[CompareRow], methods: Iterable[str]) -> Iterator[tuple[str, str, list[CompareRow | None]]]:
    """A table's lines: a method, whether it sees labels before training, and its row in each of `columns_of`."""
    by_place = {(row.method, row.sparsity): row for row in rows}
    for method in methods:
        own = [by_place.get((method, level)) for level in columns_of(rows)]
        yield method, "yes" if any(row.labels_before_training for row in own if row) else "no", own


def percent(sparsity: float) -> str:
    """A sparsity in percent: 90% for 0.9. No two sparsities have the same text."""
    exact = 100 * Decimal(repr(sparsity))  # exact in decimal digits, where floats would round
    return f"{exact.to_integral() if exact == exact.to_integral() else exact.normalize()}%"


def metric_of(rows: Sequence[CompareRow]) -> tuple[str, str]:
    """The rows' metric in words, and its unit with a comma before it: accuracy is in percent."""
    metric = rows[0].metric if rows else "accuracy"
    return (metric, ", %") if metric == "accuracy" else (metric_words(metric), "")
