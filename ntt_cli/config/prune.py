"""Options of `ntt prune`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ntt_cli.config.options import (
    MACHINE,
    MODEL,
    MOST_EPOCHS,
    MOST_STEPS,
    NAMED,
    OUTPUT,
    TRANSFER,
    DataOptions,
    MachineOptions,
    ModelOptions,
    OutputOptions,
    ReadWhen,
    SavingSeconds,
    TransferSteps,
)

Method = Literal[
    "ntt",
    "ntt-shuffled",
    "ntt-fresh",
    "random",
    "random-rescaled",
    "magnitude",
    "wanda",
    "synflow",
    "logit-snip",
    "ntk-sap",
    "snip",
    "iterative-snip",
    "grasp",
]

TRANSFERS = ("ntt", "ntt-shuffled", "ntt-fresh")
"""The methods that move weights."""

USES_BATCHES = (*TRANSFERS, "wanda", "logit-snip", "ntk-sap", "snip", "iterative-snip", "grasp")

PRUNES = ReadWhen(lambda config: config.sparsity > 0, "sparsity 0 prunes nothing and does not read it")


def _read_by(methods: Sequence[str]) -> ReadWhen:
    *most, last = methods
    return ReadWhen(
        lambda config: config.method in methods,
        f"method {{method}} does not read it; {', '.join(most)} and {last} do",
    )


TRANSFER_ALONE = _read_by(TRANSFERS)
HELD = "mask {mask} is held and does not read it; mask learned does"
LEARNED_MASK = ReadWhen(lambda config: config.mask == "learned", HELD)
MASK_UPDATES = ReadWhen(lambda config: config.mask == "learned" or config.steps == "auto", HELD)

PAPER_PRESET: dict[str, Any] = {
    "score": "magnitude",
    "objective": "paper",
    "allocation": "layerwise",
    "schedule": "constant",
    "learning_rate": 5e-4,
    "batch_size": 64,
    "kernel_weight": 1e-3,
    "epochs": 20,
}


class PruneConfig(ModelOptions, DataOptions, MachineOptions, OutputOptions):
    """`ntt prune`."""

    sparsity: Annotated[
        float, Field(ge=0, lt=1, description="Fraction of the prunable weights to remove, 0.95 keeps 5%."), MODEL
    ]
    weights: Annotated[
        str | None,
        Field(description="Trained weights of the teacher, a .safetensors file. Default: random weights."),
        MODEL,
        NAMED,
    ] = None
    exclude: Annotated[
        tuple[str, ...], Field(description="Leave weights whose name matches this pattern dense. Repeatable."), MODEL
    ] = ()
    include: Annotated[
        tuple[str, ...],
        Field(
            description="Prune parameters whose name matches this pattern too: embeddings, tables and norms, which stay"
            " dense otherwise. Repeatable."
        ),
        MODEL,
    ] = ()
    method: Annotated[
        Method,
        Field(
            description="ntt learns mask and weights; the others choose a mask and stop. snip, iterative-snip and grasp"
            " see labels. ntt-shuffled and ntt-fresh are sanity checks: NTT's mask shuffled within each layer, or on"
            " other random weights."
        ),
        TRANSFER,
    ] = "ntt"
    preset: Annotated[
        Literal["default", "paper"],
        Field(description="paper: the settings of Liu & Zenke 2020."),
        TRANSFER,
        PRUNES,
        TRANSFER_ALONE,
    ] = "default"
    mask: Annotated[
        Literal["learned", "random", "magnitude", "synflow", "logit-snip", "ntk-sap"],
        Field(description="NTT's mask: learned with the weights, or chosen by this method first and then held."),
        TRANSFER,
        PRUNES,
        TRANSFER_ALONE,
    ] = "learned"
    score: Annotated[
        Literal["saliency", "magnitude"],
        Field(description="Which weights stay: by |w| and their effect on the logits, or by |w| alone."),
        TRANSFER,
        PRUNES,
        TRANSFER_ALONE,
        LEARNED_MASK,
    ] = "saliency"
    allocation: Annotated[
        Literal["erk", "layerwise", "global"] | None,
        Field(
            description="How the density is spread over the layers. Default: for ntt global where there are"
            " convolutions, else erk; erk for magnitude and random, layerwise for wanda, global for the others."
        ),
        TRANSFER,
        PRUNES,
    ] = None
    layer_density: Annotated[
        tuple[str, ...],
        Field(
            description="PATTERN=DENSITY for the layers whose name matches; the others share what is left of the whole."
            " Repeatable."
        ),
        TRANSFER,
        PRUNES,
    ] = ()
    schedule: Annotated[
        Literal["cubic", "constant"],
        Field(description="How the density falls over the first half of the steps."),
        TRANSFER,
        PRUNES,
        TRANSFER_ALONE,
        LEARNED_MASK,
    ] = "cubic"
    objective: Annotated[
        Literal["relative", "paper"],
        Field(description="Form of the distances to the teacher."),
        TRANSFER,
        PRUNES,
        TRANSFER_ALONE,
    ] = "relative"
    kernel_params: Annotated[
        Literal["all", "active"],
        Field(description="Kernel over all entries, or over kept ones only."),
        TRANSFER,
        PRUNES,
        TRANSFER_ALONE,
    ] = "all"
    steps: Annotated[TransferSteps, PRUNES, TRANSFER_ALONE] = None
    epochs: Annotated[
        float | None,
        Field(gt=0, le=MOST_EPOCHS, description="Transfer steps as passes over the data, instead of --steps."),
        TRANSFER,
        PRUNES,
        TRANSFER_ALONE,
    ] = None
    batch_size: Annotated[
        int | None,
        Field(
            ge=2,
            lt=2**31,
            description="Samples a step, halved into the kernel's two sides. Default: 64; 128 without a kernel term.",
        ),
        TRANSFER,
        PRUNES,
        _read_by(USES_BATCHES),
    ] = None
    batches: Annotated[
        int | None,
        Field(
            ge=1,
            lt=2**31,
            description="Draw this many batches, which recur, so that the teacher is asked about each once. Default: a"
            " new one each step.",
        ),
        TRANSFER,
        PRUNES,
        TRANSFER_ALONE,
    ] = None
    learning_rate: Annotated[
        float, Field(gt=0, description="Adam's rate in the transfer."), TRANSFER, PRUNES, TRANSFER_ALONE
    ] = 2e-3
    kernel_weight: Annotated[
        float | None,
        Field(
            ge=0,
            description="Weight of the kernel distance. Default: 1; 0 with --weights, where the outputs alone gave the"
            " more accurate network.",
        ),
        TRANSFER,
        PRUNES,
        TRANSFER_ALONE,
    ] = None
    weight_penalty: Annotated[
        float | None,
        Field(
            ge=0,
            description="Weight of the squared norm of kept weights."
            " Default: 0; with --preset paper 1e-4, or 1e-5 where there are convolutions.",
        ),
        TRANSFER,
        PRUNES,
        TRANSFER_ALONE,
    ] = None
    mask_update_every: Annotated[
        int,
        Field(ge=1, le=MOST_STEPS, description="Steps between mask updates."),
        TRANSFER,
        PRUNES,
        TRANSFER_ALONE,
        MASK_UPDATES,
    ] = 100
    micro_batch: Annotated[
        int | None,
        Field(
            ge=1,
            lt=2**31,
            description="Put at most this many samples through the network at once; the result is the same up to"
            " rounding. Default: half a batch, and fewer from when memory runs out.",
        ),
        MACHINE,
    ] = None
    compile: Annotated[
        bool,
        Field(
            description="Compile the steps with torch.compile, which takes a minute or two and a C++ compiler, or on a"
            " GPU Triton; steps are faster then, most of all those of transformers and of small networks."
        ),
        MACHINE,
        PRUNES,
        TRANSFER_ALONE,
    ] = False
    kernels: Annotated[
        bool,
        Field(
            description="Look at both networks' kernels in the end: their distance, alignment and spectra. Always so"
            " where the transfer has a kernel term."
        ),
        TRANSFER,
    ] = False
    kernel_memory: Annotated[
        int,
        Field(
            ge=1,
            lt=2**31,
            description="MiB that derivatives may take at one time when the report's exact kernels are formed; with"
            " less, samples are visited again and again.",
        ),
        MACHINE,
    ] = 1024
    output: Annotated[str, Field(description="The sparse checkpoint; a report is written beside it."), OUTPUT] = (
        "sparse.safetensors"
    )
    checkpoint_every: Annotated[SavingSeconds, PRUNES, TRANSFER_ALONE] = 60.0

    def gives(self, name: str) -> bool:
        """Whether the option was given, not filled in by a preset, to do something."""
        preset = PAPER_PRESET if self.preset == "paper" else {}
        return super().gives(name) and not (name in preset and getattr(self, name) == preset[name])

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("preset") == "paper":
            length = {"epochs"} if given.get("steps") is not None else set()
            return {k: v for k, v in PAPER_PRESET.items() if k not in length} | given
        return given

    @model_validator(mode="after")
    def _one_length(self) -> PruneConfig:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give either steps or epochs, not both")
        return self

    @model_validator(mode="after")
    def _whole_batches(self) -> PruneConfig:
        if self.compile and self.micro_batch is not None:
            raise ValueError("give either compile or micro_batch: only steps of whole batches are compiled")
        return self
