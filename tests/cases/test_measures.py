"""What is measured of a result: written first, judged then, and no figure without a meaning."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli.conftest import Ntt

pytestmark = pytest.mark.usefixtures("folder")

HEAD = """import torch
from torch import nn

DATA = "noise:16"
INPUT_SHAPE = (3, 8, 8)

"""

SLICED = """
class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, 12))
        self.f, self.g = nn.Linear(12, 8), nn.Linear(8, 5)

    def forward(self, x):
        h = torch.cat([self.cls.expand(len(x), -1, -1), x.reshape(len(x), 16, 12)], 1)
        return self.g(self.f(h).relu())[:, 1:]

def build_model():
    return Patches()
"""

BFLOAT = """
class Half(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(192, 8), nn.Linear(8, 5)
        self.bfloat16()

    def forward(self, x):
        return self.b(self.a(x.flatten(1).bfloat16()).relu())

def build_model():
    return Half()
"""

MAP = "def build_model(): return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 1))\n"
DEEP = "def build_model(): return nn.Sequential(nn.Flatten(), *(nn.Linear(192, 192) for _ in range(3)))\n"


def prune(ntt: Ntt, source: str, *options: str) -> tuple[str, str]:
    Path("model.py").write_text(HEAD + source)
    result = ntt("prune", "model.py", *options)
    assert result.code == 0, result.err
    return result.out, result.err


def test_sliced_logits(ntt: Ntt) -> None:
    out, err = prune(ntt, SLICED, "-s", "0.5", "--steps", "2", "--batch-size", "8", "--kernel-weight", "0")
    assert "same first choice" in out
    assert "not measured" not in err


def test_expanded_logits(ntt: Ntt) -> None:
    expanded = SLICED.replace("[:, 1:]", "[:, 1:2].expand(-1, 3, -1)")
    assert "same first choice" in prune(ntt, expanded, "-s", "0.5", "--method", "magnitude")[0]


def test_a_network_of_bfloat16(ntt: Ntt) -> None:
    out, _ = prune(ntt, BFLOAT, "-s", "0.5", "--steps", "2", "--batch-size", "8")
    assert "effective rank" in out
    assert load_file("sparse.safetensors")["a.weight"].dtype is torch.bfloat16
    assert load_file("sparse.report.safetensors")["spectrum.student"].dtype is torch.float32


def test_kernels_are_looked_at_on_demand(ntt: Ntt) -> None:
    quick = ("-s", "0.5", "--method", "magnitude")
    assert "kernel" not in prune(ntt, MAP, *quick)[0]
    assert "kernels on " in prune(ntt, MAP, *quick, "--kernels", "--force")[0]


@pytest.mark.parametrize(
    ("source", "chooses"),
    [
        (MAP, False),
        (MAP + "def logits(outputs): return outputs.movedim(1, -1)\n", True),
        ("def build_model(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 1))\n", False),
    ],
    ids=["a map", "a map with classes last", "one output"],
)
def test_a_first_choice_is_one_of_several_classes(ntt: Ntt, source: str, chooses: bool) -> None:
    out, _ = prune(ntt, source, "-s", "0.5", "--method", "magnitude")
    assert ("same first choice" in out) is chooses
    assert "agreement with the teacher: " in out
    result = ntt("evaluate", "model.py", "-c", "sparse.safetensors", "--teacher", "sparse.safetensors", "-q")
    assert result.out == ("1.0000\n" if chooses else "0.0000\n")  # without a choice, the distance


def test_a_disconnected_network(ntt: Ntt) -> None:
    out, err = prune(ntt, DEEP, "-s", "0.99997", "--method", "random")
    words = "warning: the network's outputs do not depend on its inputs: no path of weights leads from one to the other"
    assert words in " ".join(err.split())
    assert "same first choice" not in out
    result = ntt("evaluate", "model.py", "-c", "sparse.safetensors", "--teacher", "sparse.safetensors")
    assert words in " ".join(result.err.split())
    assert "same first choice" not in result.out
    assert "do not depend" not in prune(ntt, DEEP, "-s", "0.5", "--method", "random", "--force")[1]


def test_a_dense_network_has_no_density(ntt: Ntt) -> None:
    Path("model.py").write_text(HEAD + DEEP)
    dense = torch.nn.Sequential(torch.nn.Flatten(), *(torch.nn.Linear(192, 192) for _ in range(3)))
    save_file(dense.state_dict(), "dense.safetensors")
    evaluate = ("evaluate", "model.py", "-c", "dense.safetensors", "--teacher", "dense.safetensors")
    result = ntt(*evaluate)
    assert result.code == 0, result.err
    assert "prunable" not in result.out
    assert "density" not in result.out
    assert ntt(*evaluate, "--json").document["density"] is None
