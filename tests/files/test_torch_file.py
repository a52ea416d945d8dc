from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ntt_cli.errors import CheckpointError
from ntt_cli.files import free_memory
from ntt_cli.files.checkpoint import read_checkpoint

NET = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
STATE = NET.state_dict()
OPTIMISER = torch.optim.Adam(NET.parameters())


class Planted:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.mkdir, (self.trace,)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.pt"


def refusal(path: Path) -> tuple[str, str]:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    return caught.value.what, caught.value.hint


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "prefix"),
    [
        (STATE, ""),
        (dict(STATE) | {"_extra_state": None}, ""),
        ({"state_dict": STATE, "epoch": 3, "hyper_parameters": {"rate": 0.1}}, "state_dict."),
        ({"model": OrderedDict(STATE), "optimizer": OPTIMISER.state_dict(), "best": 0.9}, "model."),
    ],
)
def test_a_state_dict_and_one_a_level_down(path: Path, content: Any, prefix: str, zipped: bool) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for name in (path, path.rename(path.with_name("y.CKPT"))):
        if name.exists():
            read = read_checkpoint(name)
            assert read.record is None
            assert {key.removeprefix(prefix) for key in read.tensors} == STATE.keys()
            assert all(torch.equal(read.tensors[f"{prefix}{key}"], value) for key, value in STATE.items())


def test_views_and_parameters(path: Path) -> None:
    torch.save({"weight": nn.Parameter(torch.arange(6.0).view(2, 3).T), "ones": torch.ones(()).expand(2, 2)}, path)
    read = read_checkpoint(path).tensors
    assert read["weight"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert all(value.is_contiguous() and not value.requires_grad for value in read.values())


def test_what_torch_refuses_is_not_run(path: Path) -> None:
    for content in (Planted(path.with_name("trace")), {"state_dict": STATE, "args": Planted(path.with_name("trace"))}):
        for zipped in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=zipped)
            what, hint = refusal(path)
            assert "torch reads no weights of it: UnpicklingError" in what
            assert "weights_only" not in what
            assert "safetensors.torch.save_file" in hint
    assert not path.with_name("trace").exists()


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
def test_whole_networks_and_torchscript(path: Path) -> None:
    torch.save(NET, path)
    assert "Unsupported global: GLOBAL torch.nn.modules.container.Sequential" in refusal(path)[0]
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(path))
    assert "TorchScript" in refusal(path)[0]


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.ones(2)], torch.ones(2), {"a": {"b": STATE}}])
def test_files_without_a_state_dict(path: Path, content: Any) -> None:
    torch.save(content, path)
    assert "holds no state dict" in refusal(path)[0]


def test_tensors_that_are_no_weights(path: Path) -> None:
    torch.save({"a": torch.ones(2, 2).to_sparse()}, path)
    assert refusal(path) == ("a is of type sparse_coo", "save it as float32, float16 or bfloat16, dense")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x02.", np.random.default_rng(0).bytes(99)])
def test_damaged_files(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert "torch reads no weights of it" in refusal(path)[0]


def test_paths_without_a_file(path: Path) -> None:
    assert refusal(path)[0] == "does not exist"
    path.mkdir()
    assert refusal(path)[0] == "is a folder"


def test_contents_that_do_not_fit_into_memory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"a": torch.ones(()).expand(2**40)}, path)
    assert "of memory to read" in refusal(path)[0]
    monkeypatch.setattr(free_memory, "free_memory", lambda: 100)
    torch.save(STATE, path)
    assert "of memory to read" in refusal(path)[0]
