"""What `next:` says is pasted into a shell, word for word."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntt_cli.cli.next_command import has_labels, next_command
from ntt_cli.config import FinetuneConfig, PruneConfig
from tests.cli.conftest import Ntt, Result

NET = """
from torch import nn
def build_model(width, name=""):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 2))
"""
LEARN = ("--epochs", "1", "--limit", "16", "--validation", "0")


@pytest.fixture(autouse=True)
def _here(folder: Path) -> None:
    Path("net.py").write_text(NET)
    draw = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (place := Path("my images", split, name)).mkdir(parents=True)
            for i in range(8):
                Image.fromarray(draw.integers(0, 255, (6, 6, 3), dtype=np.uint8)).save(place / f"{i}.png")


def following(result: Result) -> list[str]:
    assert result.code == 0, result.err
    program, *words = shlex.split(result.err.splitlines()[-1].partition("next: ")[2])
    assert program == "ntt"
    return words


def test_each_command_runs_as_it_is_pasted(ntt: Ntt) -> None:
    kept = ["-a", "width=7", "-a", "name='a b'", "-d", "my images", "--image-size", "4", "--grayscale"]
    kept += ["--mean=-0.5", "--std", "2", "--device", "cpu"]
    pruned = ntt("prune", "net.py", "-s", "0.5", *kept, "--steps", "2", "--batch-size", "4", "--limit", "8")
    finetune = following(pruned)
    assert finetune[:4] == ["finetune", "net.py", "--checkpoint", "sparse.safetensors"]
    evaluate = following(ntt(*finetune, *LEARN))
    assert evaluate[:4] == ["evaluate", "net.py", "--checkpoint", "tuned.safetensors"]
    assert evaluate[4:] == finetune[4:]
    assert set(evaluate[4:]) >= {"width=7", "name='a b'", "my images", "--grayscale", "-0.5", "cpu"}
    assert ntt(*evaluate).code == 0


def test_what_was_pruned_without_labels_needs_some(ntt: Ntt) -> None:
    common = ("prune", "net.py", "-s", "0.5", "-a", "width=7", "--steps", "2", "--batch-size", "4", "--force")
    finetune = following(ntt(*common, "-d", "noise:8", "--input-shape", "1x4x4"))
    assert finetune[2:] == ["--checkpoint", "sparse.safetensors", "--model-arg", "width=7", "--data", "LABELLED"]
    named = ["my images" if word == "LABELLED" else word for word in finetune]
    assert ntt(*named, *LEARN, "--image-size", "4", "--grayscale").code == 0
    np.save("x.npy", np.zeros((8, 16), np.float32) + np.arange(16, dtype=np.float32))
    assert following(ntt(*common, "-d", "x.npy"))[-2:] == ["--data", "LABELLED"]


def test_training_images_are_no_test(ntt: Ntt) -> None:
    common = ("-a", "width=7", "-d", "my images/train", "--image-size", "4", "--grayscale")
    pruned = ntt("prune", "net.py", "-s", "0.5", *common, "--method", "magnitude", "--json")
    assert pruned.code == 0, pruned.err
    tuned = ntt("finetune", "net.py", "-c", "sparse.safetensors", *common, *LEARN)
    evaluate = following(tuned)
    assert evaluate[-2:] == ["--data", "LABELLED"]
    assert "my images/train" not in evaluate


def test_a_file_of_options_is_written_out(ntt: Ntt) -> None:
    Path("ntt.toml").write_text('[prune]\nmodel_arg = ["width=5"]\ndata = "digits"\nsparsity = 0.5\n')
    Path("net.py").write_text(NET.replace("16", "64"))
    words = following(ntt("prune", "net.py", "--config", "ntt.toml", "--method", "magnitude"))
    assert words[4:] == ["--model-arg", "width=5", "--data", "digits"]


def test_the_other_options() -> None:
    done = PruneConfig(model="-m.py", sparsity=0.5, data="cifar10", data_root="/d", download=True, logits="1", limit=9)
    words = ["ntt", "finetune", "./-m.py", "--checkpoint", "a b", "--logits", "1", "--data", "cifar10"]
    assert shlex.split(next_command("finetune", done, "a b")) == [*words, "--data-root", "/d"]
    tuned = FinetuneConfig(model="net.py", learning_rate=0.1)
    assert next_command("evaluate", tuned, "c") == "ntt evaluate net.py --checkpoint c"


@pytest.mark.parametrize("data", [None, "noise:8", "x.npy"])
def test_data_without_labels(data: str | None) -> None:
    assert not has_labels(data)


@pytest.mark.parametrize("data", ["digits", "x.npz", "data.py", "my images"])
def test_data_that_may_have_labels(data: str) -> None:
    assert has_labels(data)
