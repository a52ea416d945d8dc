"""The help of a command: `--help` shows all options, `-h` those that are used most. Both fit a narrow terminal."""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

WIDEST = 100
"""Longer lines are hard to read."""

NARROW = 60
"""Fewer columns hold no two columns of text."""

NAMES = 26
"""The most columns for names; the text beside a longer one begins below it."""

Row = tuple[str, str]


class Command(TyperCommand):
    """A command whose module has `EXAMPLES`, and `MOST_USED` if it has more options than `-h` should show."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        module = import_module(f"ntt_cli.cli.{self.name}")
        most_used, short = getattr(module, "MOST_USED", ()), _is_short(ctx)
        params = self.get_params(ctx)
        if short and most_used:
            shown = [param for param in _ranked(params, most_used) if _rank(param, most_used) < len(most_used)]
            sections = {"": [_row(param, short=True) for param in shown]}
            end = f"{ctx.command_path} --help shows all {sum(not _is_argument(param) for param in params)} options."
        else:
            sections, end = _sections(params, most_used), ""
        examples = module.EXAMPLES[:1] if short else module.EXAMPLES
        arguments = [
            _argument(param) if param.required else f"[{_argument(param)}]" for param in params if _is_argument(param)
        ]
        usage = f"Usage: {' '.join([ctx.command_path, '[OPTIONS]', *arguments])}"
        formatter.write(_page(usage, str(self.help), examples, sections, end))


class Group(TyperGroup):
    """`ntt` itself."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        sections = {"Commands": [(name, str(command.help)) for name, command in self.commands.items()]}
        if _is_short(ctx):
            end = "ntt COMMAND -h shows the options that are used most, ntt COMMAND --help all of them."
        else:
            sections, end = sections | _sections(self.get_params(ctx), ()), str(self.epilog)
        formatter.write(_page("Usage: ntt [OPTIONS] COMMAND ...", str(self.help), (), sections, end))


def _is_short(ctx: Any) -> bool:
    """Whether `-h` was typed."""
    return "-h" in ctx.obj and "--help" not in ctx.obj


def _is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")


def _argument(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _rank(param: Any, most_used: Sequence[str]) -> int:
    """Arguments come first, then the options that are used most, then all others as they are."""
    if _is_argument(param):
        return -1
    return most_used.index(param.name) if param.name in most_used else len(most_used)


def _ranked(params: Sequence[Any], most_used: Sequence[str]) -> list[Any]:
    return sorted(params, key=lambda param: _rank(param, most_used))


def _sections(params: Sequence[Any], most_used: Sequence[str]) -> dict[str, list[Row]]:
    """Arguments, and options by their panel; those without a panel come last."""
    found: dict[str, list[Any]] = {}
    for param in params:
        panel = "Arguments" if _is_argument(param) else getattr(param, "rich_help_panel", None) or "Options"
        found.setdefault(panel, []).append(param)
    panels = sorted(found, key=lambda panel: panel == "Options")
    return {panel: [_row(param) for param in _ranked(found[panel], most_used)] for panel in panels}


def _row(param: Any, *, short: bool = False) -> Row:
    """An option with what it is; if `short`, only the first sentence."""
    if _is_argument(param):
        name = _argument(param)
    else:
        names = ", ".join(sorted(param.opts, key=len, reverse=True))
        name = f"{names} {param.metavar}" if param.metavar else names
    what = re.sub(r"(?<=\.) .*", "", param.help) if short else str(param.help)
    default = param.default if getattr(param, "show_default", False) is True else None
    if default in (None, False, [], ()):
        return name, what
    shown = ", ".join(default) if isinstance(default, list | tuple) else default
    return name, f"{what} [default: {shown}]"


def _page(usage: str, about: str, examples: Iterable[str], sections: dict[str, list[Row]], end: str) -> str:
    width = min(shutil.get_terminal_size((80, 24)).columns, WIDEST)
    parts = [_wrapped(usage, width, "       "), _wrapped(about, width, "")]
    if lines := [f"  {example}" for example in examples]:
        parts.append("\n".join([_bold("Examples:" if len(lines) > 1 else "Example:"), *lines]))
    for head, rows in sections.items():
        parts.append("\n".join([*([_bold(head)] if head else []), *_table(rows, width)]))
    return "\n\n".join([*parts, *([_wrapped(end, width, "")] if end else [])]) + "\n"


def _table(rows: Sequence[Row], width: int) -> list[str]:
    """Names and what they are: side by side, or below one another in a narrow terminal."""
    if width < NARROW:
        return [line for name, text in rows for line in (f"  {name}", _wrapped(text, width, "      ", first="      "))]
    column = min(max(len(name) for name, _ in rows), NAMES) + 4
    lines = []
    for name, text in rows:
        fits = len(name) + 4 <= column
        lines += [] if fits else [f"  {name}"]
        lines.append(_wrapped(text, width, " " * column, first=f"  {name if fits else ''}".ljust(column)))
    return lines


def _wrapped(text: str, width: int, indent: str, *, first: str = "") -> str:
    return textwrap.fill(
        text, width, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _bold(head: str) -> str:
    """A heading; typer takes the style away where no terminal shows it."""
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return head if plain else typer.style(head, bold=True)
