"""Backward passes over micro-batches, which free what they no longer need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ntt_cli.data.batch import Batch, batch_size, split
from ntt_cli.runtime.execution import Execution
from ntt_cli.tensors import Params

Tensors = tuple[Tensor, ...]
Backward = Callable[[Tensors, Iterable[Tensor], Iterable[Tensor]], None]
"""`backward(gradients, inputs, free)`: the backward pass from the gradients with respect to some results.

It adds to `.grad` of `inputs` and of `free`, and then frees the values of `free`.
"""


def micro_batches(x: Batch, execution: Execution) -> list[Any]:
    """The parts of a batch that go through the network one after the other."""
    return split(x, execution.micro_batch or batch_size(x))


def without_graph(run: Callable[[Any], Tensors], x: Batch, execution: Execution) -> Tensors:
    """The results of `run` for all micro-batches."""
    with torch.no_grad():
        return tuple(torch.cat(parts) for parts in zip(*map(run, micro_batches(x, execution)), strict=True))


def values_and_backward(run: Callable[[Any], Tensors], x: Batch, execution: Execution) -> tuple[Backward, Tensors]:
    """A function for the backward passes through `run`, and the results of `run` for all micro-batches, detached.

    The graph of a single micro-batch is kept from here to its backward pass. With more micro-batches no graph is kept,
    and the backward function runs each of them again. It may be called once.
    """
    parts = micro_batches(x, execution)
    graphs: list[Tensors] = []
    if len(parts) == 1:
        with torch.enable_grad():
            graphs.append(run(x))
        values = tuple(result.detach() for result in graphs[0])
    else:
        values = without_graph(run, x, execution)

    def backward(gradients: Tensors, inputs: Iterable[Tensor], free: Iterable[Tensor]) -> None:
        into = [*inputs, *free]
        for i, part in enumerate(parts):
            with torch.enable_grad():
                results = graphs.pop() if graphs else run(part)
            last = i == len(parts) - 1
            add_gradients(results, [micro_batches(g, execution)[i] for g in gradients], into, free=free if last else ())

    return backward, values


def add_gradients(
    results: Tensors, gradients: Sequence[Tensor], inputs: Iterable[Tensor], *, free: Iterable[Tensor] = ()
) -> None:
    """Add to `.grad` of the inputs. Those in `free` lose their values, each as soon as its gradient is complete."""
    for leaf in free:
        leaf.register_post_accumulate_grad_hook(_free)
    # A network that is linear in its parameters has a constant Jacobian: its products have no graph.
    dependent = [(result, g) for result, g in zip(results, gradients, strict=True) if result.requires_grad]
    if dependent:
        leaves = list(inputs)
        torch.autograd.backward([result for result, _ in dependent], [g for _, g in dependent], inputs=leaves)
        _separate_gradients(leaves)


def _separate_gradients(leaves: Iterable[Tensor]) -> None:
    """Copy each gradient that shares memory with another one, so that adding to one does not change the other.

    `backward` stores the tensors that it computes, and these may overlap: with one sample, the gradient of a class
    token may be a view of the gradient of the position embeddings.
    """
    seen = set()
    for leaf in leaves:
        if leaf.grad is not None:
            memory = StorageWeakRef(leaf.grad.untyped_storage())
            if memory in seen:
                leaf.grad.data = leaf.grad.clone()  # `.grad =` would refuse this shape if the leaf was freed
            seen.add(memory)


def _free(leaf: Tensor) -> None:
    leaf.data = leaf.data.new_empty(0)


def leaves_of(params: Params) -> Params:
    return {name: p.detach().requires_grad_() for name, p in params.items()}


def gradients_of(leaves: Params) -> Params:
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in leaves.items()}
