"""Eight 3×3 convolutions without normalisation and one linear layer, for the other benchmarks.

Initialisation: He et al., "Delving Deep into Rectifiers", arXiv 1502.01852.
"""

from __future__ import annotations

from itertools import pairwise

from torch import nn

WIDTHS = (1, 24, 24, 24, 48, 48, 48, 48, 48)


def build_model(classes: int = 10) -> nn.Module:
    model = nn.Sequential()
    for i, (width, following) in enumerate(pairwise(WIDTHS)):
        model.extend([nn.Conv2d(width, following, 3, padding=1, stride=2 if i in {3, 6} else 1), nn.ReLU()])
    model.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes)])
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        else:
            nn.init.zeros_(parameter)
    return model
