"""Weights in one file or in several: an index, `NAME.safetensors.index.json`, says which tensor lies in which shard."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ntt_cli.errors import CheckpointError
from ntt_cli.files.atomic import file_sha256
from ntt_cli.files.strict_json import parse_json

INDEX_SUFFIX = ".safetensors.index.json"
INDEX_BYTES = 16 * 2**20
"""The longest index that is read."""

OTHER_SUFFIXES = (".report.safetensors", ".resume.safetensors")
"""Of files of ntt that hold no weights to load."""

MOST_LISTED = 10

SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")


@dataclass(frozen=True)
class WeightFiles:
    """Where a network's weights lie.

    Attributes:
        index: the file that names the shards; `None` where there is one file alone.
        files: the safetensors files, in the order of their names.
        where: the file that the index names for each tensor; empty without one.
    """

    index: Path | None
    files: tuple[Path, ...]
    where: dict[str, Path]

    @property
    def bytes(self) -> int:
        """On disk, the index not counted."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def sha256(self) -> str:
        """Of the file, or of the index and the shards together."""
        if self.index is None:
            return file_sha256(self.files[0])
        return hashlib.sha256("".join(map(file_sha256, (self.index, *self.files))).encode()).hexdigest()


def find_weights(path: Path) -> WeightFiles:
    """The files that `path` stands for: itself, or all shards of the index that it is, holds or is named by.

    A folder without an index stands for the one file of weights that it holds; ntt's reports and states are none.

    Shards lie in the folder of their index: nothing that the index says leads anywhere else.

    Raises:
        CheckpointError: if an index cannot be read, names a file elsewhere or one that is missing, a shard has none, or
            a folder without one holds several files.
    """
    index = _index_of(path)
    if index is None:
        only = _only_file(path)
        return WeightFiles(None, (path,), {}) if only is None else find_weights(only)
    names = _read_index(index)
    shards = {name: index.parent / name for name in sorted(set(names.values()))}
    for name, shard in shards.items():
        if not shard.is_file():
            hint = "download it into the same folder"
            raise CheckpointError(index, f"names the shard {name:.99}, which is missing", hint=hint)
    return WeightFiles(index, tuple(shards.values()), {tensor: shards[name] for tensor, name in names.items()})


def _index_of(path: Path) -> Path | None:
    if path.name.endswith(INDEX_SUFFIX):
        return path
    if os.path.isdir(path):  # of a name that is too long, `Path.is_dir` raises
        found = sorted(path.glob(f"*{INDEX_SUFFIX}"))
        if len(found) > 1:
            several = " or ".join(map(str, found[:3]))
            raise CheckpointError(path, f"holds {len(found)} indices of weights", hint=f"name {several}")
        return found[0] if found else None
    shard = SHARD.fullmatch(path.name)
    if shard is None or int(shard["count"]) < 2:
        return None
    index = path.with_name(shard["name"] + INDEX_SUFFIX)
    if not index.is_file():
        raise CheckpointError(
            path,
            f"is one of {int(shard['count'])} shards, and their index {index.name} is not beside it",
            hint="download the index and all shards into one folder, and name the index",
        )
    return index


def _only_file(path: Path) -> Path | None:
    """The file of weights in a folder of one; `None` where there is none, or `path` is no folder.

    Raises:
        CheckpointError: if the folder holds several.
    """
    if not os.path.isdir(path):
        return None
    found = sorted(
        file for file in path.glob("*.safetensors") if file.is_file() and not file.name.endswith(OTHER_SUFFIXES)
    )
    if len(found) > 1:
        listed = ", ".join(file.name for file in found[:MOST_LISTED])
        more = f" and {len(found) - MOST_LISTED:,} more" if len(found) > MOST_LISTED else ""
        hint = f"name one of them, like {found[0]}"
        if any(SHARD.fullmatch(file.name) for file in found):
            hint += f", or download the index of the shards, NAME{INDEX_SUFFIX}"
        raise CheckpointError(path, f"holds {len(found):,} files of weights and no index: {listed}{more}", hint=hint)
    return found[0] if found else None


def _read_index(path: Path) -> dict[str, str]:
    hint = "download the index again from where the weights were published"
    try:
        with path.open("rb") as file:
            text = file.read(INDEX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror or error}", hint="check the path") from error
    try:
        data = parse_json(text.decode())
    except ValueError as error:
        raise CheckpointError(path, f"is no index of weights: {error}", hint=hint) from error
    names = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(path, "is no index of weights: it has no weight_map of file names", hint=hint)
    for name in names.values():
        # Its own folder alone: whoever wrote the index must not choose what else is read.
        if not name.endswith(".safetensors") or re.search(r"[/\\:\0]", name) or len(name) > 255:
            what = f"names {name!r:.99} as a shard, which is no .safetensors file beside it"
            raise CheckpointError(path, what, hint="do not trust this index; get it again from where it was made")
    return names
