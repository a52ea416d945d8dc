"""What every public function does around its work: the caller's torch is left as it was, and options are checked."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from os import PathLike, fspath
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from ntt_cli.api.words import in_python, told_in_python
from ntt_cli.config import Options, advice, problem_of, typed
from ntt_cli.errors import UsageError
from ntt_cli.runs.sources import AS_NAMED, Sources
from ntt_cli.runtime.events import Event, EventSink, Noted, Warned
from ntt_cli.runtime.progress import progress_lines
from ntt_cli.runtime.seeding import global_draws_apart

Progress = bool | Callable[[Event], None]
"""`True` writes lines to stderr now and then; a function is given each event; `False` is silent."""

LOGGER = logging.getLogger("ntt_cli")
"""Warnings go here; nobody sees them unless the caller sets logging up."""
LOGGER.addHandler(logging.NullHandler())

C = TypeVar("C", bound=Options)


@told_in_python(objects=True)
def configured(kind: type[C], values: dict[str, Any]) -> C:
    """The configuration of these options. `None` leaves one out."""
    fields = kind.model_fields
    for name in values:
        if name not in fields:
            raise UsageError(f"{name}={typed(values[name])}", "is not an option", hint=advice(name, sorted(fields)))
    given = {name: _as_option(value, kind, name) for name, value in values.items() if value is not None}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        problem = problem_of(error, kind)
        where = problem.name or "options"
        if (value := values.get(where)) is not None:
            where = f"{where}={typed(value) or value}"
        raise UsageError(where, problem.what, hint=problem.hint) from error


def _as_option(value: object, kind: type[Options], name: str) -> object:
    """A value as the command line would have it: one thing for a list, `3x32` for a shape, `KEY=VALUE` for a dict."""
    field = kind.model_fields[name]
    several, number = isinstance(field.default, tuple), isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, PathLike):
        return fspath(value)
    if several and isinstance(value, Mapping):
        return tuple(f"{key}={of_it}" for key, of_it in value.items())
    if several and (number or isinstance(value, str)):
        return (value,)
    if field.annotation in {str, str | None}:
        if isinstance(value, list | tuple):
            return ("x" if name in {"image_size", "input_shape"} else ",").join(map(str, value))
        return str(value) if number else value
    return value


@told_in_python()
def require_output(output: object, options: Mapping[str, Any]) -> None:
    """Refuse options about files where none is written."""
    for name in ("force", "resume", "allow_mismatch", "checkpoint_every"):
        if output is None and options.get(name):
            what = "nothing is written, so that nothing reads it"
            raise UsageError(f"{name}={options[name]}", what, hint="give output, or leave it out")


@told_in_python()
def _shown(progress: Progress | None) -> Callable[[Event], None] | None:
    if progress is True:
        return progress_lines()
    if progress and not callable(progress):
        hint = "give True for lines on stderr, or a function that takes an event"
        raise UsageError("progress", f"is a value of type {type(progress).__name__}", hint=hint)
    return progress or None


@contextlib.contextmanager
def apart(progress: Progress = False, sources: Sources = AS_NAMED) -> Generator[tuple[EventSink, list[str]]]:
    """Do the work with torch as ntt expects it, and leave everything as the caller had it.

    That is the global random state, the default dtype and device, gradient modes and warning filters. Errors show their
    hint below the traceback. Where there are objects among the sources, events and errors speak of keyword arguments.

    Yields:
        who is told of events, and the list in which warnings gather.
    """
    told: list[str] = []
    show = _shown(progress)

    def on_event(event: Event) -> None:
        if sources.in_memory and isinstance(event, Noted | Warned):
            event = replace(event, message=in_python(event.message))
        if isinstance(event, Warned):
            told.append(event.message)
            LOGGER.warning(event.message)
        if show is not None:
            show(event)

    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(told_in_python(objects=sources.in_memory))
        stack.enter_context(warnings.catch_warnings())
        # torch deprecates parts of itself that it still calls; its users can do nothing about it.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.cuda.is_initialized():
            stack.enter_context(torch.random.fork_rng(range(torch.cuda.device_count())))
        stack.enter_context(global_draws_apart())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        try:
            yield on_event, told
        finally:
            torch.set_default_dtype(dtype)
