from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from ntt_cli.files.metadata import read_header
from tests.cli.conftest import MODEL, Ntt, content
from tests.small_networks import write_network

PRUNE = ("prune", MODEL, "--sparsity", "0.9", "--steps", "4", "--limit", "8")

pytestmark = pytest.mark.usefixtures("folder")


def test_for_people(ntt: Ntt) -> None:
    result = ntt(*PRUNE)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == "sparse.safetensors: 1,190 of 11,900 weights kept, 90.00% sparse"
    assert lines[1].split() == ["layer", "shape", "kept", "of", "density"]
    assert [line.split()[:2] for line in lines[2:5]] == [
        ["1.weight", "100×64"],
        ["3.weight", "50×100"],
        ["5.weight", "10×50"],
    ]
    assert lines[5].startswith("agreement with the teacher: same first choice ")
    assert lines[6].startswith("kernels on 8 samples: alignment 0.")
    assert len(lines) == 8
    assert lines[7].startswith("bytes: 48,240 dense, packed about ")
    assert "step 4/4 · density 10.00%" in result.err
    assert result.err.splitlines()[-1].endswith("next: ntt finetune digits_mlp.py --checkpoint sparse.safetensors")
    assert (
        sum(int(value.count_nonzero()) for value in load_file("sparse.safetensors").values() if value.dim() > 1) == 1190
    )


def test_it_says_first_what_it_will_do(ntt: Ntt) -> None:
    written = "then sparse.safetensors and sparse.report.safetensors are written"
    assert f"to do: 90% zeros by ntt, in 4 steps; {written}" in ntt(*PRUNE).err.splitlines()
    magnitude = ntt(*PRUNE[:4], "--method", "magnitude", "-o", "m.safetensors")
    assert "to do: 90% zeros by magnitude; then m.safetensors and m.report.safetensors are written" in magnitude.err
    again = ntt(*PRUNE, "--resume")
    assert "nothing to do" in again.err
    assert "to do: " not in again.err


def test_json(ntt: Ntt) -> None:
    result = ntt(*PRUNE, "--json")
    report = result.document
    assert (result.code, report["kept"], report["output"]) == (0, 1190, "sparse.safetensors")
    assert Path(report["report"]).is_file()
    assert [layer["name"] for layer in report["layers"]] == ["1.weight", "3.weight", "5.weight"]
    assert "step 4/4" in result.err
    record = read_header(Path(report["report"])).record
    assert record is not None
    assert record.summary == result.report


def test_quiet(ntt: Ntt) -> None:
    result = ntt(*PRUNE, "-q", "-o", "a b.safetensors")
    assert (result.code, result.out, result.err) == (0, "a b.safetensors\n", "")
    assert Path("a b.safetensors").is_file()


def test_quiet_json_is_json_without_progress(ntt: Ntt) -> None:
    result = ntt(*PRUNE, "-q", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.document["kept"] == 1190


def test_the_next_command_can_be_pasted(ntt: Ntt) -> None:
    result = ntt(*PRUNE[:4], "--method", "random", "-o", "it's sparse.safetensors")
    assert result.err.endswith("""--checkpoint 'it'"'"'s sparse.safetensors'\n""")


def test_force(ntt: Ntt) -> None:
    for name in ("sparse.safetensors", "sparse.report.safetensors"):
        Path(name).write_text("mine")
    assert ntt(*PRUNE, "-q").code == 2
    assert Path("sparse.safetensors").read_text() == "mine"
    assert ntt(*PRUNE, "-q", "--force").code == 0
    assert read_header(Path("sparse.safetensors")).record is not None


def test_the_same_command_writes_the_same_bytes(ntt: Ntt) -> None:
    digests = []
    for extra in (["-o", "a.safetensors"], ["-o", "b.safetensors", "--json"], ["-o", "c.safetensors", "--seed", "1"]):
        assert ntt(*PRUNE, *extra).code == 0
        digests.append(hashlib.sha256(Path(extra[1]).read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_nothing_removed(ntt: Ntt) -> None:
    result = ntt("prune", MODEL, "--sparsity", "0", "--limit", "8", "--json")
    assert (result.code, result.document["kept"], result.document["steps"]) == (0, 11900, 0)


def test_dry_run(ntt: Ntt) -> None:
    before = content()
    result = ntt(*PRUNE, "--dry-run")
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == "digits_mlp.py: would keep 1,190 of 11,900 weights, nothing trained"
    assert lines[-2].startswith("peak memory ")
    assert re.fullmatch(r"about \d+ s, with 4 steps of [\d.]+ ms", lines[-1])
    plan = ntt(*PRUNE, "--dry-run", "--json").document
    assert (plan["kept"], plan["steps"], len(plan["layers"])) == (1190, 4, 3)
    assert ntt(*PRUNE[:4], "--dry-run", "--method", "random").code == 0
    assert ntt(*PRUNE[:4], "--dry-run", "--method", "random", "-q").out == "1190\n"  # no path: there is no file
    assert content() == before


@pytest.mark.parametrize("method", ["cts-kl", "imp"])
def test_dry_run_of_a_method_whose_steps_choose_the_masks(ntt: Ntt, method: str) -> None:
    """It takes a few of its steps, and not the whole run."""
    result = ntt(*PRUNE[:4], "--dry-run", "--method", method, "--steps", "1000000")
    assert result.code == 0
    assert "would keep 1,190 of 11,900 weights" in result.out
    seconds = re.search(r"^about ([\d,]+) s$", result.out, re.MULTILINE)
    assert seconds is not None
    assert int(seconds[1].replace(",", "")) > 100
    assert not list(Path().glob("*.safetensors"))


def test_dry_run_beside_existing_files(ntt: Ntt) -> None:
    Path("sparse.safetensors").write_text("mine")
    assert ntt(*PRUNE, "--dry-run").code == 0
    assert Path("sparse.safetensors").read_text() == "mine"


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_without_data(ntt: Ntt, method: str) -> None:
    result = ntt("prune", write_network("tokens"), "--sparsity", "0.5", "--method", method, "--json")
    assert (result.code, result.document["data"], result.document["agreement"]) == (0, None, None)
    human = ntt("prune", "tokens.py", "--sparsity", "0.5", "--method", method, "--force").out
    assert "agreement" not in human


def test_options_that_are_repeated(ntt: Ntt) -> None:
    result = ntt(
        "prune", MODEL, "-s", "0.5", "--method", "random", "--json",
        "-a", "hidden=(30, 20)", "-a", "classes=7", "--exclude", "1.*", "--exclude", "5.*",
    )  # fmt: skip
    assert [(layer["name"], layer["shape"]) for layer in result.document["layers"]] == [("3.weight", [20, 30])]


def test_what_the_model_prints_is_no_result(ntt: Ntt) -> None:
    result = ntt("prune", write_network("talkative"), "-s", "0.5", "--steps", "2", "--limit", "4", "--json")
    assert result.code == 0
    assert result.document["kept"] == 592
    assert {"importing", "building", "running"} <= set(result.err.splitlines())


def test_frozen_parameters_are_a_warning(ntt: Ntt) -> None:
    result = ntt("prune", write_network("partly frozen"), "-s", "0.5", "--steps", "2", "--limit", "4", "-q")
    assert (result.code, result.out) == (0, "sparse.safetensors\n")
    assert result.err == "warning: frozen parameters stay as they are and dense: fc1.weight, fc1.bias\n"


def test_pretrained_weights(ntt: Ntt) -> None:
    assert ntt("finetune", MODEL, "--epochs", "1", "-q").code == 0
    report = ntt(*PRUNE, "--weights", "dense.safetensors", "--json").document
    assert report["teacher"] == "dense.safetensors"
    dense, sparse = load_file("dense.safetensors"), load_file("sparse.safetensors")
    assert not np.array_equal(dense["1.weight"].numpy(), sparse["1.weight"].numpy())
