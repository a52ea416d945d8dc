"""How close does a transfer come in so many steps, at which rate, and where does `--steps auto` stop?

    python benchmarks/transfer_length.py lenet5_caffe --sparsity 0.97 [--rates 1e-3,2e-3,4e-3] [--seed 1]

NTT on 10,000 training images of Fashion-MNIST; the kernel and logit distances to the teacher are measured on 2,048
other training images once it has ended.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from allocations import write_data
from torch import Tensor, nn

import ntt_cli as ntt

OTHERS = 2_048
LENGTHS = ("500", "1000", "2000", "3000", "auto")
BATCHES, BATCH = 16, 64
"""Of the kernel distance."""


def other_images(path: Path) -> Tensor:
    """Images that no transfer sees, normalised as those that it sees."""
    arrays = np.load(path)
    images = torch.from_numpy(arrays["x_test"])
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:OTHERS]
    return (images[chosen] - float(arrays["x_train"].mean())) / float(arrays["x_train"].std())


def logit_distance(student: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    """`‖f_s − f_t‖² / ‖f_t‖²` over all of `x`."""
    with torch.no_grad():
        ours, theirs = student(x), teacher(x)
    return float((ours - theirs).square().sum() / theirs.square().sum())


def kernel_distance(student: nn.Module, teacher: nn.Module, x: Tensor) -> float:
    """`Σ‖(K_s − K_t) v‖² / Σ‖K_t v‖²`, a Gaussian `v` for each of some random batches."""
    generator = torch.Generator().manual_seed(0)
    outputs = teacher(x[:1]).shape[1]
    gap = norm = 0.0
    for _ in range(BATCHES):
        x1, x2 = x[torch.randperm(len(x), generator=generator)[:BATCH]].chunk(2)
        v = torch.randn(len(x2), outputs, generator=generator)
        ours, theirs = (ntt.kernel_vector_product(network, x1, x2, v) for network in (student, teacher))
        gap += float((ours - theirs).square().sum())
        norm += float(theirs.square().sum())
    return gap / norm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("network")
    parser.add_argument("--sparsity", type=float, default=0.97)
    parser.add_argument("--rates", default="2e-3")
    parser.add_argument("--lengths", default=",".join(LENGTHS))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| rate | `--steps` | steps taken | kernel distance | logit distance | processor time |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data, model = Path(folder) / "data.npz", f"sample_models/{options.network}.py"
        write_data(data)
        same = {"seed": options.seed, "device": "cpu"}
        teacher = ntt.prune(model, data, sparsity=0, method="magnitude", **same).model.eval()
        x = other_images(data)
        for rate in options.rates.split(","):
            for length in options.lengths.split(","):
                begun = time.process_time()
                found = ntt.prune(
                    model, data, sparsity=options.sparsity, learning_rate=float(rate), steps=length, **same
                )
                took = time.process_time() - begun
                networks = found.model.eval(), teacher, x
                distances = f"{kernel_distance(*networks):.4f} | {logit_distance(*networks):.4f}"
                print(f"| {rate} | {length} | {found.report.steps} | {distances} | {took:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
