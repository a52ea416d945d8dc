"""LeNet-5 as the authors of NTT built it: with a ReLU after each convolution, and Glorot's weights.

github.com/fmi-basel/neural-tangent-transfer, `gen_cnn_lenet_caffe`. Caffe's own, in `sample_models`, has neither. The
loss of `--preset paper` is not relative to the size of the kernel, so that its figures hold for a network of this size.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

INPUT_SHAPE = (1, 28, 28)


def build_model(classes: int = 10) -> nn.Module:
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 20, kernel_size=5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(20, 50, kernel_size=5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(50 * 4 * 4, 500),
            relu3=nn.ReLU(),
            fc2=nn.Linear(500, classes),
        )
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_normal_(parameter)
        else:
            nn.init.normal_(parameter, std=1e-2)
    return model
