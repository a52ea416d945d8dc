"""The kernel term of one NTT step, as a user would write it today and as ntt does, on LeNet-5: time and memory.

    python benchmarks/kernel_alternatives.py [--samples 16,32]

All take the gradient of `‖K_s − K_t‖²` between the halves of a batch by the student's parameters.

jacobians: whole Jacobians of both halves by `vmap(jacrev)`, contracted over the parameters, as PyTorch's tutorial on
neural tangent kernels has it; differentiated by autograd.
vjp∘jvp: the authors' algorithm (Liu & Zenke 2020; neural-tangents' implicit differentiation): the Jacobian of
`v ↦ J(x1) J(x2)ᵀ v` over all m·C outputs; differentiated by autograd.
ntt: one Gaussian probe; its expectation is the same loss.

Each is measured in a process of its own, on so many samples a half; 32 are half of `ntt prune`'s batch.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from steps import ZOO
from torch import Tensor
from torch.func import jacrev, jvp, vjp, vmap

from ntt_cli.config import ModelOptions
from ntt_cli.kernels.product import OutputsAndProduct, draw_probe, kernel_vector_product, outputs_and_pullback
from ntt_cli.networks.flops import uses_weights_seldom
from ntt_cli.networks.functional import functional_model
from ntt_cli.networks.loading.models import load_model
from ntt_cli.networks.prepare import channels_last
from ntt_cli.networks.second_order import twice_differentiable
from ntt_cli.runtime.execution import Execution
from ntt_cli.runtime.memory import peak_memory_bytes
from ntt_cli.tensors import Apply, Params

OUTPUTS = 10
Term = Callable[[Apply, Params, Params, Tensor, Tensor], None]


def by_jacobians(apply: Apply, student: Params, teacher: Params, x1: Tensor, x2: Tensor) -> None:
    """`K = Σ_p J(x1) J(x2)ᵀ` from `J`."""

    def kernel(params: Params) -> Tensor:
        def jacobian(x: Tensor) -> Params:
            one = jacrev(lambda p, sample: apply(p, sample[None])[0])
            found: Params = vmap(one, (None, 0))(params, x)
            return found

        first, second = jacobian(x1), jacobian(x2)
        parts = [torch.einsum("ncp,mdp->nmcd", first[k].flatten(2), second[k].flatten(2)) for k in first]
        return torch.stack(parts).sum(0)

    _distance(kernel, student, teacher)


def by_products(apply: Apply, student: Params, teacher: Params, x1: Tensor, x2: Tensor) -> None:
    """`K` column by column, vmapped: `J(x1) (J(x2)ᵀ e)` for every unit vector `e` of the m·C outputs."""

    def kernel(params: Params) -> Tensor:
        def column(cotangent: Tensor) -> Tensor:
            pull = vjp(lambda p: apply(p, x2), params)[1]
            product: Tensor = jvp(lambda p: apply(p, x1), (params,), pull(cotangent))[1]
            return product

        units = torch.eye(len(x2) * OUTPUTS).reshape(-1, len(x2), OUTPUTS)
        with twice_differentiable():
            columns: Tensor = vmap(column)(units)
        return columns

    _distance(kernel, student, teacher)


def by_probe(apply: Apply, student: Params, teacher: Params, x1: Tensor, x2: Tensor) -> None:
    """As `ntt prune` does."""
    probe = draw_probe((len(x2), OUTPUTS), like=x2, generator=torch.Generator().manual_seed(0))
    target = kernel_vector_product(apply, teacher, x1, x2, probe).product
    execution = Execution(keep_graph=uses_weights_seldom(apply, student, x1[:1]))
    own, pullback = outputs_and_pullback(apply, student, x1, x2, probe, execution=execution)
    assert isinstance(own, OutputsAndProduct)
    none = torch.zeros_like(own.logits1), torch.zeros_like(own.logits2)
    pullback(OutputsAndProduct(*none, product=2 * (own.product - target)))


TERMS: dict[str, Term] = {"jacobians": by_jacobians, "vjp∘jvp": by_products, "ntt": by_probe}


def _distance(kernel: Callable[[Params], Tensor], student: Params, teacher: Params) -> None:
    with torch.no_grad():
        target = kernel(teacher)
    leaves = {name: p.detach().requires_grad_() for name, p in student.items()}
    torch.autograd.grad((kernel(leaves) - target).square().sum(), list(leaves.values()), materialize_grads=True)


def measure(name: str, samples: int) -> tuple[float, float]:
    """Processor seconds of a step, the median of a few, and the MiB that it adds to the process's peak."""
    torch.set_num_threads(1)
    model = functional_model(load_model(ModelOptions(model=ZOO["LeNet-5"].model), seed=0).module)
    teacher = model.params
    if name == "ntt":
        teacher = channels_last(teacher)  # as `ntt prune` lays them out
    student = {key: 0.9 * p for key, p in teacher.items()}
    x1, x2 = torch.randn(2, samples, *ZOO["LeNet-5"].shape, generator=torch.Generator().manual_seed(0))
    TERMS["ntt"](model.bind(), student, teacher, x1[:1], x2[:1])  # what torch sets up once
    base = peak_memory_bytes(torch.device("cpu")) or 0
    times = []
    for _ in range(9 if name == "ntt" or samples <= 2 else 1):
        begun = time.process_time()
        TERMS[name](model.bind(), student, teacher, x1, x2)
        times.append(time.process_time() - begun)
    return statistics.median(times), ((peak_memory_bytes(torch.device("cpu")) or 0) - base) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--samples", default="16,32", help="samples of a half")
    options = parser.parse_args()
    sizes = [int(n) for n in options.samples.split(",")]
    table = Table("way", *(f"{n} + {n} samples" for n in sizes), f"over ntt on {sizes[-1]} + {sizes[-1]}")
    spawn = multiprocessing.get_context("spawn")
    rows: dict[str, list[tuple[float, float]]] = {}
    for name in ("ntt", "jacobians", "vjp∘jvp"):
        rows[name] = []
        for n in sizes:
            with spawn.Pool(1) as pool:
                rows[name].append(pool.apply(measure, (name, n)))
    for name, found in rows.items():
        cells = [f"{seconds:.3f} s, {memory:.0f} MiB" for seconds, memory in found]
        table.add_row(name, *cells, f"{found[-1][0] / rows['ntt'][-1][0]:.0f}")
    Console(width=140).print(
        f"LeNet-5, the kernel term and its gradient, processor time, one thread, torch {torch.__version__}"
    )
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
