"""Report a command line that cannot be parsed like every other error."""

from __future__ import annotations

import difflib
import re
from typing import Any

from ntt_cli.cli.run import tell_error
from ntt_cli.cli.streams import make_streams
from ntt_cli.config import COMMANDS, advice, flag, typed
from ntt_cli.errors import UsageError

NEAR = 0.85
"""How much alike an option of another command must be, by difflib's ratio, to be the one that was meant."""


def tell_bad_usage(error: Any, command: str, *, as_json: bool) -> int:
    """Print what is wrong with a line that begins with `command`, and return the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return UsageError.exit_code
    return tell_error(make_streams(as_json=as_json, quiet=False), _in_our_words(error, command))


def _nearest(option: str, known: list[str], context: Any) -> str | None:
    """The option that was meant: of another command, if that has one that is nearer by far."""
    own = {name for parameter in context.command.params for name in parameter.opts}
    others = {
        flag(name, config.arguments): command for command, config in COMMANDS.items() for name in config.model_fields
    }
    (near,) = difflib.get_close_matches(option, [*own, *others], n=1, cutoff=NEAR) or [""]
    if near and near not in own:
        return f"did you mean {near} of ntt {others[near]}?"
    return f"did you mean {' or '.join(sorted(known))}?" if known else None


def _options_of(command: str, context: Any) -> set[str]:
    """The options of a command that the parser had not come to; none if it had, and none without a command."""
    found = getattr(context.command, "commands", {}).get(command.removeprefix("ntt "))
    return {name for parameter in found.params for name in parameter.opts} if found is not None else set()


def _in_our_words(error: Any, command: str) -> UsageError:
    help_lists = f"{command} --help lists what there is"
    said = error.format_message()
    option = getattr(error, "option_name", None)
    if option is not None and hasattr(error, "possibilities"):
        if option in _options_of(command, error.ctx):
            return UsageError(typed(option), "stands before the command", hint=f"options follow it: {command} {option}")
        hint = _nearest(option, error.possibilities or [], error.ctx) or help_lists
        return UsageError(typed(option), f"is not an option of {command}", hint=hint)
    if option is not None:
        return UsageError(typed(option), "takes no value" if "not take" in said else "needs a value", hint=help_lists)
    if getattr(error, "param", None) is not None:
        name = error.param.name.upper() if error.param.param_type_name == "argument" else error.param.opts[0]
        what = "is required" if type(error).__name__ == "MissingParameter" else f"cannot be read: {error.message}"
        return UsageError(name, what, hint=help_lists)
    if extra := re.fullmatch(r"Got unexpected extra argument(?:s|\(s\))? \((.*)\)", said, flags=re.DOTALL):
        return UsageError(typed(extra[1]), "is one argument too many", hint=help_lists)
    if unknown := re.match(r"No such command '(.*?)'", said, flags=re.DOTALL):
        hint = advice(unknown[1], list(error.ctx.command.commands))
        return UsageError(typed(unknown[1]), "is not a command", hint=hint)
    return UsageError(command, said, hint=help_lists)
