"""What `ntt bench` counts, compares and refuses; times themselves are looked at by `test_timing.py`."""

from __future__ import annotations

import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ntt_cli as ntt
from ntt_cli.errors import CheckpointError, UsageError
from ntt_cli.timing import forms
from ntt_cli.timing.dense import filled
from ntt_cli.timing.forms import matched, open_onnx, open_program
from ntt_cli.timing.results import BenchComparison, BenchReport

QUICK = {"seconds": 1e-9, "batch_size": 3}


class Net(nn.Module):
    """Two layers; positional or named arguments."""

    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 20), nn.Linear(20, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Net]:
    """A checkpoint at 75% and its network."""
    torch.manual_seed(0)
    net, path = Net(), tmp_path_factory.mktemp("bench") / "sparse.safetensors"
    ntt.prune(net, sparsity=0.75, method="magnitude", output=path)
    return path, net


def bench(sparse: tuple[Path, Net], *files: object, **options: Any) -> BenchReport:
    path, net = sparse
    return ntt.bench(path, list(map(str, files)), model=net, data=torch.randn(5, 8), **(QUICK | options))


def program(path: Path, net: nn.Module, samples: int = 2, *, free: bool = True) -> Path:
    """A program of torch.export, without ntt."""
    shapes = ({0: torch.export.Dim.DYNAMIC},) if free else None
    torch.export.save(torch.export.export(net.eval(), (torch.randn(samples, 8),), dynamic_shapes=shapes), path)
    return path


def test_bytes_and_operations(sparse: tuple[Path, Net], tmp_path: Path) -> None:
    path, net = sparse
    packed = ntt.export(path, to="packed", output=tmp_path / "p.safetensors")
    half = ntt.export(path, to="packed", output=tmp_path / "h.safetensors", dtype="float16")
    report = bench(sparse, packed.output)
    assert report.dense_bytes == 4 * (8 * 20 + 20 + 20 * 3 + 3)
    assert (report.packed_bytes, report.packed_float16_bytes) == (packed.bytes, half.bytes)
    assert [each.bytes for each in report.files] == [path.stat().st_size, packed.bytes]
    assert report.flops_dense == 2 * (8 * 20 + 20 * 3)
    assert report.flops_sparse == 2 * report.kept == 2 * 55  # each weight is used once
    assert [each.flops for each in report.files] == [report.flops_dense] * 2  # zeros are multiplied
    assert (report.prunable, report.density, report.data) == (220, 0.25, "a tensor [5, 8]")
    first, second = report.files
    assert (first.runtime, first.difference) == ("PyTorch", None)
    assert (second.runtime, second.difference) == ("PyTorch", 0.0)


def test_each_form_is_compared_at_each_size(sparse: tuple[Path, Net]) -> None:
    report = bench(sparse, sparse[0])
    path = str(sparse[0])
    assert [(each.file, each.samples) for each in report.comparisons] == [(path, 1), (path, 1), (path, 3), (path, 3)]
    for each in report.comparisons:
        assert len(each.dense_pass_seconds) == len(each.pass_seconds) == 6
        ratios = sorted(a / b for a, b in zip(each.dense_pass_seconds, each.pass_seconds, strict=True))
        assert (each.low, each.high) == (ratios[0], ratios[-1])
        assert each.ratio == pytest.approx((ratios[2] + ratios[3]) / 2)
    (single,) = {each.samples for each in bench(sparse, batch_size=1).comparisons}
    assert single == 1


def test_the_dense_network_is_whole_and_the_other_as_it_was(sparse: tuple[Path, Net]) -> None:
    loaded = ntt.load(*sparse)
    dense = filled(loaded.model, loaded.masks)
    for name, mask in loaded.masks.items():
        weight, own = dense.get_parameter(name).detach(), loaded.model.get_parameter(name).detach()
        assert int(weight.count_nonzero()) == weight.numel()
        assert torch.equal(weight[mask], own[mask])
        assert not own[~mask].any()
        assert float(weight[~mask].abs().max()) == pytest.approx(0.01 * float(own.abs().max()))


def test_a_program_of_fewer_channels(sparse: tuple[Path, Net], tmp_path: Path) -> None:
    """A network with hidden units removed is another program, with fewer operations and other outputs."""
    smaller = Net()
    smaller.first, smaller.second = nn.Linear(8, 5), nn.Linear(5, 3)
    whole = program(tmp_path / "whole.pt2", ntt.load(*sparse).model)
    small = program(tmp_path / "small.pt2", smaller)
    told: list[Any] = []
    report = bench(sparse, whole, small, progress=told.append)
    _, same, other = report.files
    assert [each.flops for each in report.files] == [440, 440, 2 * (8 * 5 + 5 * 3)]
    assert {each.runtime for each in (same, other)} == {"torch.export"}
    assert same.difference is not None
    assert same.difference < 1e-6
    assert other.difference is not None
    assert other.difference > 0.01
    warned = [said for event in told if "is it the same network?" in (said := getattr(event, "message", ""))]
    assert len(warned) == 1
    assert warned[0].startswith(f"{small}: an output differs from the checkpoint's by ")


def test_a_program_for_one_number_of_samples(sparse: tuple[Path, Net], tmp_path: Path) -> None:
    fixed = program(tmp_path / "fixed.pt2", ntt.load(*sparse).model, samples=1, free=False)
    assert [each.samples for each in bench(sparse, fixed, batch_size=1).comparisons] == [1, 1]
    with pytest.raises(CheckpointError, match="torch.export cannot run it on inputs of ") as caught:
        bench(sparse, fixed)
    assert "--batch-size 1" in caught.value.hint or "batch_size=1" in caught.value.hint


def test_onnx(sparse: tuple[Path, Net], tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path / "sparse.onnx"
    torch.onnx.export(
        ntt.load(*sparse).model.eval(),
        (torch.randn(2, 8),),
        path,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        verbose=False,
    )
    report = bench(sparse, path)
    _, file = report.files
    beside = tmp_path / "sparse.onnx.data"
    assert file.bytes == path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
    assert (file.runtime, file.flops) == ("onnxruntime", None)
    assert file.difference is not None
    assert file.difference < 1e-5
    assert [each.runtime for each in report.comparisons] == ["PyTorch", "onnxruntime"] * 2
    assert "onnxruntime" in report.machine
    other = Net(outputs=4)
    with pytest.raises(CheckpointError, match=r"gives .* \[3, 3\], and the checkpoint output \[3, 4\]"):
        ntt.bench(ntt.prune(other, sparsity=0.5, method="magnitude"), path, data=torch.randn(5, 8), **QUICK)


def test_onnxruntime_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match="needs onnxruntime, which is not installed") as caught:
        open_onnx(str(path), 1)
    assert caught.value.hint == "pip install onnx onnxscript onnxruntime"


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("executed",)


def with_part(whole: Path, path: Path, part: str, content: bytes) -> Path:
    """An archive with one part exchanged or added."""
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        root = old.namelist()[0].partition("/")[0]
        for name in old.namelist():
            if name != f"{root}/{part}":
                new.writestr(name, old.read(name))
        new.writestr(f"{root}/{part}", content)
    return path


@pytest.mark.filterwarnings("ignore")
def test_no_pickle_of_a_program_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    whole = program(tmp_path / "whole.pt2", Net())
    evil = tmp_path / "evil.pt"
    torch.save(Evil(), evil)
    pickled = with_part(whole, tmp_path / "a.pt2", "data/sample_inputs/model.pt", evil.read_bytes())
    compiled = with_part(whole, tmp_path / "b.pt2", "data/aotinductor/model/x.so", b"")
    opaque = with_part(whole, tmp_path / "c.pt2", "data/constants/opaque_obj_0", b"")
    device = torch.device("cpu")
    with pytest.raises(CheckpointError, match="cannot be read as a program of torch.export"):
        open_program(str(pickled), device)
    for path in (compiled, opaque):
        with pytest.raises(CheckpointError, match="holds compiled code or a pickle, "):
            open_program(str(path), device)
    assert not Path("executed").exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
    open_program(str(whole), device)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x00" * 99])
def test_damaged_files(sparse: tuple[Path, Net], tmp_path: Path, suffix: str, content: bytes) -> None:
    if suffix == ".onnx":
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        bench(sparse, path)
    assert caught.value.where == str(path)
    assert caught.value.hint
    path.unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        bench(sparse, path)


def test_outputs_are_matched_by_name_or_by_shape() -> None:
    a, b, c = torch.zeros(2, 3), torch.ones(2, 3), torch.ones(2, 4)
    assert matched("f", {"y": a}, {"x": b, "y": a}) == {"y": a}
    found = matched("f", {"p": a, "q": c}, {"0": c, "1": b, "2": torch.ones(2, 3, dtype=torch.int64)})
    assert found["p"] is b
    assert found["q"] is c
    with pytest.raises(CheckpointError, match=r"gives x \[2, 4\], and the checkpoint p \[2, 3\]"):
        matched("f", {"p": a}, {"x": c})


def test_arrays_for_onnx_go_by_name_or_in_order() -> None:
    class Input:
        def __init__(self, name: str, kind: str) -> None:
            self.name, self.type = name, f"tensor({kind})"

    given: Mapping[str, Tensor] = {"ids": torch.tensor([[1, 2]]), "mask": torch.ones(1, 2)}
    found = forms._for_onnx("f", [Input("mask", "float16"), Input("ids", "int32")], given)
    assert (str(found["mask"].dtype), str(found["ids"].dtype), found["ids"].tolist()) == ("float16", "int32", [[1, 2]])
    found = forms._for_onnx("f", [Input("a", "int64"), Input("b", "float")], given)
    assert (found["a"].tolist(), str(found["b"].dtype)) == ([[1, 2]], "float32")
    found = forms._for_onnx("f", [Input("ids", "int64")], given)  # the other has no effect
    assert list(found) == ["ids"]
    for names in (["a"], ["ids", "mask", "more"]):
        with pytest.raises(CheckpointError, match=f"takes the inputs {', '.join(names)}, and the network ids, mask"):
            forms._for_onnx("f", [Input(name, "int64") for name in names], given)
    pair = torch.ones(1, 2), torch.zeros(1, 3)
    assert list(forms._by_name(pair, ["left", "right", "optional"])) == ["left", "right"]
    assert list(forms._by_name(pair, ["left"])) == ["left", "input 1"]
    assert list(forms._by_name(pair[0], ["x"])) == ["x"]


def test_a_network_in_memory(sparse: tuple[Path, Net]) -> None:
    loaded = ntt.load(*sparse)
    report = ntt.bench(loaded, data=torch.randn(5, 8), **QUICK)
    assert report.files[0].bytes is None
    assert report.packed_bytes > 0
    with pytest.raises(UsageError, match="model: does nothing"):
        ntt.bench(loaded, model=sparse[1], data=torch.randn(5, 8))
    with pytest.raises(UsageError, match="model: is missing"):
        ntt.bench(sparse[0], data=torch.randn(5, 8))


class Ragged(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return torch.randn(index + 1, 8)


def test_inputs_that_are_not_cut_into_samples(sparse: tuple[Path, Net]) -> None:
    loader = torch.utils.data.DataLoader(Ragged(), batch_size=None)
    report = ntt.bench(sparse[0], model=sparse[1], data=loader, seconds=1e-9)
    assert [each.samples for each in report.comparisons] == [1]


def test_threads_are_as_before(sparse: tuple[Path, Net]) -> None:
    before = torch.get_num_threads()
    assert bench(sparse, threads=before + 1).threads == before + 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("low", "high", "verdict", "unclear"),
    [(0.9, 1.3, "not faster", True), (0.98, 1.04, "not faster", False), (1.2, 2.0, "faster", False)],
)
def test_what_a_busy_machine_leaves_open(low: float, high: float, verdict: str, unclear: bool) -> None:
    times = {"dense_pass_seconds": [1.0], "pass_seconds": [1.0], "passes": 1, "samples": 1, "ratio": 1.0}
    made = BenchComparison(file="f", runtime="PyTorch", low=low, high=high, verdict=verdict, **times)  # type: ignore[arg-type]
    assert made.unclear == unclear
