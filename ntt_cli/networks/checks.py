"""Check before any work that the network and the samples fit together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ntt_cli.data.batch import Batch, batch_size, call, described, split, tensors_of
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import DataError, ModelError
from ntt_cli.networks.copying import copy_module
from ntt_cli.networks.functional import FunctionalModel, positions_that_count
from ntt_cli.networks.outputs import NoSuchOutput, SelectOutputs, kind_of, tensor_fields
from ntt_cli.networks.prepare import named_gradients
from ntt_cli.runtime.events import EventSink, Noted, Warned
from ntt_cli.runtime.seeding import global_draws_apart, global_state

SAME = 1e-4
"""By how much rounding may change the outputs of two passes over the same samples, or a sum of probabilities."""

ALONE = 1e-3
"""Fraction of the largest logit by which rounding may change a sample's logits between a single pass and a batch."""

RANDOM_PASSES = 20
"""Passes to compare if a network draws random numbers: one that rarely skips a layer may return the same twice."""

MOST_NAMED = 4
"""The most parameters that an error names."""


def check_forward(model: FunctionalModel, inputs: Inputs, on_event: EventSink, *, where: str) -> tuple[int, ...]:
    """Run two samples, and return the shape of one sample's logits: `(classes,)`, or `(*positions, classes)`.

    Warns if outputs are random, are probabilities, or depend on the other samples of a batch.

    Raises:
        ModelError: if the model cannot take the inputs, makes parameters in its first pass, or does not return finite
            logits `[n, ..., classes]`.
    """
    kinds = {_dtype(value) for value in model.params.values()} - {"float32"}
    hint = (
        f"inputs are float32, and some weights {' and '.join(sorted(kinds))}: return network.float() from its factory"
        if kinds
        else "name other data with --data, change the images with --image-size or --grayscale, or the model"
    )
    if (name := inputs.samples.labels_name) is not None:
        hint += f"; if {name} is an input and no label, return (inputs, None) in the place of the dict"
    spec, x = inputs.samples.spec, inputs.batch(torch.arange(min(2, len(inputs))))
    with torch.no_grad(), global_draws_apart(inputs.device):
        before = global_state()
        logits = _logits(model.returned, model.select_outputs, x, spec, where=where, hint=hint)
        passes = RANDOM_PASSES if global_state() != before else 1
        again = (_logits(model.returned, model.select_outputs, x, spec, where=where, hint=hint) for _ in range(passes))
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
    if positions_that_count(x, logits) is not None:
        on_event(Noted("outputs: those at padding, where attention_mask is 0, count for nothing"))
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


def check_training(
    module: nn.Module, select_outputs: SelectOutputs, inputs: Inputs, *, batch_size: int, where: str
) -> None:
    """Run one batch in training mode, in which batch norm and some torchvision models behave differently; on a copy.

    Raises:
        ModelError: if the pass fails as in `check_forward`, no trainable parameter acts on the output, or there is no
            gradient.
    """
    copied = copy_module(module).train()
    hint = "try another --batch-size or other data with --data, or mend the model"
    with torch.random.fork_rng():  # Dropout draws from the global generator
        x = inputs.batch(torch.arange(min(batch_size, len(inputs))))
        logits = _logits(
            partial(call, copied), select_outputs, x, inputs.samples.spec, where=f"{where} in training mode", hint=hint
        )
    if not logits.requires_grad:
        raise ModelError(
            where,
            "has an output that no trainable parameter acts on",
            hint="check requires_grad, detach() and no_grad()",
        )
    with named_gradients(where):
        logits.sum().backward()


def require_samples(inputs: Inputs, n: int) -> None:
    """Refuse data with too few samples.

    Raises:
        DataError: if there are fewer than `n` samples.
    """
    if len(inputs) < n:
        raise DataError(inputs.samples.spec, f"has {len(inputs)} samples, {n} are needed", hint="name more data")


def _depends_on_others(model: FunctionalModel, x: Batch, logits: Tensor) -> bool:
    """Whether the first sample's logits change, beyond rounding, when it is alone in its batch."""
    if batch_size(x) < 2:
        return False
    try:
        alone = model.select_outputs(model.returned(split(x, 1)[0]))
    except Exception:  # the network does not accept a single sample
        return False
    limit = max(ALONE, 16 * torch.finfo(logits.dtype).eps) * float(logits.abs().max())
    return bool(alone.shape == logits[:1].shape and (alone - logits[:1]).abs().max() > limit)


def _logits(
    forward: Callable[[Any], object], select_outputs: SelectOutputs, x: Batch, spec: str, *, where: str, hint: str
) -> Float[Tensor, "n *positions c"]:
    try:
        outputs = forward(x)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ModelError(
            where,
            f"cannot take inputs of {_shapes_and_types(x)} from {spec}: {type(error).__name__}: {error}",
            hint=hint,
        ) from error
    named = tensor_fields(outputs)
    pick_one = "define logits(outputs) in model.py to pick them"
    try:
        logits = select_outputs(outputs)
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
    n = batch_size(x)
    if logits.ndim < 2 or len(logits) != n or not logits.is_floating_point():
        raise ModelError(
            where,
            f"returns {_dtype(logits)} of shape {list(logits.shape)} for {n} samples, not a row of logits each",
            hint=f"return a tensor [{n}, outputs], or {pick_one}",
        )
    if not logits.isfinite().all():
        raise ModelError(where, "returns NaN or infinity", hint="check the weights and the scale of the inputs")
    return logits


def _shapes_and_types(x: Batch) -> str:
    if isinstance(x, Tensor):
        return f"shape {list(x.shape)} and type {_dtype(x)}"
    return f"shapes {described(x)} and types {', '.join(map(_dtype, tensors_of(x)))}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
