"""Check before any work that the network and the samples fit together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ntt_cli.data.batch import Batch, batch_size, call, described, split, tensors_of
from ntt_cli.data.bundle import Bundle
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import DataError, ModelError
from ntt_cli.networks.copying import copy_module, results_of
from ntt_cli.networks.functional import FunctionalModel
from ntt_cli.networks.layer_outputs import LayerOutputs, last_layers, named_layers, named_tensors
from ntt_cli.networks.outputs import (
    ONLY,
    USUAL,
    Heads,
    NoSuchOutput,
    SelectOutputs,
    chosen_names,
    flat,
    heads_in,
    kind_of,
    tensors_in,
    usual_logits,
)
from ntt_cli.networks.prepare import named_gradients
from ntt_cli.runtime.events import EventSink, Noted, Warned
from ntt_cli.runtime.seeding import global_draws_apart, global_state

SAME = 1e-4
"""By how much rounding may change the outputs of two passes over the same samples, or a sum of probabilities."""

ALONE = 1e-3
"""Fraction of the largest output by which rounding may change a sample's outputs between a single pass and a batch."""

RANDOM_PASSES = 20
"""Passes to compare if a network draws random numbers: one that rarely skips a layer may return the same twice."""

MOST_NAMED = 4
"""The most parameters or outputs that an error names."""

WRAP = "return tensors [n, ...] from a wrapper, or by logits(outputs) in model.py, or name layers with --outputs"
"""The hint for a network whose outputs cannot be used."""


def check_forward(model: FunctionalModel, inputs: Inputs, on_event: EventSink, *, where: str) -> Heads:
    """Run two samples, and return the outputs that count: one tensor, or all floating ones with a row for each sample.

    Warns if outputs are random, are probabilities, or depend on the other samples of a batch. A note names the outputs
    if they were found in what the network returns.

    Raises:
        ModelError: if the model cannot take the inputs, makes parameters in its first pass, or does not return finite
            floating outputs `[n, ...]`.
    """
    hint = _hint_for(model, inputs)
    spec, x = inputs.samples.spec, inputs.batch(torch.arange(min(2, len(inputs))))
    x = x.parts[0] if isinstance(x, Bundle) else x
    n = None if inputs.samples.bundled else batch_size(x)
    with torch.no_grad(), global_draws_apart(inputs.device):
        before, results = global_state(), dict(results_of(model.module))
        forward, select, layers = model.returned, model.select_outputs, None
        try:
            outputs = _outputs(forward, select, x, spec, samples=n, where=where, hint=hint)
        except _NoOutputsError as error:
            layers = _layers_instead(model, x, n, error, on_event)
            before = global_state()
            forward = partial(_of_layers, model, layers)
            select = _selection(select)
            outputs = _outputs(forward, select, x, spec, samples=n, where=where, hint=hint)
        for name, value in results_of(model.module):
            if results.get(name) is value:
                hint = "compute it in forward(), or register it by register_buffer() or as an nn.Parameter"
                raise ModelError(where, f"{name} is the result of a computation that no pass repeats", hint=hint)
        passes = RANDOM_PASSES if global_state() != before else 1
        again = (_outputs(forward, select, x, spec, samples=n, where=where, hint=hint) for _ in range(passes))
        if not all(_same(outputs, other) for other in again):
            on_event(
                Warned(
                    f"{where}: two passes over the same samples differ in evaluation mode (noise, or F.dropout without"
                    " training=self.training?), so that no figure of it is exact"
                )
            )
        elif alone := {} if n is None else _alone(forward, select, x):
            # What has two rows whatever the number of samples, such as the states of two layers, is no head, nor is a
            # matrix with a column for each sample, such as the similarities of a contrastive network.
            outputs = {
                name: head
                for name, head in outputs.items()
                if name in alone and alone[name].shape[1:] == head.shape[1:]
            } or outputs
            if _depends_on_others(outputs, alone):
                on_event(
                    Warned(
                        f"{where}: what it says of a sample depends on the others in its batch (a mean over the"
                        " batch?), so that figures change with --batch-size and --micro-batch"
                    )
                )
    _say_what_counts(model, x, outputs, on_event)
    if made := [name for name, _ in model.module.named_parameters() if name not in model.params | model.buffers]:
        raise ModelError(
            where,
            f"makes parameters in its first forward pass: {', '.join(made[:MOST_NAMED])}",
            hint="pass one batch through the network before build_model() returns it",
        )
    heads = Heads(select, {name: tuple(head.shape[1:]) for name, head in outputs.items()}, layers)
    if outputs.keys() != {ONLY}:
        on_event(Noted(f"outputs: {heads}"))
    _warn_of_probabilities(heads, next(iter(outputs.values())), on_event, where=where)
    return heads


def _hint_for(model: FunctionalModel, inputs: Inputs) -> str:
    """What to do if the model cannot take the inputs."""
    kinds = {_dtype(value) for value in model.params.values()} - {"float32"}
    hint = (
        f"inputs are float32, and some weights {' and '.join(sorted(kinds))}: return network.float() from its factory"
        if kinds
        else "name other data with --data, change the images with --image-size or --grayscale, or the model"
    )
    if (name := inputs.samples.labels_name) is not None:
        hint += f"; if {name} is an input and no label, return (inputs, None) in the place of the dict"
    return hint


def _say_what_counts(model: FunctionalModel, x: Batch, outputs: Mapping[str, Tensor], on_event: EventSink) -> None:
    """Note that outputs at padding do not count; refuse an `output_mask` that is for none of them."""
    if any(model.mask_of(x, name, head) is not None for name, head in outputs.items()):
        by = "attention_mask is 0" if model.output_mask is None else "output_mask(batch) is False"
        on_event(Noted(f"outputs: those at padding, where {by}, count for nothing"))
    elif model.output_mask is not None:
        hint = f"name outputs in the dict that it returns: {', '.join(outputs)}"
        raise ModelError("output_mask(batch)", "gives no mask for any output", hint=hint)


def _warn_of_probabilities(heads: Heads, logits: Tensor, on_event: EventSink, *, where: str) -> None:
    may_be_logits = heads.may_be_logits and logits.ndim > 1 and logits.shape[-1] > 1
    if may_be_logits and (logits >= 0).all() and (logits.sum(-1) - 1).abs().max() < SAME:
        on_event(
            Warned(
                f"{where}: its outputs look like probabilities, not negative and with sum 1, where logits are meant;"
                " leave out the Softmax at its end, or pick what stands before it by logits(outputs) in model.py"
            )
        )


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
        x = x.parts[0] if isinstance(x, Bundle) else x
        n = None if inputs.samples.bundled else min(batch_size, len(inputs))
        forward, where_now = partial(call, copied), f"{where} in training mode"
        outputs = _outputs(forward, select_outputs, x, inputs.samples.spec, samples=n, where=where_now, hint=hint)
    rows = flat(outputs)
    if not rows.requires_grad:
        raise ModelError(
            where,
            "has an output that no trainable parameter acts on",
            hint="check requires_grad, detach() and no_grad()",
        )
    with named_gradients(where):
        rows.sum().backward()
    if kept := [name for name, buffer in copied.named_buffers() if buffer.requires_grad]:
        try:
            flat(heads_in(select_outputs(forward(x)), len(rows))).sum().backward()
        except RuntimeError as error:
            what = f"keeps the graph of its last pass in its buffer {kept[0]}, so that it cannot be trained"
            raise ModelError(where, what, hint="write detached values into it: x.detach()") from error


def require_one(heads: Heads, *, where: str) -> tuple[int, ...]:
    """The shape of one sample's only output, to which labels belong.

    Raises:
        ModelError: if there are several, or they are those of layers inside the network.
    """
    if heads.layers is not None:
        what = f"is compared by what its layers return, {heads}, and the labels are for what it returns itself"
        hint = "define loss(outputs, targets) in model.py; a network with an argument targets is given the labels there"
        raise ModelError(where, what, hint=hint)
    if len(heads.shapes) > 1:
        hint = f"choose it with --outputs, like --outputs {next(iter(heads.shapes))}"
        raise ModelError(where, f"has several outputs, {heads}, and the labels are for one", hint=hint)
    return heads.shape


def require_samples(inputs: Inputs, n: int) -> None:
    """Refuse data with too few samples.

    Raises:
        DataError: if there are fewer than `n` samples.
    """
    if len(inputs) < n:
        raise DataError(inputs.samples.spec, f"has {len(inputs)} samples, {n} are needed", hint="name more data")


def _same(outputs: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return outputs.keys() == others.keys() and all(
        head.shape == others[name].shape and torch.allclose(head, others[name], rtol=SAME, atol=SAME)
        for name, head in outputs.items()
    )


def _alone(forward: Callable[[Any], Any], select_outputs: SelectOutputs, x: Batch) -> dict[str, Tensor]:
    """The outputs of the first sample alone; none if it is the only one, or the network does not accept one."""
    if batch_size(x) < 2:
        return {}
    try:
        returned = forward(split(x, 1)[0])
        return heads_in(select_outputs(returned), 1, only=_name_of_one(returned))
    except Exception:
        return {}


def _depends_on_others(outputs: dict[str, Tensor], alone: dict[str, Tensor]) -> bool:
    """Whether the first sample's outputs are others, beyond rounding, when it is alone in its batch."""
    for name, head in outputs.items():
        limit = max(ALONE, 16 * torch.finfo(head.dtype).eps) * float(head.abs().max())
        other = alone.get(name, head[:1])
        if other.shape == head[:1].shape and (other - head[:1]).abs().max() > limit:
            return True
    return False


def _outputs(
    forward: Callable[[Any], object],
    select_outputs: SelectOutputs,
    x: Any,
    spec: str,
    *,
    samples: int | None,
    where: str,
    hint: str,
) -> dict[str, Tensor]:
    try:
        returned = forward(x)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ModelError(
            where,
            f"cannot take inputs of {_shapes_and_types(x)} from {spec}: {type(error).__name__}: {error}",
            hint=hint,
        ) from error
    try:
        selected = select_outputs(returned)
    except NoSuchOutput as error:
        hint = "name outputs or layers with --outputs, or define logits(outputs) in model.py to pick one"
        raise _NoOutputsError(where, str(error), returned, hint=hint) from error
    except (Exception, SystemExit) as error:
        raise ModelError(
            where, f"logits(outputs) raised {type(error).__name__}: {error}", hint="mend that function in model.py"
        ) from error
    outputs = heads_in(selected, samples, only=_name_of_one(returned))
    if not outputs:
        rows = "" if samples is None else f" of {samples} rows"
        raise _NoOutputsError(where, f"returns {_described(selected)}: no floating tensor{rows}", returned, hint=WRAP)
    for name, head in outputs.items():
        if not head.isfinite().all():
            which = "" if name == ONLY else f" in its output {name}"
            raise ModelError(
                where, f"returns NaN or infinity{which}", hint="check the weights and the scale of the inputs"
            )
    return outputs


class _NoOutputsError(ModelError):
    """What a network returned holds no outputs, or not those that were named."""

    def __init__(self, where: str, what: str, returned: object, *, hint: str) -> None:
        super().__init__(where, what, hint=hint)
        self.returned = returned


def _layers_instead(
    model: FunctionalModel, x: Any, samples: int | None, error: _NoOutputsError, on_event: EventSink
) -> LayerOutputs:
    """The layers whose outputs count in the place of what the network returns: those named, or the last ones.

    Raises:
        ModelError: as given, if the model's file picks the outputs itself, or there are no such layers.
    """
    names = chosen_names(model.select_outputs)
    try:
        with torch.enable_grad():
            leaves = {name: p.detach().requires_grad_() for name, p in model.params.items()}
            run = partial(replace(model, params=leaves).returned, x)
            if names:
                return named_layers(model.module, names, run)
            if model.select_outputs is usual_logits and (layers := last_layers(model.module, samples, run)):
                which = (
                    f"layer {names[0]} returns"
                    if len(names := tuple(layers.calls)) == 1
                    else f"layers {', '.join(names)} return"
                )
                what = f"the network returns {_described(error.returned)}, which has no derivative"
                on_event(Noted(f"outputs: {what}; compared is what its {which}"))
                return layers
    except NoSuchOutput as missing:
        what = f"{missing}; it returns {_described(error.returned)}"
        raise ModelError(
            error.where, what, hint=f"did you mean {missing.near}?" if missing.near else error.hint
        ) from error
    raise error


def _of_layers(model: FunctionalModel, layers: LayerOutputs, x: Any) -> dict[str, Any]:
    return layers(model.module, lambda: model.returned(x))


def _selection(select_outputs: SelectOutputs) -> SelectOutputs:
    """What picks the outputs from what layers return: those that were named, or all."""
    names = chosen_names(select_outputs)
    return partial(named_tensors, names=names) if names else dict


def _name_of_one(returned: object) -> str:
    """The name of a single output: whether it was picked, or is all that there is."""
    return ONLY if isinstance(returned, Tensor) else USUAL


def _described(returned: object) -> str:
    """What a network returned, in words: its kind, and the types and shapes of its tensors."""
    if isinstance(returned, Tensor):
        return f"{_dtype(returned)} of shape {list(returned.shape)}"
    items = returned if isinstance(returned, list | tuple) else []
    kinds = list(dict.fromkeys(type(item).__name__ for item in items))
    inside = tensors_in(returned)
    if inside:
        some = [f"{name} {_dtype(value)} {list(value.shape)}" for name, value in list(inside.items())[:MOST_NAMED]]
        return f"{kind_of(returned)} of {', '.join(some)}"
    if items and isinstance(items[0], dict):
        return f"{kind_of(returned)} of dicts ({', '.join(map(str, list(items[0])[:MOST_NAMED]))})"
    return f"{kind_of(returned)} of {' and '.join(kinds)}" if kinds else kind_of(returned)


def _shapes_and_types(x: Any) -> str:
    if not isinstance(x, Tensor | dict) and not (isinstance(x, tuple) and all(map(torch.is_tensor, x))):
        x = Bundle((x,))
    if isinstance(x, Tensor):
        return f"shape {list(x.shape)} and type {_dtype(x)}"
    return f"shapes {described(x)} and types {', '.join(map(_dtype, tensors_of(x)))}"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
