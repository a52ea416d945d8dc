from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ntt_cli.files.atomic import sha256_of
from tests.cli.conftest import Ntt
from tests.processes import run
from tests.small_networks import write_network


@pytest.fixture
def _sparse(folder: Path, ntt: Ntt) -> None:
    assert ntt("prune", write_network("plain"), "--sparsity", 0.9, "--method", "random").code == 0


@pytest.mark.usefixtures("_sparse")
def test_files_that_are_whole(ntt: Ntt) -> None:
    assert ntt("verify", "sparse.safetensors").out == "sparse.safetensors: whole; 4 tensors, written by ntt prune\n"
    result = ntt("verify", "sparse.report.safetensors")
    assert (result.code, "written by ntt prune report" in result.out) == (0, True)
    found = ntt("verify", "sparse.safetensors", "--json").document
    data = Path("sparse.safetensors").read_bytes()
    printed = run(["sha256sum", "sparse.safetensors"]).stdout
    assert found["sha256"] == printed.split()[0]
    recorded = found["recorded_sha256"]
    assert recorded == sha256_of(data.replace(recorded.encode(), b"0" * 64))
    assert (found["kind"], found["bytes"], found["tensor_count"]) == ("prune", len(data), 4)
    assert ntt("verify", "sparse.safetensors", "-q").out == "sparse.safetensors\n"


@pytest.mark.usefixtures("_sparse")
@pytest.mark.parametrize("file", ["sparse.safetensors", "sparse.report.safetensors"])
def test_a_flipped_bit(ntt: Ntt, file: str) -> None:
    whole = Path(file).read_bytes()
    Path(file).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    for command in ("verify", "inspect"):
        result = ntt(command, file)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith(f"error: {file}: ")
        assert "is damaged: the SHA-256 does not match\nhint: copy the file again, or make it again" in result.err


@pytest.mark.usefixtures("folder")
def test_a_file_that_ntt_did_not_write(ntt: Ntt) -> None:
    save_file({"w": torch.ones(2)}, "x.safetensors")
    result = ntt("verify", "x.safetensors")
    assert (result.code, result.out) == (2, "")
    assert "x.safetensors: was not written by ntt: it holds no hashes to check" in result.err
