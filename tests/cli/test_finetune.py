from __future__ import annotations

from pathlib import Path

import pytest

from ntt_cli.files.checkpoint import read_checkpoint
from tests.cli.conftest import MODEL, Ntt

FINETUNE = ("finetune", MODEL, "--epochs", "2", "--limit", "300")

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.usefixtures("checkpoints")
def test_for_people(ntt: Ntt) -> None:
    result = ntt(*FINETUNE, "--checkpoint", "sparse.safetensors", "--force")
    assert result.code == 0
    assert result.out.count("\n") == 1
    files = "tuned.safetensors and tuned.report.safetensors are written"
    assert f"to do: 2 epochs of 4 steps; then {files}" in result.err.splitlines()
    assert result.out.startswith("tuned.safetensors: density 10.00%, epoch ")
    assert "of 2, " in result.out
    assert "on the validation split (adamw, rate " in result.out
    assert "epoch 1 · validation accuracy" in result.err
    assert result.err.splitlines()[-1].endswith("next: ntt evaluate digits_mlp.py --checkpoint tuned.safetensors")
    assert read_checkpoint(Path("tuned.safetensors")).masks.keys() == {"1.weight", "3.weight", "5.weight"}


def test_json(ntt: Ntt) -> None:
    result = ntt(*FINETUNE, "--json")
    report = result.document
    assert (result.code, report["output"], report["density"]) == (0, "dense.safetensors", 1.0)
    assert [epoch["epoch"] for epoch in report["epochs"]] == [1, 2]
    assert "step" in result.err


def test_quiet(ntt: Ntt) -> None:
    result = ntt(*FINETUNE, "--quiet")
    assert (result.code, result.out, result.err) == (0, "dense.safetensors\n", "")


def test_without_validation(ntt: Ntt) -> None:
    result = ntt(*FINETUNE, "--validation", "0")
    assert result.code == 0
    assert "epoch 2 of 2 (adamw" in result.out
    assert "accuracy" not in result.out + result.err
    assert ntt(*FINETUNE, "--validation", "0", "--json", "--force").document["accuracy"] is None


def test_other_ways_to_train(ntt: Ntt) -> None:
    extra = ["--optimiser", "sgd", "--rate-schedule", "constant", "--learning-rate", "0.01", "--weight-decay", "0.1"]
    report = ntt(*FINETUNE, *extra, "--batch-size", "32", "--json").document
    assert (report["optimiser"], report["learning_rate"]) == ("sgd", 0.01)
