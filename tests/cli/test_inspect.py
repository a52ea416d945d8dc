from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ntt_cli import __version__
from tests.cli.conftest import MODEL, Ntt

pytestmark = pytest.mark.usefixtures("checkpoints")


def test_a_sparse_checkpoint(ntt: Ntt) -> None:
    result = ntt("inspect", "sparse.safetensors")
    assert (result.code, result.err) == (0, "")
    lines = [" ".join(line.split()) for line in result.out.splitlines()]
    size = Path("sparse.safetensors").stat().st_size
    assert lines[0] == f"sparse.safetensors: {size:,} bytes, 6 tensors"
    assert lines[1].startswith("made by ntt prune from digits_mlp.py (SHA-256 ")
    assert lines[1].endswith(f"), with ntt {__version__} and torch {torch.__version__}")
    assert lines[2] == "inputs: normalised by mean 0.3085, deviation 0.381 (the statistics of digits)"
    assert lines[3] == "1,190 of 11,900 prunable weights kept, 90.00% sparse"
    assert lines[4] == "layer shape kept of density"
    assert lines[-6:-2] == ["1.bias F32 100", "1.weight F32 100×64", "3.bias F32 50", "3.weight F32 50×100"]


def test_masks_of_biases_count_as_no_weights(ntt: Ntt) -> None:
    tensors = load_file("dense.safetensors")
    for name, mask in (("1.weight", torch.eye(100, 64)), ("1.bias", torch.zeros(100))):
        tensors |= {f"{name}_orig": tensors.pop(name), f"{name}_mask": mask}
    save_file(tensors, "pairs.safetensors")
    result = ntt("finetune", MODEL, "-c", "pairs.safetensors", "-o", "out.safetensors", "--epochs", "1")
    assert result.code == 0
    assert "64 of 6,400 prunable weights kept, 99.00% sparse" in ntt("inspect", "out.safetensors").out


def test_a_dense_checkpoint(ntt: Ntt) -> None:
    assert "made by ntt finetune from digits_mlp.py" in ntt("inspect", "dense.safetensors").out
    assert "dense: nothing is pruned" in ntt("inspect", "dense.safetensors").out


def test_reports(ntt: Ntt) -> None:
    out = ntt("inspect", "sparse.report.safetensors").out
    assert "the prune report of sparse.safetensors" in out
    assert "'kept': 1190,\n" in out
    assert "history.total" in out
    assert "the finetune report of tuned.safetensors" in ntt("inspect", "tuned.report.safetensors").out


@pytest.mark.parametrize("name", ["sparse", "sparse.report", "tuned", "tuned.report", "dense"])
def test_json(ntt: Ntt, name: str) -> None:
    result = ntt("inspect", f"{name}.safetensors", "--json")
    assert (result.code, result.err) == (0, "")
    kind = "finetune" if name[0] in "td" else "prune"
    assert result.document["record"]["kind"] == (f"{kind} report" if "report" in name else kind)
    assert result.document["file"] == f"{name}.safetensors"


def test_a_file_that_ntt_did_not_write(ntt: Ntt) -> None:
    save_file({"encoder.weight": torch.zeros(2, 3)}, "x.safetensors")
    result = ntt("inspect", "x.safetensors")
    assert result.code == 0
    assert "a plain safetensors file, not written by ntt" in result.out
    assert ntt("inspect", "x.safetensors", "--json").document["record"] is None


def test_nothing_is_cut_off_in_a_pipe(ntt: Ntt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name = "encoder.layers.encoder_layer_11.self_attention.in_proj_weight" * 3
    save_file({name: torch.zeros(2, 3)}, "x.safetensors")
    assert f"{name}  F32   2×3" in ntt("inspect", "x.safetensors").out


def test_no_code_of_the_user_runs(ntt: Ntt) -> None:
    Path(MODEL).write_text("raise SystemExit('inspecting must not run this')")
    assert ntt("inspect", "sparse.safetensors").code == 0


RUNS = [
    ["prune", MODEL, "-s", "0.8", "--method", "ntt:score=magnitude", "--steps", "3", "--limit", "20", "--seed", "5"],
    ["prune", MODEL, "-s", "0.8", "--method", "wanda", "--weights", "dense.safetensors", "--exclude", "5.*"],
    ["finetune", MODEL, "-c", "sparse.safetensors", "--epochs", "1", "--limit", "60", "--optimiser", "sgd"],
]


@pytest.mark.parametrize("words", RUNS, ids=" ".join)
def test_the_printed_options_repeat_the_run(ntt: Ntt, words: list[str]) -> None:
    assert ntt(*words, "-o", "first.safetensors", "-q").code == 0
    printed = ntt("inspect", "first.safetensors", "--toml")
    assert (printed.code, printed.err) == (0, "")
    Path("run.toml").write_text(printed.out)
    again = ntt(words[0], "--config", "run.toml", "-o", "again.safetensors", "-q")
    assert again.code == 0, again.err
    assert Path("again.safetensors").read_bytes() == Path("first.safetensors").read_bytes()
    assert ntt("export", "first.safetensors", "--to", "packed").code == 0
    assert ntt("inspect", "first.packed.safetensors", "--toml").out == printed.out


def test_options_that_are_not_there(ntt: Ntt) -> None:
    save_file({"encoder.weight": torch.zeros(2, 3)}, "x.safetensors")
    for name in ("x", "sparse.report"):
        refused = ntt("inspect", f"{name}.safetensors", "--toml")
        assert (refused.code, refused.out) == (2, "")
        assert f"error: {name}.safetensors: records no options\nhint: name a checkpoint" in refused.err
    both = ntt("inspect", "sparse.safetensors", "--toml", "--json")
    assert (both.code, both.document["error"]["where"]) == (2, "--toml")
    named = ntt("prune", "--config", "sparse.safetensors")
    assert (named.code, "ntt inspect sparse.safetensors --toml" in named.err) == (2, True)
