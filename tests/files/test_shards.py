from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ntt_cli.errors import CheckpointError
from ntt_cli.files.checkpoint import Contents, read_checkpoint, write_checkpoint
from ntt_cli.files.metadata import ModelRecord
from ntt_cli.files.shards import find_weights

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
TENSORS = {"a": torch.tensor([1.0]), "b": torch.tensor([2.0, 3.0]), "c": torch.tensor([4])}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file({"a": TENSORS["a"], "c": TENSORS["c"]}, tmp_path / FIRST)
    save_file({"b": TENSORS["b"]}, tmp_path / SECOND)
    write_index(tmp_path, {"a": FIRST, "b": SECOND, "c": FIRST})
    return tmp_path


def write_index(folder: Path, names: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize("name", ["", INDEX, FIRST, SECOND])
def test_the_folder_the_index_and_each_shard_stand_for_all(folder: Path, name: str) -> None:
    read = read_checkpoint(folder / name)
    assert read.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(read.tensors[key], value) for key, value in TENSORS.items())
    assert (read.path, read.masks, read.record) == (folder / name, {}, None)
    files = find_weights(folder / name)
    assert files.bytes == (folder / FIRST).stat().st_size + (folder / SECOND).stat().st_size
    digests = [hashlib.sha256((folder / part).read_bytes()).hexdigest() for part in (INDEX, FIRST, SECOND)]
    assert files.sha256 == hashlib.sha256("".join(digests).encode()).hexdigest()


def test_the_files_of_a_hub(tmp_path: Path) -> None:
    """`model.safetensors` comes first, and a pickle last."""
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    read = read_checkpoint(tmp_path)
    assert all(torch.equal(read.tensors[key], value) for key, value in TENSORS.items())
    for name in ("one.safetensors", "model.safetensors"):
        save_file(TENSORS, tmp_path / name)
        assert find_weights(tmp_path).files == (tmp_path / name,)


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """Shards of `torch.save`, as hubs had them before safetensors."""
    parts = [f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2)]
    torch.save({"a": TENSORS["a"], "c": TENSORS["c"]}, tmp_path / parts[0])
    torch.save({"b": TENSORS["b"]}, tmp_path / parts[1])
    names = {"a": parts[0], "b": parts[1], "c": parts[0]}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    return tmp_path


@pytest.mark.parametrize("name", ["", "pytorch_model.bin.index.json", "pytorch_model-00002-of-00002.bin"])
def test_shards_of_torch(pickled: Path, name: str) -> None:
    read = read_checkpoint(pickled / name)
    assert read.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(read.tensors[key], value) for key, value in TENSORS.items())


def test_safetensors_come_before_shards_of_torch(pickled: Path) -> None:
    save_file({"a": torch.zeros(1)}, pickled / "model.safetensors")
    assert read_checkpoint(pickled).tensors.keys() == {"a"}
    assert len(find_weights(pickled / "pytorch_model.bin.index.json").files) == 2


class Ran:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("ran",)


def test_a_shard_of_torch_runs_nothing(pickled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"b": Ran()}, pickled / "pytorch_model-00002-of-00002.bin")
    assert "torch reads no weights of it" in refusal(pickled).what
    assert capsys.readouterr().out == ""
    index = pickled / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"b": "pytorch_model-00002-of-00002.bin"}}))
    assert refusal(index).what.endswith("which is no .safetensors file beside it")


def test_one_file_alone(tmp_path: Path) -> None:
    for name in ("x.safetensors", "model-00001-of-00001.safetensors"):
        save_file(TENSORS, tmp_path / name)
        files = find_weights(tmp_path / name)
        assert (files.index, files.files) == (None, (tmp_path / name,))
        assert files.sha256 == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "name", ["../secret.safetensors", "/etc/secret.safetensors", "..", "sub/x.safetensors", "x.pt", "C:x.safetensors"]
)
def test_an_index_leads_nowhere_else(folder: Path, name: str) -> None:
    (folder.parent / "secret.safetensors").write_bytes((folder / FIRST).read_bytes())
    write_index(folder, {"a": name})
    error = refusal(folder / INDEX)
    assert error.what == f"names {name!r} as a shard, which is no .safetensors file beside it"
    assert "do not trust this index" in error.hint


def test_a_shard_without_its_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    error = refusal(folder / FIRST)
    assert error.what == f"is one of 2 shards, and their index {INDEX} is not beside it"
    assert error.hint == "download the index and all shards into one folder, and name the index"


def test_a_missing_shard(folder: Path) -> None:
    (folder / SECOND).unlink()
    assert refusal(folder).what == f"names the shard {SECOND}, which is missing"


def test_two_indices(folder: Path) -> None:
    (folder / "other.safetensors.index.json").write_bytes((folder / INDEX).read_bytes())
    error = refusal(folder)
    assert error.what == "holds 2 indices of weights"
    assert error.hint == f"name {folder / INDEX} or {folder / 'other.safetensors.index.json'}"


def test_shards_that_are_not_as_the_index_says(folder: Path) -> None:
    write_index(folder, {"a": FIRST, "b": SECOND, "c": FIRST, "d": SECOND})
    error = refusal(folder)
    assert str(error) == f"{folder / SECOND}: lacks d, which its index puts there"
    assert error.hint == "download it again"
    for names in ({"a": FIRST, "b": SECOND, "c": SECOND}, {"a": FIRST, "b": SECOND}):
        write_index(folder, names)
        error = refusal(folder)
        assert str(error) == f"{folder / FIRST}: holds c, which its index puts elsewhere"
        assert error.hint == "make the file again"


def test_a_checkpoint_of_ntt_is_no_shard(folder: Path) -> None:
    contents = Contents(
        {"b": TENSORS["b"]}, {}, "prune", ModelRecord(source="net.py", sha256=None), config={}, normalisation=None
    )
    write_checkpoint(folder / SECOND, contents)
    error = refusal(folder)
    assert str(error) == f"{folder / SECOND}: is a file of ntt, not a shard"
    assert error.hint == "name it alone"


NO_INDICES = [
    "",
    "{",
    "[]",
    "3",
    "{}",
    '{"weight_map": {}}',
    '{"weight_map": {"a": 3}}',
    '{"weight_map": ["a"]}',
    "\udcff",
]


@pytest.mark.parametrize("text", NO_INDICES)
def test_an_index_that_is_none(folder: Path, text: str) -> None:
    (folder / INDEX).write_bytes(text.encode(errors="surrogateescape"))
    error = refusal(folder / INDEX)
    assert error.what.startswith("is no index of weights")
    assert error.hint == "download the index again from where the weights were published"


def test_a_folder_without_an_index(tmp_path: Path) -> None:
    assert refusal(tmp_path).what == "is a folder"


def test_a_folder_of_one_file_stands_for_it(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    for part in ("report", "resume"):
        save_file(TENSORS, tmp_path / f"model.{part}.safetensors")
    (tmp_path / "config.json").write_text("{}")
    read = read_checkpoint(tmp_path)
    assert read.tensors.keys() == TENSORS.keys()
    assert read.path == tmp_path
    assert find_weights(tmp_path) == find_weights(tmp_path / "model.safetensors")


def test_a_folder_of_one_shard_without_its_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    (folder / SECOND).unlink()
    assert refusal(folder).what == f"is one of 2 shards, and their index {INDEX} is not beside it"


def test_a_folder_of_several_files_without_an_index(folder: Path) -> None:
    (folder / INDEX).unlink()
    error = refusal(folder)
    assert error.what == f"holds 2 files of weights and no index: {FIRST}, {SECOND}"
    assert error.hint.startswith(f"name one of them, like {folder / FIRST}, or download the index of the shards")
    for path in (folder / FIRST, folder / SECOND):
        path.unlink()
    for i in range(12):
        save_file(TENSORS, folder / f"{i:02}.safetensors")
    error = refusal(folder)
    assert error.what.endswith("08.safetensors, 09.safetensors and 2 more")
    assert error.hint == f"name one of them, like {folder / '00.safetensors'}"
