"""What commands report: the result on stdout, and the same as metadata of the report file."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ntt_cli.config import method_of
from ntt_cli.io.results import Result
from ntt_cli.workflows.comparison.names import cell_name

OWN_WEIGHTS = "the factory's own weights"
"""The teacher of a network whose model file says `TRAINED = True`."""


class Summary(BaseModel):
    """Base of all results."""

    model_config = ConfigDict(frozen=True)


class Agreement(Summary):
    """How well the network agrees with its teacher; needs no labels.

    Distances are squared and relative to the teacher's norm, `‖s − t‖² / ‖t‖²`, the kernel's estimated with Gaussian
    probes, `None` where it was not looked at or cannot be; `top1_agreement` is the fraction of samples on which both
    have the same first choice, `None` where the outputs are no choice, or the teacher has none.
    """

    logit_distance: float
    kernel_distance: float | None
    top1_agreement: float | None


class KernelSummary(Summary):
    """The exact kernels of teacher and student on `samples` samples and `outputs` of the `of_outputs` outputs.

    `alignment` is the cosine between them; an effective rank is the exponential of the entropy of the eigenvalues. A
    kernel of zeros has neither.
    """

    samples: int
    outputs: int
    of_outputs: int
    alignment: float | None
    effective_rank_teacher: float | None
    effective_rank_student: float | None

    @property
    def extent(self) -> str:
        """What the kernels are of, in words."""
        few = "" if self.outputs == self.of_outputs else f", {self.outputs} of {self.of_outputs:,} outputs"
        return f"{self.samples} sample{'s' * (self.samples != 1)}{few}"

    @property
    def ranks(self) -> str:
        """The effective ranks, in words."""
        student, teacher = (
            "none" if rank is None else f"{rank:.1f}"
            for rank in (self.effective_rank_student, self.effective_rank_teacher)
        )
        return f"{student}, the teacher's {teacher}"


class LayerSummary(Summary):
    """One prunable weight."""

    name: str
    shape: tuple[int, ...]
    kept: int
    size: int
    density: float


class PruneReport(Summary):
    """What `ntt prune` did; `agreement` is with the teacher, on samples of the unlabelled data."""

    output: str
    report: str
    model: str
    method: str
    teacher: str
    data: str | None
    steps: int
    parameters: int
    prunable: int
    kept: int
    sparsity: float
    density: float
    class_names: tuple[str, ...] | None = None
    agreement: Agreement | None
    kernels: KernelSummary | None
    layers: list[LayerSummary]


class PrunePlan(Summary):
    """What `ntt prune --dry-run` says: nothing is trained.

    Memory and time are of a whole run, from one of each thing that it does; `advice` says what to change where the
    memory there is will not do. Then no step was taken whole, and there are no times. With `--steps auto`, steps and
    seconds are the most there can be.
    """

    model: str
    parameters: int
    prunable: int
    kept: int
    steps: int
    auto: bool
    seconds_per_step: float | None
    seconds: float | None
    peak_memory_bytes: int | None
    memory_bytes: int | None
    advice: str | None
    layers: list[LayerSummary]


class EpochSummary(Summary):
    """One pass over the training samples."""

    epoch: int
    train_loss: float
    accuracy: float | None


class FinetuneReport(Summary):
    """What `ntt finetune` did; `accuracy` is the chosen epoch's on the validation split."""

    output: str
    report: str
    model: str
    data: str
    optimiser: str
    learning_rate: float
    density: float
    class_names: tuple[str, ...] | None = None
    best_epoch: int
    accuracy: float | None
    epochs: list[EpochSummary]


class Accuracy(Summary):
    """How well the logits fit the labels; `top5` is `None` for five classes or fewer, where it says nothing."""

    top1: float
    top5: float | None
    loss: float
    per_class: dict[str, float | None]


class EvaluateReport(Summary):
    """What `ntt evaluate` measured. FLOPs are of one sample; sizes in bytes. A dense network has no density."""

    checkpoint: str
    model: str
    data: str
    samples: int
    accuracy: Accuracy | None
    agreement: Agreement | None
    parameters: int
    nonzero_parameters: int
    prunable: int
    kept: int
    density: float | None
    flops_dense: int
    flops_sparse: int
    file_bytes: int
    sparse_bytes: int
    min_accuracy: float | None
    passed: bool | None


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


class PageReport(Summary):
    """What `ntt report` wrote."""

    output: str
    bytes: int
    figures: list[str]
    pictures: list[str]


class ModelFile(Summary):
    """What `ntt init` wrote."""

    output: str
