"""Worker processes: the same results with any number of them, errors with their types, and none left behind."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from ntt_cli.config import DataOptions
from ntt_cli.data import Samples, load_samples
from ntt_cli.data import samples as samples_module
from ntt_cli.data.batch import same
from ntt_cli.data.digest import data_sha256
from ntt_cli.data.sources.image_files import ImageFiles
from ntt_cli.data.sources.objects import samples_of
from ntt_cli.errors import DataError, UsageError
from ntt_cli.runtime.workers import WorkerPool
from tests.processes import started


class Augmented(Dataset[Any]):
    """Images and masks, flipped alike at random."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.arange(12.0).view(1, 3, 4) + i
        mask = (x[0] % 3).long()
        flips = torch.rand(()) < 0.5
        return (x.flip(2), mask.flip(1)) if flips else (x, mask)


def take(data: object, **options: Any) -> Samples:
    return samples_of(data, options=DataOptions(**options), labelled=True)


def test_results_are_in_order_and_errors_keep_their_types() -> None:
    def double(x: int) -> int:
        if x == 5:
            raise DataError("item 5", "is odd", hint="mend it")
        return 2 * x

    for workers in (0, 2):
        pool = WorkerPool(double, workers, "data")
        assert pool.map([3, 1, 4]) == [6, 2, 8]
        with pytest.raises(DataError, match="item 5: is odd"):
            pool.map([1, 5, 2])
        assert pool.map(list(range(4))) == [0, 2, 4, 6]


def test_no_process_is_left_behind() -> None:
    before = set(multiprocessing.active_children())
    pool = WorkerPool(lambda x: x, 2, "data")
    pool.map([1, 2])
    assert len(set(multiprocessing.active_children()) - before) == 2
    del pool
    assert not set(multiprocessing.active_children()) - before


def test_no_process_is_left_behind_by_an_error_nor_by_samples(tmp_path: Path) -> None:
    """At once, not when the garbage collector comes by: Python's sessions are long."""
    gc.disable()
    try:
        before = set(multiprocessing.active_children())
        pool = WorkerPool(int, 1, "data")
        with pytest.raises(ValueError, match="invalid literal"):
            pool.map(["1", "x"])
        del pool
        assert not set(multiprocessing.active_children()) - before
        for i in range(2):
            Image.new("L", (4, 4), i).save(tmp_path / f"{i}.png")
        found = take(Augmented(), workers=1)
        files = ImageFiles([tmp_path / "0.png", tmp_path / "1.png"], "L", (4, 4), resize=False, workers=1)
        found.read(torch.arange(2))
        files.fetch(torch.arange(2))
        assert len(set(multiprocessing.active_children()) - before) == 2
        del found, files
        assert not set(multiprocessing.active_children()) - before
    finally:
        gc.enable()


def test_a_worker_that_dies_is_an_error() -> None:
    pool = WorkerPool(lambda x: os.kill(os.getpid(), signal.SIGKILL), 1, "data.py")
    with pytest.raises(DataError, match="data.py: a worker process ended: DataLoader worker"):
        pool.map([1])


def test_an_augmenting_dataset_is_the_same_with_any_number_of_workers_and_anew_in_each_reading() -> None:
    one, two = (take(Augmented(), workers=workers) for workers in (0, 2))
    assert two.changes == one.changes == "seeded"
    assert two.labels_read
    assert data_sha256(one) == data_sha256(two)
    indices, seen = torch.tensor([4, 0, 4, 6]), set()
    for reading in ((0, 1), (0, 2), (0, 3)):
        (x, masks), (x2, masks2) = (found.read(indices, reading) for found in (one, two))
        assert same(x, x2)
        assert torch.equal(masks, masks2)
        assert torch.equal((x[:, 0] % 3).long(), masks)  # the mask moves with its image
        seen.add(str(x))
    assert len(seen) > 1


@pytest.mark.parametrize("eager", [2**31, 0])
def test_images_of_folders_are_the_same_with_any_number_of_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eager: int
) -> None:
    monkeypatch.setattr(samples_module, "EAGER_BYTES", eager)
    for i in range(5):
        Image.fromarray(np.full((4, 4, 3), 40 * i, dtype=np.uint8)).save(tmp_path / f"{i}.png")
    one, two = (load_samples(DataOptions(data=str(tmp_path), workers=n), split="train") for n in (0, 2))
    indices = torch.tensor([4, 0, 2])
    assert same(one.inputs(indices), two.inputs(indices))
    assert data_sha256(one) == data_sha256(two)
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:45])
    with pytest.raises(DataError, match=r"3\.png: cannot be decoded"):
        load_samples(DataOptions(data=str(tmp_path), workers=2), split="train").inputs(torch.arange(5))


def test_workers_that_would_do_nothing_are_an_error() -> None:
    with pytest.raises(UsageError, match="tensors are in memory already"):
        take(torch.zeros(4, 2), workers=2)
    with pytest.raises(UsageError, match="the data digits does not read it"):
        load_samples(DataOptions(data="digits", workers=2), split="train")
    with pytest.raises(UsageError, match="num_workers of its own"):
        take(torch.utils.data.DataLoader([torch.zeros(2)], batch_size=None), workers=2)  # type: ignore[arg-type]


KILLED = """
import os, time
from ntt_cli.runtime.workers import WorkerPool
pool = WorkerPool(lambda x: os.getpid(), 2, "data")
print(*sorted(set(pool.map(list(range(8))))), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL])
def test_workers_end_with_a_killed_process(number: int) -> None:
    with started([sys.executable, "-c", KILLED], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert workers
        process.send_signal(number)
        process.wait()
        while any(_runs(pid) for pid in workers):  # at the process's limit they are killed, and the test fails
            time.sleep(0.1)


def _runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
