from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ntt_cli.config import DataOptions
from ntt_cli.data import Samples, data_sha256, load_samples, samples
from ntt_cli.runtime.seeding import global_state
from tests.data.refusal import refusal

PREAMBLE = """
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset, TensorDataset

class Items(Dataset):
    def __init__(self, items):
        self.items = items
    def __len__(self):
        return len(self.items)
    def __getitem__(self, i):
        return self.items[i]

def build_data():
"""
FIRST_LINE = PREAMBLE.count("\n") + 1


@pytest.fixture
def write(tmp_path: Path) -> object:
    def writer(body: str) -> Path:
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        (tmp_path / "data.py").write_text(PREAMBLE + lines)
        return tmp_path / "data.py"

    return writer


def load(spec: Path | str, *, split: str = "train", **options: object) -> Samples:
    return load_samples(DataOptions(data=str(spec), **options), split=split)


def everything(data: Samples) -> torch.Tensor:
    return data.inputs(torch.arange(len(data)))


@pytest.mark.parametrize(
    ("body", "labels"),
    [
        ("return torch.arange(6.).view(3, 2)", None),
        ("return np.arange(6.).reshape(3, 2)", None),
        ("return torch.arange(6.).view(3, 2), torch.tensor([2, 0, 1])", [2, 0, 1]),
        ("return np.arange(6.).reshape(3, 2), [2, 0, 1]", [2, 0, 1]),
        ("return torch.arange(6.).view(3, 2).requires_grad_(), None", None),
        ("return TensorDataset(torch.arange(6.).view(3, 2))", None),
        ("return TensorDataset(torch.arange(6.).view(3, 2), torch.tensor([2, 0, 1]))", [2, 0, 1]),
        ("return Items([np.array([0., 1]), np.array([2., 3]), np.array([4., 5])])", None),
        (
            "return Items([([0, 1][0] * torch.ones(2) + torch.arange(2.) + 2 * i, (2, 0, 1)[i]) for i in range(3)])",
            [2, 0, 1],
        ),
    ],
)
def test_what_a_factory_may_return(write, body: str, labels: list[int] | None) -> None:
    data = load(write(body))
    assert everything(data).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert everything(data).dtype == torch.float32
    assert (None if data.labels is None else data.labels.tolist()) == labels
    assert data.split is None


def test_a_factory_that_asks_for_the_split(tmp_path: Path) -> None:
    path = tmp_path / "sets.py"
    path.write_text(
        "import torch\ndef mine(size=2, *, split):\n    return torch.zeros(size if split == 'train' else 5, 3)\n"
    )
    train, test = load(f"{path}:mine"), load(f"{path}:mine", split="test")
    assert (len(train), len(test)) == (2, 5)
    assert (train.split, test.split) == ("train", "test")
    assert train.spec == f"{path}:mine"


def test_images_of_a_dataset(write) -> None:
    body = """image = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
return Items([(image, 1), (image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 0)])"""
    x = everything(load(write(body)))
    expected = np.arange(48).reshape(4, 4, 3).transpose(2, 0, 1)
    np.testing.assert_allclose(x[0].numpy(), expected / 255, rtol=1e-6)
    np.testing.assert_allclose(x[1].numpy(), expected[:, :, ::-1] / 255, rtol=1e-6)
    assert everything(load(write(body), image_size="2", grayscale=True)).shape == (2, 1, 2, 2)
    gray = everything(load(write("return Items([np.full((3, 4), 51, dtype=np.uint8)])")))
    torch.testing.assert_close(gray, torch.full((1, 1, 3, 4), 0.2))


def test_only_the_items_within_the_limit_are_read(write, tmp_path: Path) -> None:
    body = f"""class Counting(Items):
    def __getitem__(self, i):
        with open({str(tmp_path / "log")!r}, "a") as log:
            log.write(f"{{i}}\\n")
        return torch.tensor([float(i)]), i
return Counting(range(100))"""
    data = load(write(body), limit=7)
    read = [int(line) for line in (tmp_path / "log").read_text().split()]
    assert set(read) == set(samples.draw(100, 7).tolist())
    assert data.labels is not None
    assert everything(data)[:, 0].tolist() == data.labels.tolist() == samples.draw(100, 7).tolist()


def test_a_dataset_too_large_for_memory_is_asked_again(write, monkeypatch: pytest.MonkeyPatch) -> None:
    body = """import os
class Fading(Items):
    def __getitem__(self, i):
        fading = os.environ.get("NTT_TEST_FADING")
        if fading == "gone":
            raise OSError("disk gone")
        if fading == "shape":
            return torch.zeros(5), i
        return torch.tensor([i, i], dtype=torch.uint8), i + (fading == "label")
return Fading(range(40))"""
    monkeypatch.setattr(samples, "EAGER_BYTES", 39)
    data = load(write(body), limit=20)
    drawn = samples.draw(40, 20)
    assert data.changes == "never"
    assert data.labels is not None
    assert data.labels.tolist() == drawn.tolist()
    expected = drawn[[3, 19]].float() / 255
    torch.testing.assert_close(data.inputs(torch.tensor([3, 19])), torch.stack([expected, expected], dim=1))
    for fading, what, hint in (
        ("shape", f"input {drawn[4]} of its Dataset is float32 [5], others are uint8 [2]", "one shape"),
        ("label", f"item {drawn[4]} of its Dataset has label {drawn[4] + 1} now, and had {drawn[4]} before", "same"),
        ("gone", f"{data.spec}: raised OSError: disk gone (line {FIRST_LINE + 5})", "--debug"),
    ):
        monkeypatch.setenv("NTT_TEST_FADING", fading)
        with refusal(what, hint=hint):
            data.inputs(torch.tensor([4]))


AUGMENTED = {
    "torch": "torch.randn(2)",
    "numpy": "float(np.random.randn())",
    "python": "random.random()",
    "seldom": "(torch.rand(()) < 1e-9)",  # by values alone, no reading would ever show it
}
READ = torch.tensor([5, 1, 5])


@pytest.mark.parametrize("noise", AUGMENTED.values(), ids=AUGMENTED)
@pytest.mark.parametrize("labelled", [True, False])
def test_random_items_are_drawn_anew_in_each_reading_and_alike_in_the_same(write, noise: str, labelled: bool) -> None:
    body = f"""import random
class Noisy(Items):
    def __getitem__(self, i):
        return torch.full((2,), float(i)) + {noise}, i
return Noisy(range(40))"""
    before = global_state()
    first, again = (
        load_samples(DataOptions(data=str(write(body)), limit=20), split="train", labelled=labelled) for _ in range(2)
    )
    assert first.changes == "seeded"
    assert (first.labels is None) == (not labelled)
    for reading in ((), (0, 1), (0, 2), (1, 1)):
        assert torch.equal(first.inputs(READ, reading), again.inputs(READ, reading))
        # Neither what is read with it nor its place in a subset changes an item.
        assert torch.equal(first.inputs(READ, reading)[:1], first.subset(READ).inputs(torch.tensor([0]), reading))
    if "e-9" not in noise:
        others = [tuple(first.inputs(READ, reading)[0].tolist()) for reading in ((), (0, 1), (0, 2), (1, 1))]
        assert len(set(others)) == 4
    assert data_sha256(first) == data_sha256(again) is not None
    assert global_state() == before


@pytest.mark.parametrize("noise", ["float(self.own.normal())", "next(self.count)"])
def test_items_that_no_seed_repeats(write, noise: str) -> None:
    body = f"""import itertools
class Noisy(Items):
    own, count = np.random.default_rng(0), itertools.count()
    def __getitem__(self, i):
        return torch.full((2,), float(i)) + {noise}, i
return Noisy(range(40))"""
    data = load(write(body))
    assert data.changes == "always"
    assert not torch.equal(data.inputs(READ), data.inputs(READ))
    assert data_sha256(data) is None


def test_a_few_items_that_are_random(write) -> None:
    """Those that are tried are not; that numbers were drawn shows it."""
    body = """class Noisy(Items):
    def __getitem__(self, i):
        return torch.ones(2) + (torch.rand(2) if i == 11 else 0), i
return Noisy(range(1000))"""
    data = load(write(body))
    assert data.changes == "seeded"
    assert not torch.equal(data.inputs(torch.tensor([11]), (0, 1)), data.inputs(torch.tensor([11]), (0, 2)))


def test_a_label_that_is_random_is_refused(write) -> None:
    body = """class Turned(Items):
    def __getitem__(self, i):
        turns = int(torch.randint(4, ()))
        return torch.eye(3).rot90(turns), turns
return Turned(range(40))"""
    data = load(write(body))
    data.inputs(torch.arange(40))
    with refusal("now, and had", hint="the same label whenever it is read"):
        data.inputs(torch.arange(40), (0, 1))
    unlabelled = load_samples(DataOptions(data=data.spec), split="train", labelled=False)
    assert unlabelled.inputs(torch.arange(40), (0, 1)).shape == (40, 3, 3)


@pytest.mark.parametrize(
    "body", ["x = torch.randn(3, 2) + np.random.randn() + random.random()\nreturn x", "return TOP"]
)
def test_what_a_factory_draws_it_draws_alike(write, tmp_path: Path, body: str) -> None:
    path = write("import random\n" + body)
    path.write_text(path.read_text().replace("def build_data", "TOP = torch.randn(3, 2)\ndef build_data"))
    torch.manual_seed(int(torch.randint(1000, ())))
    before = global_state()
    assert torch.equal(everything(load(path)), everything(load(path)))
    assert global_state() == before


@pytest.mark.parametrize(
    "body",
    [
        "return torch.ones(4, 2), torch.rand(4)",
        "return (torch.ones(4, 2),) * 2",
        "return torch.ones(4, 2), torch.rand(4, 5)",
        "return torch.ones(4, 2), 'abcd'",
        "return torch.ones(4, 2), {'boxes': 3}",
        "return torch.ones(4, 2), np.array([None] * 4)",
        "return torch.ones(4, 2), torch.full((4,), torch.nan)",
        "return torch.ones(4, 2), torch.tensor(-7)",
        "return Items([(torch.ones(2), label) for label in (None, 'a', {}, 0.5)])",
        "return Items([(torch.ones(2), torch.ones(2)), torch.ones(2), (torch.ones(2),), [torch.ones(2), 1]])",
    ],
)
def test_labels_that_nobody_looks_at_may_be_anything(write, body: str) -> None:
    data = load_samples(DataOptions(data=str(write(body))), split="train", labelled=False)
    assert data.labels is None
    assert torch.equal(everything(data), torch.ones(4, 2))


IDS = """ids = torch.randint(5, 900, (20, 8))
mask = torch.arange(8) < (torch.arange(20) % 8 + 1)[:, None]
"""


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    "returned",
    [
        "ids, mask.long()",
        "ids, mask",
        "ids, mask.float()",
        "ids, mask.long().flip(1)",
        "ids.numpy(), mask.numpy().astype('int32')",
        "ids, torch.ones_like(ids)",
        "ids, mask.long()[:, None, None]",
        "TensorDataset(ids, mask.long())",
        "Items(list(zip(ids, mask)))",
    ],
)
def test_an_attention_mask_is_not_taken_for_labels(write, returned: str, labelled: bool) -> None:
    data = DataOptions(data=str(write(f"{IDS}return {returned}")))
    with refusal(
        "has tokens, and with them what looks like their attention mask", hint="a dict of input_ids and attention_mask"
    ):
        load_samples(data, split="train", labelled=labelled)


@pytest.mark.parametrize(
    "returned",
    [
        "ids, ids",
        "ids[:, :-1], ids[:, 1:]",
        "ids, ids % 2",
        "ids % 2, mask.long()",
        "ids, (ids[:, 0] % 2)",
        "ids[:, :1], (ids[:, 0] % 2)",
        "ids[:, :2], ids[:, :2] % 2",
        "ids.float(), mask.long()",
        "ids.to(torch.uint8), mask.long()",
    ],
)
def test_labels_that_are_no_attention_mask(write, returned: str) -> None:
    path = write(f"{IDS}return {returned}")
    data = load(path)
    assert data.labels is not None
    assert len(data) == len(data.labels) == 20


@pytest.mark.parametrize(
    ("body", "what", "hint"),
    [
        ("return [1, 2]", "returned a list", "a torch Dataset"),
        ("return None", "returned a NoneType", "a torch Dataset"),
        (
            "return torch.zeros(2, 2), torch.zeros(2, 2), 1",
            "returned a tuple of 3, the first a Tensor",
            "((x1, x2), labels or None)",
        ),
        ("return {'a': torch.zeros(2), 'b': 1}", "returned a dict of a, b", "names of forward's arguments"),
        ("return (torch.zeros(2, 2), 1), [0, 1]", "returned a tuple of 2, the first a tuple", "inputs"),
        (
            "class Short(Items):\n    def __len__(self):\n        return 3\nreturn Short([torch.zeros(2)] * 2)",
            "item 2 of its Dataset, which by its __len__ has 3, raised IndexError('list index out of range')",
            "how many items there are",
        ),
        (
            "class Long(Items):\n    def __len__(self):\n        return 10**18\nreturn Long([torch.zeros(2)] * 2)",
            "GiB of memory to read",
            "fewer items",
        ),
        ("return [[1.0]], [0]", "returned a tuple", "(inputs, labels)"),
        ("return torch.zeros(2, 2), 'ab'", "has labels of type str", "whole numbers"),
        ("return torch.zeros(2, 2), [0]", "has 2 inputs but 1 labels", "one label"),
        ("return torch.zeros(0, 2)", "holds no samples", "not empty"),
        ("return torch.full((2, 2), torch.nan)", "sample 0 holds a value that is not a finite float32", "NaN"),
        ("return torch.zeros(2, 2, dtype=torch.bool)", "inputs of type torch.bool", "uint8"),
        ("return Items([])", "its Dataset is empty", "items"),
        (
            "class Stream(IterableDataset):\n    __iter__ = None\nreturn Stream()",
            "raised TypeError: 'Stream' object is not iterable",
            "--debug",
        ),
        ("return Items([{'x': 'a'}])", "input 0 of its Dataset is a str, not", "names of forward's arguments"),
        (
            "return Items([(torch.tensor(1.), 0)])",
            "input 0 of its Dataset is a Tensor of shape [], not",
            "return such an x",
        ),
        ("return Items([torch.zeros(2), 5])", "input 1 of its Dataset is a int", "return such an x"),
        ("return Items([(torch.zeros(2), 1, 2)])", "item 0 of its Dataset has 3 parts", "(x, y)"),
        ("return Items([(torch.zeros(2), 'a')])", "the label of item 0 of its Dataset is 'a'", "number of the class"),
        ("return Items([(torch.zeros(2), 0), torch.ones(2)])", "item 1 of its Dataset has no label", "all or none"),
        ("return Items([torch.ones(2), (torch.zeros(2), 0)])", "item 1 of its Dataset has a label", "all or none"),
        ("return Items([(torch.zeros(2), -3)])", "the label of sample 0 is -3", "from 0"),
        ("return Items([torch.zeros(2), torch.full((2,), torch.inf)])", "sample 1 holds a value", "Inf"),
        ("x = {}\nreturn x['missing']", f"raised KeyError: 'missing' (line {FIRST_LINE + 1})", "--debug"),
        ("raise SystemExit(0)", f"called sys.exit(0) (line {FIRST_LINE})", "return or raise"),
        ("return Items({1: torch.zeros(2)})", "raised KeyError: 0 (line 13)", "--debug"),
    ],
)
def test_what_it_may_not_return(write, body: str, what: str, hint: str) -> None:
    with refusal(what, hint=hint):
        load(write(body))


def test_a_factory_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "data.py"
    path.write_text("from torch import zeros\nmine = 3\ndef build_dataset():\n    return zeros(2, 2)\n")
    with refusal(f"{path}: defines no build_data()", hint=f"did you mean {path}:build_dataset?"):
        load(path)
    with refusal(f"{path}: mine is a int, not a function", hint="define mine() there"):
        load(f"{path}:mine")
    with refusal(f"{tmp_path / 'dat.py'}: there is no such file", hint=f"did you mean {path}?"):
        load(tmp_path / "dat.py")
    assert len(load(f"{path}:build_dataset")) == 2


def test_a_factory_imports_its_neighbours_when_it_is_called(tmp_path: Path) -> None:
    (tmp_path / "ntt_test_shapes.py").write_text("size = 3\n")
    path = tmp_path / "data.py"
    path.write_text(
        "def build_data():\n    import ntt_test_shapes, torch\n    return torch.zeros(2, ntt_test_shapes.size)\n"
    )
    assert everything(load(path)).shape == (2, 3)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    ("body", "shapes"),
    [
        ("return [torch.zeros(2), torch.ones(3), torch.ones(2)]", [[1, 3], [2, 2]]),
        ("return [torch.zeros(2), torch.ones(3)]", [[1, 2], [1, 3]]),
        ("return torch.nested.nested_tensor([torch.zeros(2), torch.ones(3)])", [[1, 2], [1, 3]]),
        ("return torch.nn.utils.rnn.pack_sequence([torch.ones(3, 4), torch.zeros(2, 4)])", [[1, 2, 4], [1, 3, 4]]),
        ("return Items([torch.zeros(1, 2, 2), torch.zeros(1, 2, 3)])", [[1, 1, 2, 2], [1, 1, 2, 3]]),
        ("return torch.utils.data.DataLoader([torch.zeros(2)], batch_size=None)", [[2]]),
    ],
)
def test_what_cannot_be_joined_is_batches_as_they_are(write, body: str, shapes: list[list[int]]) -> None:
    data = load(write(body))
    assert data.successive
    assert sorted([*data.source.fetch(torch.tensor([i])).parts[0].shape] for i in range(len(data))) == shapes


def test_a_loader_is_its_samples(write) -> None:
    data = load(write("return torch.utils.data.DataLoader([(torch.ones(2), 1)] * 5, batch_size=2)"))
    assert not data.successive
    assert len(data) == 5
    assert data.labels.tolist() == [1] * 5
