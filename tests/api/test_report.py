from __future__ import annotations

import json
import os
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ntt_cli.comparison import compare
from ntt_cli.comparison.page import comparison_page
from ntt_cli.comparison.results import TrialResult
from ntt_cli.comparison.trial import run_trial
from ntt_cli.config import CompareConfig
from ntt_cli.errors import CheckpointError, OutputError
from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.files.report_reader import read_report
from ntt_cli.files.results import read_results
from ntt_cli.pages.curves import averaged
from ntt_cli.pages.figures import Figure, Page
from ntt_cli.pages.run import run_page
from tests.small_networks import write_network

METHODS = ("random", "ntt", "snip", "dense", "trained-magnitude")


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of five methods on two sparsities and two seeds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("compared"))
        chosen = CompareConfig(
            model=write_network("plain"),
            methods=METHODS,
            sparsities=(0.8, 0.9),
            seeds=(1, 2),
            epochs=2,
            limit=200,
            steps=20,
            device="cpu",
            learning_rates=(1e-3, 1e-2),
        )
        for trial in compare.prepare(chosen, print, write=True):
            run_trial(chosen, trial)
        return Path("comparison").resolve()


@pytest.fixture(scope="session")
def page(compared: Path) -> Page:
    return comparison_page(compared)


def shown(page: Page, name: str) -> Figure:
    (found,) = [figure for figure in page.figures if figure.name == name]
    return found


def results(folder: Path, method: str, sparsity: float | None) -> list[TrialResult]:
    found = read_results(folder, TrialResult).values()
    return [result for result in found if (result.method, result.sparsity) == (method, sparsity)]


def test_every_figure_is_there_and_described(page: Page) -> None:
    names = ["accuracy", "methods", "training", "layers", "transfer", "masks", "spectra", "prediction"]
    assert [figure.name for figure in page.figures] == names
    assert page.lead is page.figures[0]
    for figure in page.figures:
        assert figure.description
        assert all(series.y.size for panel in figure.panels for series in panel.series)


def test_facts(page: Page) -> None:
    assert page.facts["data"] == "digits"  # named by the model
    assert page.facts["rates"].startswith("0.001, 0.01: by method and sparsity")
    assert page.facts["training"] == "2 epochs of adamw, the same for every method"
    assert page.command == (
        f"ntt compare {page.facts['model']} --limit 200 --methods dense,ntt,random,snip,trained-magnitude"
        " --sparsities 0.8,0.9 --seeds 1,2 --steps 20 --epochs 2 --learning-rates 0.001,0.01 --device cpu"
    )


def test_a_sentence_for_each_sparsity(compared: Path, page: Page) -> None:
    assert list(page.findings) == ["Dense", "At 80%", "At 90%"]
    both = {
        method: [100 * result.accuracy for result in results(compared, method, 0.9) if result.accuracy is not None]
        for method in ("ntt", "random")
    }
    words = [f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" for values in both.values()]
    assert page.findings["At 90%"].startswith(
        f"ntt reaches {words[0]}; the other label-free method, random, {words[1]}: "
    )
    assert page.labels == ("ntt", "random", "snip")


def test_networks_that_were_trained_before_count_as_pruned(compared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "trained"
    shutil.copytree(compared, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    for path in folder.glob("trials/*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"trained": True}))
    page = comparison_page(folder)
    assert page.findings["At 90%"].startswith("as pruned, ntt reaches ")
    assert [panel.title for panel in shown(page, "accuracy").panels] == ["As pruned", "After fine-tuning"]
    assert [figure.name for figure in page.figures] == ["accuracy", "methods-as-pruned", "methods"]
    before, after = page.tables
    (row,) = [row for row in before.rows if row[0] == "ntt"]
    values = [100 * result.accuracy_as_pruned for result in results(compared, "ntt", 0.9)]
    assert row[4] == f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"
    assert row not in after.rows


def test_data_of_one_method_are_not_those_of_the_comparison(compared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(compared, folder)
    for path in folder.glob("trials/*/result.json"):
        result = json.loads(path.read_text())
        if result["method"] == "ntt":
            path.write_text(json.dumps(result | {"method": "ntt:data=noise:10"}))
            path.parent.rename(path.parent.with_name(path.parent.name.replace("ntt", "ntt,data=noise,10")))
        else:
            shutil.rmtree(path.parent)
    assert comparison_page(folder).facts["data"] == "that of the model"


def test_the_result_of_another_trial(compared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(compared, folder)
    shutil.copy(folder / "trials/snip-0.8-seed1/result.json", folder / "trials/ntt-0.8-seed1/result.json")
    with pytest.raises(OutputError, match="ntt-0.8-seed1: holds the result of another trial"):
        comparison_page(folder)


def test_the_table(compared: Path, page: Page) -> None:
    (table,) = page.tables
    assert table.head == ("method", "labels before training", "dense", "80%", "90%")
    rows = {row[0]: row for row in table.rows}
    assert set(rows) == set(METHODS)
    assert [rows[method][1] for method in METHODS] == ["no", "no", "yes", "no", "yes"]
    assert rows["dense"][3:] == ("", "")
    accuracies = [result.accuracy for result in results(compared, "ntt", 0.9)]
    assert len(accuracies) == 2
    assert rows["ntt"][4] == f"{100 * statistics.mean(accuracies):.2f} ± {100 * statistics.stdev(accuracies):.2f}"
    assert table.rows[-1][0] in {"dense", "trained-magnitude"}
    for column, level in ((3, 0.8), (4, 0.9)):
        means = {
            method: statistics.mean(result.accuracy for result in results(compared, method, level))
            for method in METHODS
            if method != "dense"
        }
        best = {number for number, row in enumerate(table.rows) if means.get(row[0]) == max(means.values())}
        assert {row for row, place in table.strong if place == column} == best


def test_accuracy_against_sparsity(compared: Path, page: Page) -> None:
    (panel,) = shown(page, "accuracy").panels
    assert {series.label for series in panel.series} == set(METHODS)
    ntt, snip = (next(series for series in panel.series if series.label == name) for name in ("ntt", "snip"))
    assert (ntt.dashed, snip.dashed) == (False, True)
    assert ntt.x.tolist() == pytest.approx([20.0, 10.0])
    for i, level in enumerate((0.8, 0.9)):
        accuracies = [100 * result.accuracy for result in results(compared, "ntt", level)]
        assert ntt.y[i] == pytest.approx(statistics.mean(accuracies))
        assert ntt.spread is not None
        assert ntt.spread[i] == pytest.approx(statistics.stdev(accuracies))


def test_methods_stand_best_first(page: Page) -> None:
    for panel in shown(page, "methods").panels:
        (dots,) = panel.series
        assert dots.x.tolist() == sorted(dots.x, reverse=True)
        assert [position for position, _ in panel.ticks] == dots.y.tolist()


def test_training_curves_are_those_of_the_chosen_rate(compared: Path, page: Page) -> None:
    panel = shown(page, "training").panels[1]
    curve = next(series for series in panel.series if series.label == "random")
    chosen = []
    for seed in (1, 2):
        trial = compared / "trials" / f"random-0.9-seed{seed}"
        (result,) = [result for result in results(compared, "random", 0.9) if result.seed == seed]
        path = next(trial.glob(f"tuned-{result.learning_rate:g}.report.safetensors"))
        chosen.append(read_report(path).numbers["history.accuracy"] * 100)
    assert curve.y == pytest.approx(np.mean(chosen, axis=0))
    assert len(curve.y) == 2


def test_layers_are_those_of_the_masks(compared: Path, page: Page) -> None:
    panel = shown(page, "layers").panels[0]
    curve = next(series for series in panel.series if series.label == "snip")
    masks = [
        read_checkpoint(compared / "trials" / f"snip-0.8-seed{seed}" / "sparse.safetensors").masks for seed in (1, 2)
    ]
    assert [name for _, name in panel.ticks] == list(masks[0])
    means = [np.mean([float(each[name].double().mean()) for each in masks]) for name in masks[0]]
    assert curve.y == pytest.approx(100 * np.array(means))


def test_transfers_and_kernels(compared: Path, page: Page) -> None:
    transfer = shown(page, "transfer").panels
    assert [panel.title for panel in transfer][2] == "Alignment of the kernels"
    assert shown(page, "transfer").title == "Transfer of ntt"
    assert {series.label for series in transfer[0].series} == {"80%", "90%"}
    report = read_report(compared / "trials" / "ntt-0.8-seed1" / "sparse.safetensors")
    assert transfer[2].series[0].y == pytest.approx(report.numbers["history.alignment"])
    assert (np.abs(transfer[2].series[0].y) < 1.0001).all()
    spectra = shown(page, "spectra").panels[0].series
    assert spectra[0].label == "teacher"
    assert spectra[0].y[0] == pytest.approx(report.numbers["spectrum.teacher"][0])
    assert [series.label for series in spectra[1:]] == ["ntt"]  # the others' kernels are looked at on demand


def test_steps_are_averaged_in_equal_parts() -> None:
    steps, means = averaged(np.arange(1000.0))
    assert steps.tolist() == means.tolist()[:0] + [3.0 + 5 * i for i in range(200)]
    assert means.tolist() == [2.0 + 5 * i for i in range(200)]
    steps, values = averaged(np.array([4.0, 5.0]))
    assert (steps.tolist(), values.tolist()) == ([1.0, 2.0], [4.0, 5.0])


def test_one_sparsity_one_seed_and_what_is_missing(compared: Path, tmp_path: Path) -> None:
    folder = tmp_path / "less"
    shutil.copytree(compared, folder)
    for trial in (folder / "trials").iterdir():
        if "seed2" in trial.name or "0.9" in trial.name:
            shutil.rmtree(trial)
    for large in folder.rglob("*.safetensors"):
        large.unlink()
    page = comparison_page(folder)
    assert [figure.name for figure in page.figures] == ["accuracy"]
    assert shown(page, "accuracy").panels[0].form == "dots"
    assert "by chance" in page.findings["At 80%"]
    assert page.facts["data"] == "that of the model"
    assert "±" not in "".join("".join(row) for row in page.tables[0].rows)
    shutil.rmtree(folder / "trials")
    with pytest.raises(OutputError, match="without a single result"):
        comparison_page(folder)


def test_a_run_of_prune(compared: Path) -> None:
    report = read_report(compared / "trials" / "ntt-0.9-seed1" / "sparse.report.safetensors")
    page = run_page(report)
    assert [figure.name for figure in page.figures] == ["layers", "transfer", "masks", "spectra", "prediction"]
    (panel,) = shown(page, "layers").panels
    sizes, kept = panel.series
    layers = report.summary["layers"]
    assert kept.x / sizes.x == pytest.approx([layer["density"] for layer in layers])
    assert [name for _, name in panel.ticks] == ["fc1", "fc2"]
    assert page.findings["Kept"] == "118 of 1,184 prunable weights, 90.03% sparse."
    most = max(layers, key=lambda layer: layer["density"])
    assert page.findings["Densest"] == f"{most['name']} with {most['density']:.2%} of its weights."
    one_shot = run_page(read_report(compared / "trials" / "random-0.9-seed1" / "sparse.safetensors"))
    assert [figure.name for figure in one_shot.figures] == ["layers"]


def test_a_run_says_how_and_when_it_was_made(compared: Path) -> None:
    report = read_report(compared / "trials" / "random-0.9-seed1" / "sparse.safetensors")
    os.utime(report.path, (0, 951_782_400))
    page = run_page(report)
    assert page.facts["written"] == "2000-02-29 00:00 UTC, by the time stamp of sparse.report.safetensors"
    assert page.command.startswith("ntt prune ")
    assert "--method random" in page.command
    options = dict(page.tables[1].rows)
    assert (options["seed"], options["limit"], options["exclude"]) == ("1", "200", "–")
    older = run_page(replace(report, config=None))
    assert (older.command, len(older.tables)) == ("", 1)
    in_python = run_page(replace(report, config={**(report.config or {}), "model": "torch.nn.Linear"}))
    assert (in_python.command, len(in_python.tables)) == ("", 2)


def test_a_run_of_finetune(compared: Path) -> None:
    report = read_report(compared / "trials" / "dense-seed1" / "tuned-0.01.safetensors")
    page = run_page(report)
    loss, accuracy = shown(page, "training").panels
    assert loss.series[0].y == pytest.approx(report.numbers["history.train_loss"])
    assert accuracy.series[0].y == pytest.approx(100 * report.numbers["history.accuracy"])


def test_a_report_of_another_version(compared: Path) -> None:
    report = read_report(compared / "trials" / "ntt-0.9-seed1" / "sparse.safetensors")
    report.summary.pop("layers")
    with pytest.raises(CheckpointError, match="another version of ntt"):
        run_page(report)
