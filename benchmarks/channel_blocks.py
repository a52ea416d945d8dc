"""What it is worth that channels are removed in blocks of eight: latency in onnxruntime at the same operations.

    python benchmarks/channel_blocks.py

ResNet-20 with half of its inner channels: in blocks of eight, and with numbers of channels that are no multiples of
eight but take the same operations, to 1%. The figures are the time of one thread on the processor over the dense
network's, in pairs that take turns: the median of the pairs' ratios, and their quartiles. Weights are random: they do
not change the time.
"""

from __future__ import annotations

import copy
import runpy
from pathlib import Path
from typing import Any

import torch
from channels import BATCHES, flops, latency
from torch import nn

RESNET = Path(__file__).parents[1] / "sample_models/resnet_cifar.py"

WIDTHS = {
    "blocks of eight": (8, 8, 8, 16, 16, 16, 32, 32, 32),
    "no multiples": (9, 7, 7, 17, 15, 15, 35, 31, 31),
    "blocks of eight, uneven": (16, 8, 8, 16, 16, 8, 32, 24, 32),
    "no multiples, uneven": (14, 10, 5, 18, 13, 11, 36, 27, 25),
}
"""By line, the inner channels of each of the nine residual blocks."""


def narrow(network: Any, widths: tuple[int, ...]) -> nn.Module:
    small: Any = copy.deepcopy(network)
    blocks = [block for stage in (small.layer1, small.layer2, small.layer3) for block in stage]
    for block, width in zip(blocks, widths, strict=True):
        first, second = block.conv1, block.conv2
        block.conv1 = nn.Conv2d(first.in_channels, width, 3, first.stride, 1, bias=False)
        block.bn1 = nn.BatchNorm2d(width)
        block.conv2 = nn.Conv2d(width, second.out_channels, 3, 1, 1, bias=False)
    smaller: nn.Module = small.eval()
    return smaller


def main() -> None:
    torch.set_num_threads(1)
    dense = runpy.run_path(str(RESNET))["resnet20"]().eval()
    for name, widths in WIDTHS.items():
        small = narrow(dense, widths)
        share = flops(small) / flops(dense)
        for batch in BATCHES:
            found = latency(dense, small, batch)
            ratio = f"{found['ratio']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
            print(f"{name}: {share:.1%} of operations, batch of {batch}: {ratio}", flush=True)


if __name__ == "__main__":
    main()
