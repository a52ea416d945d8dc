from __future__ import annotations

import errno
import os
import re
import resource
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ntt_cli.errors import OutputError
from ntt_cli.files.atomic import (
    HOUR,
    can_sync,
    check_outputs,
    check_writable,
    create_atomically,
    file_sha256,
    remove_durably,
    remove_orphans,
    report_path,
    sha256_of,
    write_atomically,
)


def refusal(work: Callable[..., Any], *arguments: Any, **options: Any) -> OutputError:
    with pytest.raises(OutputError) as caught:
        work(*arguments, **options)
    assert caught.value.exit_code == 2
    return caught.value


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def act(*_: Any, **__: Any) -> NoReturn:
        raise error

    return act


def test_a_new_file_is_writable_and_the_question_leaves_nothing_behind(tmp_path: Path) -> None:
    check_writable(tmp_path / "new", force=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [250, 300])
def test_a_name_that_leaves_no_room_for_the_temporary_file(tmp_path: Path, length: int) -> None:
    error = refusal(check_writable, tmp_path / ("x" * length), force=True)
    assert (error.what, error.hint) == ("is too long a name", "name a shorter --output")
    assert len(error.where) == 100


def test_an_existing_file_needs_force(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_text("mine")
    error = refusal(check_writable, path, force=False)
    assert str(error) == f"{path}: exists already"
    assert "--force" in error.hint
    check_writable(path, force=True)
    assert path.read_text() == "mine"


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_no_file(tmp_path: Path, force: bool) -> None:
    assert "is a folder" in str(refusal(check_writable, tmp_path, force=force))


def test_missing_folder(tmp_path: Path) -> None:
    error = refusal(check_writable, tmp_path / "a" / "b" / "x", force=True)
    assert "its folder does not exist" in str(error)
    assert error.hint == f"mkdir -p {tmp_path / 'a' / 'b'}"


def test_a_path_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    error = refusal(check_writable, tmp_path / "a" / "b" / "x", force=True)
    assert f"{tmp_path / 'a'} is not a folder" in str(error)


def test_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = OSError(errno.EROFS, "Read-only file system")
    monkeypatch.setattr(tempfile, "TemporaryFile", raising(failure))
    error = refusal(check_writable, tmp_path / "x", force=False)
    assert str(error) == f"{tmp_path}: cannot be written to: Read-only file system"
    assert "--output" in error.hint


@pytest.mark.parametrize(
    ("output", "report"),
    [("sparse.safetensors", "sparse.report.safetensors"), ("a/b.v2.safetensors", "a/b.v2.report.safetensors")],
)
def test_the_report_lies_beside_the_checkpoint(output: str, report: str) -> None:
    assert report_path(Path(output)) == Path(report)


@pytest.mark.parametrize("name", ["model.pt", "sparse", "sparse.v2", "notes.txt"])
def test_a_checkpoint_is_named_as_what_it_is(tmp_path: Path, name: str) -> None:
    error = refusal(check_outputs, tmp_path / name, force=False)
    assert "is not named .safetensors" in str(error)
    assert error.hint.endswith(str(tmp_path / name.partition(".")[0]) + ".safetensors")


@pytest.mark.parametrize("output", ["", ".", "/"])
def test_a_checkpoint_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is a folder" in str(refusal(check_outputs, Path(output), force=True))


def test_an_existing_report_needs_force_too(tmp_path: Path) -> None:
    (tmp_path / "x.report.safetensors").write_text("mine")
    error = refusal(check_outputs, tmp_path / "x.safetensors", force=False)
    assert error.where.endswith("x.report.safetensors")
    check_outputs(tmp_path / "x.safetensors", force=True)


def test_write(tmp_path: Path) -> None:
    write_atomically(tmp_path / "x", b"new")
    write_atomically(tmp_path / "x", b"newer")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"newer")]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "x", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode


def test_data_reach_the_disk_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(number: int) -> None:
        happened.append(f"fsync {Path(os.readlink(f'/proc/self/fd/{number}')).name}")
        fsync(number)

    def noted_replace(path: Path, target: Path) -> Path:
        happened.append(f"rename {path.name} {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    write_atomically(tmp_path / "x", b"data")
    temporary = happened[0].removeprefix("fsync ")
    assert re.fullmatch(rf"\.x\.{os.getpid()}\.[0-9a-f]{{8}}\.tmp", temporary)
    assert happened == [f"fsync {temporary}", f"rename {temporary} x", f"fsync {tmp_path.name}"]


FAILURES = [(os, "fsync"), (Path, "replace"), (Path, "open")]


@pytest.mark.parametrize("existing", [None, b"old"])
@pytest.mark.parametrize(("owner", "name"), FAILURES, ids=[name for _, name in FAILURES])
def test_a_failure_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, existing: bytes | None
) -> None:
    path = tmp_path / "x"
    if existing is not None:
        path.write_bytes(existing)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, raising(OSError(errno.EIO, "Input/output error")))
        error = refusal(write_atomically, path, b"new")
    assert str(error) == f"{path}: cannot be written: Input/output error"
    assert {entry: entry.read_bytes() for entry in tmp_path.iterdir()} == ({path: existing} if existing else {})


def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN  # Python's default: the write fails instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        error = refusal(write_atomically, path, bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "cannot be written: File too large" in str(error)
    assert "free some space" in error.hint
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("x", b"old")]


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit()], ids=repr)
def test_an_interruption_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interruption: BaseException
) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", raising(interruption))
        with pytest.raises(type(interruption)):
            write_atomically(path, b"new")
    assert [(entry.name, entry.read_bytes()) for entry in tmp_path.iterdir()] == [("x", b"old")]


def test_orphans_are_removed_whatever_process_they_are_of(tmp_path: Path) -> None:
    path = tmp_path / "x[1].safetensors"
    numbers = ("1", f"{os.getpid()}", f"{os.getppid()}", "4194305", f"{os.getppid()}.0123abcd")
    gone = [tmp_path / f".{path.name}.{number}.tmp" for number in numbers]
    others = [
        tmp_path / f".{path.name}.notes.tmp",
        tmp_path / f".{path.name}.1.notes.tmp",
        tmp_path / f".{path.name}.resume.1.tmp",
        tmp_path / ".y.safetensors.1.tmp",
        path,
    ]
    for file in (*gone, *others):
        file.write_text("")
    remove_orphans(path, older_than=HOUR)
    assert set(tmp_path.iterdir()) == {*gone, *others}
    os.utime(gone[0], (0, 0))
    remove_orphans(path, older_than=HOUR)
    assert set(tmp_path.iterdir()) == {*gone[1:], *others}
    remove_orphans(path, older_than=0)
    assert set(tmp_path.iterdir()) == set(others)


def test_a_temporary_file_of_a_process_of_the_same_number_is_no_hindrance(tmp_path: Path) -> None:
    """As another container leaves it in a shared folder."""
    left = tmp_path / f".x.{os.getpid()}.tmp"
    left.write_text("half of a file")
    write_atomically(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    assert left.read_text() == "half of a file"


LINKS = {"to a file": "precious", "to nothing": "nothing", "to a folder": "folder"}


@pytest.fixture(params=LINKS)
def link(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "folder").mkdir()
    path = tmp_path / "x"
    path.symlink_to(LINKS[request.param])
    return path


def test_a_link_is_neither_followed_nor_replaced(link: Path) -> None:
    for force in (False, True):
        assert re.search("is a link to|is a folder", str(refusal(check_writable, link, force=force)))
    error = refusal(write_atomically, link, b"new")
    assert (error.where, error.what) == (str(link), f"is a link to {link.parent / link.readlink()}")
    assert error.hint == f"name {link.parent / link.readlink()} itself, or remove the link"
    assert link.is_symlink()
    assert (link.parent / "precious").read_text() == "mine"
    assert {path.name for path in link.parent.iterdir()} == {"precious", "folder", "x"}


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    for force in (False, True):
        assert "is a folder, a device or a pipe" in str(refusal(check_writable, tmp_path / "x", force=force))
    assert "is a folder, a device or a pipe" in str(refusal(write_atomically, tmp_path / "x", b"new"))
    assert (tmp_path / "x").is_fifo()


def test_a_file_in_a_folder_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    check_writable(tmp_path / "link" / "x", force=False)
    write_atomically(tmp_path / "link" / "x", b"new")
    assert (tmp_path / "real" / "x").read_bytes() == b"new"


def test_what_is_not_as_it_should_be_never_gets_its_name(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"old")
    read: list[bytes] = []

    def check(path: Path) -> None:
        read.append(path.read_bytes())
        raise OutputError(path, "is not what it should be", hint="report it")

    with pytest.raises(OutputError, match="is not what it should be"):
        write_atomically(tmp_path / "x", b"new", check=check)
    assert read == [b"new"]
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"old")]


def test_a_file_is_created_once(tmp_path: Path) -> None:
    assert create_atomically(tmp_path / "x", b"first")
    assert not create_atomically(tmp_path / "x", b"second")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"first")]


def test_a_file_is_created_where_there_are_no_second_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", raising(PermissionError(errno.EPERM, "Operation not permitted")))
    assert create_atomically(tmp_path / "x", b"first")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"first")]
    monkeypatch.setattr(os, "link", raising(OSError(errno.EIO, "Input/output error")))
    assert "cannot be written: Input/output error" in str(refusal(create_atomically, tmp_path / "y", b""))


def refusing_folders(number: int) -> Callable[[int], None]:
    fsync = os.fsync

    def act(file: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{file}")).is_dir():
            raise OSError(number, os.strerror(number))
        fsync(file)

    return act


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF])
def test_a_file_system_that_writes_no_folder_to_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    assert can_sync(tmp_path)
    monkeypatch.setattr(os, "fsync", refusing_folders(number))
    assert not can_sync(tmp_path)
    write_atomically(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"
    remove_durably(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def act(path: Path, *arguments: Any, **options: Any) -> int:
        if path == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", act)
    write_atomically(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


def test_a_disk_that_fails_is_no_such_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", refusing_folders(errno.EIO))
    assert "cannot be written: Input/output error" in str(refusal(write_atomically, tmp_path / "x", b"new"))
    assert "cannot be written to: Input/output error" in str(refusal(can_sync, tmp_path))


def test_removing_reaches_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("")
    remove_durably(tmp_path / "x")
    remove_durably(tmp_path / "x")
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(Path, "unlink", raising(OSError(errno.EIO, "Input/output error")))
    assert "cannot be removed: Input/output error" in str(refusal(remove_durably, tmp_path / "x"))


def test_sha256() -> None:
    assert sha256_of(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
