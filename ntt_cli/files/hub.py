"""A folder for a hub of models: the weights, a card that says what they are, and the network's code if it is a file.

Nothing is uploaded: `huggingface_hub.upload_folder(folder_path=...)` takes it as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ntt_cli.errors import OutputError, UsageError
from ntt_cli.files.atomic import check_writable, require_plain, require_text
from ntt_cli.files.card import card_of
from ntt_cli.files.checkpoint import Checkpoint, masked_state
from ntt_cli.files.folder import check_new_folder, temporary_folder
from ntt_cli.files.hashed import tensor_hashes, write_hashed

CARD, WEIGHTS = "README.md", "model.safetensors"
"""The names that a hub looks for."""


@dataclass(frozen=True)
class Code:
    """How a network is built.

    Attributes:
        files: its Python files, by their place in the folder; empty where it is no file.
        lines: Python that binds `network`.
    """

    files: Mapping[str, Path]
    lines: str


def check_folder(path: Path, *, force: bool) -> None:
    """Refuse an unusable folder before any work is done for it: without `force`, also one that is not empty.

    Raises:
        OutputError: if it is unusable.
    """
    require_text(path, OutputError)
    if path.is_symlink() or not path.is_dir():
        check_new_folder(path)
        return
    if any(path.iterdir()) and not force:
        raise OutputError(path, "is not empty", hint="name another with --output, or write into it with --force")
    check_writable(path / CARD, force=True)


def write_hub_folder(path: Path, checkpoint: Checkpoint, code: Code, license: str | None) -> dict[str, int]:
    """Write the folder as a whole. Into one that is there the files go one by one, the card last.

    Returns:
        the bytes of each file.

    Raises:
        UsageError: if ntt did not write the checkpoint, which then says nothing about itself.
        OutputError: if the file system refuses.
    """
    if checkpoint.record is None:
        what = f"does nothing: {checkpoint.path} does not say how it was made"
        raise UsageError("--to hub-folder", what, hint="export what ntt prune or ntt finetune wrote")
    with temporary_folder(path) as made:
        tensors = masked_state(checkpoint.tensors, checkpoint.masks)
        record = checkpoint.record.model_copy(update={"tensors": tensor_hashes(tensors)})
        write_hashed(made / WEIGHTS, tensors, record)
        for place, file in code.files.items():
            (made / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, made / place)
        card = card_of(made / WEIGHTS, title=path.name, license=license, build=code.lines, files=code.files)
        (made / CARD).write_text(card, encoding="utf-8")
        sizes = {place: (made / place).stat().st_size for place in (WEIGHTS, *code.files, CARD)}
        _put(made, path, sizes)
    return sizes


def _put(made: Path, path: Path, files: Mapping[str, int]) -> None:
    """Give the folder its name, or move its files into the one that has it."""
    if not path.exists() or not any(path.iterdir()):
        made.replace(path)
        return
    for place in files:
        require_plain(path / place)
    for place in files:
        (path / place).parent.mkdir(parents=True, exist_ok=True)
        (made / place).replace(path / place)
