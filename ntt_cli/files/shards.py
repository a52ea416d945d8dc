"""Weights in one file or in several: an index says which tensor lies in which shard.

It is `NAME.safetensors.index.json`, or `NAME.bin.index.json` of shards that `torch.save` wrote.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ntt_cli.errors import CheckpointError, listed, os_error_as
from ntt_cli.files.atomic import file_sha256
from ntt_cli.files.strict_json import parse_json

INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")
"""Those of safetensors first: where a folder has both, they are read."""

INDEX_BYTES = 16 * 2**20
"""The longest index that is read."""

OTHER_SUFFIXES = (".report.safetensors", ".resume.safetensors")
"""Suffixes of ntt's own files that hold no weights to load."""

MOST_LISTED = 10
SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.safetensors|\.bin)")


@dataclass(frozen=True)
class WeightFiles:
    """Where a network's weights lie: in one file, or in the shards that an index names."""

    index: Path | None
    files: tuple[Path, ...]
    """In the order of their names."""
    where: dict[str, Path]
    """The file that the index names for each tensor; empty without an index."""

    @property
    def bytes(self) -> int:
        """Size of the files on disk, without the index."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def sha256(self) -> str:
        """SHA-256 of the file, or of the index and the shards together."""
        if self.index is None:
            return file_sha256(self.files[0])
        return hashlib.sha256("".join(map(file_sha256, (self.index, *self.files))).encode()).hexdigest()


def find_weights(path: Path) -> WeightFiles:
    """The files of weights that `path` names: a file itself, or all shards of an index, which are in its folder.

    An index, a folder with an index, and a shard name all shards of the index. A folder names what it has first of
    these: an index of safetensors; its `model.safetensors`, or the one safetensors file in it, where ntt's reports and
    states do not count; an index of files of `torch.save`; its `pytorch_model.bin`.

    Raises:
        CheckpointError: if a file is missing or cannot be read, or a folder without an index holds several.
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
    if path.name.endswith(INDEX_SUFFIXES):
        return path
    if os.path.isdir(path):  # `Path.is_dir` raises if the name is too long
        return _index_in(path, INDEX_SUFFIXES[0])
    shard = SHARD.fullmatch(path.name)
    if shard is None or int(shard["count"]) < 2:
        return None
    index = path.with_name(f"{shard['name']}{shard['suffix']}.index.json")
    if not index.is_file():
        what = f"is one of {int(shard['count'])} shards, and their index {index.name} is not beside it"
        hint = "download the index and all shards into one folder, and name the index"
        raise CheckpointError(path, what, hint=hint)
    return index


def _index_in(folder: Path, suffix: str) -> Path | None:
    found = sorted(folder.glob(f"*{suffix}"))
    if len(found) > 1:
        several = " or ".join(map(str, found[:3]))
        raise CheckpointError(folder, f"holds {len(found)} indices of weights", hint=f"name {several}")
    return found[0] if found else None


def _only_file(path: Path) -> Path | None:
    # The file of weights in a folder; `None` if it has none, or `path` is not a folder.
    if not os.path.isdir(path):
        return None
    files = (file for file in path.glob("*.safetensors") if not file.name.endswith(OTHER_SUFFIXES))
    found = sorted(filter(Path.is_file, files))
    usual = path / "model.safetensors"
    if usual in found:
        return usual
    if len(found) > 1:
        names = listed([file.name for file in found], MOST_LISTED)
        hint = f"name one of them, like {found[0]}"
        if any(SHARD.fullmatch(file.name) for file in found):
            hint += f", or download the index of the shards, NAME{INDEX_SUFFIXES[0]}"
        what = f"holds {len(found):,} files of weights and no index: {names}"
        raise CheckpointError(path, what, hint=hint)
    if found:
        return found[0]
    pickled = path / "pytorch_model.bin"
    return _index_in(path, INDEX_SUFFIXES[1]) or (pickled if pickled.is_file() else None)


def _read_index(path: Path) -> dict[str, str]:
    hint = "download the index again from where the weights were published"
    with os_error_as(CheckpointError, path, "cannot be read", hint="check the path"), path.open("rb") as file:
        text = file.read(INDEX_BYTES + 1)
    try:
        data = parse_json(text.decode())
    except ValueError as error:
        raise CheckpointError(path, f"is no index of weights: {error}", hint=hint) from error
    names = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise CheckpointError(path, "is no index of weights: it has no weight_map of file names", hint=hint)
    suffix = path.name.removesuffix(".index.json").rpartition(".")[2]
    for name in names.values():
        # Only files in the index's own folder: an index from elsewhere must not choose which other files are read.
        if not name.endswith(f".{suffix}") or re.search(r"[/\\:\0]", name) or len(name) > 255:
            what = f"names {name!r:.99} as a shard, which is no .{suffix} file beside it"
            raise CheckpointError(path, what, hint="do not trust this index; get it again from where it was made")
    return names
