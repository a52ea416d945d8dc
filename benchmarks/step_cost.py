"""What an NTT step costs: its time over that of a plain SGD step, same model, same batch, in turn, in one run.

    python benchmarks/step_cost.py [--threads 2] [--steps 15]

Prints the median ratio over pairs of steps with the range between the quartiles, and both medians. One NTT step is all
that `ntt prune` does in a step, drawing the batch and the teacher's passes included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from ntt_cli.config import ModelOptions
from ntt_cli.core.allocation import allocate
from ntt_cli.core.functional import functional_model
from ntt_cli.core.kernel_product import draw_probe, kernel_product
from ntt_cli.core.masks import choose_masks
from ntt_cli.core.objective import Objective
from ntt_cli.core.prunable import prunable_names
from ntt_cli.core.scores.weights_alone import magnitude_scores
from ntt_cli.core.transfer import start_student, transfer_step, update_masks
from ntt_cli.io.models import load_model

MODELS = ("lenet_300_100", "lenet5_caffe", "conv4", "resnet20", "vit_tiny")
BATCH = 64


def make_steps(name: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """A plain SGD step and an NTT step at 95% sparsity, on Gaussian inputs."""
    loaded = load_model(ModelOptions(model=str(Path("sample_models") / f"{name}.py")), seed=0)
    assert loaded.input_shape is not None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, *loaded.input_shape, generator=generator)
    labels = torch.randint(10, (BATCH,), generator=generator)
    optimiser = torch.optim.SGD(loaded.module.parameters(), lr=1e-3)

    teacher = functional_model(loaded.module)
    apply = teacher.bind()
    student = start_student(apply, teacher.params, prunable_names(teacher), learning_rate=1e-4)
    scores = magnitude_scores(teacher.params, student.masks)
    masks = choose_masks(scores, allocate("erk", scores, density=0.05))
    student = update_masks(student, masks, density=0.05, apply=apply)
    objective = Objective("relative", kernel_weight=1.0, weight_penalty=0.0)

    def sgd() -> None:
        optimiser.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(loaded.module(x), labels).backward()
        optimiser.step()

    def ntt() -> None:
        x1, x2 = x.chunk(2)
        probe = draw_probe((len(x2), 10), like=x, generator=generator)
        products = kernel_product(apply, teacher.params, x1, x2, probe)
        transfer_step(student, x1, x2, probe=probe, teacher=products, objective=objective, active=False)

    return sgd, ntt


def seconds(step: Callable[[], None]) -> float:
    """Of one call."""
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table("model", "SGD step, ms", "NTT step, ms", "ratio", "quartiles")
    for name in MODELS:
        sgd, ntt = make_steps(name)
        for _ in range(3):
            sgd(), ntt()
        pairs = [(seconds(sgd), seconds(ntt)) for _ in range(options.steps)]
        low, ratio, high = statistics.quantiles([b / a for a, b in pairs], n=4)
        plain, ours = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
        table.add_row(name, f"{plain:.1f}", f"{ours:.1f}", f"{ratio:.2f}", f"{low:.2f} to {high:.2f}")
    Console().print(f"batch {BATCH}, {options.threads} threads, {options.steps} pairs, torch {torch.__version__}")
    Console().print(table)


if __name__ == "__main__":
    main()
