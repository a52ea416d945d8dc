"""Check that PyTorch has the derivatives that products with a network's kernel need, and that they are right."""

from __future__ import annotations

import torch
from torch import Tensor

from ntt_cli.data.batch import Batch, halves, tensors_of
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import ModelError
from ntt_cli.kernels.product import OutputsAndProduct, kernel_vector_product, outputs_and_pullback
from ntt_cli.networks.flops import uses_weights_seldom
from ntt_cli.networks.functional import FunctionalModel, outputs_in
from ntt_cli.networks.prepare import without_checkpointing
from ntt_cli.networks.second_order import twice_differentiable
from ntt_cli.runtime.events import EventSink, Warned
from ntt_cli.runtime.execution import Execution
from ntt_cli.tensors import Params

DIFFERENT = 1e-3
"""The largest difference between two computations of a gradient, relative to its norm. On 45 networks of timm and
transformers rounding makes 7e-6 at most; wrong formulas mostly make 0.02 and more."""

DIFFERENT_ROUNDED = 0.05
"""The same for lower precision: bfloat16, whose rounding makes 6e-3, and NVIDIA's TF32."""

PAIRS = 20
"""The number of pairs of samples. A network is refused if the two computations differ on all of them.

A wrong formula is wrong on all samples. On some samples, rounding moves a unit to the other side of its threshold: in
torchvision's ResNet-50 this happens on a third of pairs, and makes 3e-3 to 3e-2.
"""

ROUNDED = 1e-3
"""Gradients whose norm is below this fraction of the largest are mostly rounding."""


def check_kernel(model: FunctionalModel, inputs: Inputs, *, outputs: int, trainable: bool, where: str) -> None:
    """Compute one product with the network's kernel and, if `trainable`, the product's gradient, in two ways.

    Raises:
        ModelError: if an operation of the network lacks a derivative that this needs, or has one that is not finite, or
            one that is wrong.
    """
    instead = ", or match the logits alone with --kernel-weight 0" if trainable else ""
    for first in range(0, 2 * PAIRS, 2):
        pair = inputs.batch(torch.arange(first, first + 2) % max(2, len(inputs)))
        x1, x2 = halves(model.sized(pair))
        differs = _kernel_differs(model, x1, x2, outputs=outputs, trainable=trainable, where=where, instead=instead)
        if differs is None:
            return
    raise ModelError(
        where,
        f"has an operation whose second derivative is wrong: two ways to its kernel's gradient by {differs} differ",
        hint="write that operation in simpler ones (torch.linalg.solve, torch.linalg.det and orthogonal"
        f" parametrizations are known for it){instead}",
    )


def _kernel_differs(
    model: FunctionalModel, x1: Batch, x2: Batch, *, outputs: int, trainable: bool, where: str, instead: str
) -> str | None:
    """A parameter whose gradients by the two computations differ on these samples; `None` if there is none.

    Raises:
        ModelError: as `check_kernel`, for derivatives that are missing or not finite.
    """
    random = torch.Generator().manual_seed(0)
    shape, device = (1, outputs_in(x1, outputs)), tensors_of(x1)[0].device
    probe, direction = (torch.randn(shape, generator=random).to(device) for _ in range(2))
    gradients: Params = {}
    try:
        if trainable:
            keep = uses_weights_seldom(model.bind(), model.params, x1)  # as in the transfer
            execution = Execution(keep_graph=keep)
            products, pullback = outputs_and_pullback(model.bind(), model.params, x1, x2, probe, execution=execution)
            assert isinstance(products, OutputsAndProduct)
            zeros = torch.zeros_like(direction)
            gradients = pullback(OutputsAndProduct(product=direction, logits1=zeros, logits2=zeros))
        else:
            products = kernel_vector_product(model.bind(), model.params, x1, x2, probe)
    except RuntimeError as error:
        hint = without_checkpointing(error) or f"write that operation in terms of torch's own{instead}"
        raise ModelError(
            where,
            f"has an operation without the derivatives that its kernel needs: {str(error).splitlines()[0].rstrip('.')}",
            hint=f"{hint}; --debug shows where it is",
        ) from error
    found = {"its kernel": products.product} | {f"its kernel's gradient by {n}": g for n, g in gradients.items()}
    for what, value in found.items():
        if not value.isfinite().all():
            raise ModelError(
                where,
                f"has an operation with a derivative that is not finite: {what} is NaN or infinite",
                hint=f"look behind it for a norm or a square root of zero, and add a small number inside{instead}",
            )
    if not trainable:
        return None
    return _differs_from_backward_passes(model, x1, x2, probe, direction, products.product, gradients)


def _differs_from_backward_passes(
    model: FunctionalModel,
    x1: Batch,
    x2: Batch,
    probe: Tensor,
    direction: Tensor,
    product: Tensor,
    gradients: Params,
) -> str | None:
    """A parameter whose gradient of `γᵀ K v` differs from the one by backward passes alone; `None` if there is none.

    Backward passes give `u = J(x2)ᵀ v` and `z = J(x1)ᵀ γ`, then the gradient of `zᵀ u = γᵀ K v`.
    """
    leaves: Params = {name: p.detach().requires_grad_() for name, p in model.params.items()}
    apply, values = model.bind(), list(leaves.values())
    try:
        with twice_differentiable():
            u = torch.autograd.grad(apply(leaves, x2), values, probe, create_graph=True, materialize_grads=True)
            z = torch.autograd.grad(apply(leaves, x1), values, direction, create_graph=True, materialize_grads=True)
            inner = torch.stack([(a * b).sum() for a, b in zip(u, z, strict=True)]).sum()
            again = torch.autograd.grad(inner, values, materialize_grads=True)
    except RuntimeError:
        return None  # backward passes alone cannot compute it, and the transfer does not need them to
    if (inner - (direction * product).sum()).abs() > DIFFERENT_ROUNDED * direction.norm() * product.norm():
        return None  # the network draws random numbers
    sizes = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    precise = probe.device.type == "cpu" and product.dtype in {torch.float32, torch.float64}
    limit = DIFFERENT if precise else DIFFERENT_ROUNDED
    for (name, gradient), other in zip(gradients.items(), again, strict=True):
        if float((gradient - other).detach().norm()) > limit * (sizes[name] + ROUNDED * max(sizes.values())):
            return name
    return None


def find_kernel(
    model: FunctionalModel, inputs: Inputs, on_event: EventSink, *, outputs: int, matched: bool, where: str
) -> bool:
    """Whether products with the network's kernel can be computed; if not, a warning says why.

    Raises:
        ModelError: if they cannot, and the transfer needs them because the kernel is `matched`.
    """
    try:
        check_kernel(model, inputs, outputs=outputs, trainable=matched, where=where)
    except ModelError as error:
        if matched:
            raise
        on_event(Warned(f"{error}; no kernel distance is measured"))
        return False
    return True
