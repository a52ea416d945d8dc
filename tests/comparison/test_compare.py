from __future__ import annotations

import csv
import json
import math
import multiprocessing
import re
import statistics
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ntt_cli.comparison import compare
from ntt_cli.comparison.results import CompareReport, TrialFailure, TrialResult
from ntt_cli.comparison.trial import Trial, folder_of, learning_rate_source, pruning_of, result_of, run_trial, trials_of
from ntt_cli.comparison.workers import run_trials
from ntt_cli.config import CompareConfig
from ntt_cli.errors import DataError, DivergedError, NttError, OutputError, UsageError
from ntt_cli.evaluation import evaluate
from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.files.inspect import verify
from ntt_cli.results import EvaluateReport
from ntt_cli.runtime.events import Event, TrialsChanged
from ntt_cli.runtime.signals import Interrupted, Stop
from tests.small_networks import write_network


class AfterLooks(Stop):
    """Asks for the end after so many looks."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def follow_request(self) -> int | None:
        self.looks -= 1
        if self.looks == 0:
            self.asked = 15
        return super().follow_request()


pytestmark = pytest.mark.usefixtures("folder", "forked_workers")
LISTS = {"methods", "sparsities", "seeds", "learning_rates"}


def config(name: str = "plain", **values: Any) -> CompareConfig:
    small = {"sparsities": (0.8,), "seeds": (1,), "epochs": 1, "limit": 100, "device": "cpu"}
    given: dict[str, Any] = {"methods": "random"} | small | values
    if "ntt" in str(given["methods"]).split(","):
        given = {"steps": 4} | given
    # As the command line gives them: a list of strings with commas.
    listed = {name: [value] for name, value in given.items() if isinstance(value, str) and name in LISTS}
    return CompareConfig(model=write_network(name), **(given | listed))


def finish(chosen: CompareConfig) -> list[TrialResult]:
    """Run every trial in this process, where torch is loaded already."""
    return [run_trial(chosen, trial) for trial in compare.prepare(chosen, print, write=True)]


def report_of(chosen: CompareConfig) -> CompareReport:
    return compare.run(chosen, lambda _: None)


def test_the_grid() -> None:
    grid = trials_of(config(methods="ntt,dense", sparsities=(0.9, 0.95), seeds="3, 1"))
    assert [trial.name for trial in grid] == [
        "dense-seed3",
        "ntt-0.9-seed3",
        "ntt-0.95-seed3",
        "dense-seed1",
        "ntt-0.9-seed1",
        "ntt-0.95-seed1",
    ]


def test_the_first_seed_chooses_the_rate_for_the_others() -> None:
    one, two = Trial("snip", 0.9, 7), Trial("snip", 0.9, 8)
    several = config(seeds=(7, 8), learning_rates=(0.1, 0.2))
    assert (learning_rate_source(several, one), learning_rate_source(several, two)) == (None, one)
    assert learning_rate_source(config(seeds=(7, 8), learning_rates=(0.1,)), two) is None
    assert learning_rate_source(config(seeds=(7, 8)), two) is None


def test_methods_with_options_of_their_own() -> None:
    chosen = config(
        methods="ntt,ntt:allocation=global:kernel-weight=0,magnitude:data=noise:50,random:layer-density=a*=1"
    )
    plain, variant, noise, layer_density = (pruning_of(chosen, trial) for trial in trials_of(chosen))
    assert (plain.method, plain.allocation, plain.kernel_weight, plain.steps) == ("ntt", None, None, 4)
    assert (variant.method, variant.allocation, variant.kernel_weight) == ("ntt", "global", 0.0)
    assert (noise.method, noise.data, noise.limit) == ("magnitude", "noise:50", 100)
    assert layer_density.layer_density == ("a*=1",)
    assert [trial.name for trial in trials_of(chosen)][1:] == [
        "ntt,allocation=global,kernel-weight=0-0.8-seed1",
        "magnitude,data=noise,50-0.8-seed1",
        "random,layer-density=a*=1-0.8-seed1",
    ]
    assert Trial("ntt:data=a/b c", 0.5, 1).name == "ntt,data=a%2Fb%20c-0.5-seed1"


def test_an_option_of_a_method_decides_its_mask() -> None:
    erk, layerwise = finish(config(methods="random,random:allocation=layerwise"))
    assert (erk.method, layerwise.method) == ("random", "random:allocation=layerwise")
    masks = [
        read_checkpoint(folder_of(config(), Trial(result.method, 0.8, 1)) / "sparse.safetensors").masks
        for result in (erk, layerwise)
    ]
    densities = [[round(float(mask.double().mean()), 1) for mask in each.values()] for each in masks]
    assert densities[1] == [0.2] * len(masks[1]) != densities[0]


def test_which_see_labels() -> None:
    seen = [
        trial.method
        for trial in trials_of(config(methods="ntt,dense,snip,synflow,trained-magnitude"))
        if trial.sees_labels
    ]
    assert seen == ["snip", "trained-magnitude"]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"methods": "ntt,synfow"}, "synfow is no method; did you mean synflow?"),
        ({"methods": ""}, "at least 1 item"),
        ({"methods": "ntt:allocatoin=erk"}, "ntt has no option allocatoin; did you mean allocation?"),
        ({"methods": "ntt:sparsity=0.5"}, "ntt has no option sparsity"),
        ({"methods": "dense:score=magnitude"}, "dense has no option score"),
        ({"methods": "ntt:steps=0"}, "ntt:steps=0: steps: should be greater than or equal to 1"),
        ({"methods": "magnitude:steps=5"}, "magnitude:steps=5: steps: method magnitude does not read it; ntt, "),
        ({"methods": "trained-magnitude:score=magnitude"}, "score: method magnitude does not read it; ntt, "),
        ({"methods": "random,ntt:steps=5", "steps": 4}, "no method reads it; ntt, gmp, ntt-fresh and ntt-shuffled do"),
        ({"methods": "trained-magnitude", "weights": "x.safetensors"}, "trains weights of its own"),
        ({"methods": "dense", "sparsities": "0.9"}, "method dense does not read it"),
        ({"learning_rates": "1e-3,1e-2", "validation": 0.0}, "holds out no samples to choose a rate by"),
        ({"trial": 1, "jobs": 2}, "trial 1 runs alone"),
        ({"methods": "ntt:epochs=1:steps=1"}, "give either steps or epochs"),
        ({"sparsities": "0.9,1.5"}, "less than 1"),
        ({"seeds": "one"}, "valid integer"),
        ({"pattern": "2:4"}, "--pattern 2:4 has a sparsity of 0.5"),
        ({"pattern": "4:2"}, "is not N:M, like 2:4"),
        (
            {"pattern": "1:4", "sparsities": None, "methods": "magnitude:allocation=erk"},
            "magnitude:allocation=erk: allocation: --pattern 1:4 says how many weights each layer keeps",
        ),
        ({"pattern": "2:4", "sparsities": None, "methods": "dense"}, "method dense does not read it"),
    ],
)
def test_lists_that_cannot_be_read(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words.replace("?", r"\?")):
        config(**values)


def test_a_trial_leaves_its_files_and_its_result() -> None:
    chosen = config(methods="ntt", learning_rates=(1e-3, 0.1), epochs=2)
    (result,) = finish(chosen)
    folder = folder_of(chosen, trials_of(chosen)[0])
    assert folder == Path("comparison/trials/ntt-0.8-seed1")
    assert read_checkpoint(folder / "sparse.safetensors").record is not None
    assert result_of(chosen, trials_of(chosen)[0]) == result
    assert (result.kept, result.prunable, result.seed, result.sparsity) == (237, 1184, 1, 0.8)
    assert set(result.validation_by_rate) == {"0.001", "0.1"}
    best = max(result.validation_by_rate.values(), key=lambda value: value or 0)
    assert result.validation_accuracy == best == result.validation_by_rate[repr(result.learning_rate)]


def test_all_sparse_networks_have_the_pattern() -> None:
    chosen = config(methods="magnitude,dense", pattern="3:4", sparsities=None)
    assert [(trial.method, trial.sparsity) for trial in trials_of(chosen)] == [("dense", None), ("magnitude", 0.25)]
    dense, sparse = finish(chosen)
    assert dense.kept == dense.prunable == 1184
    assert sparse.kept == 888
    folder = folder_of(chosen, trials_of(chosen)[1])
    assert verify(folder / "tuned.safetensors").groups == {"3:4": 296}


def test_all_are_fine_tuned_as_the_comparison_says() -> None:
    said: dict[str, Any] = {"epochs": 2, "optimiser": "sgd", "validation": 0.3, "warmup": 0.5}
    chosen = config(**said, learning_rates=(1e-3,))
    finish(chosen)
    record = read_checkpoint(folder_of(chosen, trials_of(chosen)[0]) / "tuned-0.001.safetensors").record
    assert record is not None
    assert {name: record.config[name] for name in said} == said


def test_later_seeds_take_the_rate_of_the_first() -> None:
    chosen = config(seeds=(1, 2), learning_rates=(1e-3, 0.1))
    later = compare.prepare(chosen, print, write=True)[1]
    with pytest.raises(UsageError, match="takes its learning rate from random-0.8-seed1, which has no result"):
        run_trial(chosen, later)
    first, second = finish(chosen)
    assert second.learning_rate == first.learning_rate
    assert list(second.validation_by_rate) == [repr(first.learning_rate)]


def test_references() -> None:
    chosen = config(methods="dense,trained-magnitude", epochs=3, limit=500)
    dense, pruned = finish(chosen)
    assert (dense.sparsity, dense.kept, dense.prunable) == (None, 1184, 1184)
    assert pruned.kept == 237
    assert pruned.accuracy_as_pruned > dense.accuracy_as_pruned  # it was trained before
    folder = folder_of(chosen, trials_of(chosen)[1])
    trained, masks = (read_checkpoint(folder / f"{name}.safetensors") for name in ("dense", "sparse"))
    weight, mask = trained.tensors["fc1.weight"].abs(), masks.masks["fc1.weight"]
    assert weight[mask].min() >= weight[~mask].max()


def test_tables_and_rows() -> None:
    chosen = config(methods="random,magnitude", seeds=(1, 2), sparsities=(0.5, 0.8))
    results = finish(chosen)
    report = report_of(chosen)
    assert report.results == results
    assert report.failed == []
    for row in report.rows:
        group = [r for r in results if (r.method, r.sparsity) == (row.method, row.sparsity)]
        assert (row.seeds, len(group)) == (2, 2)
        assert row.mean == pytest.approx(sum(r.accuracy for r in group) / 2)
        assert row.std == pytest.approx(statistics.stdev(r.accuracy for r in group))
        assert row.best == (row.mean == max(r.mean for r in report.rows if r.sparsity == row.sparsity))
    with Path("comparison/results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["accuracy"]) for line in lines] == [result.accuracy for result in results]
    assert "seconds" not in lines[0]
    document = [json.loads(line) for line in Path("comparison/results.jsonl").read_text().splitlines()]
    assert document == [result.model_dump(mode="json") for result in results]


def test_one_seed_has_no_deviation_and_dense_is_never_the_best() -> None:
    chosen = config(methods="random,dense")
    finish(chosen)
    random, dense = sorted(report_of(chosen).rows, key=lambda row: row.method, reverse=True)
    assert (random.std, random.best, dense.best) == (None, True, False)


def test_what_is_done_is_not_done_again_and_grids_may_grow() -> None:
    chosen = config()
    finish(chosen)
    path = folder_of(chosen, trials_of(chosen)[0]) / "result.json"
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    report_of(chosen)
    grown = config(sparsities=(0.8, 0.5))
    run_trial(grown, Trial("random", 0.5, 1))
    assert len(report_of(grown).results) == 2
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 2}, "another epochs: 1, not 2"),
        ({"limit": 50}, "another limit: 100, not 50"),
        ({"seeds": (2, 1)}, "another first seed: 1, not 2"),
    ],
)
def test_another_comparison_in_the_folder(values: dict[str, Any], words: str) -> None:
    finish(config())
    report_of(config())
    with pytest.raises(OutputError, match=words):
        report_of(config(**values))


def test_another_model_in_the_file() -> None:
    chosen = config()
    finish(chosen)
    Path("plain.py").write_text(Path("plain.py").read_text() + "\n# changed\n")
    with pytest.raises(OutputError, match="another model file"):
        report_of(chosen)


def test_a_folder_of_something_else() -> None:
    Path("comparison").mkdir()
    Path("comparison/thesis.tex").touch()
    with pytest.raises(OutputError, match="holds something other than a comparison"):
        report_of(config())


TRIAL = Trial("random", 0.8, 1)
RESULT: dict[str, Any] = {
    "method": "random",
    "sparsity": 0.8,
    "seed": 1,
    "labels_before_training": False,
    "learning_rate": 0.001,
    "accuracy": 1,
    "accuracy_as_pruned": 0.0,
    "validation_accuracy": None,
    "validation_by_rate": {"0.001": None},
    "loss": 2.3,
    "kept": 5,
    "prunable": 5,
    "flops_sparse": 10,
    "seconds": 1,
}


def result_file(content: dict[str, Any]) -> None:
    folder = folder_of(config(), TRIAL)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(content))


def test_a_result_at_its_bounds() -> None:
    result_file(RESULT)
    assert result_of(config(), TRIAL) == TrialResult(**RESULT)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", 3),
        ("method", "synfow"),
        ("method", "dense"),
        *(("sparsity", value) for value in (None, 0, 1, -0.1, "0.8")),
        *(("seed", value) for value in (-1, 1.5, True)),
        *(("learning_rate", value) for value in (0, -1, True)),
        *((name, value) for name in ("accuracy", "accuracy_as_pruned") for value in (-0.01, 1.01, 97, None, "1")),
        ("validation_accuracy", 97),
        ("validation_by_rate", {"0.001": 97}),
        *((name, value) for name in ("kept", "prunable", "flops_sparse") for value in (-1, 2.5, True)),
        ("kept", 6),
        ("seconds", -1),
    ],
)
def test_a_result_out_of_its_bounds_is_named(name: str, value: Any) -> None:
    result_file(RESULT | {name: value})
    with pytest.raises(OutputError, match="result.json: is not a result of this version of ntt") as caught:
        result_of(config(), TRIAL)
    assert caught.value.hint == "remove it, and it is made anew"


def test_a_loss_on_the_test_data_that_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated = evaluate.run

    def infinite(*given: Any) -> EvaluateReport:
        report = evaluated(*given)
        return report.model_copy(update={"metrics": report.metrics | {"loss": math.inf}})

    monkeypatch.setattr(evaluate, "run", infinite)
    with pytest.raises(DivergedError, match=r"tuned.safetensors: its loss on the test data is not finite"):
        finish(config())


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": (40, 8, 8), "y": 40}, "is not divided into training and test samples"),
        ({"x_train": (40, 8, 8), "y_train": 40, "x_test": (9, 8, 8)}, "has no labels to test with"),
    ],
)
def test_data_without_a_test_part(arrays: dict[str, Any], words: str) -> None:
    made = {
        name: np.arange(size) % 10 if isinstance(size, int) else np.random.default_rng(0).random(size)
        for name, size in arrays.items()
    }
    np.savez("data.npz", **made)
    with pytest.raises(DataError, match=words):
        report_of(config(data="data.npz"))
    assert not Path("comparison").exists()


def test_test_data_of_its_own() -> None:
    random = np.random.default_rng(0)
    for name, n in (("train", 40), ("test", 30)):
        np.savez(f"{name}.npz", x=random.random((n, 8, 8), dtype=np.float32), y=np.arange(n) % 10)
    chosen = config(data="train.npz", test_data="test.npz")
    (result,) = finish(chosen)
    assert report_of(chosen).results == [result]
    assert (result.accuracy * 30) == pytest.approx(round(result.accuracy * 30))


def test_a_plan_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare.finetune_job, "seconds_per_step", lambda _: 1.0)
    monkeypatch.setattr(compare.prune, "plan", lambda *_: SimpleNamespace(estimated_seconds=1000.0))
    chosen = config(methods="ntt,random", seeds=(1, 2), learning_rates=(1e-3, 1e-2))
    planned = compare.plan(chosen, lambda _: None)
    assert not Path("comparison").exists()
    assert [(trial.number, trial.trial, trial.done) for trial in planned.trials] == [
        (1, "ntt-0.8-seed1", False),
        (2, "random-0.8-seed1", False),
        (3, "ntt-0.8-seed2", False),
        (4, "random-0.8-seed2", False),
    ]
    run_trial(chosen, compare.prepare(chosen, print, write=True)[1])
    later = compare.plan(chosen, lambda _: None)
    assert [trial.done for trial in later.trials] == [False, True, False, False]
    assert later.estimated_seconds < planned.estimated_seconds


def test_a_trial_goes_on_where_it_was_interrupted() -> None:
    chosen, other = config(methods="ntt"), config(methods="ntt", output="other")
    trial = compare.prepare(chosen, print, write=True)[0]
    for looks in (2, 3):  # in the transfer, and, after its other two steps, in the fine-tuning
        with pytest.raises(Interrupted):
            run_trial(chosen, trial, AfterLooks(looks))
        assert len(list(folder_of(chosen, trial).glob("*.resume.safetensors"))) == 1
    # A state from elsewhere is of no use, and no hindrance.
    torch.set_num_threads(torch.get_num_threads() + 1)
    try:
        result = run_trial(chosen, trial)
    finally:
        torch.set_num_threads(torch.get_num_threads() - 1)
    assert not list(folder_of(chosen, trial).glob("*.resume.safetensors"))
    (whole,) = finish(other)
    assert result.model_copy(update={"seconds": 0}) == whole.model_copy(update={"seconds": 0})


def test_a_number_that_is_no_trial() -> None:
    with pytest.raises(UsageError, match="--trial 2: there are 1 trials"):
        report_of(config(trial=2))


def test_processes_side_by_side_one_of_which_fails() -> None:
    chosen = config(methods="magnitude,ntt", learning_rates=(1e30,), epochs=1, jobs=2)
    good = config(methods="magnitude", jobs=2, output="good")
    events: list[Event] = []
    for each in (chosen, good):
        compare.prepare(each, print, write=True)
    failed = run_trials(chosen, trials_of(chosen), events.append)
    assert {failure.trial for failure in failed} == {"magnitude-0.8-seed1", "ntt-0.8-seed1"}
    assert all("the network's loss in evaluation is no longer finite" in failure.what for failure in failed)
    assert {failure.exit_code for failure in failed} == {3}
    assert run_trials(good, trials_of(good), events.append) == []
    assert result_of(good, trials_of(good)[0]) is not None
    assert TrialsChanged(done=0, failed=2, total=2, running=()) in events
    assert multiprocessing.active_children() == []


def test_errors_come_before_any_trial() -> None:
    with pytest.raises(NttError):
        report_of(config("tuple"))
    with pytest.raises(UsageError, match=r"--exclude fc3.\*: matches no parameter"):
        report_of(config(exclude=("fc3.*",)))
    with pytest.raises(NttError, match="has no prunable weights"):
        report_of(config("no weights"))
    assert not Path("comparison").exists()


def test_a_process_that_is_killed_takes_no_other_trial_with_it() -> None:
    chosen = config("kills its process", methods="random", seeds=(1, 2, 3))
    compare.prepare(config("kills its process", methods="random"), print, write=True)  # of seed 1, which lives
    failed = run_trials(chosen, trials_of(chosen), lambda _: None)
    what = "its process ended with exit code -9"
    assert failed == [TrialFailure(trial="random-0.8-seed2", what=what, exit_code=2)]
    assert [result_of(chosen, trial) is not None for trial in trials_of(chosen)] == [True, False, True]
    assert multiprocessing.active_children() == []


LATE = """
FAILURES = {1: SystemExit(0), 2: EOFError(), 3: KeyboardInterrupt(), 4: ValueError("x")}

class Late(Net):
    calls = 0

    def __init__(self, failure):
        super().__init__()
        self.failure = failure

    def forward(self, x):
        Late.calls += self.training
        if Late.calls == 2:
            raise self.failure
        return super().forward(x)

def build_model():
    return Late(FAILURES.get(torch.initial_seed()))
"""


def test_whatever_a_network_raises_late_is_told_of_its_trial() -> None:
    """And each time its process lives on for the next trial."""
    chosen = config(seeds=(1, 2, 3, 4))
    Path(chosen.model).write_text(Path(chosen.model).read_text() + LATE)
    compare.prepare(chosen, print, write=True)
    failed = run_trials(chosen, trials_of(chosen), lambda _: None)
    said = ["called sys.exit(0)", "raised EOFError", "raised KeyboardInterrupt", "raised ValueError: x"]
    assert [failure.exit_code for failure in failed] == [2, 2, 2, 2]
    for failure, what in zip(failed, said, strict=True):
        assert re.search(rf"{chosen.model}: {re.escape(what)} \(line \d+\); ", failure.what)
