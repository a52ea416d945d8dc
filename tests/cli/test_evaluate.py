from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.cli.conftest import MODEL, Ntt

EVALUATE = ("evaluate", MODEL, "--checkpoint", "tuned.safetensors")

pytestmark = pytest.mark.usefixtures("checkpoints")


def test_for_people(ntt: Ntt) -> None:
    result = ntt(*EVALUATE, "--teacher", "dense.safetensors")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == "tuned.safetensors"
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:] if line}
    assert rows["accuracy"].endswith("%")
    assert rows["samples"] == "359 of digits"
    assert rows["weights"] == "1,190 of 11,900 prunable kept, density 10.00%"
    assert rows["FLOPs"] == "2,380 sparse, 23,800 dense, a sample"
    assert rows["agreement"].startswith("with the teacher: same first choice ")
    assert set("0123456789") < rows.keys()
    assert "sample 359/359" in result.err


def test_of_many_classes_the_lowest_are_shown(ntt: Ntt) -> None:
    Path("wide.py").write_text(
        "from torch import nn\n\ndef build_model():\n    return nn.Sequential(nn.Flatten(), nn.Linear(4, 30))\n"
    )
    np.savez("many.npz", x=np.eye(4, dtype=np.float32).repeat(5, 0), y=np.arange(20) % 7)
    model = ("wide.py", "--data", "many.npz", "--validation", "0", "--epochs", "1", "-o", "wide.safetensors")
    assert ntt("finetune", *model).code == 0
    evaluate = ("evaluate", "wide.py", "--data", "many.npz", "--checkpoint", "wide.safetensors")
    *table, note = ntt(*evaluate).out.splitlines()[-22:]
    assert table[0].split() == ["class", "accuracy"]
    rows = [line.split(maxsplit=1) for line in table[1:]]
    assert [name for name, value in rows if value.strip() != "no samples"] == [name for name, _ in rows[:7]]
    assert len(rows) == 20
    assert note.strip() == "the 20 lowest of 30 classes; --json has all"
    accuracies = ntt(*evaluate, "--json").document["accuracy_by_class"]
    assert len(accuracies) == 30
    assert [f"{accuracies[name]:.2%}" for name, _ in rows[:7]] == [value.strip() for _, value in rows[:7]]
    assert (lowest := [accuracies[name] for name, _ in rows[:7]]) == sorted(lowest)


def test_json_and_quiet_agree(ntt: Ntt) -> None:
    report = ntt(*EVALUATE, "--json").document
    assert list(report["accuracy_by_class"]) == list("0123456789")
    result = ntt(*EVALUATE, "-q")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{report['accuracy']:.4f}\n"


@pytest.mark.parametrize("mode", [[], ["--json"], ["-q"]], ids=str)
def test_gates(ntt: Ntt, mode: list[str]) -> None:
    met = ntt(*EVALUATE, "--min-accuracy", "0", *mode)
    assert (met.code, "failed" in met.err) == (0, False)
    missed = ntt(*EVALUATE, "--min-accuracy", "1", *mode)
    assert missed.code == 1
    assert missed.err.splitlines()[-1].startswith("failed: accuracy 0.")
    assert missed.err.endswith("is below --min-accuracy 1.0\n")
    assert missed.out
    if mode == ["--json"]:
        assert (met.document["passed"], missed.document["passed"]) == (True, False)


def test_all_gates_are_shown_and_written(ntt: Ntt) -> None:
    size = Path("tuned.safetensors").stat().st_size
    met = ["--max-bytes", str(size), "--max-flops", "2380", "--min-sparsity", "0.9"]
    same = ["--max-drop", "0", "--baseline", "tuned.safetensors", "--junit", "gates.xml"]
    result = ntt(*EVALUATE, *met, *same)
    assert (result.code, result.out.count("passed: ")) == (0, 4)
    assert [case.find("failure") for case in ElementTree.parse("gates.xml").iter("testcase")] == [None] * 4
    tight = ["--max-bytes", str(size - 1), "--max-flops", "2379", "--min-sparsity", "0.91", "--min-accuracy", "0"]
    worse = ["--max-drop", "0", "--baseline", "dense.safetensors", "--junit", "gates.xml", "--json"]
    missed = ntt(*EVALUATE, *tight, *worse)
    assert missed.code == 1
    report = missed.document
    dense = ntt("evaluate", MODEL, "-c", "dense.safetensors", "--json").document["accuracy"]
    assert report["baseline"] == dense > report["accuracy"]
    drop = {gate["measure"]: gate["value"] for gate in report["gates"]}["drop"]
    assert drop == pytest.approx(dense - report["accuracy"])
    assert [gate["passed"] for gate in report["gates"]] == [True, False, False, False, False]
    assert len(report["missed"]) == 4
    assert all(words in missed.err.splitlines()[-1] for words in report["missed"])
    failures = [case.find("failure") is not None for case in ElementTree.parse("gates.xml").iter("testcase")]
    assert failures == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-drop", "0.1"], "--max-drop 0.1: it compares with other weights; --baseline names them"),
        (["--baseline", "dense.safetensors"], "--baseline dense.safetensors: --max-drop alone reads it"),
        (["--junit", "gates.xml"], "--junit gates.xml: there is no gate to write"),
        (["--min-accuracy", "0", "--junit", "gates.txt"], "gates.txt: is not named .xml, which is what is written"),
        (["--max-bytes", "0"], "--max-bytes 0: should be greater than or equal to 1"),
        (["--min-sparsity", "95"], "--min-sparsity 95: should be less than or equal to 1"),
        (["--max-drop", "0", "--baseline", "none.safetensors"], "none.safetensors: does not exist"),
    ],
)
def test_gates_that_are_none(ntt: Ntt, options: list[str], message: str) -> None:
    result = ntt(*EVALUATE, *options)
    assert result.code == 2
    assert f"error: {message}\n" in result.err


def test_agreement_on_unlabelled_data(ntt: Ntt) -> None:
    np.save("x.npy", np.random.default_rng(0).normal(size=(20, 64)).astype(np.float32))
    unlabelled = [*EVALUATE, "--teacher", "tuned.safetensors", "--data", "x.npy"]
    human = ntt(*unlabelled)
    assert human.code == 0
    assert "same first choice 100.00%, logit distance 0.0000, cosine 1.0000\n" in human.out
    assert "logit distance 0.0000, cosine 1.0000, kernel distance 0.0000\n" in ntt(*unlabelled, "--kernels").out
    assert "accuracy" not in human.out
    assert "class" not in human.out
    assert ntt(*unlabelled, "-q").out == "1.0000\n"
    assert ntt(*unlabelled, "--json").document["accuracy"] is None


def test_the_training_split(ntt: Ntt) -> None:
    assert ntt(*EVALUATE, "--split", "train", "--limit", "30", "--json").document["samples"] == 30
