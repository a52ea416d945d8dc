"""The results of commands, which go to stdout and into the metadata of the report file."""

from __future__ import annotations

from typing import Annotated

from ntt_cli.documents import OMITTED, Document, Summary
from ntt_cli.errors import listed

OWN_WEIGHTS = "the factory's own weights"
"""The teacher of a network whose model file says `TRAINED = True`."""

RANDOM_WEIGHTS = "random weights"
"""Begins the name of a teacher without training."""


_OF_ALL = {"accuracy", "top5", "exact_match", "pixel_accuracy", "token_accuracy"}


def metric_words(name: str) -> str:
    """A metric's name in words."""
    return name.replace("_", " ")


def shown_metric(name: str, value: float) -> str:
    """The value of a metric in words: fractions of samples in percent."""
    return f"{value:.2%}" if name in _OF_ALL else f"{value:.4g}"


class Agreement(Summary):
    """How well the network agrees with its teacher; needs no labels.

    Distances are squared and relative to the teacher's norm, `‖s − t‖² / ‖t‖²`. The kernel distance is estimated with
    Gaussian probes; it is `None` if it was not measured. `top1_agreement` is the fraction of samples on which both have
    the same first choice; it is `None` if the outputs are not a choice, or the teacher's are always tied. With several
    heads, distances are relative to each head's norm and averaged over heads; `heads` has the output distance of each.
    `cosine` is the mean over samples of the cosine between both networks' outputs, and `relative_error` is the square
    root of the output distance.
    """

    logit_distance: float
    kernel_distance: float | None
    top1_agreement: float | None
    heads: Annotated[dict[str, float] | None, OMITTED] = None
    cosine: float | None = None
    relative_error: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Those that were measured, by name."""
        return {name: value for name, value in self if isinstance(value, float)}


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
        """The samples and outputs of the kernels, in words."""
        few = "" if self.outputs == self.of_outputs else f", {self.outputs} of {self.of_outputs:,} outputs"
        return f"{self.samples} sample{'s' * (self.samples != 1)}{few}"

    @property
    def ranks(self) -> str:
        """The effective ranks, in words."""
        ranks = self.effective_rank_student, self.effective_rank_teacher
        student, teacher = ("none" if rank is None else f"{rank:.1f}" for rank in ranks)
        return f"{student}, the teacher's {teacher}"


class Sizes(Summary):
    """Bytes of a checkpoint's tensors, and about how many it takes packed (`ntt export --to packed`).

    Both packed sizes are estimates from shapes and counts, a few percent off; one is with `--dtype float16`.
    """

    dense: int
    packed: int
    packed_float16: int

    @property
    def in_words(self) -> str:
        """All three, with what fraction of the dense bytes they are; the first alone where packing saves none."""
        if self.packed_float16 >= self.dense:
            return f"{self.dense:,} dense, too few to pack"
        parts = f"{self.dense:,} dense, packed about {self._share(self.packed)}"
        return f"{parts}, as float16 about {self._share(self.packed_float16)}"

    def _share(self, packed: int) -> str:
        return f"{packed:,} (1/{self.dense / packed:.1f})" if self.dense > packed else f"{packed:,}"


class LayerSummary(Summary):
    """One prunable weight."""

    name: str
    shape: tuple[int, ...]
    kept: int
    size: int
    density: float


class ChannelSummary(Summary):
    """Channels that share their layers, by a layer that makes them: how many are kept of how many.

    With `are_heads`, they are the heads of an attention.
    """

    layer: str
    kept: int
    channels: int
    are_heads: bool = False


class StructureSummary(Summary):
    """The network without the channels that are gone; `flops` are its operations for one sample.

    `left_out` are layers of which no channel could be removed, with the reason.
    """

    channels: list[ChannelSummary]
    left_out: dict[str, str]
    flops_dense: int
    flops: int

    @property
    def in_words(self) -> str:
        """How many channels are kept, and what the smaller network costs."""
        parts = []
        for of, name in ((False, "channels"), (True, "heads")):
            groups = [group for group in self.channels if group.are_heads is of]
            kept, found = sum(group.kept for group in groups), sum(group.channels for group in groups)
            parts += [f"{kept:,} of {found:,} {name}"] * bool(groups)
        share = f"{self.flops / self.flops_dense:.1%} of the operations" if self.flops_dense else "no operations"
        return f"{' and '.join(parts)} kept, {share} ({self.flops:,} of {self.flops_dense:,} a sample)"


class PruneReport(Document):
    """What `ntt prune` did; `agreement` is with the teacher, on samples of the unlabelled data.

    `output` and `report` are the files; empty where nothing was written. `left_out` are the parameters of two or more
    dimensions that `--include` would prune, with what they are: embeddings, tables such as position embeddings,
    weights of normalisation, or vectors such as class tokens. With a `pattern`, like 2:4, they are also the prunable
    weights that stay dense, with the reason; `sparsity` counts these. `structure` is what is left of the channels, if
    whole channels were removed.
    """

    document = "prune"

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
    left_out: Annotated[dict[str, str], OMITTED] = {}
    sizes: Sizes | None = None
    structure: Annotated[StructureSummary | None, OMITTED] = None
    pattern: Annotated[str | None, OMITTED] = None

    @property
    def has_trained_teacher(self) -> bool:
        """Whether the weights were trained before pruning."""
        return not self.teacher.startswith(RANDOM_WEIGHTS)

    @property
    def pattern_in_words(self) -> str:
        """The pattern, and the layers that stay dense under it."""
        dense = [f"{layer.name} ({self.left_out[layer.name]})" for layer in self.layers if layer.name in self.left_out]
        return f"{self.pattern}" + (f"; dense: {listed(dense)}" if dense else "")


class PrunePlan(Document):
    """What `ntt prune --dry-run` reports; nothing is trained.

    Memory and time are for a whole run, estimated from doing each part of the work once. If memory will not suffice,
    `advice` says what to change; no full step was then taken, and there are no times. With `--steps auto`, steps and
    seconds are upper limits. `run_sha256` is what the run's checkpoint will record of its options, model, weights and
    data: a key for caches.
    """

    document = "prune-dry-run"

    model: str
    parameters: int
    prunable: int
    kept: int
    steps: int
    auto: bool
    seconds_per_step: float | None
    estimated_seconds: float | None
    peak_memory_bytes: int | None
    memory_bytes: int | None
    advice: str | None
    layers: list[LayerSummary]
    run_sha256: str


class EpochSummary(Summary):
    """One pass over the training samples; `value` is of the metric that the report names."""

    epoch: int
    train_loss: float
    accuracy: float | None
    value: float | None = None


class FinetuneReport(Document):
    """What `ntt finetune` did; `value` is that of the task's `metric`, the chosen epoch's on the validation split.

    For classification, `accuracy` is the same.

    `output` and `report` are the files; empty where nothing was written. `divided` says whether the data has test
    samples of its own, apart from those that were trained on.
    """

    document = "finetune"

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
    task: str = "classification"
    metric: str = "accuracy"
    higher_is_better: bool = True
    value: float | None = None
    sizes: Sizes | None = None
    divided: bool = True


class GateResult(Summary):
    """One gate of `ntt evaluate`: the option as it was typed, what it measures, and whether the value keeps it."""

    gate: str
    measure: str
    value: float
    limit: float
    passed: bool

    @property
    def in_words(self) -> str:
        """The measure and its value, and the limit that it keeps or misses."""
        whole = self.measure in {"bytes", "flops"}
        value = f"{self.measure} {self.value:,.0f}" if whole else f"{self.measure} {self.value:.4f}"
        if self.passed:
            return f"{value} keeps {self.gate}"
        return f"{value} is {'below' if self.value < self.limit else 'above'} {self.gate}"


class EvaluateReport(Document):
    """What `ntt evaluate` measured. FLOPs are for one sample; sizes are in bytes. A dense network has no density.

    `accuracy`, `top5` and `loss` are among the metrics too, where the task has them; `top5` is `None` for five classes
    or fewer, where it would always be 1. `accuracy_by_class` is for classification; a class without samples has none.

    `metrics` has the task's metrics, and those of the agreement with a teacher; `metric` names the one that counts.
    `gates` are all gates, and `missed` those that were missed, in words; `passed` is `None` without a gate. `baseline`
    is the value of `metric` for the weights that `max_drop` compares with.
    """

    document = "evaluate"

    checkpoint: str
    model: str
    data: str
    samples: int
    accuracy: float | None
    top5: float | None
    loss: float | None
    accuracy_by_class: dict[str, float | None] | None
    agreement: Agreement | None
    parameters: int
    nonzero_parameters: int
    prunable: int
    kept: int
    density: float | None
    flops_dense: int
    flops_sparse: int
    file_bytes: int | None
    sparse_bytes: int
    min_accuracy: float | None
    passed: bool | None
    task: str | None = None
    metric: str | None = None
    higher_is_better: bool | None = None
    metrics: dict[str, float] = {}
    missed: list[str] = []
    gates: list[GateResult] = []
    baseline: float | None = None


class PageReport(Document):
    """What `ntt report` wrote."""

    document = "report"

    output: str
    bytes: int
    figures: list[str]
    pictures: list[str]


class ExportReport(Document):
    """What `ntt export` wrote: `bytes` is its size on disk, `dense_bytes` that of the checkpoint's tensors in memory.

    `checkpoint_bytes` is the size of the checkpoint on disk; `None` for a network in memory. `sha256` is that of the
    output, as sha256sum prints it. `dtype` is that of the weights; `None` if they are of several.
    """

    document = "export"

    output: str
    to: str
    checkpoint: str
    dtype: str | None
    tensor_count: int
    bytes: int
    checkpoint_bytes: int | None
    dense_bytes: int
    sha256: str


class ProgramReport(ExportReport):
    """What `ntt export` wrote where the form is a program: types and shapes of its inputs and its outputs by name.

    `difference` is the largest absolute difference between its outputs and those of the network in torch; `None` for
    Core ML in float16, or on other systems than macOS, which cannot run it.
    """

    document = "export-program"

    inputs: dict[str, str]
    outputs: dict[str, str]
    difference: float | None


class PackageReport(ProgramReport):
    """What `ntt export --to coreml` wrote: the bytes of each file. `sha256` is that of the weights' file."""

    document = "export-package"

    bytes_by_file: dict[str, int]


class HubReport(ExportReport):
    """What `ntt export --to hub-folder` wrote: the bytes of each file. `sha256` is that of the weights' file."""

    document = "export-hub"

    bytes_by_file: dict[str, int]


class ModelFile(Document):
    """What `ntt init` wrote."""

    document = "init"

    output: str
