"""Command-line options made from a configuration's fields, so that the two cannot drift apart."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_origin

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from ntt_cli.config import NAMED_DATA, Group, Options, method_names
from ntt_cli.config.fields import UNREAD, kinds_of
from ntt_cli.config.file import read_config_file
from ntt_cli.config.words import BEHIND_METHOD, flag, in_a_file, problem_of, typed
from ntt_cli.errors import UsageError
from ntt_cli.files.named import require_named_files

Command = TypeVar("Command", bound=Callable[..., None])
C = TypeVar("C", bound=Options)

SHORT = {"output": "-o", "sparsity": "-s", "checkpoint": "-c", "data": "-d", "model_arg": "-a"}
ALIAS = {"checkpoint": "--weights"}
"""A second name, which `ntt prune` and `ntt compare` have for the same."""


def _parameter(name: str, kind: Any, default: Any, info: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])


def own_flag(*names: str, kind: Any = bool, metavar: str | None = None, help: str) -> inspect.Parameter:
    """A flag, or another option, of the command line itself: it is not in the configuration."""
    info = typer.Option(*names, metavar=metavar, help=help, rich_help_panel=Group.OUTPUT, show_default=False)
    return _parameter(names[0].strip("-").replace("-", "_"), kind, False if kind is bool else None, info)


COMMON = [
    own_flag(
        "--config",
        kind=Path | None,
        metavar="<path>",
        help="TOML file that sets these options by name; the command line wins.",
    ),
    own_flag("--json", help="Print the result as one JSON document."),
    own_flag("--quiet", "-q", help="No progress; print only the output path, or the main figure."),
    own_flag("--debug", help="Show a traceback with every error."),
]
"""The options of every command with a configuration, which do not affect the work."""


def with_options(config: type[Options], *flags: inspect.Parameter) -> Callable[[Command], Command]:
    """Give a command that takes `**values` a signature that typer can read: an option for each field, flags, `COMMON`.

    Those that the configuration says, such as the model, are arguments.
    """
    fields = {name: field for name, field in config.model_fields.items() if name not in BEHIND_METHOD}
    ordered = sorted(fields, key=lambda name: (name not in config.arguments, *_rank(fields[name])))
    options = [
        _argument(name, fields[name]) if name in config.arguments else _option(name, fields[name]) for name in ordered
    ]
    context = inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    parameters = [context, *options, *flags, *COMMON]

    def give(command: Command) -> Command:
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # mypy knows no such attribute
        command.__annotations__ = {p.name: p.annotation for p in parameters}
        return command

    return give


def _rank(field: FieldInfo) -> tuple[int, bool]:
    return list(Group).index(_group(field)), not field.is_required()


def _group(field: FieldInfo) -> Group:
    return next(item for item in field.metadata if isinstance(item, Group))


EXCLUSIVE = {"steps": "epochs", "epochs": "steps"}
"""Pairs of options that exclude each other: one on the command line also replaces the other in the file."""


def build_config(config: type[C], context: typer.Context) -> C:
    """The configuration. Given options come before those of the file, and these before the defaults.

    Raises:
        UsageError: if an option is wrong.
        NttError: if a file that an option names is not there.
    """
    file = Path(named) if (named := context.params["config"]) else None  # a string before typer 0.29
    given = {
        name: context.params[name]
        for name in config.model_fields
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
    filed = read_config_file(file, context.info_name or "") if file else {}
    filed = {name: value for name, value in filed.items() if EXCLUSIVE.get(name) not in given}
    try:
        built = config.model_validate(filed | given)
    except ValidationError as error:
        problem = problem_of(error, config)
        name, details = problem.name, problem.details
        of_file = name in filed and name not in given
        where = f"{file}: {name} =" if of_file else flag(name, config.arguments) if name else "options"
        if name and details["type"] != "missing":
            value = details["input"]
            if details["type"] == UNREAD:
                value = (filed | given).get(name, value)  # as it was typed
            between = "=" if name in BEHIND_METHOD and not of_file else " "
            where = f"{where}{between}{in_a_file(value) if of_file else typed(value)}".rstrip()
        raise UsageError(where, problem.what, hint=problem.hint) from error
    require_named_files(built)
    return built


LONGEST_METAVAR = 24
"""Letters of the words that an option takes; more stand in its help."""


def _metavar(kinds: list[Any]) -> str:
    """`<float>`, `<a|b>`, or `<int>|auto`; `<word>` for many words."""
    words = [kind for kind in kinds if isinstance(kind, str)]
    types = [f"<{kind.__name__}>" for kind in kinds if not isinstance(kind, str)]
    named = "|".join([*types, *words]) if types else f"<{'|'.join(words)}>"
    return named if len(named) <= LONGEST_METAVAR else "<word>"


def _argument(name: str, field: FieldInfo) -> inspect.Parameter:
    several = get_origin(field.annotation) is tuple
    info = typer.Argument(metavar=name.upper(), help=field.description, show_default=False)
    # Optional for typer: the file may name it too.
    return _parameter(name, list[str] | None if several else str | None, None, info)


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    """For typer every value is text. Only the configuration converts it, so that all errors have its wording."""
    names = [flag(name, ()), *(others[name] for others in (ALIAS, SHORT) if name in others)]
    required, shown = field.is_required(), field.default
    several, kinds = get_origin(field.annotation) is tuple, kinds_of(field.annotation)
    words = [kind for kind in kinds if isinstance(kind, str)]
    described = field.description
    if name in {"data", "test_data"}:
        words = list(NAMED_DATA)
    if name == "method":
        words = list(method_names())
        behind = ", ".join(one.replace("_", "-") for one in sorted(BEHIND_METHOD))
        described = f"{described} Methods: {', '.join(words)}. Only behind ntt: {behind}."
    if _metavar(kinds) == "<word>":
        described = f"{described} One of {', '.join(words)}."
    kind: Any
    default: Any
    if field.annotation is bool:
        kind, default, metavar = bool, shown, None
    elif several:
        kind, default, metavar = list[str], list(map(str, shown)), _metavar(kinds)
    else:
        # A required option may come from the file, so only the configuration knows whether it is missing.
        kind, default, metavar = str | None, None if required or shown is None else str(shown), _metavar(kinds)
    info = typer.Option(
        *names,
        metavar=metavar,
        help=f"{described} Required." if required else described,
        rich_help_panel=str(_group(field)),
        show_default=not required and shown not in (None, ()) and shown is not False,
        autocompletion=(lambda incomplete: [word for word in words if word.startswith(incomplete)]) if words else None,
    )
    return _parameter(name, kind, default, info)
