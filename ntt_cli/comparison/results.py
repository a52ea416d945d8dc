"""What `ntt compare` reports: cells, failures, and rows over seeds."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from ntt_cli.comparison.names import cell_name
from ntt_cli.config import method_of
from ntt_cli.files.results import Result
from ntt_cli.results import Summary

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class CellResult(Summary, Result):
    """One cell of a comparison; it is read from a file that anyone may have written.

    Accuracies are fractions: on the test data as pruned and after fine-tuning, and on the validation samples by which
    the epoch, and on the first seed the rate, was chosen.
    """

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    method: str
    sparsity: Annotated[float, Field(gt=0, lt=1)] | None
    seed: Count
    labels_before_training: bool
    learning_rate: Annotated[float, Field(gt=0)]
    accuracy: Fraction
    accuracy_as_pruned: Fraction
    validation_accuracy: Fraction | None
    validation_by_rate: dict[str, Fraction | None]
    loss: float
    kept: Count
    prunable: Count
    flops_sparse: Count
    seconds: Annotated[float, Field(ge=0)]

    @property
    def cell(self) -> str:
        return cell_name(self.method, self.sparsity, self.seed)

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> CellResult:
        name, _ = method_of(self.method)
        if (name == "dense") != (self.sparsity is None):
            raise ValueError("the dense network alone has no sparsity")
        if self.kept > self.prunable:
            raise ValueError("more weights are kept than there are")
        return self


class CellFailure(Summary):
    """A cell without a result; `exit_code` is that of its run."""

    cell: str
    error: str
    exit_code: int


class CompareRow(Summary):
    """A method at a sparsity over its seeds.

    `std` is `None` for one seed; `best` is the highest mean among the sparse networks at that sparsity.
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


class CompareReport(Summary):
    """What `ntt compare` found; `page` shows all of it, and is not written for a single cell."""

    output: str
    page: str | None
    rows: list[CompareRow]
    results: list[CellResult]
    failed: list[CellFailure]


class PlannedCell(Summary):
    """One cell of a comparison, as `--cell` counts them."""

    number: int
    cell: str
    done: bool


class ComparePlan(Summary):
    """What `ntt compare --plan` says; the time is that of the cells not done, one after the other."""

    output: str
    cells: list[PlannedCell]
    seconds: float
