"""Comparisons: folder, contents and ends (`array-race`, `compare-*`, `killed-compare-start`, `stale-data`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ntt_cli.comparison.compare import prepare
from ntt_cli.comparison.results import percent
from ntt_cli.comparison.trial import Trial, folder_of, result_of, run_trial, trials_of
from ntt_cli.config import CompareConfig
from ntt_cli.errors import OutputError
from ntt_cli.training import finetune
from tests.cli.conftest import Ntt

MODEL = "from torch import nn\nfrom helper import act\ndef build_model():\n    {first}\n    return nn.Sequential("
MODEL += "nn.Linear(64, 8), act(), nn.Linear(8, 10))\n"
HELPER = "from torch import nn\ndef act(): return nn.ReLU()\n"
COMMAND = "compare m.py -d d.npz --sparsities 0.9 --epochs 1 --device cpu -o out".split()


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.py").write_text(MODEL.format(first="pass"))
    Path("helper.py").write_text(HELPER)
    write_data(0, 0)


def write_data(training: int, test: int, name: str = "d.npz") -> None:
    parts: dict[str, Any] = {}
    for part, n, seed in (("train", 60, training), ("test", 20, test)):
        parts[f"x_{part}"] = np.random.default_rng(seed).normal(size=(n, 64)).astype("f4")
        parts[f"y_{part}"] = np.arange(n) % 10
    np.savez(name, **parts)


def config(**values: Any) -> CompareConfig:
    common = {"model": "m.py", "data": "d.npz", "sparsities": (0.9,), "epochs": 1, "device": "cpu", "output": "out"}
    options = common | {"methods": ("random",), "seeds": (1,)} | values
    if options["methods"] == ("dense",):
        del options["sparsities"]
    return CompareConfig(**options)


def finish(**values: Any) -> None:
    """A comparison done, but for its tables, in this process."""
    chosen = config(**values)
    for trial in prepare(chosen, lambda _: None, write=True):
        run_trial(chosen, trial)


@pytest.mark.parametrize("what", ["training data", "test data", "module helper"])
def test_data_or_a_helper_that_changed(ntt: Ntt, what: str) -> None:
    finish()
    command = [*COMMAND, "--methods", "random", "--seeds", "1"]
    write_data(int(what == "training data"), int(what == "test data"))
    if what == "module helper":
        Path("helper.py").write_text(HELPER.replace("ReLU", "Sigmoid"))
    for more in ([], ["--plan"]):
        said = ntt(*command, *more)
        assert (said.code, f"out: holds a comparison with another {what}: " in said.err) == (2, True), said.err
        assert "hint: name another folder with --output, or compare what it was begun with" in said.err
    write_data(0, 0)
    Path("helper.py").write_text(HELPER)
    assert ntt(*command, "--plan").code == 0


def test_data_of_one_method_that_changed(ntt: Ntt) -> None:
    write_data(5, 5, "aux.npz")
    own = ("random", "snip:data=aux.npz")
    finish()
    finish(methods=own)
    write_data(6, 6, "aux.npz")
    command = [*COMMAND, "--methods", ",".join(own), "--seeds", "1,2"]
    for more in ([], ["--plan"]):
        said = ntt(*command, *more)
        assert (said.code, "out: holds a comparison with another data of snip:data=aux.npz: " in said.err) == (2, True)
    assert ntt(*COMMAND, "--methods", "random", "--seeds", "1", "--plan").code == 0  # does not read it
    write_data(5, 5, "aux.npz")
    said = ntt(*command, "--plan")
    assert (said.code, "warning" in said.err) == (0, False)


def test_data_of_one_method_that_an_older_ntt_did_not_record(ntt: Ntt) -> None:
    write_data(5, 5, "aux.npz")
    finish(methods=("random:data=aux.npz", "random:limit=50"))
    settings = Path("out/comparison.json")
    recorded = json.loads(settings.read_text())
    settings.write_text(json.dumps({name: recorded[name] for name in recorded if not name.startswith("data of")}))
    done = ntt(*COMMAND, "--methods", "random:data=aux.npz,random:limit=50,random:limit=40", "--seeds", "1", "--plan")
    assert done.code == 0, done.err
    left_out = "data of random:data=aux.npz, data of random:limit=50; make sure"
    assert f"warning: out was begun by an older ntt, which did not record: {left_out}" in done.err


CHANGES = {
    "training data": ("d.npz", lambda: write_data(1, 0)),
    "test data": ("d.npz", lambda: write_data(0, 1)),
    "module helper": ("module helper", lambda: Path("helper.py").write_text(HELPER.replace("ReLU", "Sigmoid"))),
    "model file": ("m.py", lambda: Path("m.py").write_text(MODEL.format(first="print()"))),
    "weights file": ("w.safetensors", lambda: write_weights(1)),
    "data of random:data=aux.npz": ("aux.npz", lambda: write_data(6, 6, "aux.npz")),
}
"""By what changes: what the error is about, and how to change it."""


def write_weights(seed: int) -> None:
    drawn = np.random.default_rng(seed)
    shapes = {"0.weight": (8, 64), "0.bias": 8, "2.weight": (10, 8), "2.bias": 10}
    save_file({name: drawn.normal(size=shape).astype("f4") for name, shape in shapes.items()}, "w.safetensors")


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("late", [False, True], ids=["before a trial", "within a trial"])
def test_what_changes_between_the_trials(what: str, late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(0)
    write_data(5, 5, "aux.npz")
    chosen = config(methods=("random:data=aux.npz",), weights="w.safetensors", mean="0", std="1", seeds=(1, 2))
    first, second = prepare(chosen, lambda _: None, write=True)
    done = run_trial(chosen, first)
    where, change = CHANGES[what]
    tune = finetune.finetune
    if late:
        monkeypatch.setattr(finetune, "finetune", lambda *given: (tune(*given), change())[0])
    else:
        change()
    with pytest.raises(
        OutputError, match=f"^{where}: changed while out was being compared: another {what}: "
    ) as caught:
        run_trial(chosen, second)
    assert (caught.value.exit_code, "put back what it was" in caught.value.hint) == (2, True)
    assert (result_of(chosen, first), result_of(chosen, second)) == (done, None)
    assert (folder_of(chosen, second) / "tuned.safetensors").exists() == late  # no work in vain


def test_a_folder_of_an_older_ntt(ntt: Ntt) -> None:
    finish()
    settings = Path("out/comparison.json")
    lines = [line for line in settings.read_text().splitlines() if ' data": "' not in line]
    settings.write_text("\n".join(lines).replace(",\n}", "\n}"))
    done = ntt(*COMMAND, "--methods", "random", "--seeds", "1", "--plan")
    assert done.code == 0, done.err
    assert "warning: out was begun by an older ntt, which did not record: training data, test data" in done.err


def test_trials_of_an_older_ntt_are_refused_until_they_are_renamed(ntt: Ntt) -> None:
    finish()
    command = [*COMMAND, "--methods", "random", "--seeds", "1"]
    Path("out/trials").rename("out/cells")
    for refused in (command, [*command, "--plan"], ["report", "out"]):
        said = ntt(*refused)
        assert said.code == 2, said.err
        assert "error: out: holds a comparison of an older ntt, with its trials in cells/" in said.err
        assert "hint: rename its folder cells to trials, or begin anew in another folder" in said.err
    assert not Path("out/trials").exists()
    Path("out/cells").rename("out/trials")
    assert "0 of 1 trials to do" in ntt(*command, "--plan").out


def test_dense_alone(ntt: Ntt) -> None:
    finish(methods=("dense",))
    command = "compare m.py -d d.npz --methods dense --seeds 1 --epochs 1 --device cpu -o out".split()
    done = ntt(*command)
    assert done.code == 0, done.err
    assert done.out.splitlines()[2].split()[-1] == "dense"
    assert ntt("report", "out").code == 0
    assert ntt(*command, "--plan").code == 0


def test_dense_is_done_and_nothing_else(ntt: Ntt) -> None:
    chosen = config(methods=("dense", "random"))
    run_trial(chosen, prepare(chosen, lambda _: None, write=True)[0])
    assert ntt("report", "out").code == 0


def test_numbers_that_look_alike_have_folders_of_their_own() -> None:
    near = 0.9000000000000001
    chosen = config(sparsities=(0.9, near, "0.90"), seeds=("1", "01"), learning_rates=(1e-3, 0.00100000001))
    assert [(trial.sparsity, trial.seed) for trial in trials_of(chosen)] == [(0.9, 1), (near, 1)]
    assert [trial.name for trial in trials_of(chosen)] == ["random-0.9-seed1", f"random-{near}-seed1"]
    run_trial(chosen, prepare(chosen, lambda _: None, write=True)[0])
    tuned = {path.name for path in folder_of(chosen, trials_of(chosen)[0]).glob("tuned*[0-9].safetensors")}
    assert tuned == {"tuned-0.001.safetensors", "tuned-0.00100000001.safetensors"}


def test_each_sparsity_has_a_heading_of_its_own() -> None:
    headings = {
        0.1: "10%",
        0.29: "29%",
        0.9: "90%",
        0.9000000000000001: "90.00000000000001%",
        0.995: "99.5%",
        0.9999999999999999: "99.99999999999999%",
        1e-300: "1E-298%",
    }
    assert {level: percent(level) for level in headings} == headings


def test_a_path_of_200_letters_in_a_method() -> None:
    long, other = (f"random:data={letter * 50}/{200 * letter}/d.npz" for letter in "ab")
    names = [Trial(method, 0.9, 1).name for method in (long, other, long + "x")]
    assert len(set(names)) == 3
    assert all(len(name) < 150 for name in names)


def test_the_result_of_another_trial(ntt: Ntt) -> None:
    finish(seeds=(1, 2))
    first, second = (folder_of(config(), Trial("random", 0.9, seed)) / "result.json" for seed in (1, 2))
    second.write_text(first.read_text())
    said = ntt(*COMMAND, "--methods", "random", "--seeds", "1,2")
    assert said.code == 2
    assert "seed2: holds the result of another trial" in said.err


def test_a_trial_s_folder_that_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    chosen = config()
    (trial,) = prepare(chosen, lambda _: None, write=True)
    folder_of(chosen, trial).parent.mkdir()
    folder_of(chosen, trial).symlink_to(tmp_path / "precious")
    with pytest.raises(OutputError, match="is a link, and what it leads to would be overwritten"):
        run_trial(chosen, trial)
    assert not list((tmp_path / "precious").iterdir())


@pytest.mark.parametrize(("first", "same"), [("import torch; torch.manual_seed(3)", True), ("pass", False)])
def test_seeds_that_build_one_network_are_told_of(ntt: Ntt, first: str, same: bool) -> None:
    Path("m.py").write_text(MODEL.format(first=first))
    said = ntt(*COMMAND, "--methods", "random", "--seeds", "1,2", "--plan")
    assert said.code == 0
    assert ("warning: m.py builds the same network for every seed" in said.err) == same


def test_torchrun_does_not_start_a_comparison(ntt: Ntt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = ntt(*COMMAND)
    assert said.code == 2
    assert "error: compare under torchrun: would run every trial in each of its processes" in said.err
    assert "hint: start it without torchrun; --jobs N runs N trials side by side" in said.err
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "option",
    ["--epochs 1e300", "--epochs 1000001", "--seeds 99999999999999999999", "--jobs 100000", "--limit 1" + 30 * "0"],
)
def test_absurd_numbers(ntt: Ntt, option: str) -> None:
    said = ntt(*COMMAND, *option.split())
    assert said.code == 2, said.err
    assert option.split()[0] in said.err


@pytest.mark.parametrize("text", ["-" * 100_000, "[" * 100_000, "(" * 300 + ")" * 300, "9" * 10_000])
def test_an_argument_that_python_cannot_read_is_a_string(ntt: Ntt, text: str) -> None:
    said = ntt("prune", "m.py", "-d", "d.npz", "-s", "0.5", "--method", "random", "-a", f"width={text}")
    assert said.code == 2
    assert "width" in said.err
