"""Errors that a user can act on, where a process hands one to another."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from ntt_cli import errors


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.NttError)]
)
def test_an_error_survives_the_way_between_two_processes(kind: type[errors.NttError]) -> None:
    error = kind(Path("model.py"), "there is no such file", hint="look again")

    copy = pickle.loads(pickle.dumps(error))

    assert type(copy) is kind
    assert (copy.where, copy.what, copy.hint, str(copy)) == (
        "model.py",
        "there is no such file",
        "look again",
        "model.py: there is no such file",
    )
