"""Labels go by name: trained on apple, bear and cat, and tested on bear and cat alone."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from ntt_cli.comparison import compare
from ntt_cli.comparison.trial import run_trial
from ntt_cli.config import CompareConfig, EvaluateConfig, FinetuneConfig, PruneConfig
from ntt_cli.errors import DataError, NttError
from ntt_cli.evaluation import evaluate
from ntt_cli.files.checkpoint import read_checkpoint
from ntt_cli.pruning import prune
from ntt_cli.results import EvaluateReport, FinetuneReport
from ntt_cli.runtime.events import Event, Warned
from ntt_cli.training import finetune

MODEL = """from torch import nn
INPUT_SHAPE = (1, 8, 8)
def build_model(outputs=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, outputs))
"""
CLASSES = ("apple", "bear", "cat")
ROWS = {"apple": 0, "bear": 2, "cat": 4, "1": 0, "2": 2, "10": 4, "dog": 0, "emu": 2, "fox": 4}
"""Where the bright band of a class is."""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(MODEL)


class Warnings(list[str]):
    """What a command warns of."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.append(event.message)


def images(folder: str, *names: str, n: int = 20) -> str:
    """Images of a bright band in a place of its own for each class, in a folder a class."""
    draw = np.random.default_rng(len(names))
    for name in names:
        place = Path(folder, name)
        place.mkdir(parents=True)
        for i in range(n):
            pixels = draw.integers(0, 60, (8, 8)).astype(np.uint8)
            row = ROWS.get(name, 6)
            pixels[row : row + 2] += 190
            Image.fromarray(pixels).save(place / f"{i}.png")
    return folder


def arrays(path: str, *names: str) -> str:
    """The same images as arrays, whose labels are numbers of `names` as sorted."""
    images("scratch", *names)
    files = sorted(Path("scratch").glob("*/*.png"))
    x = np.stack([np.asarray(Image.open(file)) for file in files])
    np.savez(path, x=x, y=np.array([sorted(names).index(file.parent.name) for file in files]))
    shutil.rmtree("scratch")
    return path


def train(data: str, **values: Any) -> tuple[FinetuneReport, Warnings]:
    warned = Warnings()
    options = {"epochs": 40, "learning_rate": 0.01, "device": "cpu", "output": "d.safetensors", "force": True}
    return finetune.run(FinetuneConfig(model="model.py", data=data, **(options | values)), warned), warned


def evaluated(data: str, checkpoint: str = "d.safetensors", **values: Any) -> tuple[EvaluateReport, Warnings]:
    warned = Warnings()
    config = EvaluateConfig(model="model.py", checkpoint=checkpoint, data=data, device="cpu", **values)
    return evaluate.run(config, warned), warned


def refusal(error: type[NttError], work: Any) -> tuple[str, str]:
    with pytest.raises(error) as caught:
        work()
    assert caught.value.exit_code == 2
    return str(caught.value), caught.value.hint


def perfect(report: EvaluateReport) -> dict[str, float | None]:
    assert report.accuracy is not None
    assert report.accuracy == 1.0
    return report.accuracy_by_class


def test_a_class_that_the_test_folder_lacks() -> None:
    trained, warned = train(images("tr", *CLASSES))
    assert (trained.class_names, warned) == (CLASSES, [])
    assert read_checkpoint(Path("d.safetensors")).class_names == CLASSES
    report, warned = evaluated(images("te", "bear", "cat"))
    assert perfect(report) == {"apple": None, "bear": 1.0, "cat": 1.0}
    assert warned == ["te has no samples of apple: accuracy is over the other 2 of 3 classes"]


def test_a_class_that_the_network_never_learnt() -> None:
    train(images("tr", *CLASSES))
    what, hint = refusal(DataError, lambda: evaluated(images("te", "bear", "dog", "emu")))
    assert what == "te: has classes that the network never learnt: dog, emu"
    assert hint == "it knows apple, bear, cat; name the folders so, or leave these classes out"
    what, _ = refusal(DataError, lambda: train("te", checkpoint="d.safetensors", output="e.safetensors"))
    assert what == "te: has classes that the network never learnt: dog, emu"


def test_numbers_that_are_sorted_as_words() -> None:
    """`10` comes before `2` in one folder, and is not there in the other."""
    train(images("tr", "1", "2", "10"))
    report, _ = evaluated(images("te", "1", "2"))
    assert perfect(report) == {"1": 1.0, "10": None, "2": 1.0}


def test_the_parts_of_a_divided_folder() -> None:
    images("data/train", *CLASSES)
    images("data/test", "bear", "cat")
    train("data")
    report, warned = evaluated("data")
    assert perfect(report) == {"apple": None, "bear": 1.0, "cat": 1.0}
    assert warned == ["data has no samples of apple: accuracy is over the other 2 of 3 classes"]


def test_labels_without_names_are_numbers_of_the_networks_classes() -> None:
    train(images("tr", *CLASSES))
    report, warned = evaluated(arrays("all.npz", *CLASSES))
    count = "has labels without names, which count as numbers of the network's classes: 0 is apple, 1 is bear, 2 is cat"
    assert (list(perfect(report)), warned) == (list(CLASSES), [f"all.npz {count}"])
    report, (warning,) = evaluated(arrays("some.npz", "bear", "cat"))  # its 0 is a bear
    assert report.accuracy is not None
    assert report.accuracy < 0.2
    assert warning == f"some.npz {count}; there is none of cat: accuracy is over the others"
    np.savez("more.npz", x=np.zeros((4, 8, 8), np.uint8), y=np.arange(4))
    what, _ = refusal(DataError, lambda: evaluated("more.npz"))
    assert what == "more.npz: has label 3, and the network learnt 3 classes: apple, bear, cat"


def test_pruning_hands_the_names_on_and_fine_tuning_goes_by_them() -> None:
    train(images("tr", *CLASSES))
    options = {"sparsity": 0.3, "weights": "d.safetensors", "device": "cpu", "force": True}
    some = images("some", "bear", "cat")
    warned = Warnings()
    for method in ("magnitude", "snip"):
        prune.run(PruneConfig(model="model.py", data=some, method=method, **options), warned)  # type: ignore[arg-type]
        assert read_checkpoint(Path("sparse.safetensors")).class_names == CLASSES
    assert warned == ["some has no samples of apple: the mask is chosen by the other 2 of 3 classes"]
    _, warned = train(some, checkpoint="sparse.safetensors", output="t.safetensors", epochs=5)
    assert warned == ["some has no samples of apple: the network is trained on the other 2 of 3 classes"]
    report, _ = evaluated("some", "t.safetensors")
    assert list(perfect(report)) == list(CLASSES)


def test_fine_tuning_on_other_classes_altogether() -> None:
    train(images("tr", *CLASSES))
    _, warned = train(images("new", "dog", "emu", "fox"), checkpoint="d.safetensors", output="e.safetensors")
    assert warned == [
        "the network learnt apple, bear, cat, of which new has none: its outputs stand for dog, emu, fox from now on"
    ]
    report, (warning,) = evaluated("new", "e.safetensors", teacher="d.safetensors")
    assert list(perfect(report)) == ["dog", "emu", "fox"]
    assert warning.startswith("d.safetensors and e.safetensors learnt other classes, or in another order")
    five = {"model_arg": ("outputs=5",), "epochs": 1}
    train("tr", output="d5.safetensors", **five)
    _, (warning,) = train(arrays("numbers.npz", *"abcd"), checkpoint="d5.safetensors", output="e.safetensors", **five)
    assert warning.startswith("numbers.npz has labels up to 3 without names, and the network learnt 3 classes")


def test_classes_that_nobody_recorded_may_stand_in_another_order() -> None:
    five = ("outputs=5",)
    _, warned = train(images("tr", *CLASSES), model_arg=five, epochs=1)
    assert warned == ["tr has 3 classes, and the network 5 outputs: some have no class"]
    save_file(load_file("d.safetensors"), "foreign.safetensors")
    message = "the weights do not name their classes; those of tr are numbered in the order of their names: apple is 0"
    assert evaluated("tr", "foreign.safetensors", model_arg=five)[1][-1] == message
    assert train("tr", checkpoint="foreign.safetensors", model_arg=five, epochs=1)[1][-1] == message


def test_numbered_folders_of_a_network_from_elsewhere() -> None:
    names = [str(i) for i in range(11)]
    train(images("tr", *names, n=2), model_arg=("outputs=11",), epochs=1)
    save_file(load_file("d.safetensors"), "foreign.safetensors")
    _, warned = evaluated("tr", "foreign.safetensors", model_arg=("outputs=11",))
    assert warned == [
        "the weights do not name their classes; those of tr are numbered in the order of their names: 10 is 2"
    ]


def test_a_comparison_on_test_data_that_lacks_a_class() -> None:
    train(images("tr", *CLASSES))
    save_file(load_file("d.safetensors"), "foreign.safetensors")
    options: dict[str, Any] = {
        "model": "model.py",
        "data": "tr",
        "weights": "foreign.safetensors",
        "mean": "0.26",
        "std": "0.26",
        "methods": ("dense",),
        "seeds": (0,),
        "epochs": 1,
        "device": "cpu",
    }
    warned = Warnings()
    config = CompareConfig(**options, test_data=images("te", "bear", "cat"))
    trials = compare.prepare(config, warned, write=True)
    assert warned == ["te has no samples of apple: accuracy is over the other 2 of 3 classes"]
    result = run_trial(config, trials[0])
    assert (result.accuracy_as_pruned, result.accuracy) == (1.0, 1.0)
    what, _ = refusal(
        DataError,
        lambda: compare.prepare(config.model_copy(update={"test_data": images("te2", "dog")}), warned, write=True),
    )
    assert what == "te2: has no labels to test with"


def test_a_test_folder_with_one_class_alone() -> None:
    train(images("tr", *CLASSES))
    report, warned = evaluated(images("te", "bear"))
    assert perfect(report) == {"apple": None, "bear": 1.0, "cat": None}
    assert warned == ["te has no samples of apple, cat: accuracy is over the other 1 of 3 classes"]
    what, _ = refusal(DataError, lambda: evaluated(images("photos", "holidays")))
    assert what == (
        "photos: has no labels (its one sub-folder, holidays, is no class that the network is known to have), and there"
        " is no teacher to compare with"
    )


DATA = """
import numpy as np
import torch
from PIL import Image
from pathlib import Path
from torch.utils.data import ConcatDataset, Subset, random_split

class Own(torch.utils.data.Dataset):
    def __init__(self, order=("cat", "bear", "apple"), **names):
        self.__dict__.update(names)
        self.files = [(file, i) for i, name in enumerate(order) for file in sorted(Path("te", name).glob("*.png"))]

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        return torch.from_numpy(np.array(Image.open(self.files[i][0])))[None], self.files[i][1]

ORDER = ["cat", "bear", "apple"]
def plain(): return Own(classes=ORDER)
def array(): return Own(classes=np.array(ORDER))
def mapping(): return Own(classes={0: "cat", 1: "bear", 2: "apple"})
def class_to_idx(): return Own(classes=3, class_to_idx={"apple": 2, "bear": 1, "cat": 0})
def subset(): return Subset(Own(classes=ORDER), range(60))
def split(): return random_split(Own(classes=ORDER), [50, 10])[0]
def joined(): return ConcatDataset([Own(classes=ORDER), subset()])
def contradicting(): return ConcatDataset([Own(classes=ORDER), Own(ORDER[::-1], classes=ORDER[::-1])])
def silent(): return Own()
"""


@pytest.mark.parametrize("name", ["plain", "array", "mapping", "class_to_idx", "subset", "split", "joined"])
def test_datasets_whose_classes_stand_in_another_order(name: str) -> None:
    """All wrong by position, but for bears."""
    Path("data.py").write_text(DATA)
    train(images("tr", *CLASSES))
    images("te", *CLASSES)
    report, warned = evaluated(f"data.py:{name}")
    assert perfect(report) == dict.fromkeys(CLASSES, 1.0)
    assert warned == []


def test_datasets_that_do_not_say_their_classes_or_contradict_each_other() -> None:
    Path("data.py").write_text(DATA)
    train(images("tr", *CLASSES), epochs=1)
    images("te", *CLASSES)
    _, (warning,) = evaluated("data.py:silent")
    assert "which count as numbers of the network's classes: 0 is apple, 1 is bear, 2 is cat" in warning
    what, _ = refusal(DataError, lambda: evaluated("data.py:contradicting"))
    assert what == (
        "data.py:contradicting: joins Datasets whose labels mean different classes:"
        " apple, bear, cat and cat, bear, apple"
    )


def test_a_dataset_of_ones_own_that_names_its_classes() -> None:
    Path("data.py").write_text(
        "import torch\n"
        "class Two(torch.utils.data.Dataset):\n"
        "    classes = ['bear', 'cat']\n"
        "    def __len__(self):\n        return 4\n"
        "    def __getitem__(self, i):\n        return torch.zeros(1, 8, 8), i % 2\n"
        "def build_data():\n    return Two()\n"
    )
    train(images("tr", *CLASSES), epochs=1)
    _, warned = evaluated("data.py")
    assert warned == ["data.py has no samples of apple: accuracy is over the other 2 of 3 classes"]
