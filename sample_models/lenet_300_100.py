"""LeNet-300-100, a perceptron with two hidden layers.

LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998; Liu & Zenke, arXiv 2006.08228, prune it.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

DATA = "fashion-mnist"
INPUT_SHAPE = (1, 28, 28)


def build_model(inputs: int = 784, classes: int = 10) -> nn.Module:
    model = nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc1=nn.Linear(inputs, 300),
            relu1=nn.ReLU(),
            fc2=nn.Linear(300, 100),
            relu2=nn.ReLU(),
            fc3=nn.Linear(100, classes),
        )
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        else:
            nn.init.zeros_(parameter)
    return model
