from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from ntt_cli.config import DataOptions
from ntt_cli.data import Samples, data_sha256, samples
from ntt_cli.data.sources.objects import samples_of
from ntt_cli.runtime.seeding import global_state
from tests.data.refusal import refusal

X = torch.arange(24.0).view(12, 2)
Y = torch.arange(12) % 5
ALL = list(range(12))


def take(data: object, *, labelled: bool = True, **options: Any) -> Samples:
    """The samples, once it is sure that no generator has moved and that the same are found again."""
    before = global_state()
    found = samples_of(data, options=DataOptions(**options), labelled=labelled)
    assert global_state() == before
    return found


def everything(data: Samples) -> Tensor:
    return data.inputs(torch.arange(len(data)))


def labels_of(data: Samples) -> list[int]:
    assert data.labels is not None
    assert data.labels.dtype == torch.int64
    return data.labels.tolist()


class Items(Dataset[Any]):
    def __init__(self, items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


class Stream(IterableDataset[Any]):
    """Samples one after another, each an input and a label, from workers a part each."""

    def __init__(self, items: Any) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        assert torch.utils.data.get_worker_info() is None
        yield from self.items


@pytest.mark.parametrize(
    ("data", "spec", "labels"),
    [
        (X, "a tensor [12, 2]", None),
        (X.clone().requires_grad_(), "a tensor [12, 2]", None),
        (X.double(), "a tensor [12, 2]", None),
        (X.numpy(), "an array [12, 2]", None),
        ((X, Y), "a tensor [12, 2] with labels", Y),
        ([X, Y], "a tensor [12, 2] with labels", Y),
        ((X.numpy(), Y.numpy().astype("uint8")), "an array [12, 2] with labels", Y),
        ((X, Y.tolist()), "a tensor [12, 2] with labels", Y),
        ((X, Y[:, None]), "a tensor [12, 2] with labels", Y),
        ((X, None), "a tensor [12, 2]", None),
        (TensorDataset(X), "a Dataset of 12 samples", None),
        (TensorDataset(X, Y), "a Dataset of 12 samples", Y),
        (ConcatDataset([TensorDataset(X[:5], Y[:5]), TensorDataset(X[5:], Y[5:])]), "a Dataset of 12 samples", Y),
        (Items([(x.numpy(), int(y)) for x, y in zip(X, Y, strict=True)]), "a Dataset of 12 samples", Y),
        (DataLoader(TensorDataset(X, Y), batch_size=5), "a DataLoader of 12 samples", Y),
        (DataLoader(TensorDataset(X, Y), batch_size=5, drop_last=True), "a DataLoader of 12 samples", Y),
        (DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True), "a DataLoader of 12 samples", Y),
        (DataLoader(TensorDataset(X, Y), batch_size=5, num_workers=2), "a DataLoader of 12 samples", Y),
        (DataLoader(list(zip(X, Y, strict=True)), batch_size=5), "a DataLoader of 12 samples", Y),
        (DataLoader(Stream(list(zip(X, Y, strict=True))), batch_size=5), "a DataLoader of 12 samples", Y),
        (DataLoader(Stream(list(zip(X, Y, strict=True))), num_workers=2), "a DataLoader of 12 samples", Y),
        (DataLoader(Stream(X), batch_size=5), "a DataLoader of 12 samples", None),
        (DataLoader(Stream([[X[:7], Y[:7]], [X[7:], Y[7:]]]), batch_size=None), "a DataLoader of 12 samples", Y),
    ],
)
def test_what_can_be_given(data: object, spec: str, labels: Tensor | None) -> None:
    found = take(data)
    assert found.spec == spec
    assert torch.equal(everything(found), X)
    assert everything(found).dtype == torch.float32
    assert not everything(found).requires_grad
    assert (None if found.labels is None else labels_of(found)) == (None if labels is None else labels.tolist())
    assert (found.changes, found.split, found.normalised) == ("never", None, True)
    unlabelled = take(data, labelled=False)
    assert unlabelled.labels is None
    assert torch.equal(everything(unlabelled), X)


@pytest.mark.parametrize(
    "data",
    [(X, Y), TensorDataset(X, Y), DataLoader(TensorDataset(X, Y), shuffle=True), DataLoader(Stream([*zip(X, Y)]))],  # noqa: B905
)
def test_limit_and_digest(data: object) -> None:
    drawn = samples.draw(12, 5)
    found = take(data, limit=5)
    assert torch.equal(everything(found), X[drawn])
    assert labels_of(found) == Y[drawn].tolist()
    assert data_sha256(take(data)) == data_sha256(take((X, Y)))
    assert data_sha256(found) == data_sha256(take((X[drawn], Y[drawn]))) != data_sha256(take(data))


def test_samples_are_returned_as_they_are() -> None:
    given = take((X, Y))
    assert take(given, labelled=False, limit=3) is given


@pytest.mark.parametrize(("options", "normalised"), [({}, True), ({"mean": "0.5", "std": "0.5"}, False)])
@pytest.mark.parametrize("wrap", [lambda x: x, Items, lambda x: DataLoader(Stream(x), batch_size=2)])
def test_images(wrap: Callable[[Any], object], options: dict[str, str], normalised: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    found = take(wrap(pixels), **options)
    expected = torch.from_numpy(pixels.astype(np.float32).transpose(0, 3, 1, 2)) / 255
    torch.testing.assert_close(everything(found), expected, rtol=1e-6, atol=0)
    assert found.normalised == normalised
    small = take(wrap(pixels), image_size="3", grayscale=True)
    assert torch.equal(everything(small), everything(take(pixels, image_size="3", grayscale=True)))
    assert everything(small).shape == (4, 1, 3, 3)


def test_a_dataset_of_pictures_has_its_class_names() -> None:
    pictures = Items([(Image.new("RGB", (2, 2), (0, 51, 255)), i % 2) for i in range(4)])
    pictures.classes = ["cat", "dog"]  # type: ignore[attr-defined]
    for data in (pictures, DataLoader(Subset(pictures, [1, 2]), collate_fn=lambda batch: default_collate(to(batch)))):
        found = take(data)
        assert found.class_names == ("cat", "dog")
        torch.testing.assert_close(everything(found)[0, :, 0, 0], torch.tensor([0, 0.2, 1]))


def to(batch: list[tuple[Image.Image, int]]) -> list[tuple[np.ndarray[Any, Any], int]]:
    return [(np.array(image), label) for image, label in batch]


class Every(Sampler[int]):
    """Every second index, again and again; it counts how often it was asked."""

    asked = 0

    def __iter__(self) -> Iterator[int]:
        self.asked += 1
        yield from [*range(0, 12, 2)] * 3


class Endless(Sampler[int]):
    def __init__(self, step: int) -> None:
        self.step = step

    def __iter__(self) -> Iterator[int]:
        return (self.step * i % 12 for i in itertools.count())


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(5)


PERMUTED = torch.randperm(12, generator=seeded()).tolist()


@pytest.mark.parametrize(
    ("loader", "indices"),
    [
        ({"sampler": SubsetRandomSampler([7, 3, 9])}, [3, 7, 9]),
        ({"sampler": RandomSampler(ALL, num_samples=4, generator=seeded()), "batch_size": 3}, sorted(PERMUTED[:4])),
        ({"sampler": WeightedRandomSampler([0.0, 1, 1] + [0.0] * 9, 40)}, [1, 2]),
        ({"sampler": Every(), "batch_size": 4}, [0, 2, 4, 6, 8, 10]),
        ({"sampler": np.array([4, 4, 2])}, [2, 4]),
        ({"sampler": torch.tensor([11, 0])}, [0, 11]),
        ({"batch_sampler": [[5, 1], [1, 8]]}, [1, 5, 8]),
        ({"batch_sampler": BatchSampler(SubsetRandomSampler([7, 3, 9]), 2, drop_last=True)}, [3, 7, 9]),
        ({"sampler": Endless(1)}, ALL),
        ({"sampler": RandomSampler(ALL, replacement=True, num_samples=9999)}, ALL),
    ],
)
def test_a_sampler_that_chooses_some(loader: dict[str, Any], indices: list[int]) -> None:
    data = DataLoader(TensorDataset(X, Y), **loader)
    found = take(data)
    assert torch.equal(everything(found), X[indices])
    assert labels_of(found) == Y[indices].tolist()
    assert found.spec == f"a DataLoader of {len(indices)} samples"
    limited = take(data, limit=2)
    assert torch.equal(everything(limited), X[indices][samples.draw(len(indices), 2)])


def test_a_subset_that_is_drawn_is_always_the_same() -> None:
    loader = DataLoader(TensorDataset(X, Y), sampler=RandomSampler(ALL, num_samples=4))
    first = everything(take(loader))
    torch.manual_seed(int(torch.randint(1000, ())))
    assert torch.equal(everything(take(loader)), first)


def test_the_loader_is_left_as_it_is() -> None:
    generator, sampler = seeded(), Every()
    chooser = RandomSampler(ALL, num_samples=4, generator=generator)
    dataset = TensorDataset(X, Y)
    loaders = [
        DataLoader(dataset, shuffle=True, generator=generator, num_workers=1, persistent_workers=True),
        DataLoader(dataset, sampler=chooser, generator=generator),
        DataLoader(dataset, sampler=sampler),
        DataLoader(Stream(X), generator=generator),
    ]
    attributes = [dict(vars(loader)) for loader in loaders]
    for loader in loaders:
        take(loader)
    assert [dict(vars(loader)) for loader in loaders] == attributes
    assert torch.equal(generator.get_state(), seeded().get_state())
    assert sampler.asked == 0
    assert loaders[0]._iterator is None
    assert list(chooser) == PERMUTED[:4]


def test_what_a_collate_function_makes() -> None:
    def collate(batch: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[int]]:
        assert len(batch) == 1
        return torch.stack([x.flip(0) * 2 for x, _ in batch]), [int(y) + 1 for _, y in batch]

    found = take(DataLoader(TensorDataset(X, Y), batch_size=5, collate_fn=collate, shuffle=True))
    assert torch.equal(everything(found), X.flip(1) * 2)
    assert labels_of(found) == (Y + 1).tolist()
    numpy = take(DataLoader(TensorDataset(X, Y), collate_fn=lambda batch: np.stack([x.numpy() for x, _ in batch])))
    assert torch.equal(everything(numpy), X)
    assert numpy.labels is None
    zipped = take(DataLoader(TensorDataset(X, Y), collate_fn=lambda batch: tuple(zip(*batch, strict=True))))
    assert torch.equal(everything(zipped), X)
    assert labels_of(zipped) == Y.tolist()
    boxes = DataLoader(TensorDataset(X, Y), collate_fn=lambda batch: (batch[0][0][None], {"boxes": 1}))
    assert torch.equal(everything(take(boxes, labelled=False)), X)


def test_batches_of_a_stream_go_through_its_collate_function() -> None:
    sizes: list[int] = []

    def collate(batch: list[Tensor]) -> Tensor:
        sizes.append(len(batch))
        return torch.stack(batch) - torch.stack(batch).mean(0)

    centred = torch.cat([part - part.mean(0) for part in X.split(5)])
    assert torch.equal(everything(take(DataLoader(Stream(X), batch_size=5, collate_fn=collate))), centred)
    assert sizes == [5, 5, 2]
    dropped = take(DataLoader(Stream(X), batch_size=5, collate_fn=collate, drop_last=True))
    assert torch.equal(everything(dropped), centred[:10])
    whole = DataLoader(Stream(X.split(6)), batch_size=None, collate_fn=lambda x: x + 1)
    assert torch.equal(everything(take(whole)), X + 1)


def test_a_stream_may_write_all_batches_into_one_memory() -> None:
    memory = torch.zeros(3, 2)
    found = take(DataLoader(Stream(memory.copy_(part) for part in X.split(3)), batch_size=None))
    assert torch.equal(everything(found), X)


@pytest.mark.parametrize("noise", [lambda: torch.randn(2), lambda: np.random.randn(), lambda: random.random()])
@pytest.mark.parametrize(
    "wrap", [lambda d: d, lambda d: DataLoader(d, shuffle=True), lambda d: DataLoader(d, collate_fn=collate_as_usual)]
)
def test_random_items_are_drawn_in_each_reading(noise: Callable[[], Any], wrap: Callable[[Any], Any]) -> None:
    class Noisy(Items):
        def __getitem__(self, i: int) -> tuple[Tensor, int]:
            return torch.full((2,), float(i)) + noise(), i

    data = wrap(Noisy(range(30)))
    first, again = take(data), take(data)
    assert first.changes == "seeded"
    assert labels_of(first) == list(range(30))
    assert data_sha256(first) == data_sha256(again) is not None
    some = torch.tensor([5, 1, 5])
    before = global_state()
    read = [first.inputs(some, reading) for reading in ((), (0, 1), (0, 2))]
    assert global_state() == before
    assert torch.equal(read[1], again.inputs(some, (0, 1)))
    assert len({tuple(x.flatten().tolist()) for x in read}) == 3
    assert torch.equal(read[0][0], read[0][2])


def collate_as_usual(batch: list[Any]) -> Any:
    return default_collate(batch)


def test_a_dataset_too_large_for_memory_is_read_as_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "EAGER_BYTES", 50)
    found = take(DataLoader(TensorDataset(X, Y), sampler=SubsetRandomSampler([9, 2, 4, 5, 6, 1, 0, 11])))
    assert not isinstance(found.source, samples.InMemory)
    assert torch.equal(found.inputs(torch.tensor([0, 7, 2])), X[[0, 11, 2]])
    with refusal("a DataLoader: yields no batches", hint="an iterator is used up by one pass"):
        take(DataLoader(Stream(X for _ in itertools.count()), batch_size=None))


class Own(Exception):  # noqa: N818
    pass


def test_what_the_callers_code_raises_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Items):
        broken: type[Exception] | None = Own

        def __getitem__(self, i: int) -> Tensor:
            if i == 3 and self.broken is not None:
                raise self.broken("mine")
            return torch.ones(2)

    def fail(_: object) -> None:
        raise Own("mine")

    data = Failing(range(40))
    collated, stream = DataLoader(TensorDataset(X), collate_fn=fail), DataLoader(Stream(map(fail, X)))
    for given in (data, DataLoader(data), collated, stream):
        with pytest.raises(Own, match="^mine$"):
            take(given)
    data.broken = IndexError
    with pytest.raises(IndexError, match="^mine$"):
        take(data)
    monkeypatch.setattr(samples, "EAGER_BYTES", 1)
    data.broken = None
    found = take(data)
    data.broken = Own
    with pytest.raises(Own, match="^mine$"):
        found.inputs(torch.arange(4))


def test_items_of_unequal_shapes_are_batches_by_shape() -> None:
    items = Items([torch.zeros(2)] * 5 + [torch.zeros(3)])
    found = take(items)  # batches of those of one shape
    assert found.successive
    assert sorted(found.source.fetch(torch.tensor([i])).parts[0].shape for i in range(2)) == [(1, 3), (5, 2)]


IDS = torch.arange(5, 165).view(20, 8)
MASK = (torch.arange(8) < (torch.arange(20) % 8 + 1)[:, None]).long()


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    "data",
    [
        (IDS, MASK),
        TensorDataset(IDS, MASK),
        DataLoader(TensorDataset(IDS, MASK)),
        DataLoader(Stream(list(zip(IDS, MASK, strict=True)))),
    ],
)
def test_an_attention_mask_is_not_taken_for_labels(data: object, labelled: bool) -> None:
    with refusal(
        "what looks like their attention mask", hint="a dict of input_ids and attention_mask, or ((ids, mask), None)"
    ):
        take(data, labelled=labelled)


class Dictionaries(Items):
    def __getitem__(self, i: int) -> dict[str, str]:
        return {"x": "words"}


@pytest.mark.parametrize(
    ("data", "what", "hint"),
    [
        ("digits", "data: is a str", "a pair (inputs, labels)"),
        (None, "data: is a NoneType", "a DataLoader"),
        ({"x": "X"}, "data: is a dict of x", "names of forward's arguments"),
        ((X, Y, Y), "data: is a tuple of 3, the first a Tensor", "((x1, x2), labels or None)"),
        (((X, 1), Y), "data: is a tuple of 2, the first a tuple", "((x1, x2), labels or None)"),
        (["a.png", "b.png"], "data: is a list of 2, the first a str", "give the name of their folder"),
        ([Path("a.npy")], "data: is a list of 1, the first a PosixPath", "of one file"),
        ([3], "data: is a list of 1, the first a int", "a torch Dataset"),
        (iter(X), "data: is a ", "a torch Dataset"),
        (
            X[:, 0],
            "a tensor [12]: holds inputs of shape [12], without a dimension that counts samples",
            "[n, features]",
        ),
        (X[:0], "a tensor [0, 2]: holds no samples", "not empty"),
        (X * torch.nan, "a tensor [12, 2]: sample 0 holds a value that is not a finite float32", "NaN"),
        (X.to_sparse(), "data: holds a sparse or nested tensor", "to_dense()"),
        ((X, Y.to_sparse()), "data: holds a sparse or nested tensor", "dense"),
        (X.to("meta"), "data: holds a tensor on the meta device", "dense"),
        (np.array([["a"]]), "an array [1, 1]: holds inputs of type <U1", "uint8"),
        ((X, Y[:3]), "a tensor [12, 2] with labels: has 12 inputs but 3 labels", "exactly one label"),
        ((X, "abc"), "a tensor [12, 2] with labels: has labels of type str", "whole numbers"),
        ((X, Y - 1), "the label of sample 0 is -1", "from 0"),
        (Items([]), "a Dataset of 0 samples: its Dataset is empty", "give one that has items"),
        (Dataset(), "a Dataset: its Dataset has no length", "give a map-style Dataset"),
        (DataLoader(Dataset(), sampler=[0]), "a DataLoader: its Dataset has no length", "__len__"),
        (Dictionaries(X), "a Dataset of 12 samples: input 0 is a str, not a tensor", "from __getitem__"),
        (Items([(X, 0, 1)]), "a Dataset of 1 sample: item 0 has 3 parts", "(x, y)"),
        (Items([(X, "a")]), "a Dataset of 1 sample: the label of item 0 is 'a'", "number of the class"),
        (Items([(X, 0), X]), "a Dataset of 2 samples: item 1 has no label", "all or none"),
        (
            DataLoader(TensorDataset(X), sampler=[3, 12]),
            "its sampler yields 12, which is no number of one of 12",
            "Subset",
        ),
        (DataLoader(TensorDataset(X), sampler=["a"]), "its sampler yields 'a', which", "Subset"),
        (
            DataLoader(TensorDataset(X), sampler=Endless(2)),
            "its sampler has yielded 1,200 indices of 12 items",
            "Subset",
        ),
        (
            DataLoader(TensorDataset(X), batch_sampler=([i] for i in range(3))),
            "a DataLoader: its sampler cannot be copied, and would not be left as it is: TypeError",
            "Subset",
        ),
        (DataLoader(Stream([])), "a DataLoader: yields no batches", "used up"),
        (DataLoader(Stream([(X, "a")])), "a DataLoader: batch 0 holds labels that are a tuple of 1", "numbers"),
        (
            DataLoader(Stream([[X, Y], X]), batch_size=None),
            "a DataLoader: its batch 1 has no labels, unlike others",
            "all or none",
        ),
        (DataLoader(Stream([X, [X, Y]]), batch_size=None), "its batch 1 has labels, unlike others", "all or none"),
    ],
)
def test_what_cannot_be_given(data: object, what: str, hint: str) -> None:
    with refusal(what, hint=hint):
        take(data)
