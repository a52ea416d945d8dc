from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import ntt_cli as ntt
from tests.api.objects import network, refusal
from tests.cli.conftest import Ntt

pytestmark = pytest.mark.usefixtures("folder")


@pytest.fixture
def path(folder: Path) -> Path:
    return ntt.prune(network(), sparsity=0.5, method="magnitude").save("sparse.safetensors")


def test_inspect(path: Path, command: Ntt) -> None:
    found = ntt.inspect(path)
    assert list(found.tensors["0.weight"].shape) == [8, 4]
    assert found.model_dump(mode="json") == command("inspect", path, "--json").report
    assert ntt.inspect("sparse.report.safetensors").record is not None


def test_verify(path: Path, command: Ntt) -> None:
    found = ntt.verify(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.model_dump(mode="json") == command("verify", path, "--json").report


def test_init(command: Ntt) -> None:
    written = ntt.init()
    assert written.output == "model.py"
    first = Path("model.py").read_bytes()
    assert command("init", "--force").code == 0
    assert Path("model.py").read_bytes() == first
    assert ntt.init("model.py", force=True) == written
    assert ntt.prune("model.py", sparsity=0.9, method="magnitude").report.sparsity == pytest.approx(0.9, abs=1e-3)
    assert "is not a .py file" in refusal(ntt.NttError, ntt.init, "model")


def test_report(path: Path) -> None:
    page = ntt.report(path)
    assert (page.output, page.figures) == ("sparse.report.html", ["layers"])
    assert Path(page.output).stat().st_size == page.bytes


def test_files_that_are_none_of_ours(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    Path("bad.safetensors").write_bytes(data)
    Path("text.safetensors").write_text("text")
    for work in (ntt.inspect, ntt.verify, ntt.report):
        refusal(ntt.NttError, work, "text.safetensors")
        refusal(ntt.NttError, work, "nowhere.safetensors")
    assert "is damaged" in refusal(ntt.NttError, ntt.verify, "bad.safetensors")
