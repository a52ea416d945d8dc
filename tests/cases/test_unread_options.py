"""Options that would do nothing (issue 28, A9), as they are typed: each is an error that names what reads it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Ntt
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")
MAGNITUDE = "prune plain.py -s 0.5 --method magnitude"
NTT = "prune plain.py -s 0.5 --steps 2 --limit 8"


@pytest.fixture(autouse=True)
def networks(folder: Path) -> None:
    write_network("plain")
    bare = Path(write_network("tokens")).read_text(encoding="utf-8")
    Path("bare.py").write_text(bare, encoding="utf-8")
    generator = np.random.default_rng(0)
    np.savez("x.npz", x=generator.normal(size=(12, 64)).astype(np.float32), y=np.arange(12) % 10)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (f"{MAGNITUDE} --steps 5 --kernel-weight 3", "--steps 5: method magnitude does not read it; ntt, asr, cts-kl"),
        (f"{MAGNITUDE} --kernel-weight 3", "--kernel-weight 3: method magnitude does not read it; ntt, ntt-fresh"),
        (f"{MAGNITUDE} --preset paper", "--preset paper: method magnitude does not read it; ntt, ntt-fresh"),
        (f"{MAGNITUDE} --batch-size 8", "--batch-size 8: method magnitude does not read it; ntt, .* and wanda do"),
        (f"{MAGNITUDE} --data-root /data", "--data-root /data: the data digits does not read it"),
        (f"{MAGNITUDE} --allow-mismatch", "--allow-mismatch: it is read with --resume alone"),
        (
            "prune plain.py -s 0.5 --limit 8 --kernel-weight 0 --method ntt:kernel-params=active",
            "--method ntt:kernel-params=active: there is no kernel term to read",
        ),
        (
            "prune plain.py -s 0.5 --method ntt:mask=random:score=magnitude",
            "--method ntt:score=magnitude: mask random is fixed and does not read it",
        ),
        ("prune plain.py -s 0 --steps 5", "--steps 5: sparsity 0 prunes nothing and does not read it"),
        ("prune bare.py -s 0.5 --method magnitude --limit 5", "--limit 5: method magnitude needs no data to read it"),
        ("prune bare.py -s 0.5 --method magnitude --logits 0", "--logits 0: method magnitude needs no data to read it"),
        ("finetune plain.py -d x.npz --validation 0.01", "--validation 0.01: holds out none of 12 samples"),
        ("finetune plain.py -d x.npz --epochs 1 --warmup 0.1", "--warmup 0.1: is less than one of 1 steps"),
        ("finetune plain.py --keep-zeros", "--keep-zeros: it is about a checkpoint's zeros; --checkpoint names one"),
        ("compare plain.py --methods random,snip --steps 5", "--steps 5: no method reads it; ntt, gmp, ntt-fresh"),
        ("compare plain.py --methods magnitude:steps=5", ".*magnitude:steps=5: steps: method magnitude does not read"),
    ],
)
def test_refused(ntt: Ntt, command: str, error: str) -> None:
    before = set(Path().iterdir())
    result = ntt(*command.split())
    assert (result.code, result.out) == (2, "")
    *_, told, hint = result.err.splitlines()
    assert hint.startswith("hint: ")
    assert told.startswith("error: ")
    assert re.match(error, told.removeprefix("error: ")), told
    assert {path.suffix for path in set(Path().iterdir()) - before} <= {""}  # compiled code


def test_a_part_of_data_that_has_none(ntt: Ntt) -> None:
    assert ntt("finetune", "plain.py", "-d", "x.npz", "--epochs", 1, "--validation", 0, "-q").code == 0
    evaluate = ("evaluate", "plain.py", "-c", "dense.safetensors", "-d", "x.npz")
    assert ntt(*evaluate, "-q").code == 0
    result = ntt(*evaluate, "--split", "test")
    assert result.code == 2
    assert "error: --split test: the data x.npz is not divided into parts\n" in result.err


def test_a_file_that_sets_one_is_named(ntt: Ntt) -> None:
    Path("run.toml").write_text("[prune]\nsteps = 5\n", encoding="utf-8")
    told = ntt(*MAGNITUDE.split(), "--config", "run.toml").err
    assert told.startswith("error: run.toml: steps = 5: method magnitude does not read it; ntt, asr, cts-kl")


def test_where_the_data_lies_is_no_part_of_a_run(ntt: Ntt) -> None:
    """It moved between two runs: the hash says that it is the same."""
    images = np.zeros((4, 28, 28), np.uint8)
    for root in ("a", "b"):
        raw = Path(root) / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for part, count in (("train", 4), ("t10k", 4)):
            head = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
            (raw / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
            (raw / f"{part}-labels-idx1-ubyte").write_bytes(
                bytes([0, 0, 8, 1]) + (count).to_bytes(4, "big") + b"\0" * 4
            )
    text = Path("plain.py").read_text(encoding="utf-8").replace("Linear(64, 16)", "Linear(784, 16)")
    Path("wide.py").write_text(text, encoding="utf-8")
    prune = ("prune", "wide.py", "-s", "0.5", "--method", "magnitude", "-d", "mnist")
    assert ntt(*prune, "--data-root", "a").code == 0
    result = ntt(*prune, "--data-root", "b", "--resume")
    assert result.code == 0
    assert "is whole already, of the same run" in result.err
