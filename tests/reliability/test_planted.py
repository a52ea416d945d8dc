"""Mistakes that would cost a result without a word, planted in a copy of the package: each must turn its test red."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.processes import run
from tests.reliability.conftest import ROOT, TORTURE


@dataclass(frozen=True)
class Mistake:
    """What is changed, where, and the test that must fail for it."""

    file: str
    right: str
    wrong: str
    test: str


IN_RESUMED = "runs/test_resume.py::test_the_same_bytes_wherever_it_is_interrupted"
MISTAKES = {
    "no fsync": Mistake(
        "files/atomic.py",
        "os.fsync(number)",
        "pass",
        "files/test_atomic.py::test_data_reach_the_disk_before_the_name_and_the_name_before_the_end",
    ),
    "no fsync, and a power cut": Mistake(
        "files/atomic.py",
        "os.fsync(number)",
        "pass",
        "reliability/test_kills.py::test_killed_at_every_call[prune-tear]",
    ),
    "written in place": Mistake(
        "files/atomic.py",
        'temporary.open("xb")',
        '(temporary := path).open("wb")',
        "reliability/test_kills.py::test_killed_at_every_call[prune-kill]",
    ),
    "generator not restored": Mistake(
        "training/progress.py",
        "torch.randperm(samples, generator=self.order)",
        "pass",
        f"{IN_RESUMED}[finetune]",
    ),
    "moments not restored": Mistake("runtime/optimiser.py", '{"state": state}', "{}", f"{IN_RESUMED}[prune]"),
    "dropout drawn on": Mistake(
        "training/finetune.py",
        "seed_global_draws(job.config.seed, training.step, run.group.rank)",
        "pass",
        f"{IN_RESUMED}[finetune dropout]",
    ),
    "only gradients masked": Mistake(
        "training/step.py",
        "zero_pruned(parameters[name], mask)",
        "zero_pruned(parameters[name].grad, mask)",
        "training/test_step.py::test_pruned_weights_stay_zero_under_momentum_and_decay",
    ),
    ">= for exact counts": Mistake(
        "masks/masks.py",
        "mask = flat > lowest",
        "mask = flat >= lowest",
        "masks/test_masks.py::test_keeps_what_sorting_by_score_and_index_keeps",
    ),
    "seal not compared": Mistake(
        "files/metadata.py",
        "digest.hexdigest() == record.file_sha256",
        "True",
        "reliability/test_damage.py",
    ),
    "weights not looked at": Mistake(
        "runs/checkpointer.py",
        "not value.isfinite().all()",
        "False",
        "runs/test_checkpointer.py::test_numbers_that_are_not_finite_are_never_saved",
    ),
    "losses not looked at": Mistake(
        "runs/finite_checks.py",
        "not all(finite)",
        "False",
        "runs/test_resume.py::test_the_last_good_state_is_kept",
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
    done = run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"tests/{mistake.test}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "error" not in done.stdout.splitlines()[-1]
