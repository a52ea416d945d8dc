"""Every option of every command: its type, default, bounds and help, once.

`cli/` turns the fields into options, a TOML file may set the same names, and what a run used is written to its files.
The classes are frozen and checked where they are made.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Split = Literal["train", "test"]


class Group(str):
    """Field metadata: the panel of `--help` that the option stands in."""


GROUPS = MODEL, DATA, TRANSFER, TRAINING, MACHINE, OUTPUT = tuple(
    map(Group, ("Model", "Data", "Transfer", "Training", "Machine", "Output"))
)


class Options(BaseModel):
    """Base of all configurations."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelOptions(Options):
    """Which network."""

    model: Annotated[
        str,
        Field(description="model.py, model.py:factory, package.module:factory or torchvision:NAME."),
        MODEL,
    ]
    model_arg: Annotated[
        tuple[str, ...],
        Field(description="KEY=VALUE passed to the factory; VALUE is a Python literal or a string. Repeatable."),
        MODEL,
    ] = ()


class DataOptions(Options):
    """Which samples, and how raw values become the network's inputs."""

    data: Annotated[
        str | None,
        Field(
            description="digits, fashion-mnist, mnist, cifar10, cifar100, svhn, a folder of images, a .npy, .npz or"
            " .safetensors file, data.py:factory or noise:N. Default: DATA in model.py."
        ),
        DATA,
    ] = None
    data_root: Annotated[str, Field(description="Folder that holds the named data sets."), DATA] = "data"
    download: Annotated[bool, Field(description="Download a named data set that is not there."), DATA] = False
    limit: Annotated[
        int | None, Field(ge=1, description="Use only this many samples, drawn once at random (seed 0)."), DATA
    ] = None
    image_size: Annotated[
        str | None, Field(pattern=r"^\d+(x\d+)?$", description="Resize images to H or HxW pixels."), DATA
    ] = None
    grayscale: Annotated[bool, Field(description="Read images as one channel."), DATA] = False
    input_shape: Annotated[
        str | None,
        Field(
            pattern=r"^\d+(x\d+)*$",
            description="Shape of one noise sample, like 3x32x32. Default: INPUT_SHAPE in model.py.",
        ),
        DATA,
    ] = None
    mean: Annotated[
        str | None,
        Field(description="Subtract this, one number or one a channel, instead of the training inputs' mean."),
        DATA,
    ] = None
    std: Annotated[
        str | None,
        Field(description="Divide by this, one number or one a channel, instead of the training inputs' deviation."),
        DATA,
    ] = None


class MachineOptions(Options):
    """Where and how reproducibly."""

    seed: Annotated[int, Field(ge=0, description="Seed of everything random."), MACHINE] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps."), MACHINE] = "auto"


class OutputOptions(Options):
    """Where the result goes. Not recorded: it does not change what is computed."""

    force: Annotated[bool, Field(description="Overwrite the output if it exists."), OUTPUT] = False


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
    ] = None
    exclude: Annotated[
        tuple[str, ...], Field(description="Leave weights whose name matches this pattern dense. Repeatable."), MODEL
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
        Literal["default", "paper"], Field(description="paper: the settings of Liu & Zenke 2020."), TRANSFER
    ] = "default"
    score: Annotated[
        Literal["saliency", "magnitude"],
        Field(description="Which weights stay: by |w| and their effect on the logits, or by |w| alone."),
        TRANSFER,
    ] = "saliency"
    allocation: Annotated[
        Literal["erk", "layerwise", "global"] | None,
        Field(
            description="How the density is spread over the layers. Default: erk for ntt, magnitude and random,"
            " layerwise for wanda, global for the others."
        ),
        TRANSFER,
    ] = None
    layer_density: Annotated[
        tuple[str, ...],
        Field(
            description="PATTERN=DENSITY for the layers whose name matches; the others share what is left of the whole."
            " Repeatable."
        ),
        TRANSFER,
    ] = ()
    schedule: Annotated[
        Literal["cubic", "constant"],
        Field(description="How the density falls over the first half of the steps."),
        TRANSFER,
    ] = "cubic"
    objective: Annotated[
        Literal["relative", "paper"], Field(description="Form of the distances to the teacher."), TRANSFER
    ] = "relative"
    kernel_params: Annotated[
        Literal["all", "active"], Field(description="Kernel over all entries, or over kept ones only."), TRANSFER
    ] = "all"
    steps: Annotated[
        int | None, Field(ge=1, description="Transfer steps. Default: 3000; 9000 without a kernel term."), TRANSFER
    ] = None
    epochs: Annotated[
        float | None, Field(gt=0, description="Transfer steps as passes over the data, instead of --steps."), TRANSFER
    ] = None
    batch_size: Annotated[
        int | None,
        Field(
            ge=2,
            description="Samples a step, halved into the kernel's two sides. Default: 64; 128 without a kernel term.",
        ),
        TRANSFER,
    ] = None
    learning_rate: Annotated[float, Field(gt=0, description="Adam's rate in the transfer."), TRANSFER] = 2e-3
    kernel_weight: Annotated[
        float | None,
        Field(
            ge=0,
            description="Weight of the kernel distance. Default: 1; 0 with --weights, where the outputs alone gave the"
            " more accurate network.",
        ),
        TRANSFER,
    ] = None
    weight_penalty: Annotated[
        float | None,
        Field(
            ge=0,
            description="Weight of the squared norm of kept weights."
            " Default: 0; with --preset paper 1e-4, or 1e-5 where there are convolutions.",
        ),
        TRANSFER,
    ] = None
    mask_update_every: Annotated[int, Field(ge=1, description="Steps between mask updates."), TRANSFER] = 100
    output: Annotated[str, Field(description="The sparse checkpoint; a report is written beside it."), OUTPUT] = (
        "sparse.safetensors"
    )

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


class FinetuneConfig(ModelOptions, DataOptions, MachineOptions, OutputOptions):
    """`ntt finetune`."""

    checkpoint: Annotated[
        str | None,
        Field(description="Sparse or dense .safetensors file to start from. Default: random weights."),
        MODEL,
    ] = None
    epochs: Annotated[int, Field(ge=1, description="Passes over the training samples."), TRAINING] = 10
    batch_size: Annotated[int, Field(ge=1, description="Samples a step."), TRAINING] = 64
    optimiser: Annotated[Literal["adamw", "sgd"], Field(description="AdamW, or SGD with momentum 0.9."), TRAINING] = (
        "adamw"
    )
    learning_rate: Annotated[
        float | None, Field(gt=0, description="Peak rate. Default: by optimiser and density, see the README."), TRAINING
    ] = None
    rate_schedule: Annotated[
        Literal["cosine", "constant"], Field(description="How the rate changes over the steps."), TRAINING
    ] = "cosine"
    weight_decay: Annotated[float, Field(ge=0, description="Weight decay, decoupled with AdamW."), TRAINING] = 0.0
    validation: Annotated[
        float, Field(ge=0, lt=1, description="Fraction of the samples held out to choose the best epoch."), TRAINING
    ] = 0.1
    output: Annotated[
        str | None,
        Field(
            description="The trained checkpoint. Default: tuned.safetensors, dense.safetensors without --checkpoint."
        ),
        OUTPUT,
    ] = None


class EvaluateConfig(ModelOptions, DataOptions, MachineOptions):
    """`ntt evaluate`."""

    checkpoint: Annotated[str, Field(description="The .safetensors file to evaluate."), MODEL]
    split: Annotated[Split, Field(description="Which part of a named data set."), DATA] = "test"
    teacher: Annotated[
        str | None,
        Field(description="Weights to compare with, a .safetensors file of the same model; needs no labels."),
        MODEL,
    ] = None
    batch_size: Annotated[int, Field(ge=1, description="Samples a forward pass."), MACHINE] = 256
    min_accuracy: Annotated[
        float | None, Field(ge=0, le=1, description="Exit 1 if the accuracy is below this, 0.97 means 97%."), OUTPUT
    ] = None


REFERENCES = ("dense", "trained-magnitude")
"""What `ntt compare` measures beside the methods of `ntt prune`."""


class CompareConfig(ModelOptions, DataOptions):
    """`ntt compare`."""

    weights: Annotated[
        str | None,
        Field(description="Trained weights of the teacher, a .safetensors file. Default: random weights, by seed."),
        MODEL,
    ] = None
    exclude: Annotated[
        tuple[str, ...], Field(description="Leave weights whose name matches this pattern dense. Repeatable."), MODEL
    ] = ()
    test_data: Annotated[
        str | None, Field(description="Labelled data to test on. Default: the test part of the data."), DATA
    ] = None
    methods: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="With commas between: methods of ntt prune, dense, and trained-magnitude, which trains the"
            " dense network first.",
        ),
        TRANSFER,
    ] = ("ntt", "synflow", "snip", "magnitude", "random")
    sparsities: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...],
        Field(min_length=1, description="With commas between."),
        TRANSFER,
    ] = (0.9, 0.95)
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...],
        Field(min_length=1, description="With commas between; rates are chosen on the first."),
        TRANSFER,
    ] = (1, 2, 3)
    steps: Annotated[
        int | None, Field(ge=1, description="Transfer steps. Default: 3000; 9000 without a kernel term."), TRANSFER
    ] = None
    epochs: Annotated[
        int, Field(ge=1, description="Passes over the training samples in each fine-tuning."), TRAINING
    ] = 10
    validation: Annotated[
        float,
        Field(ge=0, lt=1, description="Fraction of the training samples held out to choose epochs and rates."),
        TRAINING,
    ] = 0.1
    optimiser: Annotated[Literal["adamw", "sgd"], Field(description="AdamW, or SGD with momentum 0.9."), TRAINING] = (
        "adamw"
    )
    learning_rates: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        Field(
            description="Rates to choose from, with commas between: for each method and sparsity the one that is best"
            " on the first seed's validation samples. Default: the rate that ntt finetune would take."
        ),
        TRAINING,
    ] = ()
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps."), MACHINE] = "auto"
    jobs: Annotated[int, Field(ge=1, description="Cells side by side."), MACHINE] = 1
    cell: Annotated[
        int | None, Field(ge=1, description="Run this cell alone, as --plan numbers them; for job arrays."), MACHINE
    ] = None
    output: Annotated[
        str, Field(description="Folder of the results; what is there already is not done again."), OUTPUT
    ] = "comparison"

    @field_validator("methods", "sparsities", "seeds", "learning_rates", mode="before")
    @classmethod
    def _split_at_commas(cls, given: Any) -> Any:
        if isinstance(given, list | tuple):
            parts = [part.strip() for item in given for part in str(item).split(",")]
            return tuple(dict.fromkeys(part for part in parts if part))
        return given

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        known = (*get_args(Method), *REFERENCES)
        for name in methods:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                advice = f"did you mean {near[0]}?" if near else f"the methods are {', '.join(known)}"
                raise ValueError(f"{name} is no method; {advice}")
        return methods


def recorded(config: Options) -> dict[str, Any]:
    """What a checkpoint records of a configuration: all that decides its bytes, nothing that says where they go."""
    fields = type(config).model_fields
    return {
        name: value for name, value in config.model_dump(mode="json").items() if OUTPUT not in fields[name].metadata
    }


COMMANDS: dict[str, type[Options]] = {
    "prune": PruneConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
}
"""The commands that take a configuration."""
