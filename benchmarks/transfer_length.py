"""How close does a transfer come in so many steps, at which rate, and where does `--steps auto` stop?

    python benchmarks/transfer_length.py lenet5_caffe --sparsity 0.97 [--rates 1e-3,2e-3,4e-3] [--seed 1]

NTT on 10,000 training images of Fashion-MNIST; the kernel and logit distances to the teacher are measured on 2,048
other training images once it has ended.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from allocations import write_data

from ntt_cli.config import DataOptions, PruneConfig
from ntt_cli.data import load_samples
from ntt_cli.evaluation.agreement import Networks, measure_agreement, measure_kernel_distance
from ntt_cli.methods.ntt.loop import run_transfer
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.pruning.job import prepare
from ntt_cli.pruning.measures import STEP_PASSES
from ntt_cli.results import Agreement
from ntt_cli.runs.checkpointer import no_checkpoints
from ntt_cli.runs.run import Run
from ntt_cli.runtime.micro_batching import MicroBatching

OTHERS = 2_048
LENGTHS = ("500", "1000", "2000", "3000", "auto")


def transfer(config: PruneConfig) -> tuple[int, Agreement]:
    """Steps, and how close the student is on samples it has not seen."""
    task = prepare(config, lambda _: None)
    assert task.inputs is not None
    micro_batching = MicroBatching(None, task.settings.batch_size, lambda _: None)
    problem = Transfer(task.teacher, task.inputs, task.names, task.outputs, task.settings)
    student = run_transfer(problem, Run(lambda _: None, no_checkpoints(), micro_batching))
    others = replace(task.inputs, samples=load_samples(DataOptions(data=config.data), split="test")).some(OTHERS)
    networks = Networks(task.teacher.bind(student.buffers), student.params, task.teacher.bind(), task.teacher.params)
    agreement = measure_agreement(networks, others, classes=task.classes)
    steps = len(student.history["total"])
    run_passes = STEP_PASSES * steps * task.settings.batch_size
    distance = measure_kernel_distance(networks, others, outputs=task.outputs, run_passes=run_passes)
    return steps, agreement.model_copy(update={"kernel_distance": distance})


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
        write_data(Path(folder) / "data.npz")
        for rate in options.rates.split(","):
            for length in options.lengths.split(","):
                config = PruneConfig.model_validate({
                    "model": f"sample_models/{options.network}.py",
                    "data": str(Path(folder) / "data.npz"),
                    "sparsity": options.sparsity,
                    "learning_rate": rate,
                    "steps": length,
                    "seed": options.seed,
                    "device": "cpu",
                })
                begun = time.process_time()
                steps, found = transfer(config)
                took = time.process_time() - begun
                distances = f"{found.kernel_distance:.4f} | {found.logit_distance:.4f}"
                print(f"| {rate} | {length} | {steps} | {distances} | {took:.0f} s |", flush=True)


if __name__ == "__main__":
    main()
