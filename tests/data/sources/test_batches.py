"""Whole batches, one after the other: their order, their passes, and what is input and label."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ntt_cli.config import DataOptions
from ntt_cli.data import Samples
from ntt_cli.data.bundle import Bundle
from ntt_cli.data.digest import data_sha256
from ntt_cli.data.sources import streams
from ntt_cli.data.sources.batches import inputs_of, with_arguments
from ntt_cli.data.sources.objects import samples_of
from ntt_cli.data.sources.streams import Stream
from tests.data.refusal import refusal


def take(data: object, *, labelled: bool = True, **options: Any) -> Samples:
    return samples_of(data, options=DataOptions(**options), labelled=labelled)


class Lengths(Dataset[Any]):
    """Sequences of 3 to 7 numbers: item `i` holds `i`."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return torch.full((3 + i % 5,), float(i)), i


class Growing(IterableDataset[Any]):
    """Batches of 1, 2, 3 … samples, as a stream without a length."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[Tensor]:
        return (torch.full((i + 1, 2, i + 1), float(i)) for i in range(self.n))


def padded(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    x = torch.nn.utils.rnn.pad_sequence([item for item, _ in items], batch_first=True)
    return x, torch.tensor([label for _, label in items])


def first_values(found: Samples, indices: list[int]) -> list[list[float]]:
    x = found.source.fetch(torch.tensor(indices))
    assert isinstance(x, Bundle)
    return [part[:, 0].tolist() for part in x.parts]


def test_batches_come_in_the_loaders_order_again_and_again() -> None:
    found = take(DataLoader(Lengths(), batch_size=4, collate_fn=padded))
    assert found.successive
    assert found.bundled
    assert len(found) == 3
    assert found.changes == "never"
    assert first_values(found, [0, 1, 2, 3]) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9], [0, 1, 2, 3]]
    assert first_values(found, [7, 1]) == [[4, 5, 6, 7], [4, 5, 6, 7]]  # later, then earlier ones
    x, labels = found.read(torch.tensor([2]))
    assert isinstance(x, Bundle)
    assert x.parts[0].shape == (2, 7)
    assert labels.parts[0].tolist() == [8, 9]


def test_a_stream_without_length_starts_again_when_it_ends() -> None:
    found = take(DataLoader(Growing(3), batch_size=None))
    assert len(found) == 3
    x = found.source.fetch(torch.arange(7))
    assert isinstance(x, Bundle)
    assert [len(part) for part in x.parts] == [1, 2, 3, 1, 2, 3, 1]


def test_a_stream_too_long_to_count_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "COUNTED", 4)
    found = take(DataLoader(Growing(6), batch_size=None))
    assert len(found) == 4
    assert found.source.goes_on
    assert [len(part) for part in found.source.fetch(torch.arange(8)).parts] == [1, 2, 3, 4, 5, 6, 1, 2]
    assert list(found.source.one_pass()) == list(range(6))
    assert "at least 4 batches" in found.described()
    assert len(take(DataLoader(Growing(6), batch_size=None), limit=2)) == 2


def test_a_shuffling_loader_shuffles_anew_in_each_pass_but_always_alike() -> None:
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()

    def made() -> Samples:
        return take(DataLoader(Lengths(), batch_size=4, collate_fn=padded, shuffle=True, generator=generator))

    found = made()
    assert found.changes == "seeded"
    orders = [sum(first_values(found, [3 * p, 3 * p + 1, 3 * p + 2]), []) for p in range(3)]
    assert all(sorted(order) == list(range(10)) for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert first_values(made(), [5]) == [orders[1][8:]]  # without the batches before
    assert torch.equal(generator.get_state(), before)


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(1)
    random.seed(1)
    before = torch.get_rng_state(), random.getstate()
    take(DataLoader(Lengths(), batch_size=4, collate_fn=padded, shuffle=True)).source.fetch(torch.arange(5))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]


def test_workers_give_the_same_batches_and_end() -> None:
    import multiprocessing

    loader = DataLoader(Lengths(), batch_size=4, collate_fn=padded, num_workers=2)
    found = take(loader)
    assert first_values(found, [0, 4]) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    del found, loader
    assert not multiprocessing.active_children()


def test_batches_that_are_held_out_are_in_no_pass() -> None:
    found = take(DataLoader(Lengths(), batch_size=2, collate_fn=padded))
    held_out, rest = found.held_out(2)
    assert first_values(held_out, [0, 1]) == [[0, 1], [2, 3]]
    assert (len(held_out), len(rest)) == (2, 3)
    assert sum(first_values(rest, list(range(6))), []) == [*range(4, 10), *range(4, 10)]


def test_a_digest_sees_every_batch() -> None:
    def digest(last: float) -> str | None:
        items = [(torch.zeros(3 + i), i) for i in range(3)] + [(torch.full((9,), last), 3)]
        return data_sha256(take(items))

    assert digest(1.0) == digest(1.0) != digest(2.0)


X, EDGES, Y = torch.zeros(5, 2), torch.zeros(2, 7, dtype=torch.int64), torch.zeros(5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("batch", "names", "inputs", "labels"),
    [
        ((X, Y), (["x"], []), X, Y),
        ((X, EDGES), (["x", "edge_index"], []), (X, EDGES), None),
        ((X, EDGES, Y), (["x", "edge_index"], []), (X, EDGES), Y),
        ((X, EDGES, Y), (["x", "edge_index", "batch"], []), (X, EDGES, Y), None),
        ((X, EDGES, Y), (["x", "edge_index"], ["batch"]), (X, EDGES, Y), None),
        (((X, EDGES), Y), (["x", "edge_index"], []), (X, EDGES), Y),
        ({"x": X, "y": Y}, ([], []), {"x": X}, Y),
        ([X, X, X], (["images"], []), [X, X, X], None),
        ([X], (["x"], []), X, None),
        (X, (["x"], []), X, None),
    ],
)
def test_the_networks_arguments_tell_inputs_from_labels(batch: Any, names: Any, inputs: Any, labels: Any) -> None:
    found = inputs_of(batch, names, "batch 0")
    assert str(found) == str((inputs, labels))


def test_what_cannot_be_told_apart_is_an_error() -> None:
    with refusal("batch 0: has 4 parts, and the network takes 2", hint="None"):
        inputs_of((X, EDGES, Y, Y), (["x", "edge_index"], []), "batch 0")
    with refusal("a DataLoader: yields no batches", hint="used up"):
        take(DataLoader(Growing(0), batch_size=None))
    with refusal("its first batch holds NaN", hint="remove such samples"):
        take(DataLoader([X * torch.nan], batch_size=None))  # type: ignore[arg-type]


class Graph:
    def __init__(self) -> None:
        self.x, self.edge_index, self.y = X, EDGES, Y
        self.train_mask = torch.tensor([True, False, True, False, True])
        self.test_mask = torch.tensor([False, True, False, False, False])


def test_a_graph_is_one_batch_whose_training_nodes_have_labels() -> None:
    found = take(Graph())
    assert len(found) == 1
    assert found.labels.tolist() == [0, -100, 0, -100, 0]  # type: ignore[union-attr]


def test_evaluation_counts_the_labels_of_test_nodes() -> None:
    found = with_arguments(take(Graph()), torch.nn.Linear(2, 2), "test")
    assert (found.labels >= 0).tolist() == [False, True, False, False, False]  # type: ignore[operator, union-attr]


def test_a_stream_may_be_read_from_the_middle_after_the_end() -> None:
    stream = Stream(DataLoader(Growing(4), batch_size=None), "a DataLoader")
    assert [len(stream.at(i)) for i in (0, 5, 2, 9, 3)] == [1, 2, 3, 2, 4]
