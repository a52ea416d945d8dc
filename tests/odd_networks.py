"""A model file of networks with layers and states of unusual kinds, on the digits."""

from __future__ import annotations

ODD = '''
import warnings
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

DATA = "digits"

def perceptron(wrap=lambda layer: layer):
    return nn.Sequential(nn.Flatten(), wrap(nn.Linear(64, 12)), nn.ReLU(), wrap(nn.Linear(12, 10)))

def lazy():
    return nn.Sequential(
        nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(8), nn.LazyLinear(10)
    )

def weight_norm():
    return perceptron(parametrizations.weight_norm)

def spectral_norm():
    return perceptron(parametrizations.spectral_norm)

class LowRank(nn.Module):
    def forward(self, left, right):
        return left @ right

    def right_inverse(self, weight):
        left, values, right = torch.linalg.svd(weight, full_matrices=False)
        return left[:, :4] * values[:4], right[:4]

def low_rank():
    def wrap(layer):
        parametrize.register_parametrization(layer, "weight", LowRank())
        return layer
    return perceptron(wrap)

def old_weight_norm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return perceptron(nn.utils.weight_norm)

class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = perceptron()

    def forward(self, x):
        return self.body(x)

class Extra(Body):
    """State that is no tensor."""
    version = 3

    def get_extra_state(self):
        return {"version": self.version}

    def set_extra_state(self, state):
        self.version = state["version"]

class Moving(Body):
    """A counter, a moving average and a cache, of which a pass changes all."""
    def __init__(self):
        super().__init__()
        self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.register_buffer("average", torch.zeros(10))
        self.register_buffer("cache", torch.zeros(0), persistent=False)

    def forward(self, x):
        y = super().forward(x)
        self.step += 1
        self.average.mul_(0.9).add_(0.1 * y.detach().mean(0))
        self.cache = y.detach()
        return y * (1 + 0.1 * self.step)

class BufferView(Body):
    """It returns a view of its buffer."""
    def __init__(self):
        super().__init__()
        self.register_buffer("out", torch.zeros(64, 10), persistent=False)

    def forward(self, x):
        y = super().forward(x)
        self.out = self.out.detach().clone()
        self.out[: len(y)] = y
        return self.out[: len(y)]

class Features(Body):
    """It keeps what its last pass computed, and has made a pass before."""
    def __init__(self):
        super().__init__()
        self.kept = []
        self(torch.zeros(2, 1, 8, 8))

    def forward(self, x):
        self.kept = [self.body[:3](x)]
        return self.body[3](self.kept[0])

class Mixed(nn.Module):
    """Parameters of three types."""
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(64, 12).half(), nn.LayerNorm(12), nn.Linear(12, 10).bfloat16()

    def forward(self, x):
        hidden = self.norm(torch.relu(self.a(x.flatten(1).to(self.a.weight.dtype))).float())
        return self.b(hidden.to(self.b.weight.dtype)).float()

class Shared(nn.Module):
    """Two layers with one memory, and a layer that is used twice under two names."""
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(64, 12), nn.Linear(64, 12), nn.Linear(12, 12)
        self.b.weight = nn.Parameter(self.a.weight.data)
        self.d, self.head = self.c, nn.Linear(12, 10)

    def forward(self, x):
        x = x.flatten(1)
        return self.head(torch.relu(self.d(torch.relu(self.c(torch.relu(self.a(x) - self.b(-x)))))))

class Listed(nn.Module):
    """Parameters in lists and dicts, and a frozen layer."""
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({"first": nn.Linear(64, 12), "last": nn.Linear(12, 10)})
        self.free = nn.ParameterList([nn.Parameter(0.1 * torch.randn(64, 12)), nn.Parameter(0.1 * torch.randn(12, 10))])
        self.layers["first"].requires_grad_(False)

    def forward(self, x):
        x = x.flatten(1)
        return self.layers["last"](torch.relu(self.layers["first"](x))) + torch.relu(x @ self.free[0]) @ self.free[1]
'''

NAMES = (
    "lazy",
    "weight_norm",
    "spectral_norm",
    "low_rank",
    "old_weight_norm",
    "Extra",
    "Moving",
    "BufferView",
    "Features",
    "Mixed",
    "Shared",
    "Listed",
)
