"""Command-line options made from a configuration's fields, so that the two cannot drift apart."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ntt_cli.cli.streams import Streams, make_streams
from ntt_cli.config import GROUPS, LEAVE_OUT, OUTPUT, UNREAD, Group, Options, flag, in_words, typed
from ntt_cli.errors import UsageError
from ntt_cli.io.config_file import read_config_file

SHORT = {"output": "-o", "sparsity": "-s", "checkpoint": "-c", "data": "-d", "model_arg": "-a"}


def _flag(name: str, annotation: Any, *names: str, help: str) -> inspect.Parameter:
    info = typer.Option(*names, help=help, rich_help_panel=OUTPUT, show_default=False)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=False if annotation is bool else None,
        annotation=Annotated[annotation, info],
    )


COMMON = [
    _flag("config", Path | None, "--config", help="TOML file that sets these options by name; the command line wins."),
    _flag("json", bool, "--json", help="Print the result as one JSON document."),
    _flag("quiet", bool, "--quiet", "-q", help="No progress; print only the output path, or the main figure."),
    _flag("debug", bool, "--debug", help="Show a traceback with every error."),
]
"""The options that belong to the command line, not to the work."""


@dataclass(frozen=True)
class Common:
    """Their values."""

    streams: Streams
    config: Path | None
    debug: bool


def common_of(values: dict[str, Any]) -> Common:
    """The values of `COMMON`."""
    streams = make_streams(as_json=values["json"], quiet=values["quiet"])
    return Common(streams=streams, config=values["config"], debug=values["debug"])


def options_of(config: type[Options]) -> list[inspect.Parameter]:
    """One typer parameter a field: the model as the argument, everything else as an option."""
    parameters = {name: _parameter(name, field) for name, field in config.model_fields.items()}
    return sorted(parameters.values(), key=lambda p: _rank(config.model_fields[p.name]))


def _rank(field: FieldInfo) -> tuple[int, bool]:
    return GROUPS.index(_group(field)), not field.is_required()


def _group(field: FieldInfo) -> Group:
    return next(item for item in field.metadata if isinstance(item, Group))


def with_parameters(command: Callable[..., None], parameters: list[inspect.Parameter]) -> Callable[..., None]:
    """The command, which takes `**values`, with parameters that typer can see."""
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    command.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]  # mypy knows no such attribute
    command.__annotations__ = {p.name: p.annotation for p in (context, *parameters)}
    return command


RIVALS = {"steps": "epochs", "epochs": "steps"}
"""Options of which only one may be given: on the command line, it also wins over the other one in the file."""

C = TypeVar("C", bound=Options)


def build_config(config: type[C], context: typer.Context, file: Path | None) -> C:
    """The configuration: options that were given, over those of the file, over the defaults.

    Raises:
        UsageError: if a required option is missing, or a value is of the wrong type or out of bounds.
    """
    given = {
        name: context.params[name]
        for name in config.model_fields
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
    filed = read_config_file(file, context.info_name or "") if file else {}
    filed = {name: value for name, value in filed.items() if RIVALS.get(name) not in given}
    try:
        return config.model_validate(filed | given)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        name = str(problems[0]["loc"][0]) if problems[0]["loc"] else ""
        of_file = name in filed and name not in given
        where = f"{file}: {name} =" if of_file else flag(name) if name else "options"
        if name and problems[0]["type"] != "missing":
            where = f"{where} {typed(problems[0]['input'])}".rstrip()
        what = in_words([problem for problem in problems if problem["loc"][:1] == problems[0]["loc"][:1]])
        hint = LEAVE_OUT if problems[0]["type"] == UNREAD else _help(config, name)
        raise UsageError(where, what, hint=hint) from error


def _help(config: type[Options], name: str) -> str:
    return str(config.model_fields[name].description) if name else "leave one of them out"


def _either(annotation: Any) -> str | None:
    """`<int>|auto` for a number or a word, which typer cannot tell apart and the configuration can."""
    words = [word for part in get_args(annotation) if get_origin(part) is Literal for word in get_args(part)]
    numbers = [part for part in get_args(annotation) if get_origin(part) is Annotated]
    return "|".join(["<int>", *words]) if words and numbers else None


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    required = field.is_required()
    kind: Any = list[str] if get_origin(field.annotation) is tuple else field.annotation
    metavar = _either(kind)
    kind = str | None if metavar else kind
    if name == "model":
        info: Any = typer.Argument(metavar="MODEL", help=field.description, show_default=False)
        # Optional for typer: the file may name the model too.
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, info]
        )
    names = [flag(name), *([SHORT[name]] if name in SHORT else [])]
    # A required option may come from the file, so that only the configuration can tell that it is missing.
    info = typer.Option(
        *names,
        metavar=metavar,
        help=f"{field.description} Required." if required else field.description,
        rich_help_panel=str(_group(field)),
        show_default=not required and field.default not in (None, ()) and field.default is not False,
    )
    if required:
        kind, default = kind | None, None
    else:
        default = list(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])
