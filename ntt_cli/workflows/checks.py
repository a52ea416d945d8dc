"""Whether the network, the samples and the labels fit together, found out before any work."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ntt_cli.core.copying import copy_module
from ntt_cli.core.flops import uses_weights_seldom
from ntt_cli.core.functional import FunctionalModel, Params
from ntt_cli.core.kernel_product import KernelProduct, answers_and_pullback, kernel_product
from ntt_cli.core.logits import IGNORED, NoSuchOutput, Pick, kind_of, tensor_fields
from ntt_cli.core.second_order import twice_differentiable
from ntt_cli.errors import DataError, ModelError
from ntt_cli.io.global_draws import global_draws_apart, global_state
from ntt_cli.workflows.events import EventSink, Warned
from ntt_cli.workflows.prepare import Inputs, named_gradients, without_checkpointing

DIFFERENT = 1e-3
"""How far apart two ways to a gradient may be, relative to it: by trial on 45 networks of timm and transformers
rounding makes 7e-6 at most, and wrong formulas most often 0.02 and more."""

DIFFERENT_ROUNDED = 0.05
"""The same where numbers may have fewer bits: bfloat16, whose rounding makes 6e-3 by trial, and NVIDIA's TF32."""

PAIRS = 20
"""A wrong formula is wrong on all samples. On some, rounding puts a unit on the other side of its threshold: by trial a
third of all pairs in torchvision's ResNet-50, where that makes 3e-3 to 3e-2."""

LABELS_A_CLASS = 20
"""Where classes have no names, so many labels must be there for each output before one without a class is reported."""

SAME = 1e-4
"""Up to which two passes over the same samples may differ by rounding, and the sum of probabilities from 1."""

ALONE = 1e-3
"""Of the largest logit: by how much a sample's may differ alone and in a batch, as products of other sizes round."""

RANDOM_PASSES = 20
"""Passes of a network that draws from a generator: one that leaves out a layer now and then may act alike in two."""

MOST_NAMED = 4
"""Parameters that an error names."""

ROUNDED = 1e-3
"""Of the largest gradient: what is smaller is mostly rounding."""


def check_forward(model: FunctionalModel, inputs: Inputs, on_event: EventSink, *, where: str) -> tuple[int, ...]:
    """Run two samples, and return the shape of one's logits: `(classes,)`, or `(*positions, classes)`.

    Warns of outputs that are random, probabilities, or depend on the other samples of a batch.

    Raises:
        ModelError: if the model cannot take the inputs, makes parameters when it first sees some, or does not return
            finite logits `[n, ..., classes]`.
    """
    kinds = {_dtype(value) for value in model.params.values()} - {"float32"}
    hint = (
        f"inputs are float32, and some weights {' and '.join(sorted(kinds))}: return network.float() from its factory"
        if kinds
        else "name other data with --data, change the images with --image-size or --grayscale, or the model"
    )
    spec, x = inputs.samples.spec, inputs.batch(torch.arange(min(2, len(inputs))))
    with torch.no_grad(), global_draws_apart(inputs.device):
        before = global_state()
        logits = _logits(model.returned, model.pick, x, spec, where=where, hint=hint)
        passes = RANDOM_PASSES if global_state() != before else 1
        again = (_logits(model.returned, model.pick, x, spec, where=where, hint=hint) for _ in range(passes))
        if not all(torch.allclose(logits, other, rtol=SAME, atol=SAME) for other in again):
            on_event(
                Warned(
                    f"{where}: two passes over the same samples differ in evaluation mode (noise, or F.dropout without"
                    " training=self.training?), so that no figure of it is exact"
                )
            )
        elif _depends_on_others(model, x, logits):
            on_event(
                Warned(
                    f"{where}: what it says of a sample depends on the others in its batch (a mean over the batch?), so"
                    " that figures change with --batch-size and --micro-batch"
                )
            )
    if made := [name for name, _ in model.module.named_parameters() if name not in model.params | model.buffers]:
        raise ModelError(
            where,
            f"makes parameters in its first forward pass: {', '.join(made[:MOST_NAMED])}",
            hint="pass one batch through the network before build_model() returns it",
        )
    if logits.shape[-1] > 1 and (logits >= 0).all() and (logits.sum(-1) - 1).abs().max() < SAME:
        on_event(
            Warned(
                f"{where}: its outputs look like probabilities, not negative and with sum 1, where logits are meant;"
                " leave out the Softmax at its end, or pick what stands before it by logits(outputs) in model.py"
            )
        )
    return tuple(logits.shape[1:])


def check_training(module: nn.Module, pick: Pick, inputs: Inputs, *, batch_size: int, where: str) -> None:
    """Run one batch in training mode, on a copy: batch norm and some torchvision models then act differently.

    Raises:
        ModelError: if that fails as in `check_forward`, no trainable parameter acts on the output, or there is no
            gradient.
    """
    copied = copy_module(module).train()
    hint = "try another --batch-size or other data with --data, or mend the model"
    with torch.random.fork_rng():  # Dropout draws from the global generator
        x = inputs.batch(torch.arange(min(batch_size, len(inputs))))
        logits = _logits(copied, pick, x, inputs.samples.spec, where=f"{where} in training mode", hint=hint)
    if not logits.requires_grad:
        raise ModelError(
            where,
            "has an output that no trainable parameter acts on",
            hint="check requires_grad, detach() and no_grad()",
        )
    with named_gradients(where):
        logits.sum().backward()


def check_kernel(model: FunctionalModel, inputs: Inputs, *, outputs: int, trainable: bool, where: str) -> None:
    """Take one product with the network's kernel, and if it is to be trained, the product's derivative, in two ways.

    Raises:
        ModelError: if an operation of the network lacks a derivative that this needs, or has one that is not finite, or
            one that is wrong.
    """
    instead = ", or match the logits alone with --kernel-weight 0" if trainable else ""
    for first in range(0, 2 * PAIRS, 2):
        x1, x2 = inputs.batch(torch.arange(first, first + 2) % len(inputs)).chunk(2)
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
    model: FunctionalModel, x1: Tensor, x2: Tensor, *, outputs: int, trainable: bool, where: str, instead: str
) -> str | None:
    """A parameter by which the two ways differ on these samples.

    Raises:
        ModelError: as `check_kernel`, of missing derivatives and such as are not finite.
    """
    random = torch.Generator().manual_seed(0)
    probe, direction = (torch.randn(1, outputs, generator=random).to(x1.device) for _ in range(2))
    gradients: Params = {}
    try:
        if trainable:
            keep = uses_weights_seldom(model.bind(), model.params, x1)  # as the transfer will take its gradient
            products, pullback = answers_and_pullback(model.bind(), model.params, x1, x2, probe, keep_graph=keep)
            assert isinstance(products, KernelProduct)
            zeros = torch.zeros_like(direction)
            gradients = pullback(KernelProduct(product=direction, logits1=zeros, logits2=zeros))
        else:
            products = kernel_product(model.bind(), model.params, x1, x2, probe)
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
    return _otherwise(model, x1, x2, probe, direction, products.product, gradients) if trainable else None


def _otherwise(
    model: FunctionalModel,
    x1: Tensor,
    x2: Tensor,
    probe: Tensor,
    direction: Tensor,
    product: Tensor,
    gradients: Params,
) -> str | None:
    """A parameter by which `γᵀ K v` has another gradient where all derivatives are taken backwards."""
    leaves: Params = {name: p.detach().requires_grad_() for name, p in model.params.items()}
    apply, values = model.bind(), list(leaves.values())
    try:
        with twice_differentiable():
            u = torch.autograd.grad(apply(leaves, x2), values, probe, create_graph=True, materialize_grads=True)
            w = torch.autograd.grad(apply(leaves, x1), values, direction, create_graph=True, materialize_grads=True)
            inner = torch.stack([(a * b).sum() for a, b in zip(u, w, strict=True)]).sum()
            again = torch.autograd.grad(inner, values, materialize_grads=True)
    except RuntimeError:
        return None  # there is no derivative this way, which nobody needs
    if (inner - (direction * product).sum()).abs() > DIFFERENT_ROUNDED * direction.norm() * product.norm():
        return None  # the network is random
    sizes = {name: float(gradient.norm()) for name, gradient in gradients.items()}
    precise = probe.device.type == "cpu" and product.dtype in {torch.float32, torch.float64}
    limit = DIFFERENT if precise else DIFFERENT_ROUNDED
    for (name, gradient), other in zip(gradients.items(), again, strict=True):
        if float((gradient - other).norm()) > limit * (sizes[name] + ROUNDED * max(sizes.values())):
            return name
    return None


def find_kernel(
    model: FunctionalModel, inputs: Inputs, on_event: EventSink, *, outputs: int, matched: bool, where: str
) -> bool:
    """Whether products with the network's kernel can be taken; without them a warning says why.

    Raises:
        ModelError: if they cannot, and the kernel is to be `matched`.
    """
    try:
        check_kernel(model, inputs, outputs=outputs, trainable=matched, where=where)
    except ModelError as error:
        if matched:
            raise
        on_event(Warned(f"{error}; no kernel distance is measured"))
        return False
    return True


def check_labels(inputs: Inputs, on_event: EventSink, *, shape: tuple[int, ...], purpose: str) -> None:
    """Refuse data without labels, or with labels that the network has no output for; warn of outputs without a class.

    Args:
        inputs: the data.
        on_event: told the warning.
        shape: of one sample's logits, `(*positions, classes)`.
        purpose: what the labels are for.

    Raises:
        DataError: if labels are missing, out of range, or not one for each row of logits.
    """
    labels, spec = inputs.samples.labels, inputs.samples.spec
    if labels is None:
        raise DataError(spec, f"has no labels; {purpose}", hint="use one folder a class, or arrays with a key y")
    *positions, classes = shape
    if list(labels.shape[1:]) != positions:
        raise DataError(
            spec,
            f"has labels of shape {[len(labels), *labels.shape[1:]]} for logits of shape {[len(labels), *shape]}",
            hint="save one whole number for each row of logits, not one-hot rows, or pick others with --logits",
        )
    wrong = (labels >= classes) | ((labels < 0) & (labels != IGNORED))
    if wrong.any():
        first = tuple(int(i) for i in wrong.nonzero()[0])
        raise DataError(
            spec,
            f"label {int(labels[first])} of sample {first[0]} is out of range: the model has {classes} outputs",
            hint="mend the labels, or build the model with more outputs (--model-arg)",
        )
    if (labels == IGNORED).all():
        raise DataError(spec, f"has no label but {IGNORED}, which counts for nothing", hint="name labelled data")
    names = inputs.samples.class_names
    if names is None and (labels.ndim > 1 or len(labels) < LABELS_A_CLASS * classes):
        return
    known = int(labels.max()) + 1 if names is None else len(names)
    if known < classes:
        on_event(Warned(f"{spec} has {known:,} classes, and the network {classes:,} outputs: some have no class"))


def require_samples(inputs: Inputs, n: int) -> None:
    """Refuse data too small to work with.

    Raises:
        DataError: if there are fewer than `n` samples.
    """
    if len(inputs) < n:
        raise DataError(inputs.samples.spec, f"has {len(inputs)} samples, {n} are needed", hint="name more data")


def _depends_on_others(model: FunctionalModel, x: Tensor, logits: Tensor) -> bool:
    """Whether the first sample alone has other logits than among others, beyond rounding."""
    if len(x) < 2:
        return False
    try:
        alone = model.pick(model.returned(x[:1]))
    except Exception:  # it takes no single sample
        return False
    limit = max(ALONE, 16 * torch.finfo(logits.dtype).eps) * float(logits.abs().max())
    return bool(alone.shape == logits[:1].shape and (alone - logits[:1]).abs().max() > limit)


def _logits(
    forward: Callable[[Tensor], object], pick: Pick, x: Tensor, spec: str, *, where: str, hint: str
) -> Float[Tensor, "n *positions c"]:
    try:
        outputs = forward(x)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ModelError(
            where,
            f"cannot take inputs of shape {list(x.shape)} and type {_dtype(x)} from {spec}:"
            f" {type(error).__name__}: {error}",
            hint=hint,
        ) from error
    named = tensor_fields(outputs)
    pick_one = "define logits(outputs) in model.py to pick them"
    try:
        logits = pick(outputs)
    except NoSuchOutput as error:
        raise ModelError(where, str(error), hint=f"name the logits with --logits, or {pick_one}") from error
    except (Exception, SystemExit) as error:
        raise ModelError(
            where, f"logits(outputs) raised {type(error).__name__}: {error}", hint="mend that function in model.py"
        ) from error
    if not isinstance(logits, Tensor):
        raise ModelError(
            where,
            f"returns {kind_of(logits)}, not one tensor of logits",
            hint=" or ".join(f"--logits {name}" for name in named) or f"return them, or {pick_one}",
        )
    if logits.ndim < 2 or len(logits) != len(x) or not logits.is_floating_point():
        raise ModelError(
            where,
            f"returns {_dtype(logits)} of shape {list(logits.shape)} for {len(x)} samples, not a row of logits each",
            hint=f"return a tensor [{len(x)}, outputs], or {pick_one}",
        )
    if not logits.isfinite().all():
        raise ModelError(where, "returns NaN or infinity", hint="check the weights and the scale of the inputs")
    return logits


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
