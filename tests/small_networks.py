"""Model files as users write them, good and bad, by name."""

from __future__ import annotations

from pathlib import Path

_HEAD = """import torch
from torch import nn

DATA = "digits"

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 16)
        self.fc2 = nn.Linear(16, 10)
        self.prepare()

    def prepare(self):
        pass

    def hidden(self, x):
        return torch.relu(self.fc1(x.flatten(1)))

    def forward(self, x):
        return self.fc2(self.hidden(x))

def build_model():
    return Net()

"""


def _net(*methods: str) -> str:
    """A perceptron on the digits, with some methods of its own."""
    body = "\n\n".join(methods).replace("\n", "\n    ")
    return _HEAD.replace("def build_model():\n    return Net()", "") + (
        f"class Own(Net):\n    {body}\n\ndef build_model():\n    return Own()\n"
    )


NETWORKS = {
    "plain": _HEAD,
    "convolutional": _HEAD
    + """
def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(144, 10)
    )
""",
    "greedy": _net(
        "def hidden(self, x):\n    if len(x) > 8:\n        raise torch.OutOfMemoryError('full')\n"
        "    return super().hidden(x)"
    ),
    "flattens by view": _HEAD
    + """
class View(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.fc = nn.Linear(144, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).view(-1, 144))

def build_model():
    return View()
""",
    "kills its process": _HEAD
    + """
import os
import signal

def build_model():
    if torch.initial_seed() == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return Net()
""",
    "batch statistics": _HEAD
    + """
def build_model():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(144, 10)
    )
""",
    "small batches fail": _HEAD
    + "def build_model():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))\n",
    "dropout": _net("def hidden(self, x):\n    return nn.functional.dropout(super().hidden(x), 0.5, self.training)"),
    "four layers": _net(
        "def prepare(self):\n    self.first = nn.Linear(64, 64)\n    self.second = nn.Linear(64, 64)",
        "def hidden(self, x):\n    return super().hidden(self.second(torch.relu(self.first(x.flatten(1)))))",
    ),
    "tied": _net(
        "def prepare(self):\n    self.first = nn.Linear(64, 64)\n    self.second = nn.Linear(64, 64)\n"
        "    self.second.weight = self.first.weight",
        "def hidden(self, x):\n    return super().hidden(self.second(torch.relu(self.first(x.flatten(1)))))",
    ),
    "tokens": _HEAD.replace('DATA = "digits"\n', "")
    + """
class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.embedding(x).mean(1))

def build_model():
    return Tokens()
""",
    "zeros": _net("def prepare(self):\n    nn.init.zeros_(self.fc2.weight)"),
    "no weights": _HEAD
    + """
class Bias(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(10))

    def forward(self, x):
        return x.flatten(1)[:, :10] + self.bias

def build_model():
    return Bias()
""",
    "frozen": _net("def prepare(self):\n    self.requires_grad_(False)"),
    "partly frozen": _net("def prepare(self):\n    self.fc1.requires_grad_(False)"),
    "unused": _net("def prepare(self):\n    self.idle = nn.Linear(3, 3)\n    self.spare = nn.Linear(3, 3)"),
    "detached": _net("def forward(self, x):\n    return super().forward(x).detach()"),
    "dict": _net("def forward(self, x):\n    return {'scores': super().forward(x)}"),
    "tuple": _net("def forward(self, x):\n    return super().forward(x), x"),
    "tuple in training": _net(
        "def forward(self, x):\n    y = super().forward(x)\n    return (y, y) if self.training else y"
    ),
    "one dimension": _net("def forward(self, x):\n    return super().forward(x)[:, 0]"),
    "classes": _net("def forward(self, x):\n    return super().forward(x).argmax(1)"),
    "nan weight": _net("def prepare(self):\n    self.fc2.weight.data[3, 2] = float('nan')"),
    "nan output": _net("def forward(self, x):\n    return super().forward(x) / 0"),
    "leaves": _net("def forward(self, x):\n    raise SystemExit(0)"),
    "one derivative": _HEAD
    + """
class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient

class Own(Net):
    def hidden(self, x):
        return Double.apply(super().hidden(x))

def build_model():
    return Own()
""",
    "wrong derivative": _HEAD
    + """
class Square(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient

    @staticmethod
    def jvp(ctx, tangent):
        return 2 * ctx.saved_tensors[0].detach() * tangent

class Own(Net):
    def hidden(self, x):
        return Square.apply(super().hidden(x))

def build_model():
    return Own()
""",
    "talkative": "import os\nprint('importing')\n"
    + _net("def forward(self, x):\n    print('running')\n    return super().forward(x)").replace(
        "    return Own()", "    print('building')\n    return Own()"
    ),
    "raises": "def build_model():\n    width = None\n    return width + 1\n",
    "exits": "import sys\n\nsys.exit(0)\n",
    "several": _HEAD.replace("build_model", "small") + "def large():\n    return Net()\n",
    "overwrites": _net("def hidden(self, x):\n    y = super().hidden(x)\n    y[:, 0] = 0\n    return y"),
    "number": "def build_model():\n    return 3\n",
    "script": "x = 1\n",
}


def write_network(name: str, folder: Path = Path()) -> str:
    """Write the file, and say how to name it."""
    path = folder / f"{name.replace(' ', '_')}.py"
    path.write_text(NETWORKS[name], encoding="utf-8")
    return str(path)
