"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from ntt_cli.config.fields import MOST_STEPS, NAMED, UNLESS_DEFAULT, WHEREABOUTS, Group, Options, ReadWhen

Split = Literal["train", "test"]

TaskName = Literal[
    "auto",
    "classification",
    "binary",
    "multi-label",
    "regression",
    "pixel-classification",
    "language-modelling",
    "own",
]
"""The built-in tasks; `own` is `loss(outputs, targets)` in model.py."""

TransferSteps = Annotated[
    Annotated[int, Field(ge=1, le=MOST_STEPS)] | Literal["auto"] | None,
    Field(
        description="Transfer steps, or auto: masks reach their density in 500 steps, and the transfer ends once the"
        " distance to the teacher on validation samples stops falling. Default, and the most for auto: 3000; 6000"
        " without a kernel term. asr, obc, reconstruct and sparsegpt take none unless told."
    ),
]
SaveEvery = Annotated[
    float, Field(ge=0, description="Seconds between two saves of the state; 0 saves after each step."), Group.OUTPUT
]
EXCLUDE: tuple[str, ...] = Group.MODEL.option((), "Leave weights whose name matches this pattern dense. Repeatable.")
INCLUDE: tuple[str, ...] = Group.MODEL.option(
    (),
    "Prune parameters whose name matches this pattern too: embeddings, tables and norms, which stay dense otherwise."
    " Repeatable.",
)
OPTIMISER: Literal["adamw", "sgd"] = Group.TRAINING.option(
    "adamw", "AdamW, or SGD with momentum 0.9, gradients clipped to norm 1."
)
WARMUP: float = Group.TRAINING.option(
    0.05, "Fraction of the steps over which the rate rises linearly to its peak.", ge=0, lt=1
)
DEVICE: str = Group.MACHINE.option("auto", "auto, cpu, cuda, cuda:N or mps.")


def split_at_commas(given: Any) -> Any:
    """The parts of one text or of several, each once; other values unchanged."""
    if isinstance(given, list | tuple):
        parts = [part.strip() for item in given for part in str(item).split(",")]
        return tuple(dict.fromkeys(part for part in parts if part))
    return given


class ModelOptions(Options):
    """Which network."""

    model: Annotated[
        str,
        Field(description="model.py, model.py:factory, package.module:factory, torchvision:NAME or timm:NAME."),
        Group.MODEL,
        NAMED,
    ]
    model_arg: tuple[str, ...] = Group.MODEL.option(
        (), "KEY=VALUE passed to the factory; VALUE is a Python literal or a string. Repeatable."
    )
    logits: str | None = Group.MODEL.option(
        None,
        "Which of several outputs the logits are: a key, an attribute or a position. Default: what logits(outputs) in"
        " model.py picks, or the output named logits.",
    )
    outputs: tuple[str, ...] = Group.MODEL.option(
        (),
        "Which outputs count, separated by commas: keys, attributes or positions, of nested ones like states.0, or"
        " layers inside the network, like backbone.layer4."
        " Default: the logits if there are any, else all floating outputs with a row for each sample.",
        UNLESS_DEFAULT,
        ReadWhen(lambda config: config.logits is None, "--logits {logits} chooses one already"),
    )

    @field_validator("outputs", mode="before")
    @classmethod
    def _split_outputs(cls, given: Any) -> Any:
        return split_at_commas(given)


FACTORY = "factory"
"""Stands for the weights that the network's factory gives it, in the place of a file."""


def _named_weights(config: Options) -> bool:
    names = {"weights", "checkpoint"} & type(config).model_fields.keys()
    return not names or any(getattr(config, name) not in {None, FACTORY} for name in names)


class WeightsOptions(Options):
    """How a file of weights from elsewhere is read."""

    weights_prefix: str | None = Group.MODEL.option(
        None,
        "Take only the tensors of the file whose names begin with this prefix, like backbone.; it is dropped. Default:"
        " a prefix that all have.",
        UNLESS_DEFAULT,
        ReadWhen(_named_weights, "no file of weights is named"),
        min_length=1,
    )
    ignore_extra: bool = Group.MODEL.option(
        False,
        "Leave out tensors of the file that the model lacks, and name them. Default: an error.",
        UNLESS_DEFAULT,
        ReadWhen(_named_weights, "no file of weights is named"),
    )


NAMED_DATA = ("digits", "fashion-mnist", "mnist", "cifar10", "cifar100", "svhn")
"""The data sets that ntt knows by name."""


class DataOptions(Options):
    """Which samples, and how to make inputs of them."""

    data: str | None = Group.DATA.option(
        None,
        f"{', '.join(NAMED_DATA)}, a folder of images, a .npy, .npz or .safetensors file,"
        " data.py:factory or noise:N. Default: DATA in model.py.",
        NAMED,
    )
    data_root: str = Group.DATA.option("data", "Folder that holds the named data sets.", WHEREABOUTS)
    download: bool = Group.DATA.option(False, "Download a named data set that is not there.", WHEREABOUTS)
    limit: int | None = Group.DATA.option(
        None, "Use only this many samples, drawn once at random (seed 0).", ge=1, lt=2**63
    )
    workers: int = Group.DATA.option(
        0,
        "Processes that decode images of folders and read items of Datasets; 0: this process alone does. Results have"
        " the same bytes with any number.",
        WHEREABOUTS,
        ge=0,
        le=1024,
    )
    image_size: str | None = Group.DATA.option(
        None, "Resize images to H or HxW pixels.", pattern=r"^\d{1,9}(x\d{1,9})?$"
    )
    grayscale: bool = Group.DATA.option(False, "Read images as one channel.")
    input_shape: str | None = Group.DATA.option(
        None,
        "Shape of one noise sample, like 3x32x32. Default: INPUT_SHAPE in model.py.",
        pattern=r"^\d{1,9}(x\d{1,9})*$",
    )
    mean: str | None = Group.DATA.option(
        None,
        "Mean to subtract, one number or one a channel. Default: MEAN in model.py; without it the training inputs' mean"
        " for random weights, nothing for weights from elsewhere.",
    )
    std: str | None = Group.DATA.option(
        None,
        "Deviation to divide by, one number or one a channel. Default: STD in model.py; without it the training"
        " inputs' deviation for random weights, nothing for weights from elsewhere.",
    )


class TaskOptions(Options):
    """What the labels are for."""

    task: TaskName = Group.DATA.option(
        "auto",
        "What the labels are for: loss and metrics. own: loss(outputs, targets) and metrics(outputs, targets) in"
        " model.py. auto: those if they are there, otherwise by the types and shapes of labels and outputs.",
        UNLESS_DEFAULT,
    )


class MachineOptions(Options):
    """Where and how reproducibly."""

    seed: int = Group.MACHINE.option(0, "Seed of everything random.", ge=0, lt=2**63)
    device: str = DEVICE


class OutputOptions(Options):
    """Where the result goes. Not recorded: it does not change what is computed."""

    force: bool = Group.OUTPUT.option(False, "Overwrite the output if it exists.")
    resume: bool = Group.OUTPUT.option(
        False,
        "Go on from the state that a killed run left beside the output; the result has the same bytes. Start from the"
        " beginning if there is no state; do nothing if all is done.",
    )
    checkpoint_every: SaveEvery = 60.0
    allow_mismatch: bool = Group.OUTPUT.option(
        False,
        "Resume with another torch, device, number of threads or data; the result then has other bytes.",
        ReadWhen(lambda config: config.resume, "it is read with --resume alone"),
    )
