"""Batch norm in a transfer: calibrated statistics in evaluation mode, or those of each half of a batch?

    python benchmarks/batch_norm.py --sparsity 0.95 [--seeds 3] [--steps 500] [--pixels 14]

ResNet-20 on Fashion-MNIST of fewer pixels: pruned on 10,000 training images each way, then trained alike on them with
labels, 10 epochs of AdamW at 1e-2, and measured on 20,000 other training images. A random mask and SynFlow's are beside
them. The test set is not touched. `on_batches` is the network whose layers normalise by their own batch throughout.
"""

from __future__ import annotations

import argparse
import runpy
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from allocations import trained_accuracy, write_data
from torch import Tensor, nn

import ntt_cli as ntt

NETWORK = "sample_models/resnet20.py"
WAYS = {
    "calibrated, in evaluation mode": ("ntt", NETWORK),
    "of each half of a batch": ("ntt", f"{__file__}:on_batches"),
    "(synflow)": ("synflow", NETWORK),
    "(random)": ("random", NETWORK),
}


class BatchStatistics(nn.Module):
    """A batch norm that knows its own batch alone; its state is that of a `BatchNorm2d`."""

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        for name, buffer in layer.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0, keepdim=True)
        scale = self.weight[:, None, None] * torch.rsqrt(variance + self.eps)
        return (x - mean) * scale + self.bias[:, None, None]


def on_batches() -> nn.Module:
    """ResNet-20 with `BatchStatistics`."""
    network: nn.Module = runpy.run_path(str(Path(__file__).parent.parent / NETWORK))["build_model"]()
    for path, layer in list(network.named_modules()):
        if isinstance(layer, nn.BatchNorm2d):
            network.set_submodule(path, BatchStatistics(layer))
    return network


def accuracy(method: str, network: str, seed: int, options: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """In %, of one network, and the seconds that pruning took."""
    sparse = str(folder / "sparse.safetensors")
    own: dict[str, Any] = {"method": method, "sparsity": options.sparsity, "seed": seed, "device": "cpu"}
    if method == "ntt":
        own["steps"] = options.steps
    begun = time.perf_counter()
    ntt.prune(network, folder / "data.npz", output=sparse, force=True, **own)
    seconds = time.perf_counter() - begun
    return trained_accuracy({"model": NETWORK}, sparse, seed, folder), seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sparsity", type=float, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500, help="of the transfer")
    parser.add_argument("--pixels", type=int, default=14, help="of a side of an image: 28, 14 or 7")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder) / "data.npz", pixels=options.pixels)
        print(f"| statistics | accuracy, {options.sparsity:.0%} | seconds to prune |\n|---|---|---|")
        for name, (method, network) in WAYS.items():
            runs = [accuracy(method, network, seed, options, Path(folder)) for seed in range(1, options.seeds + 1)]
            found = [value for value, _ in runs]
            spread = f" ± {statistics.stdev(found):.2f}" if len(found) > 1 else ""
            seconds = statistics.median(value for _, value in runs)
            print(f"| {name} | {statistics.fmean(found):.2f}{spread} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
