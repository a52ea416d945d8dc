"""The folder of a comparison: what it compares, each trial's result, and all results as JSON lines and CSV."""

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

from ntt_cli.errors import OutputError
from ntt_cli.files.atomic import HOUR, create_atomically, is_temporary, remove_orphans, write_atomically
from ntt_cli.files.strict_json import parse_json

SETTINGS = "comparison.json"
TRIALS = "trials"
OLD_TRIALS = "cells"
"""What an older ntt called the folder of the trials."""

RESULT = "result.json"
ALWAYS = {"model", "model file", "data", "limit", "weights", "epochs", "optimiser", "learning_rates", "first seed"}
"""Settings that every ntt recorded; where one is missing, somebody else wrote the file."""

TABLES = ("results.jsonl", "results.csv")
NOT_IN_CSV = {"seconds", "validation_by_rate"}
"""What may differ from run to run, and what is no single value."""

MEND_SETTINGS = "put back the file that ntt wrote, or compare anew in another folder"
MEND_RESULT = "remove it, and it is made anew"


class Result(BaseModel):
    """Base of what a trial's file holds."""

    @property
    def trial(self) -> str:
        """The name of the trial, which is that of its folder."""
        raise NotImplementedError


R = TypeVar("R", bound=Result)


def open_folder(folder: Path, settings: Mapping[str, Any], *, write: bool) -> list[str]:
    """Make the folder (if `write`), or make sure that it holds a comparison with the same settings.

    Several processes may do so at the same time: one of them makes it, and the others find it made. Settings that it
    lacks, as an older ntt left some out and methods may join in, are added (if `write`).

    Returns:
        the settings that it lacked.

    Raises:
        OutputError: if it is something else, an older ntt began it, or it cannot be made or read.
    """
    wanted = json.loads(json.dumps(settings))
    path = folder / SETTINGS
    if not _is_there(path, hint=MEND_SETTINGS):
        if not write and not folder.exists():
            return []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            others = any(not is_temporary(entry, path) for entry in folder.iterdir())
        except OSError as error:
            raise OutputError(folder, f"cannot be made: {error.strerror}", hint="name another with --output") from error
        if others and not path.exists():  # which another process may have written meanwhile
            raise OutputError(
                folder, "holds something other than a comparison", hint="name another folder with --output"
            )
        if not write or create_atomically(path, _settings_text(wanted)):
            return []
    _refuse_old_trials(folder)
    if not write:
        return _compare(folder, _read_settings(path), wanted)
    for written in (path, *(folder / name for name in TABLES)):
        remove_orphans(written, older_than=HOUR)
    with _alone_in(folder):
        found = _read_settings(path)
        missing = _compare(folder, found, wanted)
        if missing:
            write_atomically(path, _settings_text(found | {name: wanted[name] for name in missing}))
    return missing


def _compare(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The settings that are wanted and not there.

    Raises:
        OutputError: if one is there and differs.
    """
    differing = [name for name in wanted if name in found and found[name] != wanted[name]]
    if differing:
        what = "; ".join(f"another {name}: {short(found[name])}, not {short(wanted[name])}" for name in differing)
        raise OutputError(
            folder,
            f"holds a comparison with {what}",
            hint="name another folder with --output, or compare what it was begun with",
        )
    return [name for name in wanted if name not in found]


def _settings_text(settings: Mapping[str, Any]) -> bytes:
    return (json.dumps(settings, indent=2) + "\n").encode()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Generator[None]:
    """Wait for others that add to the settings; the lock dies with its holder, and some file systems have none.

    Raises:
        OutputError: if the folder may not be read.
    """
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(folder, f"cannot be opened: {error.strerror}", hint="name another with --output") from error
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def short(value: object) -> str:
    """A setting in as many letters as one reads: a hash by its first."""
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text


def read_result(trial: Path, kind: type[R]) -> R | None:
    """A trial's result; `None` if it has none yet.

    Raises:
        OutputError: if there is one that ntt did not write, or wrote for another trial.
    """
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
    """What the comparison in this folder compares.

    Raises:
        OutputError: if there is none, or it cannot be read.
    """
    if not _is_there(folder / SETTINGS, hint=MEND_SETTINGS):
        raise OutputError(
            folder, "holds no comparison", hint="name the folder that ntt compare wrote, or a report file"
        )
    return _read_settings(folder / SETTINGS)


def read_results(folder: Path, kind: type[R]) -> dict[Path, R]:
    """The results that there are, by the folders of their trials, in the order of the names.

    Raises:
        OutputError: if one of them is not a result, or an older ntt began the comparison.
    """
    _refuse_old_trials(folder)
    trials = sorted(path.parent for path in (folder / TRIALS).glob(f"*/{RESULT}"))
    return {trial: result for trial in trials if (result := read_result(trial, kind)) is not None}


def write_result(trial: Path, result: BaseModel) -> None:
    """Write a trial's result; the trial counts as done from then on."""
    write_atomically(trial / RESULT, (result.model_dump_json(indent=2) + "\n").encode())


def write_tables(folder: Path, results: Sequence[BaseModel]) -> None:
    """Write `results.jsonl`, and `results.csv` without what may differ from run to run."""
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
    """Refuse a comparison whose trials lie where an older ntt put them: two folders of trials must not be mixed.

    Raises:
        OutputError: if there is such a folder of trials.
    """
    if (folder / OLD_TRIALS).exists():
        raise OutputError(
            folder,
            f"holds a comparison of an older ntt, with its trials in {OLD_TRIALS}/",
            hint=f"rename its folder {OLD_TRIALS} to {TRIALS}, or begin anew in another folder",
        )


def _is_there(path: Path, *, hint: str) -> bool:
    """Whether there is such a file.

    Raises:
        OutputError: if something else is in its place.
    """
    try:
        mode = path.stat().st_mode  # one look: another process may make the file meanwhile
    except OSError as error:
        if path.is_symlink():
            raise OutputError(path, f"is a link to {path.readlink()}, where no file is", hint=hint) from error
        return False
    if not stat.S_ISREG(mode):
        raise OutputError(path, "is a folder, a device or a pipe, not a file", hint=hint)
    return True


def _read_settings(path: Path) -> dict[str, Any]:
    content = _read_json(path, hint=MEND_SETTINGS)
    if not isinstance(content, dict) or not content.keys() >= ALWAYS:
        raise OutputError(path, "is not a comparison's settings", hint=MEND_SETTINGS)
    return content


def _read_json(path: Path, *, hint: str) -> Any:
    try:
        return parse_json(path.read_bytes().decode())
    except OSError as error:
        raise OutputError(path, f"cannot be read: {error.strerror}", hint=hint) from error
    except (json.JSONDecodeError, UnicodeError) as error:
        raise OutputError(path, "is cut short or damaged: it is no JSON", hint=hint) from error
    except ValueError as error:
        raise OutputError(path, f"is damaged: {error}", hint=hint) from error
