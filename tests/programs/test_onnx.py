from __future__ import annotations

import json
import logging
from importlib import util
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import ntt_cli as ntt
from ntt_cli.data.batch import Batch, map_batch, tensors_of
from tests.programs.conftest import run_elsewhere
from tests.programs.networks import KINDS, noise, tokens
from tests.programs.test_pt2 import expected_of

RUN = """
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
held = numpy.load(sys.argv[2])
found = session.run(None, dict(held))
numpy.savez(sys.argv[3], **{str(i): y for i, y in enumerate(found)})
"""


def run_onnx(path: Path, names: list[str], x: Batch) -> list[torch.Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    by_name = x if isinstance(x, dict) else dict(zip(names, tensors_of(x), strict=True))
    return [torch.from_numpy(y) for y in session.run(None, {name: part.numpy() for name, part in by_name.items()})]


@pytest.mark.parametrize("kind", KINDS)
def test_onnxruntime_gives_what_torch_gives(kind: str, tmp_path: Path) -> None:
    build, x = KINDS[kind]
    data = (x, None) if isinstance(x, tuple) else x
    sparse = ntt.prune(build(), data, sparsity=0.5, method="magnitude")
    report = ntt.export(sparse, to="onnx", data=data, output=tmp_path / "net.onnx")
    assert list(report.inputs) == {"text": ["input_ids", "attention_mask"], "pair": ["a", "b"]}.get(
        kind, ["x" if kind == "series" else "input"]
    )
    for n in (1, 7):
        few = map_batch(lambda part, n=n: part[:n], x)
        found = run_onnx(tmp_path / "net.onnx", list(report.inputs), few)
        torch.testing.assert_close(found, expected_of(sparse.model, few), rtol=1e-5, atol=1e-5)
    if kind == "text":
        longer = {name: torch.cat([part, part], dim=1) for name, part in tokens(3).items()}
        found = run_onnx(tmp_path / "net.onnx", list(report.inputs), longer)
        torch.testing.assert_close(found, expected_of(sparse.model, longer), rtol=1e-5, atol=1e-5)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(60, 40), nn.ReLU(), nn.Linear(40, 3))


def test_the_file(tmp_path: Path, elsewhere: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    net, x, path = small(), noise(9, 60), tmp_path / "sparse.onnx"
    ntt.prune(net, x, sparsity=0.75, method="magnitude", output=tmp_path / "sparse.safetensors")
    report = ntt.export(tmp_path / "sparse.safetensors", to="onnx", model=net, data=x)
    assert report.output == str(path)
    assert capfd.readouterr().out == ""
    np.savez(tmp_path / "x.npz", input=x[:5].numpy())
    run_elsewhere(RUN, elsewhere, path, tmp_path / "x.npz", tmp_path / "y.npz")
    model = ntt.load(tmp_path / "sparse.safetensors", net).model
    with np.load(tmp_path / "y.npz") as found:
        torch.testing.assert_close(torch.from_numpy(found["0"]), expected_of(model, x[:5])[0], rtol=1e-5, atol=1e-5)
    read = onnx.load(path)
    onnx.checker.check_model(read)
    about = {entry.key: entry.value for entry in read.metadata_props}
    assert about["source"] == "sparse.safetensors"
    assert about["source_sha256"] == ntt.verify(tmp_path / "sparse.safetensors").sha256
    assert float(about["sparsity"]) == pytest.approx(0.75, abs=0.01)
    assert json.loads(about["inputs"]) == {"input": {"dtype": "float32", "shape": ["batch", 60]}}
    held = path.read_bytes()
    assert b"site-packages" not in held
    assert b"tests/programs" not in held
    ntt.export(tmp_path / "sparse.safetensors", to="onnx", model=net, data=x, output=tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == held


@pytest.mark.parametrize("to", ["onnx", "pt2"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounded(to: str, dtype: str, tmp_path: Path) -> None:
    """Half the bytes, and what a network of the rounded weights gives in float32."""
    net, x, path = small(), noise(9, 60), tmp_path / f"sparse.{to}"
    sparse = ntt.prune(net, x, sparsity=0.5, method="magnitude")
    ntt.export(sparse, to=to, data=x, output=path, dtype=dtype)
    rounded = small().eval()
    kind = getattr(torch, dtype)
    rounded.load_state_dict({name: value.to(kind).float() for name, value in sparse.model.state_dict().items()})
    if to == "onnx":
        found = run_onnx(path, ["input"], x)[0]
        held = {part.data_type for part in onnx.load(path).graph.initializer if len(part.dims)}
        assert held == {{"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}[dtype]}
    else:
        program = torch.export.load(path)
        found = program.module()(x)
        assert {name: value.dtype for name, value in program.state_dict.items()} == dict.fromkeys(
            net.state_dict(), kind
        )
    torch.testing.assert_close(found, rounded(x).detach(), rtol=1e-5, atol=1e-5)


def test_what_the_exporter_logs_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    export = torch.onnx.export

    def logging_export(*args: Any, **options: Any) -> Any:
        logging.getLogger("onnxscript.optimizer").warning("Evaluation failed: cannot reshape array")
        return export(*args, **options)

    monkeypatch.setattr(torch.onnx, "export", logging_export)
    sparse = ntt.prune(small(), noise(9, 60), sparsity=0.5, method="magnitude")
    ntt.export(sparse, to="onnx", data=noise(9, 60), output=tmp_path / "net.onnx")
    logging.getLogger("onnxscript.optimizer").warning("afterwards")
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert warned == ["afterwards"]


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr("ntt_cli.programs.export.find_spec", lambda name: None if name == "onnxruntime" else find(name))
    sparse = ntt.prune(small(), noise(9, 60), sparsity=0.5, method="magnitude")
    with pytest.raises(ntt.NttError) as caught:
        ntt.export(sparse, to="onnx", data=noise(9, 60), output=tmp_path / "x.onnx")
    assert (caught.value.what, caught.value.hint, caught.value.exit_code) == (
        "needs onnxruntime, which is not installed",
        "pip install onnx onnxscript onnxruntime",
        2,
    )


class Bessel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(60, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(torch.special.i0e(self.layer(x)))


def test_operations_without_onnx(tmp_path: Path) -> None:
    sparse = ntt.prune(Bessel(), noise(9, 60), sparsity=0.5, method="magnitude")
    with pytest.raises(ntt.NttError) as caught:
        ntt.export(sparse, to="onnx", data=noise(9, 60), output=tmp_path / "x.onnx")
    assert "Bessel: cannot be written as ONNX: " in str(caught.value)
    assert "i0e" in str(caught.value)
    assert not list(tmp_path.iterdir())
