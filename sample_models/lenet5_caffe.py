"""LeNet-5 as Caffe ships it (examples/mnist/lenet.prototxt), after LeCun et al., 1998.

The convolutional network of SNIP (arXiv 1810.02340) and of much pruning work since; 431,080 parameters.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

DATA = "fashion-mnist"
INPUT_SHAPE = (1, 28, 28)


def build_model(channels: int = 1, size: int = 28, classes: int = 10) -> nn.Module:
    side = ((size - 4) // 2 - 4) // 2  # each 5x5 convolution takes off 4 pixels, each pooling halves
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 20, kernel_size=5),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, kernel_size=5),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(50 * side * side, 500),
            relu=nn.ReLU(),
            fc2=nn.Linear(500, classes),
        )
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
        else:
            nn.init.zeros_(parameter)
    return model
