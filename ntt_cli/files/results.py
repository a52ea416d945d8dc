"""The folder of a comparison: its settings, each trial's result, and all results as JSON lines and CSV."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import os
import stat
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ntt_cli.errors import OutputError, os_error_as
from ntt_cli.files.atomic import HOUR, create_atomically, is_temporary, remove_orphans, write_atomically
from ntt_cli.files.strict_json import parse_json

SETTINGS = "comparison.json"
TRIALS = "trials"
OLD_TRIALS = "cells"
"""The name that older versions of ntt gave to the folder of the trials."""

RESULT = "result.json"
ALWAYS = {"model", "model file", "data", "limit", "weights", "epochs", "optimiser", "learning_rates", "first seed"}
"""Settings that every version of ntt recorded; a file without one of them is not ntt's."""

TABLES = ("results.jsonl", "results.csv")
NOT_IN_CSV = {"seconds", "validation_by_rate", "metrics", "metrics_as_pruned"}
"""Columns left out of the CSV: they may differ from run to run, or are not a single value."""

MEND_SETTINGS = "put back the file that ntt wrote, or compare anew in another folder"
MEND_RESULT = "remove it, and it is made anew"


class Result(BaseModel):
    """Base of the contents of a trial's file."""

    @property
    def trial(self) -> str:
        """The name of the trial, which is also the name of its folder."""
        raise NotImplementedError


R = TypeVar("R", bound=Result)


def open_folder(folder: Path, settings: Mapping[str, Any], *, write: bool) -> list[str]:
    """Make the folder (if `write`), or check that it holds a comparison with the same settings.

    Several processes may do this at the same time: one of them makes the folder, and the others find it. The folder may
    lack settings, because older versions of ntt did not record them or because methods were added later. Missing
    settings are added (if `write`) and returned.

    Raises:
        OutputError: if the folder holds something else, or cannot be made or read.
    """
    wanted = json.loads(json.dumps(settings))
    path = folder / SETTINGS
    if not _is_there(path, hint=MEND_SETTINGS):
        if not write and not folder.exists():
            return []
        with os_error_as(OutputError, folder, "cannot be made", hint="name another with --output"):
            folder.mkdir(parents=True, exist_ok=True)
            others = any(not is_temporary(entry, path) for entry in folder.iterdir())
        if others and not path.exists():  # another process may have written it meanwhile
            hint = "name another folder with --output"
            raise OutputError(folder, "holds something other than a comparison", hint=hint)
        if not write or create_atomically(path, _settings_text(wanted)):
            return []
    _refuse_old_trials(folder)
    if not write:
        return _compare(folder, read_settings(folder), wanted)
    for written in (path, *(folder / name for name in TABLES)):
        remove_orphans(written, older_than=HOUR)
    with _alone_in(folder):
        found = read_settings(folder)
        if missing := _compare(folder, found, wanted):
            write_atomically(path, _settings_text(found | {name: wanted[name] for name in missing}))
    return missing


def _compare(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    # The wanted settings that the folder lacks; those that it has must not differ.
    if differing := [name for name in wanted if name in found and found[name] != wanted[name]]:
        what = "; ".join(f"another {name}: {short(found[name])}, not {short(wanted[name])}" for name in differing)
        hint = "name another folder with --output, or compare what it was begun with"
        raise OutputError(folder, f"holds a comparison with {what}", hint=hint)
    return [name for name in wanted if name not in found]


def _settings_text(settings: Mapping[str, Any]) -> bytes:
    return (json.dumps(settings, indent=2) + "\n").encode()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    # Wait until no other process adds to the settings. The lock ends with the process that holds it.
    with os_error_as(OutputError, folder, "cannot be opened", hint="name another with --output"):
        number = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems have no locks
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def short(value: object) -> str:
    """A setting, shortened for a message; of a hash the first digits."""
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def read_result(trial: Path, kind: type[R]) -> R | None:
    """A trial's result; `None` if it has none yet. It must be this trial's."""
    path = trial / RESULT
    if not _is_there(path, hint=MEND_RESULT):
        return None
    try:
        result = kind.model_validate(_read_json(path, hint=MEND_RESULT))
    except ValidationError as error:
        raise OutputError(path, "is not a result of this version of ntt", hint=MEND_RESULT) from error
    if result.trial != trial.name:
        raise OutputError(trial, "holds the result of another trial", hint=MEND_RESULT)
    return result


def read_settings(folder: Path) -> dict[str, Any]:
    path = folder / SETTINGS
    if not _is_there(path, hint=MEND_SETTINGS):
        hint = "name the folder that ntt compare wrote, or a report file"
        raise OutputError(folder, "holds no comparison", hint=hint)
    content = _read_json(path, hint=MEND_SETTINGS)
    if not isinstance(content, dict) or not content.keys() >= ALWAYS:
        raise OutputError(path, "is not a comparison's settings", hint=MEND_SETTINGS)
    return content


def read_results(folder: Path, kind: type[R]) -> dict[Path, R]:
    """All results so far, by the folders of their trials, sorted by name."""
    _refuse_old_trials(folder)
    trials = sorted(path.parent for path in (folder / TRIALS).glob(f"*/{RESULT}"))
    return {trial: result for trial in trials if (result := read_result(trial, kind)) is not None}


def write_result(trial: Path, result: BaseModel) -> None:
    """Write a trial's result; the trial counts as done from then on."""
    write_atomically(trial / RESULT, (result.model_dump_json(indent=2) + "\n").encode())


def write_tables(folder: Path, results: Sequence[BaseModel]) -> None:
    """Write `results.jsonl`, and `results.csv` without the values that may differ from run to run."""
    lines = "".join(result.model_dump_json() + "\n" for result in results)
    write_atomically(folder / TABLES[0], lines.encode())
    table = io.StringIO(newline="")
    rows = [result.model_dump(exclude=NOT_IN_CSV) for result in results]
    if rows:
        writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_atomically(folder / TABLES[1], table.getvalue().encode())


def _refuse_old_trials(folder: Path) -> None:
    # The trials of an older version of ntt are in another folder: the two must not be mixed.
    if (folder / OLD_TRIALS).exists():
        what = f"holds a comparison of an older ntt, with its trials in {OLD_TRIALS}/"
        hint = f"rename its folder {OLD_TRIALS} to {TRIALS}, or begin anew in another folder"
        raise OutputError(folder, what, hint=hint)


def _is_there(path: Path, *, hint: str) -> bool:
    # Whether there is such a file; nothing else may be in its place.
    try:
        mode = path.stat().st_mode  # one call to stat: another process may make the file between two
    except OSError as error:
        if path.is_symlink():
            raise OutputError(path, f"is a link to {path.readlink()}, where no file is", hint=hint) from error
        return False
    if not stat.S_ISREG(mode):
        raise OutputError(path, "is a folder, a device or a pipe, not a file", hint=hint)
    return True


def _read_json(path: Path, *, hint: str) -> Any:
    try:
        with os_error_as(OutputError, path, "cannot be read", hint=hint):
            return parse_json(path.read_bytes().decode())
    except (json.JSONDecodeError, UnicodeError) as error:
        raise OutputError(path, "is cut short or damaged: it is no JSON", hint=hint) from error
    except ValueError as error:
        raise OutputError(path, f"is damaged: {error}", hint=hint) from error
