"""What every public function does around its work: the caller's torch is left as it was, and options are checked."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import torch
from pydantic import ValidationError

from ntt_cli.config import LEAVE_OUT, UNREAD, Options, in_words, typed
from ntt_cli.errors import UsageError
from ntt_cli.runtime.events import Event, EventSink, Warned
from ntt_cli.runtime.progress import progress_lines
from ntt_cli.runtime.seeding import global_draws_apart

Progress = bool | Callable[[Event], None]
"""`True` writes lines to stderr now and then; a function is given each event; `False` is silent."""

LOGGER = logging.getLogger("ntt_cli")
"""Warnings go here; nobody sees them unless the caller sets logging up."""
LOGGER.addHandler(logging.NullHandler())

C = TypeVar("C", bound=Options)


def configured(kind: type[C], values: dict[str, Any]) -> C:
    """The configuration of these options.

    Raises:
        UsageError: if one is unknown, missing, of the wrong type or out of bounds, or nothing reads it.
    """
    try:
        return kind.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        name = str(problems[0]["loc"][0]) if problems[0]["loc"] else ""
        where = name or "options"
        if name in values:
            where = f"{name}={typed(values[name]) or values[name]}"
        what = in_words([problem for problem in problems if problem["loc"][:1] == problems[0]["loc"][:1]])
        field = kind.model_fields.get(name)
        known = field.description if field else None
        hint = LEAVE_OUT if problems[0]["type"] == UNREAD else known or "leave one of them out"
        raise UsageError(where, what, hint=hint) from error


@contextlib.contextmanager
def apart(progress: Progress) -> Generator[tuple[EventSink, list[str]]]:
    """Do the work with torch as ntt expects it, and leave everything as the caller had it.

    That is the global random state, the default dtype and device, gradient modes and warning filters.

    Yields:
        who is told of events, and the list in which warnings gather.
    """
    told: list[str] = []
    show = progress_lines() if progress is True else progress or None

    def on_event(event: Event) -> None:
        if isinstance(event, Warned):
            told.append(event.message)
            LOGGER.warning(event.message)
        if show is not None:
            show(event)

    dtype = torch.get_default_dtype()
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # torch deprecates parts of itself that it still calls; its users can do nothing about it.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(global_draws_apart())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        torch.set_default_dtype(torch.float32)
        try:
            yield on_event, told
        finally:
            torch.set_default_dtype(dtype)
