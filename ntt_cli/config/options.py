"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticKnownError

Split = Literal["train", "test"]
UNREAD = "unread"
"""The type of the pydantic error for an option that nothing reads."""


class Group(str):
    """Field metadata: the panel of `--help` that shows the option."""


@dataclass(frozen=True)
class ReadWhen:
    """Field metadata: the option is read only if `holds` is true of the configuration; otherwise giving it is an error.

    Attributes:
        holds: a condition on the configuration.
        otherwise: why the option is not read, and what reads it, with names of other options in braces; or a function
            that returns this text.
    """

    holds: Callable[[Any], bool]
    otherwise: str | Callable[[], str]


class Whereabouts:
    """Field metadata: the option says where something is, not what it is, so it is not recorded."""


GROUPS = MODEL, DATA, METHOD, TRAINING, OUTPUT, MACHINE, NTT = tuple(
    map(Group, ("Model", "Data", "Method", "Training", "Output", "Machine", "Options of ntt"))
)


NAMED = "named"
"""Field metadata: the option names a file or folder; records hold only the last part of its path."""


def _kinds(annotation: Any) -> set[Any]:
    """The types that `annotation` names, including those of a list's items."""
    return {annotation} | {kind for part in get_args(annotation) for kind in _kinds(part)}


class Options(BaseModel):
    """Base of all configurations."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def given(self) -> dict[str, Any]:
        """The values of the options that the user gave, by name."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}

    def gives(self, name: str) -> bool:
        """Whether the user gave the option with a value that has an effect."""
        value = getattr(self, name)
        return name in self.model_fields_set and value is not None and value is not False and value != ()

    @field_validator("*", mode="before")
    @classmethod
    def _no_flag_for_a_number(cls, given: Any, info: ValidationInfo) -> Any:
        """Refuse `sparsity = true` and `force = 1` in a file, although Python takes `True` for 1.

        Raises:
            PydanticKnownError: if a flag is given for a number, or a number for a flag.
        """
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(given, bool) and kinds & {int, float}:
            raise PydanticKnownError("float_type" if float in kinds else "int_type")
        if isinstance(given, int | float) and not isinstance(given, bool) and bool in kinds:
            raise PydanticKnownError("bool_type")
        return given

    @model_validator(mode="after")
    def _read_what_is_given(self) -> Self:
        for name, field in type(self).model_fields.items():
            for condition in field.metadata:
                if isinstance(condition, ReadWhen) and self.gives(name) and not condition.holds(self):
                    why = condition.otherwise if isinstance(condition.otherwise, str) else condition.otherwise()
                    raise unread(self, name, why.format_map(dict(self)))
        return self


def unread(config: Options, name: str, why: str) -> ValidationError:
    """The error for an option that was given and that nothing reads."""
    kind = PydanticCustomError(UNREAD, "{why}", {"why": why})
    error = InitErrorDetails(type=kind, loc=(name,), input=getattr(config, name))
    return ValidationError.from_exception_data(type(config).__name__, [error])


MOST_STEPS = 10**9
MOST_EPOCHS = 10**6
"""More than any run needs; a larger number is a typing error."""

TransferSteps = Annotated[
    Annotated[int, Field(ge=1, le=MOST_STEPS)] | Literal["auto"] | None,
    Field(
        description="Transfer steps, or auto: masks reach their density in 500 steps, and the transfer ends once the"
        " distance to the teacher on validation samples stops falling. Default, and the most for auto: 3000; 9000"
        " without a kernel term."
    ),
]


Warmup = Annotated[
    float,
    Field(ge=0, lt=1, description="Fraction of the steps over which the rate rises linearly to its peak."),
    TRAINING,
]


SavingSeconds = Annotated[
    float, Field(ge=0, description="Seconds between two saves of the state; 0 saves after each step."), OUTPUT
]


class ModelOptions(Options):
    """Which network."""

    model: Annotated[
        str, Field(description="model.py, model.py:factory, package.module:factory or torchvision:NAME."), MODEL, NAMED
    ]
    model_arg: Annotated[
        tuple[str, ...],
        Field(description="KEY=VALUE passed to the factory; VALUE is a Python literal or a string. Repeatable."),
        MODEL,
    ] = ()
    logits: Annotated[
        str | None,
        Field(
            description="Which of several outputs the logits are: a key, an attribute or a position. Default: what"
            " logits(outputs) in model.py picks, or the output named logits."
        ),
        MODEL,
    ] = None


class DataOptions(Options):
    """Which samples, and how to make inputs of them."""

    data: Annotated[
        str | None,
        Field(
            description="digits, fashion-mnist, mnist, cifar10, cifar100, svhn, a folder of images, a .npy, .npz or"
            " .safetensors file, data.py:factory or noise:N. Default: DATA in model.py."
        ),
        DATA,
        NAMED,
    ] = None
    data_root: Annotated[str, Field(description="Folder that holds the named data sets."), DATA, Whereabouts()] = "data"
    download: Annotated[
        bool, Field(description="Download a named data set that is not there."), DATA, Whereabouts()
    ] = False
    limit: Annotated[
        int | None,
        Field(ge=1, lt=2**63, description="Use only this many samples, drawn once at random (seed 0)."),
        DATA,
    ] = None
    image_size: Annotated[
        str | None, Field(pattern=r"^\d{1,9}(x\d{1,9})?$", description="Resize images to H or HxW pixels."), DATA
    ] = None
    grayscale: Annotated[bool, Field(description="Read images as one channel."), DATA] = False
    input_shape: Annotated[
        str | None,
        Field(
            pattern=r"^\d{1,9}(x\d{1,9})*$",
            description="Shape of one noise sample, like 3x32x32. Default: INPUT_SHAPE in model.py.",
        ),
        DATA,
    ] = None
    mean: Annotated[
        str | None,
        Field(
            description="Mean to subtract, one number or one a channel. Default: MEAN in model.py; without it the"
            " training inputs' mean for random weights, nothing for weights from elsewhere."
        ),
        DATA,
    ] = None
    std: Annotated[
        str | None,
        Field(
            description="Deviation to divide by, one number or one a channel. Default: STD in model.py; without it the"
            " training inputs' deviation for random weights, nothing for weights from elsewhere."
        ),
        DATA,
    ] = None


class MachineOptions(Options):
    """Where and how reproducibly."""

    seed: Annotated[int, Field(ge=0, lt=2**63, description="Seed of everything random."), MACHINE] = 0
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps."), MACHINE] = "auto"


class OutputOptions(Options):
    """Where the result goes. Not recorded: it does not change what is computed."""

    force: Annotated[bool, Field(description="Overwrite the output if it exists."), OUTPUT] = False
    resume: Annotated[
        bool,
        Field(
            description="Go on from the state that a killed run left beside the output; the result has the same bytes."
            " Start from the beginning if there is no state; do nothing if all is done."
        ),
        OUTPUT,
    ] = False
    checkpoint_every: SavingSeconds = 60.0
    allow_mismatch: Annotated[
        bool,
        Field(
            description="Resume with another torch, device, number of threads or data; the result then has other bytes."
        ),
        OUTPUT,
        ReadWhen(lambda config: config.resume, "it is read with --resume alone"),
    ] = False


def recorded(config: Options) -> dict[str, Any]:
    """What a checkpoint records of a configuration: options that affect its bytes, but not the folders of files."""
    found = {}
    for name, value in config.model_dump(mode="json").items():
        metadata = type(config).model_fields[name].metadata
        if OUTPUT not in metadata and not any(isinstance(item, Whereabouts) for item in metadata):
            found[name] = name_of(value) if NAMED in metadata and value is not None else value
    return found


def name_of(path: str) -> str:
    """The last part of a path, with the factory after its colon if there is one; other names unchanged."""
    return PurePath(path).name or path
