"""Which weights are pruned, and what is left of their rows: embeddings, and weights that are divided by their norm."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.cli.conftest import Ntt

pytestmark = pytest.mark.usefixtures("folder")

CLASSIFIER = """import torch
from torch import nn

class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Embedding(50, 16)
        self.o = nn.Linear(16, 2)

    def forward(self, x):
        return self.o(self.e(x).mean(1))

def build_model():
    return Classifier()
"""

WEIGHT_NORM = """from torch import nn
from torch.nn.utils.parametrizations import weight_norm

DATA = "digits"

def build_model():
    first = weight_norm(nn.Linear(64, 128))
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), weight_norm(nn.Linear(128, 64)), nn.ReLU(), nn.Linear(64, 10))
"""

XCIT = """import torch
from torch import nn

DATA = "noise:16"
INPUT_SHAPE = (3, 16, 16)

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Linear(48, 16), nn.LayerNorm(16)
        self.qkv, self.proj, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 5)
        nn.init.zeros_(self.qkv.bias)

    def forward(self, x):
        x = self.embed(x.reshape(len(x), 16, 48))
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, 4, 4)).permute(2, 0, 3, 4, 1).unbind(0)
        q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)
        attended = ((q @ k.transpose(-2, -1)).softmax(-1) @ v).permute(0, 3, 1, 2).flatten(2)
        return self.head((x + self.proj(attended)).mean(1))

def build_model():
    return Attention()
"""


def kept_rows(name: str) -> Tensor:
    return load_file("sparse.safetensors")[name].flatten(1).count_nonzero(1)


def tokens() -> str:
    """Half of the tokens never occur."""
    np.savez("tokens.npz", x=np.random.default_rng(0).integers(0, 25, (40, 6)))
    Path("model.py").write_text(CLASSIFIER)
    return "tokens.npz"


@pytest.mark.parametrize("method", ["ntt", "logit-snip", "magnitude"])
def test_embeddings_stay_dense(ntt: Ntt, method: str) -> None:
    steps = ["--steps", "3"] if method == "ntt" else []
    result = ntt("prune", "model.py", "-s", "0.5", "-d", tokens(), "--method", method, *steps)
    assert result.code == 0, result.err
    assert "prunable: 32 weights in 1 layer; not: e.weight (embedding), which --include NAME would prune" in result.err
    assert (kept_rows("e.weight") == 16).all()
    assert int(kept_rows("o.weight").sum()) == 16


@pytest.mark.parametrize("method", ["ntt", "logit-snip"])
def test_included_embeddings_keep_an_entry_in_each_row(ntt: Ntt, method: str) -> None:
    steps = ["--steps", "3"] if method == "ntt" else []
    spare = ["-s", "0.7", "--method", method, *steps, "--include", "e.*"]
    result = ntt("prune", "model.py", "-d", tokens(), *spare)
    assert result.code == 0, result.err
    assert "prunable: 832 weights in 2 layers\n" in result.err
    rows = kept_rows("e.weight")
    assert (rows[25:] == 1).all()
    assert (rows > 0).all()
    assert int(rows.sum() + kept_rows("o.weight").sum()) == 250
    assert "25 of 50 rows of e.weight keep a single entry" in result.err


@pytest.mark.parametrize(
    "lookup", ["F.embedding(x, self.e)", "self.e[x]", "self.e.index_select(0, x.flatten()).view(*x.shape, -1)"]
)
def test_included_tables_keep_an_entry_in_each_row(ntt: Ntt, lookup: str) -> None:
    source = CLASSIFIER.replace("nn.Embedding(50, 16)", "nn.Parameter(0.1 * torch.randn(50, 16))")
    source = source.replace("self.e(x)", lookup).replace(
        "from torch import nn", "from torch import nn\nimport torch.nn.functional as F"
    )
    data = tokens()
    Path("model.py").write_text(source)
    result = ntt("prune", "model.py", "-d", data, "-s", "0.7", "--steps", "3", "--include", "e*")
    assert result.code == 0, result.err
    assert (kept_rows("e") > 0).all()
    assert "25 of 50 rows of e keep a single entry" in result.err


@pytest.mark.parametrize(
    ("pattern", "hint"), [("o.*", "those to name are e.weight"), ("x*", "those to name are e.weight")]
)
def test_a_pattern_that_includes_nothing(ntt: Ntt, pattern: str, hint: str) -> None:
    result = ntt("prune", "model.py", "-s", "0.5", "-d", tokens(), "--include", pattern)
    assert result.code == 2
    assert f"error: --include {pattern}: makes no more weights prunable\nhint: {hint}" in result.err


@pytest.mark.parametrize("options", [["--steps", "4"], ["--method", "magnitude"], ["--method", "random"]], ids=str)
def test_weight_normalisation(ntt: Ntt, options: list[str]) -> None:
    """`v / |v|` of an emptied row is 0 / 0."""
    Path("model.py").write_text(WEIGHT_NORM)
    result = ntt("prune", "model.py", "-s", "0.95", "--limit", "32", *options)
    assert result.code == 0, result.err
    for layer in ("1", "3"):
        assert (kept_rows(f"{layer}.parametrizations.weight.original1") > 0).all()


def test_weight_normalisation_without_inputs(ntt: Ntt) -> None:
    Path("model.py").write_text(WEIGHT_NORM.replace('DATA = "digits"', ""))
    assert ntt("prune", "model.py", "-s", "0.95", "--method", "random").code == 0
    assert (kept_rows("1.parametrizations.weight.original1") > 0).all()
    result = ntt("prune", "model.py", "-s", "0.99", "--method", "random", "--force")
    assert result.code == 2
    assert "is too high for this model: 170 weights cannot be spread over 3 layers" in result.err
    highest = result.err.split("use at most ")[1].strip()
    assert ntt("prune", "model.py", "-s", highest, "--method", "random", "--force").code == 0


def test_attention_that_normalises_its_channels(ntt: Ntt) -> None:
    """The gradient behind a norm of zero is that of a division by 1e-12."""
    Path("model.py").write_text(XCIT)
    result = ntt("prune", "model.py", "-s", "0.93", "--steps", "4", "--batch-size", "8")
    assert result.code == 0, result.err
    assert (kept_rows("qkv.weight") > 0).all()
    assert torch.isfinite(load_file("sparse.safetensors")["qkv.weight"]).all()


@pytest.mark.parametrize("include", [[], ["--include", "e.weight"]], ids=["dense", "included"])
def test_wanda_takes_embeddings(ntt: Ntt, include: list[str]) -> None:
    """Numbers of rows have no size: an embedding that is pruned is so by magnitude."""
    result = ntt("prune", "model.py", "-s", "0.5", "-d", tokens(), "--method", "wanda", *include)
    assert result.code == 0, result.err
    assert (kept_rows("e.weight") == (8 if include else 16)).all()
    assert (kept_rows("o.weight") == 8).all()


PATCHES = """
import torch
from torch import nn
DATA = "digits"

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Linear(16, 8)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.randn(5, 8))
        self.kind, self.norm = nn.Embedding(2, 8), nn.LayerNorm([5, 8])
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.cat([self.token.expand(len(x), 1, 8), self.patches(x.reshape(-1, 4, 16))], dim=1)
        kinds = self.kind(torch.tensor([0, 1, 1, 1, 1]))
        return self.head(self.norm(x + self.positions + kinds)[:, 0])

def build_model():
    return Net()
"""


def test_the_report_says_what_is_left_out(ntt: Ntt) -> None:
    Path("patches.py").write_text(PATCHES)
    found = ntt("prune", "patches.py", "-s", 0.5, "--method", "magnitude", "--json").document
    assert found["left_out"] == {
        "positions": "table",
        "kind.weight": "embedding",
        "norm.weight": "normalisation",
        "norm.bias": "normalisation",
        "token": "vector",
    }
    assert [layer["name"] for layer in found["layers"]] == ["patches.weight", "head.weight"]
    options = ("-s", 0.5, "--method", "magnitude", "--json", "--force", "--include", "*", "--exclude", "norm.*")
    found = ntt("prune", "patches.py", *options).document
    assert found["left_out"] == {"norm.weight": "normalisation", "norm.bias": "normalisation"}
    plain = ntt("prune", "digits_mlp.py", "-s", 0.5, "--method", "magnitude", "--json", "-o", "m.safetensors").document
    assert "left_out" not in plain
