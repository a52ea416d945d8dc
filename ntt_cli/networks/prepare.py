"""The first steps of every command: prepare the network, its buffers and the weights to prune."""

from __future__ import annotations

from collections.abc import Container, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase

import torch
from torch import nn

from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import ModelError, UsageError, listed
from ntt_cli.files.hashed import can_hold
from ntt_cli.networks.batch_norm import coupling_layers, estimate_statistics, has_batch_norm, is_statistic
from ntt_cli.networks.copying import UncopyableError
from ntt_cli.networks.flops import seldom_used
from ntt_cli.networks.fragile import fragile_axes, fragile_parametrizations
from ntt_cli.networks.functional import FunctionalModel, functional_model
from ntt_cli.networks.multiplied import multiplied_parameters
from ntt_cli.networks.outputs import SelectOutputs, usual_logits
from ntt_cli.networks.precision import describe_types, prepare_precision
from ntt_cli.networks.prunable import others, prunable_names, vectors
from ntt_cli.runtime.events import EventSink, Noted, Warned
from ntt_cli.tensors import Params

STATISTICS_SAMPLES = 2048
STATISTICS_BATCH = 128

ROUTED = 64
"""Samples to try before a weight counts as unused: in a mixture of experts, each expert gets few of them."""


def to_functional(
    module: nn.Module, device: torch.device, on_event: EventSink, *, select_outputs: SelectOutputs = usual_logits
) -> FunctionalModel:
    """The network as a function on `device`, in the types that it computes in; a note names its frozen parameters.

    The network itself changes its device and types, but keeps its values.

    Raises:
        ModelError: if a trainable value or a running statistic is not finite, or any value could not be written, or
            samples of a batch would depend on each other.
    """
    if dtypes := prepare_precision(module):
        on_event(Noted(describe_types(dtypes)))
    try:
        model = replace(functional_model(module.to(device), select_outputs), dtypes=dtypes)
    except UncopyableError as error:
        hint = "mend build_model(): make it in forward(), or give its class a __deepcopy__"
        raise ModelError(error.attribute, f"cannot be copied: {error.reason}", hint=hint) from error
    for name, value in (model.params | model.buffers).items():
        if value.is_complex() and name in model.params:
            hint = "keep torch.view_as_real(w) as the parameter, and call torch.view_as_complex on it in forward()"
            raise ModelError(name, "is a complex parameter, which cannot be trained or pruned here", hint=hint)
        if not can_hold(value):
            kind = value.dtype if value.layout is torch.strided else value.layout
            what = f"is of type {str(kind).removeprefix('torch.')}, which no safetensors file holds"
            raise ModelError(name, what, hint="mend build_model(): register it as another type, dense")
        if (name in model.params or is_statistic(name)) and not value.isfinite().all():
            raise ModelError(name, "holds NaN or infinity before any work", hint="mend build_model() or the weights")
    if coupling := coupling_layers(model):
        what = "normalises by the statistics of its batch, in evaluation too, so that samples depend on each other"
        raise ModelError(f"layer {coupling[0]}", what, hint="build it with track_running_stats=True")
    if quantised := [name for name, layer in model.module.named_modules() if _fakes_quantisation(layer)]:
        what = (
            f"fake quantisation moves its ranges by what it sees, in evaluation too, and has no kernel:"
            f" {listed(quantised)}; better prune the network before it is prepared for quantisation"
        )
        on_event(Warned(what))
    if extra := [name for name in model.module.state_dict() if name not in model.saved]:
        what = (
            f"its state dict also holds {listed(extra)}, no tensor, which no file of weights holds: ntt keeps what the"
            " network is built with; elsewhere, load the file by load_state_dict(..., strict=False)"
        )
        on_event(Warned(what))
    if frozen := [name for name, p in model.module.named_parameters() if not p.requires_grad]:
        on_event(Warned(f"frozen parameters stay as they are and dense: {listed(frozen)}"))
    return model


def _fakes_quantisation(layer: nn.Module) -> bool:
    # By name: torch has moved this class between packages, and importing it gives a warning.
    return any(kind.__name__ == "FakeQuantizeBase" for kind in type(layer).__mro__)


def takes_channels_last(model: FunctionalModel, inputs: Inputs) -> bool:
    """Whether the network has convolutions and runs with channels-last weights, which make convolutions faster.

    A network that flattens with `view` may fail, because it relies on the other layout.
    """
    if not any(isinstance(layer, nn.Conv2d) for layer in model.module.modules()):
        return False
    try:
        with torch.no_grad():
            model.bind()(channels_last(model.params), inputs.batch(torch.arange(2)))
    except RuntimeError:
        return False
    return True


def laid_out(model: FunctionalModel, inputs: Inputs) -> FunctionalModel:
    """The network with its weights in the fastest memory layout: channels last if possible, except rarely used ones.

    For rarely used weights, writing them in that layout takes more time than their convolutions save.
    """
    if not takes_channels_last(model, inputs):
        return model
    seldom = seldom_used(model.bind(), model.params, inputs.batch(torch.arange(1)))
    return replace(model, params=channels_last(model.params, but=seldom))


def channels_last(params: Params, but: Container[str] = ()) -> Params:
    """The same values, with tensors of four dimensions in channels-last layout, except those named in `but`."""
    return {
        name: p.to(memory_format=torch.channels_last) if p.ndim == 4 and name not in but else p
        for name, p in params.items()
    }


def estimate_buffers(model: FunctionalModel, params: Params, inputs: Inputs) -> Params:
    """The buffers with batch-norm statistics at `params`; the model's own buffers if it has no batch norm."""
    if not has_batch_norm(model):
        return model.buffers
    batches = inputs.some(STATISTICS_SAMPLES).in_order(STATISTICS_BATCH)
    return estimate_statistics(model, params, model.buffers, batches)


def pick_prunable(
    model: FunctionalModel,
    inputs: Inputs | None,
    on_event: EventSink,
    *,
    exclude: tuple[str, ...],
    include: tuple[str, ...] = (),
    where: str,
) -> tuple[str, ...]:
    """Names of the weights to prune; a note says which they are.

    Raises:
        ModelError: if there are no such weights, some do not act on the output, or there is no gradient.
        UsageError: if a pattern of `exclude` matches no parameter, or one of `include` none that it makes prunable.
    """
    multiplied = _multiplied(model, inputs)
    usual = prunable_names(model, multiplied=multiplied)
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name, _ in model.module.named_parameters()):
            hint = f"the weights to prune are {listed(usual)}"
            raise UsageError(f"--exclude {pattern}", "matches no parameter", hint=hint)
    left_alone = others(model, multiplied=multiplied)
    if inputs is None:
        left_alone = {n: "of unknown use without --data" if r == "table" else r for n, r in left_alone.items()}
    for pattern in include:
        if not set(prunable_names(model, exclude, (pattern,), multiplied=multiplied)) - set(usual):
            hint = f"those to name are {listed(list(left_alone))}" if left_alone else "all are; leave it out"
            raise UsageError(f"--include {pattern}", "makes no more weights prunable", hint=hint)
    names = prunable_names(model, exclude, include, multiplied=multiplied)
    if not names:
        what = "has no prunable weights: none is trainable, of two or more dimensions and not excluded"
        hint = (
            f"--include {next(iter(left_alone))!r} prunes it too" if left_alone else "check --exclude and requires_grad"
        )
        raise ModelError(where, what, hint=hint)
    on_event(Noted(_what_is_prunable(model, names, left_alone)))
    with named_gradients(where):
        unused = _unused(model, names, inputs) if inputs else []
    if unused:
        leave_dense = " ".join(f"--exclude {name!r}" for name in unused)
        if acting := [name for name in unused if inputs and _acts(model, name, inputs)]:
            places = "no_grad(), inference_mode(), detach() or reentrant checkpointing"
            what = f"uses {listed(acting)} where no gradient is kept: under {places}"
            hint = "let gradients through there, or switch torch.utils.checkpoint off, or leave these dense:"
            raise ModelError(where, what, hint=f"{hint} {leave_dense}")
        what = f"never uses {listed(unused)} for its output, so their share of the density would be lost"
        raise ModelError(where, what, hint=leave_dense)
    return names


def roles_of_others(model: FunctionalModel, inputs: Inputs | None) -> dict[str, str]:
    """Parameters of two or more dimensions that are pruned only if the user names them, with their roles.

    They are those of `others`, and vectors with extra axes, such as class tokens.
    """
    return others(model, multiplied=_multiplied(model, inputs)) | dict.fromkeys(vectors(model), "vector")


def whole_slices(
    model: FunctionalModel, inputs: Inputs | None, names: Sequence[str], rows_of: Sequence[str]
) -> dict[str, int]:
    """Weights that must keep an entry in every slice, with the axis of the slices.

    Without an entry in each slice, some networks divide by zero. The weights `rows_of` keep an entry in each row, so
    that tokens that the data lack are not emptied.
    """
    if inputs is None:
        fragile = fragile_parametrizations(model, names)
    else:
        fragile = fragile_axes(model.bind(), model.params, names, inputs.batch(torch.arange(min(2, len(inputs)))))
    return dict.fromkeys(rows_of, 0) | fragile


def _multiplied(model: FunctionalModel, inputs: Inputs | None) -> set[str]:
    """Parameters that inputs are multiplied by; empty if there are no tables to distinguish from them."""
    if inputs is None or "table" not in others(model).values():  # the trace below costs torch seconds
        return set()
    return multiplied_parameters(model.bind(), model.params, inputs.batch(torch.arange(1)))


def _what_is_prunable(model: FunctionalModel, names: tuple[str, ...], left_alone: dict[str, str]) -> str:
    size = sum(model.params[name].numel() for name in names)
    prunable = f"prunable: {size:,} weights in {len(names):,} layer{'s' * (len(names) != 1)}"
    dense = [f"{name} ({role})" for name, role in left_alone.items() if name not in names]
    return f"{prunable}; not: {listed(dense, 3)}, which --include NAME would prune" if dense else prunable


def _unused(model: FunctionalModel, names: tuple[str, ...], inputs: Inputs) -> list[str]:
    """Weights without an effect on the first samples' outputs: a sample may pass through only some of the layers."""
    leaves: Params = {name: p.detach().requires_grad_() for name, p in model.params.items()}
    apply, unused = model.bind(), list(names)
    for indices in torch.arange(min(ROUTED, len(inputs))).split(2):
        logits = apply(leaves, inputs.batch(indices))
        if logits.requires_grad:
            gradients = torch.autograd.grad(logits.sum(), [leaves[name] for name in unused], allow_unused=True)
            unused = [name for name, gradient in zip(unused, gradients, strict=True) if gradient is None]
        if not unused:
            break
    return unused


def _acts(model: FunctionalModel, name: str, inputs: Inputs) -> bool:
    """Whether the output depends on this parameter."""
    x = inputs.batch(torch.arange(min(2, len(inputs))))
    moved = model.params | {name: model.params[name] + 1}
    with torch.no_grad():
        return not torch.equal(model.bind()(moved, x), model.bind()(model.params, x))


@contextmanager
def named_gradients(where: str) -> Generator[None]:
    """While it is active, torch's error about a missing gradient becomes a `ModelError` with torch's reason."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).split(";")[0].splitlines()[0]
        hint = "mend that operation: the network cannot be trained; --debug shows where it is"
        hint = without_checkpointing(error) or _without_cache(error) or hint
        raise ModelError(where, f"has no gradient: {reason}", hint=hint) from error


def _without_cache(error: RuntimeError) -> str | None:
    """A hint if a pass writes over values that its gradient needs, as RWKV does into its state for a later call."""
    if "modified by an inplace operation" not in str(error):
        return None
    return "write out of place; in a network of transformers that keeps a state, set config.use_cache = False"


def without_checkpointing(error: RuntimeError) -> str | None:
    """A hint if activation checkpointing prevents a derivative; torch has several messages for that."""
    if "checkpoint" not in str(error).lower():
        return None
    return "switch torch.utils.checkpoint off in build_model(): it saves memory by computing twice, and nothing else"
