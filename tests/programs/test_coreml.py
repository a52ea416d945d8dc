from __future__ import annotations

import json
import logging
import os
import stat
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ntt_cli as ntt
from ntt_cli.data.batch import Batch, map_batch, tensors_of
from tests.programs.networks import KINDS, noise
from tests.programs.test_onnx import Bessel, small
from tests.programs.test_pt2 import expected_of

ct = pytest.importorskip("coremltools", reason="coremltools has no wheel for Windows")

from tests.programs.mil import package_operations, run_package  # noqa: E402


def given(names: list[str], x: Batch) -> dict[str, Tensor]:
    return x if isinstance(x, dict) else dict(zip(names, tensors_of(x), strict=True))


@pytest.mark.parametrize("kind", ["images", "text", "pair", "float64"])
def test_a_package_computes_what_torch_computes(kind: str, tmp_path: Path) -> None:
    """By an interpreter of its operations; text has a padding mask, which coremltools itself turns round."""
    build, x = KINDS[kind]
    data = (x, None) if isinstance(x, tuple) else x
    sparse = ntt.prune(build(), data, sparsity=0.5, method="magnitude")
    report = ntt.export(sparse, to="coreml", data=data, output=tmp_path / "net.mlpackage")
    for n in (1, 7):
        few = map_batch(lambda part, n=n: part[:n], x)
        found = run_package(tmp_path / "net.mlpackage", given(list(report.inputs), few))
        assert list(found) == list(report.outputs)
        torch.testing.assert_close(
            [value.double() for value in found.values()],
            [value.double() for value in expected_of(sparse.model, few)],
            rtol=1e-5,
            atol=1e-5,
        )


def test_the_package(tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    net, x, path = small(), noise(9, 60), tmp_path / "sparse.mlpackage"
    ntt.prune(net, x, sparsity=0.75, method="magnitude", output=tmp_path / "sparse.safetensors")
    report = ntt.export(tmp_path / "sparse.safetensors", to="coreml", model=net, data=x)
    assert (report.output, report.difference) == (str(path), None)
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert report.bytes == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    about = ct.models.MLModel(str(path), skip_model_load=True).user_defined_metadata
    assert about["source_sha256"] == ntt.verify(tmp_path / "sparse.safetensors").sha256
    assert json.loads(about["inputs"]) == {"input": {"dtype": "float32", "shape": ["batch", 60]}}
    first = ntt.load(tmp_path / "sparse.safetensors", small()).model.get_parameter("0.weight")
    (held,) = sparse_weights(path)  # the last layer has too few zeros
    assert held.nonzero_data.val.size == int(first.count_nonzero())
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.rglob("*") if file.is_file()} == {0o666 & ~umask}


def sparse_weights(path: Path) -> list[Any]:
    return [operation for operation in package_operations(path) if operation.op_type == "constexpr_sparse_to_dense"]


def test_subnormal_weights_are_kept(tmp_path: Path) -> None:
    net = nn.Linear(60, 40)
    with torch.no_grad():
        net.weight.copy_(torch.where(torch.arange(60) % 3 == 0, 1e-41, 0.0).expand(40, 60))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    ntt.export(tmp_path / "net.pt", to="coreml", model=net, data=noise(9, 60), output=tmp_path / "net.mlpackage")
    (held,) = sparse_weights(tmp_path / "net.mlpackage")
    assert held.nonzero_data.val.size == 40 * 20


def test_float16_is_half_as_large(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(60, 400), nn.ReLU(), nn.Linear(400, 3)), noise(9, 60)
    sparse = ntt.prune(net, x, sparsity=0.5, method="magnitude")
    whole = ntt.export(sparse, to="coreml", data=x, output=tmp_path / "whole.mlpackage")
    half = ntt.export(sparse, to="coreml", data=x, output=tmp_path / "half.mlpackage", dtype="float16")
    weights = "Data/com.apple.CoreML/weights/weight.bin"
    assert half.bytes_by_file[weights] < 0.6 * whole.bytes_by_file[weights]
    found = run_package(tmp_path / "half.mlpackage", {"input": x})["output"]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected_of(sparse.model, x)[0], rtol=1e-2, atol=1e-2)
    with pytest.raises(ntt.NttError, match="Core ML has no such type"):
        ntt.export(sparse, to="coreml", data=x, output=tmp_path / "x.mlpackage", dtype="bfloat16")


def test_a_package_that_is_there(tmp_path: Path) -> None:
    x, path = noise(9, 60), tmp_path / "net.mlpackage"
    first, second = (ntt.prune(small(), x, sparsity=sparsity, method="magnitude") for sparsity in (0.5, 0.75))
    ntt.export(first, to="coreml", data=x, output=path)
    (path / "notes.txt").write_text("of the first")
    with pytest.raises(ntt.NttError, match="exists already"):
        ntt.export(second, to="coreml", data=x, output=path)
    ntt.export(second, to="coreml", data=x, output=path, force=True)
    assert not (path / "notes.txt").exists()
    torch.testing.assert_close(run_package(path, {"input": x})["output"], expected_of(second.model, x)[0])
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.mlpackage"]
    (tmp_path / "file.mlpackage").touch()
    with pytest.raises(ntt.NttError, match="exists already, and is no folder"):
        ntt.export(second, to="coreml", data=x, output=tmp_path / "file.mlpackage", force=True)
    (tmp_path / "mine.mlpackage").mkdir()
    with pytest.raises(ntt.NttError, match=r"is a folder without a Manifest\.json, so it is no package"):
        ntt.export(second, to="coreml", data=x, output=tmp_path / "mine.mlpackage", force=True)


def test_on_macos_it_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, path = noise(9, 60), tmp_path / "net.mlpackage"
    sparse = ntt.prune(small(), x, sparsity=0.5, method="magnitude")
    off = [0.0]

    def predict(model: Any, values: dict[str, Any]) -> dict[str, Any]:
        found = run_package(Path(model.package_path), {name: torch.from_numpy(part) for name, part in values.items()})
        return {name: (value + off[0]).numpy() for name, value in found.items()}

    monkeypatch.setattr("ntt_cli.programs.coreml.system", lambda: "Darwin")
    monkeypatch.setattr(ct.models.MLModel, "predict", predict)
    difference = ntt.export(sparse, to="coreml", data=x, output=path).difference
    assert difference is not None
    assert difference < 1e-6
    off[0] = 0.1
    with pytest.raises(ntt.NttError, match="gives other outputs"):
        ntt.export(sparse, to="coreml", data=x, output=tmp_path / "other.mlpackage")
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.mlpackage"]


def test_what_has_no_core_ml(tmp_path: Path) -> None:
    sparse = ntt.prune(Bessel(), noise(9, 60), sparsity=0.5, method="magnitude")
    with pytest.raises(ntt.NttError) as caught:
        ntt.export(sparse, to="coreml", data=noise(9, 60), output=tmp_path / "x.mlpackage")
    assert "Bessel: cannot be written as Core ML: " in str(caught.value)
    assert "i0e" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_without_coremltools_that_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse = ntt.prune(small(), noise(9, 60), sparsity=0.5, method="magnitude")

    def error() -> ntt.NttError:
        with pytest.raises(ntt.NttError) as caught:
            ntt.export(sparse, to="coreml", data=noise(9, 60), output=tmp_path / "x.mlpackage")
        return caught.value

    monkeypatch.delitem(sys.modules, "coremltools")
    (tmp_path / "broken/coremltools").mkdir(parents=True)
    (tmp_path / "broken/coremltools/__init__.py").write_text("from torch.ao.quantization import gone\n")
    monkeypatch.syspath_prepend(tmp_path / "broken")
    assert f"does not load beside torch {torch.__version__}: cannot import name 'gone'" in error().what
    assert error().hint == "pip install -U coremltools, or use to onnx or pt2"
    find = util.find_spec
    monkeypatch.setattr("ntt_cli.programs.export.find_spec", lambda name: None if name == "coremltools" else find(name))
    assert (error().what, error().hint) == ("needs coremltools, which is not installed", "pip install coremltools")
