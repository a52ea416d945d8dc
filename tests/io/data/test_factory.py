from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ntt_cli.config import DataOptions
from ntt_cli.io.data import Samples, load_samples, samples
from tests.io.data.refusal import refusal

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
    body = """class Fading(Items):
    reads = 0
    def __getitem__(self, i):
        self.reads += 1
        if self.reads > 30:
            raise OSError("disk gone")
        if self.reads > 28:
            return torch.zeros(5), i
        return torch.tensor([i, i], dtype=torch.uint8), i
return Fading(range(40))"""
    monkeypatch.setattr(samples, "EAGER_BYTES", 39)
    data = load(write(body), limit=20)
    drawn = samples.draw(40, 20)
    assert data.labels is not None
    assert data.labels.tolist() == drawn.tolist()
    expected = drawn[[3, 19]].float() / 255
    torch.testing.assert_close(data.inputs(torch.tensor([3, 19])), torch.stack([expected, expected], dim=1))
    data.inputs(torch.arange(5))
    with refusal(f"input {drawn[4]} of its Dataset is float32 [5], others are uint8 [2]", hint="one shape"):
        data.inputs(torch.tensor([4]))
    with refusal("is float32 [5]", hint="one shape"):
        data.inputs(torch.tensor([4]))
    with refusal(f"{data.spec}: raised OSError: disk gone (line {FIRST_LINE + 5})", hint="--debug"):
        data.inputs(torch.tensor([4]))


@pytest.mark.parametrize(
    ("body", "what", "hint"),
    [
        ("return [1, 2]", "returned a list", "a torch Dataset"),
        ("return None", "returned a NoneType", "a torch Dataset"),
        ("return torch.zeros(2, 2), torch.zeros(2, 2), 1", "returned a tuple", "a torch Dataset"),
        ("return [[1.0]], [0]", "returned a tuple", "(inputs, labels)"),
        ("return torch.zeros(2, 2), 'ab'", "returned str labels", "whole numbers"),
        ("return torch.zeros(2, 2), [0.5, 1]", "has labels of type float64", "astype"),
        ("return torch.zeros(2, 2), [0]", "has 2 inputs but 1 labels", "one label"),
        ("return torch.zeros(0, 2)", "holds no samples", "not empty"),
        ("return torch.full((2, 2), torch.nan)", "sample 0 holds a value that is not a finite float32", "NaN"),
        ("return torch.zeros(2, 2, dtype=torch.bool)", "inputs of type torch.bool", "uint8"),
        ("return Items([])", "its Dataset is empty", "items"),
        (
            "class Stream(IterableDataset):\n    __iter__ = None\nreturn Stream()",
            "its Stream has no length",
            "__getitem__",
        ),
        ("return Items([{'x': 1}])", "input 0 of its Dataset is a dict", "return such an x"),
        ("return Items([(torch.tensor(1.), 0)])", "input 0 of its Dataset is a Tensor, not", "return such an x"),
        ("return Items([torch.zeros(2), 5])", "input 1 of its Dataset is a int", "return such an x"),
        ("return Items([(torch.zeros(2), 1, 2)])", "item 0 of its Dataset has 3 parts", "(x, y)"),
        ("return Items([(torch.zeros(2), 0.5)])", "the label of item 0 of its Dataset is 0.5", "number of the class"),
        ("return Items([(torch.zeros(2), 0), torch.ones(2)])", "item 1 of its Dataset has no label", "all or none"),
        ("return Items([torch.ones(2), (torch.zeros(2), 0)])", "item 1 of its Dataset has a label", "all or none"),
        ("return Items([(torch.zeros(2), -3)])", "the label of sample 0 is -3", "from 0"),
        (
            "return Items([torch.zeros(1, 2, 2), torch.zeros(1, 2, 3)])",
            "input 1 of its Dataset is float32 [1, 2, 3], others are float32 [1, 2, 2]",
            "--image-size",
        ),
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
