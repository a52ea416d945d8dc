"""Data as people have them, of which only the inputs matter to `prune`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Ntt

pytestmark = pytest.mark.usefixtures("folder")

MODEL = """
import torch
from torch import nn

class OfTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 5)

    def forward(self, x, t):
        return self.layer(x) * t[:, None]

class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.layer = nn.Embedding(50, 8), nn.Linear(8, 50)

    def forward(self, ids):
        return self.layer(self.tokens(ids))

def build_model(outputs=5):
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, outputs))
"""
DATA = """
import torch
G = torch.Generator().manual_seed(0)
X = torch.randn(64, 20, generator=G)
IDS = torch.randint(2, 50, (64, 9), generator=G)

def regression():
    return X, X.sum(1).sin()
def autoencoder():
    return X, X
def multilabel():
    return X, (X[:, :5] > 0).long()
def multilabel_float():
    return X, (X[:, :5] > 0).float()
def binary():
    return X, (X.sum(1) > 0).long()
def one_hot():
    return X, torch.nn.functional.one_hot(torch.arange(64) % 5)
def texts():
    return X, ["a", "b"] * 32
def next_token():
    return IDS[:, :-1], IDS[:, 1:]
def masked():
    return IDS, (torch.arange(9) < torch.arange(64)[:, None] % 9).long()
def three():
    return X, X, X
def batches():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X))
"""
SHORT = ["--steps", "2", "--batch-size", "8"]


@pytest.fixture(autouse=True)
def _files(folder: Path) -> None:
    Path("model.py").write_text(MODEL)
    Path("data.py").write_text(DATA)


@pytest.mark.parametrize(
    "source", ["regression", "autoencoder", "multilabel", "multilabel_float", "binary", "one_hot", "texts"]
)
def test_prune_looks_at_no_labels(ntt: Ntt, source: str) -> None:
    """Labels or none, the same network comes out."""
    for data, output in ((source, "a"), ("regression", "b")):
        pruned = ntt("prune", "model.py", "-s", "0.5", "-d", f"data.py:{data}", *SHORT, "-o", f"{output}.safetensors")
        assert pruned.code == 0, pruned.err
        assert f"data: data.py:{data}, 64 samples of [20]; labels are not read" in pruned.err
    networks = [np.fromfile(f"{name}.safetensors", np.uint8)[-1000:] for name in "ab"]
    assert np.array_equal(*networks)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("regression", "has labels of type float32 and shape [64] for outputs of shape [64, 5]"),
        ("autoencoder", "has labels of type float32 and shape [64, 20] for outputs of shape [64, 5]"),
        ("one_hot", "has targets of type int64 and shape [64, 5] with a single 1 in each row"),
        ("texts", "has labels of type <U1 and shape [64]"),
        ("masked", "has tokens, and with them what looks like their attention mask"),
    ],
)
def test_training_takes_the_numbers_of_classes(ntt: Ntt, source: str, what: str) -> None:
    tuned = ntt("finetune", "model.py", "-d", f"data.py:{source}")
    assert tuned.code == 2
    assert f"error: data.py:{source}: {what}" in tuned.err


@pytest.mark.parametrize(
    ("model", "source", "what"),
    [
        ("model.py:Tagger", "masked", "has tokens, and with them what looks like their attention mask"),
        ("model.py", "three", "returned a tuple of 3, the first a Tensor"),
        ("model.py:OfTwo", "regression", "missing 1 required positional argument: 't'"),
    ],
)
def test_what_a_network_cannot_be_given_is_refused(ntt: Ntt, model: str, source: str, what: str) -> None:
    pruned = ntt("prune", model, "-s", "0.5", "-d", f"data.py:{source}", *SHORT)
    assert pruned.code == 2
    assert what in pruned.err
    assert not Path("sparse.safetensors").exists()


def test_a_loader_is_taken_with_its_own_batches(ntt: Ntt) -> None:
    pruned = ntt("prune", "model.py", "-s", "0.5", "-d", "data.py:batches", *SHORT)
    assert pruned.code == 0, pruned.err
    assert Path("sparse.safetensors").exists()


def test_labels_of_each_token(ntt: Ntt) -> None:
    command = ["model.py:Tagger", "-d", "data.py:next_token"]
    assert ntt("prune", *command, "-s", "0.5", *SHORT).code == 0
    tuned = ntt("finetune", *command, "-c", "sparse.safetensors", "--epochs", "1", "-o", "tuned.safetensors")
    assert tuned.code == 0, tuned.err
    assert ntt("evaluate", *command, "-c", "tuned.safetensors").code == 0


def test_random_data_give_the_same_bytes(ntt: Ntt) -> None:
    Path("noisy.py").write_text("""
import torch
class Noisy(torch.utils.data.Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, i):
        return torch.ones(20) * i + torch.randn(20), i % 5
def build_data():
    return Noisy()
""")
    written = []
    for _ in range(2):
        pruned = ntt("prune", "model.py", "-s", "0.5", "-d", "noisy.py", *SHORT, "--force")
        assert pruned.code == 0
        assert "its items are random, and drawn anew in each reading" in pruned.err
        written.append(Path("sparse.safetensors").read_bytes())
    assert written[0] == written[1]


def test_a_folder_of_parts_and_more(ntt: Ntt) -> None:
    for name in ("train/a", "train/b", "test/a", "models/old"):
        Path("images", name).mkdir(parents=True)
        for i in range(4):
            Image.fromarray(np.full((4, 5), 50 * i, np.uint8)).save(f"images/{name}/{i}.png")
    Path("net.py").write_text(
        "from torch import nn\ndef build_model():\n    return nn.Sequential(nn.Flatten(), nn.Linear(20, 3))\n"
    )
    command = ["finetune", "net.py", "-d", "images", "--epochs", "1", "--validation", "0", "--batch-size", "4"]
    refused = ntt(*command)
    assert refused.code == 2
    assert "error: images: has test/ and train/, and images beside them: models/" in refused.err
    for path in Path("images/models/old").iterdir():
        path.unlink()
    tuned = ntt(*command)
    assert tuned.code == 0, tuned.err
    assert "data: images, 8 images of [1, 4, 5] in 2 classes: a, b\n" in tuned.err
    assert "warning: images has 2 classes, and the network 3 outputs: some have no class" in tuned.err
