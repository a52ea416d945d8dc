"""`ntt prune --compile`, with a real compiler; `tests/methods/ntt/test_compiled.py` has all that needs none."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch._inductor.config
from safetensors.torch import load_file

from tests.cli.conftest import Ntt, content
from tests.small_networks import write_network

PRUNE = ("prune", "plain.py", "--sparsity", "0.9", "--steps", "4", "--limit", "8")
"""Of a network of two layers: each operation of a step, derivatives included, is a run of the C++ compiler."""

COMPILER = os.environ.get("CXX", "g++")


@pytest.fixture(autouse=True)
def _cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    write_network("plain")


@pytest.mark.skipif(sys.version_info[:3] == (3, 13, 0), reason="torch does not compile on Python 3.13.0")
@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C++ compiler: {COMPILER} is not installed")
def test_compiled_steps_give_the_same_network(ntt: Ntt) -> None:
    assert ntt(*PRUNE, "-o", "plain.safetensors").code == 0
    result = ntt(*PRUNE, "--compile", "-o", "compiled.safetensors")
    assert result.code == 0
    assert any(line.startswith("compiling the steps") for line in result.err.splitlines())
    plain, compiled = load_file("plain.safetensors"), load_file("compiled.safetensors")
    for name, value in plain.items():
        assert torch.equal(value == 0, compiled[name] == 0)
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=1e-5)
    kept = Path("cache/ntt-cli/compiled")
    assert kept.stat().st_mode & 0o777 == 0o700
    assert any(kept.rglob("*.so"))
    assert not any(path.suffix in {".pkl", ".pickle"} for path in kept.rglob("*"))


def test_no_compiler(ntt: Ntt) -> None:
    before = content()
    with torch._inductor.config.patch({"cpp.cxx": ("/nonexistent/c++",)}):
        result = ntt(*PRUNE, "--compile", "--kernel-weight", "0")  # which leaves less to trace before the compiler
    assert (result.code, result.out) == (2, "")
    error, hint = result.err.splitlines()[-2:]
    assert error.startswith("error: --compile: failed: ")
    assert "/nonexistent/c++" in error
    assert hint == "hint: run without it, or install a C++ compiler (on a GPU, Triton)"
    assert {path for path in content() if "cache" not in path.parts} == set(before)


def test_parts_of_batches_are_refused(ntt: Ntt) -> None:
    result = ntt(*PRUNE, "--compile", "--micro-batch", "2")
    assert result.code == 2
    assert "give either compile or micro_batch: only steps of whole batches are compiled" in result.err
