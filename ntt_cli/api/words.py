"""Errors in the words of Python: those of the rooms below name the options of the command line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Generator

from ntt_cli.errors import NttError

_TEXTS = {
    "use one folder a class, or arrays with a key y": "give a pair (inputs, labels), or a Dataset or DataLoader of such"
    " pairs",
    "name other data with --data, change the images with --image-size or --grayscale, or the model": "give inputs of"
    " the shape that the network takes",
    "name labelled data with --data, or the dense weights with --teacher": "give a pair (inputs, labels), or the dense"
    " network as teacher",
    "name labelled data with --test-data": "give a pair (inputs, labels) as test_data",
    "name the model, and the --model-arg values, that it was made with": "give the network that they were made with",
    "return network.float() from its factory": "give network.float()",
    "in your model.py": "in your network",
    " (--model-arg)": "",
    "; --debug shows the traceback": "",
    "; --debug shows where it is": "",
}
"""What the command line says, and what it means where the network and the data are objects."""

_FLAGS = "allow-mismatch|compile|dense|download|dry-run|force|grayscale|ignore-extra|keep-zeros|kernels|plan|png|resume"
_VALUE = r"""(?:[\d"'][^\s,;]*|auto|paper|[A-Z]+(?:=[A-Z]+)?)(?![a-z])"""


def in_python(text: str) -> str:
    """The text with keyword arguments in the place of options: `steps=500` for `--steps 500`."""
    for typed, meant in _TEXTS.items():
        text = text.replace(typed, meant)
    text = re.sub(r"--method ntt:([a-z-]+)=", lambda found: f"{_name(found[1])}=", text)
    text = re.sub(r"^--([a-z-]+) (\S+)$", lambda found: f"{_name(found[1])}={found[2]}", text)
    text = re.sub(rf"(?<!leave out )--({_FLAGS})\b(?!-)", lambda found: f"{_name(found[1])}=True", text)
    text = re.sub(rf"--([a-z-]+) ({_VALUE})", lambda found: f"{_name(found[1])}={found[2]}", text)
    return re.sub(r"--([a-z][a-z-]*)", lambda found: _name(found[1]), text)


@contextlib.contextmanager
def told_in_python(*, objects: bool = False) -> Generator[None]:
    """Show the hint of an error below its traceback.

    If `objects`, the network or the data is an object, so that no command line can be meant: the error itself is put in
    the words of Python, too.

    Yields:
        nothing.

    Raises:
        NttError: as it was raised, with a note.
    """
    try:
        yield
    except NttError as error:
        if objects:
            error.where, error.what, error.hint = map(in_python, (error.where, error.what, error.hint))
            error.args = (error.where, error.what)
        note = f"hint: {in_python(error.hint)}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise


def _name(flag: str) -> str:
    return flag.replace("-", "_")
