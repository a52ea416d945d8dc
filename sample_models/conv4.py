"""Conv-4, a small VGG for CIFAR-10: Frankle & Carbin, "The Lottery Ticket Hypothesis", arXiv 1803.03635, figure 2."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

DATA = "cifar10"
INPUT_SHAPE = (3, 32, 32)


def build_model(channels: int = 3, size: int = 32, classes: int = 10) -> nn.Module:
    side = size // 2 // 2
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 64, kernel_size=3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(64, 64, kernel_size=3, padding=1),
            relu2=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv3=nn.Conv2d(64, 128, kernel_size=3, padding=1),
            relu3=nn.ReLU(),
            conv4=nn.Conv2d(128, 128, kernel_size=3, padding=1),
            relu4=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(128 * side * side, 256),
            relu5=nn.ReLU(),
            fc2=nn.Linear(256, 256),
            relu6=nn.ReLU(),
            fc3=nn.Linear(256, classes),
        )
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        else:
            nn.init.zeros_(parameter)
    return model
