"""Two processes against one on the same batches: how far apart do they end?

    python benchmarks/processes.py [--steps 3,20]

Prunes each network with one process and with two (`torchrun`, gloo), and fine-tunes the first result both ways. Prints
how many weights have another fate, and the largest difference of a tensor, relative to its largest entry. Beside it the
same between one process and one that puts 8 samples at a time through the network: what rounding does by itself.
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
    return f"{moved} weights, {max(differences):.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", default="3,20")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| | two processes | one, by `--micro-batch 8` |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        one, two, chunked = (Path(name) / f"{which}.safetensors" for which in ("one", "two", "chunked"))
        for network, data in NETWORKS.items():
            model = f"sample_models/{network}.py"
            for steps in options.steps.split(","):
                common = ("prune", model, *data, "--steps", steps, "--sparsity", "0.9", "--force", "--output")
                run(1, *common, str(one))
                run(2, *common, str(two))
                run(1, *common, str(chunked), "--micro-batch", "8")
                print(
                    f"| `prune`, {network}, {steps} steps | {compare(one, two)} | {compare(one, chunked)} |", flush=True
                )
            tuned = {n: Path(name) / f"tuned{n}.safetensors" for n in (1, 2)}
            for n, path in tuned.items():
                common = ("finetune", model, *data, "--epochs", "1", "--checkpoint", str(one), "--force", "--output")
                run(n, *common, str(path))
            print(f"| `finetune`, {network}, 1 epoch | {compare(tuned[1], tuned[2])} | |", flush=True)


if __name__ == "__main__":
    main()
