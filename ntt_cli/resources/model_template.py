"""The network that `ntt` makes sparse. Everything in this file is yours to change."""

# Next, in this folder:
#
#     ntt prune model.py --sparsity 0.9
#     ntt finetune model.py --checkpoint sparse.safetensors
#     ntt evaluate model.py --checkpoint tuned.safetensors

from __future__ import annotations

from collections import OrderedDict

from torch import nn

# The samples, unless --data names others. Pruning takes the inputs alone; only fine-tuning and evaluation need labels.
# Your own images: DATA = "images/" for a folder beside this file, with one folder a class in it where there are labels.
# Also: "fashion-mnist", "mnist", "cifar10", "cifar100", "svhn", "samples.npz", "data.py:factory".
DATA = "digits"

# The shape of one sample, without the batch dimension.
INPUT_SHAPE = (1, 8, 8)


# `--model-arg classes=3` sets an argument. Initialise here as for training from scratch: --seed decides the weights,
# and --weights dense.safetensors loads trained ones.
def build_model(channels: int = 1, classes: int = 10) -> nn.Module:
    # Called with a batch [n, *INPUT_SHAPE], the network returns one tensor [n, classes]: the raw logits, no softmax.
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 16, kernel_size=3, padding=1),
            relu1=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            conv2=nn.Conv2d(16, 32, kernel_size=3, padding=1),
            relu2=nn.ReLU(),
            flatten=nn.Flatten(),
            fc=nn.Linear(32 * 4 * 4, classes),
        )
    )
