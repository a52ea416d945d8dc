"""Whether data is still the same: any sample, label or class name that changes, changes the digest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ntt_cli.config import DataOptions
from ntt_cli.data import Samples, data_sha256, digest, load_samples, samples
from ntt_cli.data.samples import InMemory


def data(n: int = 1000, labels: bool = True) -> Samples:
    values = torch.arange(4.0 * n).view(n, 4)
    return Samples("some", InMemory(values), torch.arange(n) % 3 if labels else None, ("a", "b", "c"))


def changed(i: int) -> Samples:
    values = torch.arange(4000.0).view(1000, 4)
    values[i, 1] += 0.5
    return replace(data(), source=InMemory(values))


def relabelled(i: int) -> Samples:
    labels = torch.arange(1000) % 3
    labels[i] = 0
    return replace(data(), labels=labels)


@pytest.mark.parametrize(
    "other",
    [
        lambda: changed(1),
        lambda: changed(998),
        lambda: relabelled(997),
        lambda: data(labels=False),
        lambda: data(n=999),
        lambda: replace(data(), class_names=("a", "c", "b")),
        lambda: data().subset(torch.arange(1000).flip(0)),
        lambda: replace(data(), source=InMemory(torch.arange(4000.0).view(1000, 2, 2))),
        lambda: replace(data(), source=InMemory(torch.arange(4000).view(1000, 4))),
    ],
)
def test_whatever_differs_shows(other: Callable[[], Samples]) -> None:
    assert data_sha256(data()) == data_sha256(data()) == data_sha256(data().subset(torch.arange(1000)))
    assert data_sha256(other()) != data_sha256(data())


def test_it_is_read_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = data_sha256(data())
    monkeypatch.setattr(digest, "BATCH_BYTES", 100)
    assert data_sha256(data()) == whole


def test_parts_and_their_order_count() -> None:
    first, rest = data().subset(torch.arange(600)), data().subset(torch.arange(600, 1000))
    none = data().subset(torch.arange(0))
    assert len({data_sha256(first, rest), data_sha256(rest, first), data_sha256(first), data_sha256(first, none)}) == 4


def test_images_too_many_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their files are looked at, not their pixels; images of a subset are the right ones."""
    monkeypatch.setattr(samples, "EAGER_BYTES", 1)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5, 5), dtype=np.uint8)
    for i in range(4):
        Image.fromarray(pixels[i]).save(tmp_path / f"{i}.png")

    def read() -> Samples:
        return load_samples(DataOptions(data=str(tmp_path)), split="train")

    before, last = data_sha256(read()), data_sha256(read().subset(torch.tensor([3])))
    pixels[2, 3, 3] ^= 1
    Image.fromarray(pixels[2]).save(tmp_path / "2.png")
    assert data_sha256(read()) != before
    assert data_sha256(read().subset(torch.tensor([3]))) == last
