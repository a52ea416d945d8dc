from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from ntt_cli.errors import OutputError
from ntt_cli.files import results
from ntt_cli.files.results import (
    ALWAYS,
    RESULT,
    SETTINGS,
    Result,
    open_folder,
    read_result,
    read_results,
    read_settings,
)

RECORDED: dict[str, Any] = dict.fromkeys(ALWAYS) | {"epochs": 1}
WANTED = RECORDED | {"training data": "ab" * 32}


def refusal(folder: Path, settings: dict[str, Any]) -> OutputError:
    with pytest.raises(OutputError) as caught:
        open_folder(folder, settings, write=True)
    assert caught.value.exit_code == 2
    return caught.value


def test_many_at_once_make_one_folder(tmp_path: Path) -> None:
    for attempt in range(20):
        folder, start, failed = tmp_path / str(attempt), threading.Barrier(8), []

        def claim(folder: Path = folder, start: threading.Barrier = start, failed: list[Exception] = failed) -> None:
            start.wait()
            try:
                open_folder(folder, WANTED, write=True)
                (folder / "trials").mkdir(exist_ok=True)  # the first has begun when the last comes
            except Exception as error:
                failed.append(error)

        claims = [threading.Thread(target=claim) for _ in range(8)]
        for thread in claims:
            thread.start()
        for thread in claims:
            thread.join()
        assert failed == []
        assert read_settings(folder) == WANTED
        assert {path.name for path in folder.iterdir()} == {SETTINGS, "trials"}


def test_one_that_comes_second_to_another_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its look at the folder and its claim, somebody else claims it."""
    create = results.create_atomically

    def late(path: Path, content: bytes) -> bool:
        assert create(path, json.dumps(RECORDED | {"epochs": 2}).encode())
        return create(path, content)

    monkeypatch.setattr(results, "create_atomically", late)
    assert "another epochs: 2, not 1" in refusal(tmp_path / "x", WANTED).what


@pytest.mark.parametrize("name", [".comparison.json.1.tmp", ".comparison.json.4242.0123abcd.tmp"])
def test_what_a_killed_comparison_left_is_no_hindrance(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{")
    os.utime(tmp_path / name, (0, 0))
    open_folder(tmp_path, WANTED, write=True)
    open_folder(tmp_path, WANTED, write=True)
    assert {path.name for path in tmp_path.iterdir()} == {SETTINGS}


@pytest.mark.parametrize("name", ["thesis.tex", ".comparison.json.notes.tmp", ".hidden"])
def test_a_folder_of_something_else(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert refusal(tmp_path, WANTED).what == "holds something other than a comparison"
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_all_that_differs_is_named_and_hashes_are_short(tmp_path: Path) -> None:
    open_folder(tmp_path, WANTED, write=True)
    error = refusal(tmp_path, RECORDED | {"epochs": 2, "training data": "cd" * 32})
    assert error.what == (
        "holds a comparison with another epochs: 1, not 2; another training data: abababababab…, not cdcdcdcdcdcd…"
    )
    assert error.hint == "name another folder with --output, or compare what it was begun with"


def test_what_an_older_ntt_did_not_record(tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_text(json.dumps(RECORDED))
    for write in (False, True):
        assert open_folder(tmp_path, WANTED, write=write) == ["training data"]
    assert open_folder(tmp_path, WANTED, write=True) == []  # it is added, and compared from then on
    assert "another training data" in refusal(tmp_path, WANTED | {"training data": "cd" * 32}).what
    assert "another epochs" in refusal(tmp_path, WANTED | {"epochs": 2}).what


def test_many_at_once_add_to_one_folder(tmp_path: Path) -> None:
    open_folder(tmp_path, WANTED, write=True)
    start = threading.Barrier(8)

    def join_in(number: int) -> None:
        start.wait()
        for more in range(5):
            open_folder(tmp_path, WANTED | {f"data of {number}.{more}": "ef" * 32}, write=True)

    threads = [threading.Thread(target=join_in, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_settings(tmp_path)) == len(WANTED) + 40


def test_looking_makes_nothing(tmp_path: Path) -> None:
    assert open_folder(tmp_path / "x", WANTED, write=False) == []
    assert open_folder(tmp_path, WANTED, write=False) == []
    assert not list(tmp_path.iterdir())


class Anything(Result):
    """A result without a field."""


def test_trials_where_an_older_ntt_put_them(tmp_path: Path) -> None:
    open_folder(tmp_path, WANTED, write=True)
    (tmp_path / "cells").mkdir()
    for look in (
        lambda: open_folder(tmp_path, WANTED, write=True),
        lambda: open_folder(tmp_path, WANTED, write=False),
        lambda: read_results(tmp_path, Anything),
    ):
        with pytest.raises(
            OutputError, match="holds a comparison of an older ntt, with its trials in cells/"
        ) as caught:
            look()
        assert caught.value.hint == "rename its folder cells to trials, or begin anew in another folder"
    (tmp_path / "cells").rename(tmp_path / "trials")
    assert open_folder(tmp_path, WANTED, write=True) == []
    assert read_results(tmp_path, Anything) == {}


DAMAGED = [
    ("", "is cut short or damaged: it is no JSON"),
    ('{"model": ', "is cut short or damaged: it is no JSON"),
    (b"\xff\xfe", "is cut short or damaged: it is no JSON"),
    ('{"model": NaN}', "is damaged: it holds NaN"),
    ("link", "is a link to nowhere, where no file is"),
    ("folder", "is a folder, a device or a pipe, not a file"),
]


def damage(path: Path, content: str | bytes) -> None:
    if content == "link":
        path.symlink_to("nowhere")
    elif content == "folder":
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize(
    ("content", "what"),
    [
        *DAMAGED,
        *((text, "is not a comparison's settings") for text in ("[]", "{}", "3", '{"epochs": 1}')),
        *((json.dumps({k: v for k, v in WANTED.items() if k != name}), "is not a comp") for name in sorted(ALWAYS)),
    ],
)
def test_settings_that_ntt_did_not_write(tmp_path: Path, content: str | bytes, what: str) -> None:
    damage(tmp_path / SETTINGS, content)
    for look in (
        lambda: open_folder(tmp_path, WANTED, write=True),
        lambda: open_folder(tmp_path, WANTED, write=False),
        lambda: read_settings(tmp_path),
    ):
        with pytest.raises(OutputError, match=what) as caught:
            look()
        assert caught.value.where == str(tmp_path / SETTINGS)
        assert caught.value.hint == "put back the file that ntt wrote, or compare anew in another folder"


@pytest.mark.parametrize(("content", "what"), [*DAMAGED, ("[]", "is not a result of this version of ntt")])
def test_a_result_that_cannot_be_read_can_be_made_anew(tmp_path: Path, content: str | bytes, what: str) -> None:
    damage(tmp_path / RESULT, content)
    with pytest.raises(OutputError, match=what) as caught:
        read_result(tmp_path, Anything)
    assert caught.value.hint == "remove it, and it is made anew"
