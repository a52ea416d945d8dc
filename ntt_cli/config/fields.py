"""What an option is: its field, what is noted with the field, and the base of all configurations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticKnownError

UNREAD = "unread"
"""The type of the pydantic error for an option that nothing reads."""

T = TypeVar("T")


class Group(StrEnum):
    """Field metadata: the panel of `--help` that shows the option, in the order of the panels."""

    MODEL = "Model"
    DATA = "Data"
    METHOD = "Method"
    TRAINING = "Training"
    OUTPUT = "Output"
    MACHINE = "Machine"
    NTT = "Options of ntt"

    def option(self, default: T, help: str, *metadata: object, **bounds: Any) -> T:
        """A field of this group. Required fields are written with `Annotated`, so that type checkers know them."""
        field = Field(default, description=help, **bounds)
        field.metadata += (self, *metadata)
        return cast(T, field)


@dataclass(frozen=True)
class ReadWhen:
    """Field metadata: the option is read only if `holds` is true of the configuration; otherwise giving it is an error.

    `otherwise` says why the option is not read, and what reads it, with names of other options in braces.
    """

    holds: Callable[[Any], bool]
    otherwise: str | Callable[[], str]


WHEREABOUTS = "whereabouts"
"""Field metadata: the option says where something is, not what it is, so it is not recorded."""

UNLESS_DEFAULT = "unless default"
"""Field metadata: the option is not recorded at its default, so that records are as they were before it existed."""

PICKLES = frozenset({".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib"})
"""Suffixes of files that may run code if they are read as pickles."""

MOST_STEPS = 10**9
MOST_EPOCHS = 10**6
"""More than any run needs; a larger number is a typing error."""

NAMED = "named"
"""Field metadata: the option names a file or folder; records hold only the last part of its path."""


def kinds_of(annotation: Any) -> list[Any]:
    """The types of a value or of a list's items: `int` and the words "auto" of `int | Literal["auto"] | None`."""
    if get_origin(annotation) is Annotated:
        return kinds_of(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if parts := get_args(annotation):
        return [kind for part in parts for kind in kinds_of(part)]
    return [] if annotation in {type(None), ...} else [annotation]


class Options(BaseModel):
    """Base of all configurations."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    arguments: ClassVar[tuple[str, ...]] = ("model",)
    """Those that the command line takes by their place, without a flag."""

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
        """Refuse `sparsity = true` and `force = 1` in a file, although Python takes `True` for 1."""
        kinds = kinds_of(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(given, bool) and (int in kinds or float in kinds):
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


def recorded(config: Options) -> dict[str, Any]:
    """What a checkpoint records of a configuration: options that affect its bytes, but not the folders of files."""
    found = {}
    for name, value in config.model_dump(mode="json").items():
        field = type(config).model_fields[name]
        metadata = field.metadata
        if UNLESS_DEFAULT in metadata and getattr(config, name) == field.default:
            continue
        if Group.OUTPUT not in metadata and WHEREABOUTS not in metadata:
            found[name] = name_of(value) if NAMED in metadata and value is not None else value
    return found


def name_of(path: str) -> str:
    """The last part of a path, with the factory after its colon if there is one; other names unchanged."""
    return PurePath(path).name or path
