"""ResNets for CIFAR-10, with the names of the weights that akamaster/pytorch_resnet_cifar10 publishes."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Block(nn.Module):
    """Two convolutions and a shortcut, which pads new channels on both sides with zeros."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride, self.pad = (1, 0) if inputs == outputs else (2, (outputs - inputs) // 2)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(out + shortcut)


class CifarResNet(nn.Module):
    """He et al., arXiv 1512.03385, section 4.2."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        widths, blocks = (16, 16, 32, 64), (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for stage in (1, 2, 3):
            first, width = Block(widths[stage - 1], widths[stage]), widths[stage]
            self.add_module(f"layer{stage}", nn.Sequential(first, *(Block(width, width) for _ in range(blocks - 1))))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        for stage in (1, 2, 3):
            out = self.get_submodule(f"layer{stage}")(out)
        logits: Tensor = self.linear(out.mean((2, 3)))
        return logits
