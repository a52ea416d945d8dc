"""A perceptron for the 8x8 digits that ship with ntt: small enough to try every command in seconds.

Initialisation: He et al., "Delving Deep into Rectifiers", arXiv 1502.01852.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

DATA = "digits"
INPUT_SHAPE = (1, 8, 8)


def build_model(inputs: int = 64, hidden: tuple[int, ...] = (100, 50), classes: int = 10) -> nn.Module:
    model = nn.Sequential(nn.Flatten())
    for width, following in pairwise((inputs, *hidden, classes)):
        layer = nn.Linear(width, following)
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
        model.extend([layer, nn.ReLU()])
    return model[:-1]  # raw logits: no ReLU after the last layer
