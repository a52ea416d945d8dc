"""Two processes against one on the same batches: how far apart do they end?

    python benchmarks/processes.py [--steps 100]

Prunes each network with one process and with two (`torchrun`, gloo), and fine-tunes the first result both ways. Prints
how many weights have another fate, and the largest difference of a tensor, relative to its largest entry.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

NETWORKS = {
    "digits_mlp": ("--data", "digits"),
    "lenet5_caffe": ("--data", "fashion-mnist", "--limit", "2000"),
    "resnet20": ("--data", "digits", "--model-arg", "channels=1"),
}


def run(processes: int, *arguments: str) -> None:
    program = [sys.executable]
    if processes > 1:
        program += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*program, "-m", "ntt_cli", *arguments, "-q"], check=True, env=environment, capture_output=True)


def compare(first: Path, second: Path) -> str:
    one, two = load_file(first), load_file(second)
    moved = sum(int(((value != 0) != (two[name] != 0)).sum()) for name, value in one.items())
    differences = [
        float((value - two[name]).abs().max() / value.abs().max().clamp_min(1e-12))
        for name, value in one.items()
        if value.is_floating_point()
    ]
    return f"{moved} | {max(differences):.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| | weights with another fate | largest relative difference |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for network, data in NETWORKS.items():
            model, out = f"sample_models/{network}.py", {n: folder / f"{network}{n}.safetensors" for n in (1, 2)}
            tuned = {n: folder / f"{network}{n}-tuned.safetensors" for n in (1, 2)}
            for n in (1, 2):
                common = ("--steps", str(options.steps), "--sparsity", "0.9", "--output", str(out[n]))
                run(n, "prune", model, *data, *common)
            print(f"| `prune`, {network}, {options.steps} steps | {compare(out[1], out[2])} |", flush=True)
            for n in (1, 2):
                common = ("--epochs", "1", "--checkpoint", str(out[1]), "--output", str(tuned[n]))
                run(n, "finetune", model, *data, *common)
            print(f"| `finetune`, {network}, 1 epoch | {compare(tuned[1], tuned[2])} |", flush=True)


if __name__ == "__main__":
    main()
