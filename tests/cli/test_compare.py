from __future__ import annotations

import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ntt_cli.comparison import compare
from ntt_cli.comparison.trial import run_trial
from ntt_cli.config import CompareConfig
from tests.cli.conftest import MODEL, Ntt
from tests.processes import started

GRID = ["--methods", "random,snip", "--sparsities", "0.9", "--seeds", "1,2", "--epochs", "1", "--limit", "100"]
COMMAND = ["compare", MODEL, *GRID, "--device", "cpu"]
pytestmark = pytest.mark.usefixtures("folder")


def finish(
    output: str = "comparison", methods: tuple[str, ...] = ("random", "snip"), weights: str | None = None
) -> None:
    """The grid's trials, in this process."""
    config = CompareConfig(
        model=MODEL,
        methods=methods,
        sparsities=(0.9,),
        seeds=(1, 2),
        epochs=1,
        limit=100,
        device="cpu",
        output=output,
        **({"weights": weights} if weights else {}),
    )
    for trial in compare.prepare(config, print, write=True):
        run_trial(config, trial)


def test_a_finished_comparison(ntt: Ntt) -> None:
    finish()
    human = ntt(*COMMAND)
    assert human.code == 0
    assert human.out.splitlines()[1] == "test accuracy in %, mean ± standard deviation over 2 seeds"
    assert human.out.splitlines()[2].split() == ["method", "labels", "before", "training", "90%"]
    rows = {line.split()[0]: line.split()[1:] for line in human.out.splitlines()[3:]}
    assert (rows["random"][0], rows["snip"][0]) == ("no", "yes")
    assert "see comparison/report.html" in human.err
    document = ntt(*COMMAND, "--json").document
    assert [row["method"] for row in document["rows"]] == ["random", "snip"]
    mean = 50 * sum(result["accuracy"] for result in document["results"] if result["method"] == "snip")
    assert rows["snip"][1] == f"{mean:.2f}"
    assert ntt(*COMMAND, "-q").out == "comparison\n"


def test_the_dense_network_has_a_column_where_it_takes_part(ntt: Ntt) -> None:
    finish(methods=("random", "snip", "dense"))
    head, *rows = ntt(*COMMAND, "--methods", "random,snip,dense").out.splitlines()[2:]
    assert head.split() == ["method", "labels", "before", "training", "dense", "90%"]
    dense = next(row for row in rows if row.startswith("dense"))
    assert len(dense.rstrip()) == head.index("dense") + len("dense")  # the last number stands below its heading


def test_networks_that_were_trained_before_are_shown_as_pruned_too(ntt: Ntt) -> None:
    assert ntt("finetune", MODEL, "--epochs", "1", "--limit", "100", "-o", "dense.safetensors").code == 0
    finish(methods=("random", "magnitude"), weights="dense.safetensors")
    command = [*COMMAND, "--methods", "random,magnitude", "--weights", "dense.safetensors"]
    results = ntt(*command, "--json").document["results"]
    assert all(result["trained"] for result in results)
    lines = ntt(*command).out.splitlines()
    heads = [line for line in lines if line.startswith("test ")]
    assert [head.partition(",")[0] for head in heads] == [
        "test accuracy in % as pruned",
        "test accuracy in % after fine-tuning",
    ]
    for head, field in zip(heads, ("accuracy_as_pruned", "accuracy"), strict=True):
        values = [100 * result[field] for result in results if result["method"] == "random"]
        cells = next(line for line in lines[lines.index(head) :] if line.startswith("random")).split()[2:]
        assert cells == [f"{statistics.mean(values):.2f}", "±", f"{statistics.stdev(values):.2f}"]


def test_the_plan(ntt: Ntt) -> None:
    finish()
    (Path("comparison/trials/snip-0.9-seed1/result.json")).unlink()
    result = ntt(*COMMAND, "--plan")
    assert result.code == 0
    assert [line.split() for line in result.out.splitlines()[1:5]] == [
        ["1", "random-0.9-seed1", "done"],
        ["2", "snip-0.9-seed1"],
        ["3", "random-0.9-seed2", "done"],
        ["4", "snip-0.9-seed2", "done"],
    ]
    assert result.out.splitlines()[5].startswith("1 of 4 trials to do, about 0:00:0")


@pytest.mark.usefixtures("forked_workers")
def test_one_trial_by_its_number_and_one_that_fails(ntt: Ntt) -> None:
    result = ntt(*COMMAND, "--trial", "3", "--json")
    assert (result.code, [r["seed"] for r in result.document["results"]]) == (0, [2])
    assert not Path("comparison/results.csv").exists()
    assert "trial 1/1" in result.err
    failing = ntt(*COMMAND, "--trial", "1", "--learning-rates", "1e30", "-o", "other")
    assert failing.code == 3
    assert "failed: trial random-0.9-seed1: " in failing.err
    assert "the network's loss in evaluation is no longer finite" in failing.err
    assert "the same command runs the failed trials again" in failing.err
    assert failing.out == "other\n"  # no table over no seeds


def test_lists(ntt: Ntt) -> None:
    result = ntt("compare", MODEL, "--methods", "ntt,synfow")
    assert result.code == 2
    assert "error: --methods ntt,synfow: synfow is no method; did you mean synflow?" in result.err
    Path("c.toml").write_text("methods = ['random', 'snip']\nsparsities = [0.9]\nseeds = [1, 2]\n")
    planned = ntt("compare", MODEL, "--config", "c.toml", "--limit", "100", "--plan", "--json").document
    assert len(planned["trials"]) == 4


@pytest.mark.usefixtures("forked_workers")
def test_killed_and_started_again_it_writes_the_same_table(ntt: Ntt) -> None:
    command = ["compare", MODEL, "--methods", "random", *GRID[2:], "--device", "cpu"]
    finish("whole", methods=("random",))
    assert ntt(*command, "-o", "whole", "-q").code == 0  # the table of the trials that are done
    with started([sys.executable, "-m", "ntt_cli", *command], stderr=subprocess.DEVNULL) as killed:
        while not list(Path("comparison").glob("trials/*/sparse.safetensors")):
            assert killed.poll() is None
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        # Its trial ends with it: nothing more appears, and nothing is left half-written.
        time.sleep(1)
        files = {path: path.stat().st_mtime_ns for path in Path("comparison").rglob("*")}
        time.sleep(1)
        assert {path: path.stat().st_mtime_ns for path in Path("comparison").rglob("*")} == files
    done = ntt(*command, "--json")
    assert done.code == 0
    assert len(done.document["results"]) == 2
    assert Path("comparison/results.csv").read_bytes() == Path("whole/results.csv").read_bytes()
