"""A package of Core ML, which is a folder: where its files are, and whether one can be written."""

from __future__ import annotations

from pathlib import Path

from ntt_cli.errors import OutputError
from ntt_cli.files.atomic import check_writable, temporary_beside
from ntt_cli.files.folder import check_new_folder

MANIFEST = "Manifest.json"
MODEL, WEIGHTS = (f"Data/com.apple.CoreML/{name}" for name in ("model.mlmodel", "weights/weight.bin"))


def check_package(path: Path, *, force: bool) -> None:
    """Refuse an unusable package before any work is done for it: without `force`, also one that exists.

    Raises:
        OutputError: if it is unusable, or another kind of folder.
    """
    if path.is_symlink() or not path.is_dir():
        check_new_folder(path)
        return
    if not force:
        raise OutputError(path, "exists already", hint="name another with --output, or overwrite it with --force")
    if not (path / MANIFEST).is_file():
        what = f"is a folder without a {MANIFEST}, so it is no package of Core ML"
        raise OutputError(path, what, hint="name another with --output")
    check_writable(temporary_beside(path), force=False)


def main_file(path: Path) -> Path:
    """The file with the weights, or the program where it holds them itself, since they are few."""
    weights = path / WEIGHTS
    return weights if weights.is_file() else path / MODEL
