"""Mistakes that would cost a result without a word, planted in a copy of the package: each must turn its test red."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.reliability.conftest import ROOT, TORTURE


@dataclass(frozen=True)
class Mistake:
    """What is changed, where, and the test that must fail for it."""

    file: str
    right: str
    wrong: str
    test: str


IN_RESUMED = "workflows/test_resume.py::test_the_same_bytes_wherever_it_is_interrupted"
MISTAKES = {
    "no fsync": Mistake(
        "io/files.py",
        "os.fsync(number)",
        "pass",
        "io/test_files.py::test_data_reach_the_disk_before_the_name_and_the_name_before_the_end",
    ),
    "no fsync, and a power cut": Mistake(
        "io/files.py",
        "os.fsync(number)",
        "pass",
        "reliability/test_kills.py::test_killed_at_every_call[prune-tear]",
    ),
    "written in place": Mistake(
        "io/files.py",
        'temporary.open("xb")',
        '(temporary := path).open("wb")',
        "reliability/test_kills.py::test_killed_at_every_call[prune-kill]",
    ),
    "generator not restored": Mistake(
        "workflows/training_progress.py",
        "torch.randperm(samples, generator=self.order)",
        "pass",
        f"{IN_RESUMED}[finetune]",
    ),
    "moments not restored": Mistake("core/optimiser.py", '{"state": state}', "{}", f"{IN_RESUMED}[prune]"),
    "dropout drawn on": Mistake(
        "workflows/finetune.py",
        "seed_global_draws(task.config.seed, training.step, keeper.world.rank)",
        "pass",
        f"{IN_RESUMED}[finetune dropout]",
    ),
    "only gradients masked": Mistake(
        "core/training.py",
        "zero_pruned(parameters[name], mask)",
        "zero_pruned(parameters[name].grad, mask)",
        "core/test_training.py::test_pruned_weights_stay_zero_under_momentum_and_decay",
    ),
    ">= for exact counts": Mistake(
        "core/masks.py",
        "mask = flat > lowest",
        "mask = flat >= lowest",
        "core/test_masks.py::test_keeps_what_sorting_by_score_and_index_keeps",
    ),
    "seal not compared": Mistake(
        "io/metadata.py",
        "digest.hexdigest() == record.file_sha256",
        "True",
        "reliability/test_damage.py",
    ),
    "weights not looked at": Mistake(
        "workflows/runs/keeper.py",
        "not value.isfinite().all()",
        "False",
        "workflows/runs/test_keeper.py::test_numbers_that_are_not_finite_are_never_saved",
    ),
    "losses not looked at": Mistake(
        "workflows/runs/looks.py",
        "not all(finite)",
        "False",
        "workflows/test_resume.py::test_the_last_good_state_is_kept",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_can_be_planted(name: str) -> None:
    mistake = MISTAKES[name]
    assert (ROOT / "ntt_cli" / mistake.file).read_text(encoding="utf-8").count(mistake.right) == 1


@pytest.mark.skipif(not TORTURE, reason="minutes")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_turns_its_test_red(name: str, tmp_path: Path) -> None:
    mistake = MISTAKES[name]
    for folder in ("ntt_cli", "tests", "sample_models"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "ntt_cli" / mistake.file
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(mistake.right, mistake.wrong), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/{mistake.test}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "error" not in done.stdout.splitlines()[-1]
