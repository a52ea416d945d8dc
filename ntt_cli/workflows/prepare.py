"""What every command does first: the device, the network, the inputs, and whether they fit together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ntt_cli.config import DataOptions, Split
from ntt_cli.core.batch_norm import coupling_layers
from ntt_cli.core.functional import FunctionalModel, Params, functional_model
from ntt_cli.core.kernel_product import kernel_product
from ntt_cli.core.logits import IGNORED, NoSuchOutput, Pick, tensor_fields, usual_logits
from ntt_cli.core.prunable import prunable_names
from ntt_cli.core.standardise import Standardisation, fit_standardisation, parse_standardisation, standardise
from ntt_cli.errors import DataError, ModelError, UsageError
from ntt_cli.io.checkpoint import Checkpoint
from ntt_cli.io.data import Samples, load_samples
from ntt_cli.io.models import LoadedModel
from ntt_cli.workflows.events import EventSink, Warned

STATISTICS_BATCH = 1024


def pick_device(name: str) -> torch.device:
    """The device that `--device` names; `auto` is the fastest one here.

    Raises:
        UsageError: if there is no such device.
    """
    here = ["cpu"]
    if torch.backends.mps.is_available():
        here.insert(0, "mps")
    if torch.cuda.is_available():
        here = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *here]
    if name == "auto":
        return torch.device(here[0])
    if name not in here:
        raise UsageError(f"--device {name}", "there is no such device here", hint=f"use auto or {', '.join(here)}")
    return torch.device(name)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Samples as the network takes them: standardised, on its device.

    Attributes:
        samples: the raw samples.
        standardisation: how raw inputs are standardised; `None` for tokens.
        device: where batches are put.
    """

    samples: Samples
    standardisation: Standardisation | None
    device: torch.device

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, indices: Tensor) -> Tensor:
        """The inputs at `indices`, `[b, ...]`."""
        return standardise(self.samples.inputs(indices), self.standardisation).to(self.device)

    def labels(self, indices: Tensor) -> Tensor:
        """The labels at `indices`, `[b]`."""
        assert self.samples.labels is not None
        return self.samples.labels[indices].to(self.device)

    def in_order(self, size: int) -> Iterator[Tensor]:
        """Batches of all inputs in order, `[b, ...]`, `b` at most `size`."""
        return (self.batch(indices) for indices in torch.arange(len(self)).split(size))

    def some(self, n: int) -> Inputs:
        """At most `n` samples, drawn at random, always the same: the first of a folder may be all of one class."""
        chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(0))[:n]
        return replace(self, samples=self.samples.subset(chosen))


def open_inputs(
    options: DataOptions,
    loaded: LoadedModel,
    *,
    split: Split,
    device: torch.device,
    known: Standardisation | None,
) -> Inputs:
    """The samples of `split`, standardised by `--mean` and `--std`, else as `known`, else by their own statistics."""
    samples = load_samples(options, split=split, default=loaded.data, input_shape=loaded.input_shape)
    standardisation = parse_standardisation(options.mean, options.std) or known
    if standardisation is None:
        batches = torch.arange(len(samples)).split(STATISTICS_BATCH)
        standardisation = fit_standardisation(samples.inputs(indices) for indices in batches)
    return Inputs(samples=samples, standardisation=standardisation, device=device)


def take_apart(
    module: nn.Module, device: torch.device, on_event: EventSink, *, pick: Pick = usual_logits
) -> FunctionalModel:
    """The network as functions on `device`, its frozen parameters named.

    Raises:
        ModelError: if a value is not finite, or samples of a batch would depend on each other.
    """
    model = functional_model(module.to(device), pick)
    for name, value in (model.params | model.buffers).items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ModelError(name, "holds NaN or infinity before any work", hint="mend build_model() or the weights")
    if coupling := coupling_layers(model):
        raise ModelError(
            f"layer {coupling[0]}",
            "normalises by the statistics of its batch, in evaluation too, so that samples depend on each other",
            hint="build it with track_running_stats=True",
        )
    if frozen := [name for name, p in model.module.named_parameters() if not p.requires_grad]:
        on_event(Warned(f"frozen parameters stay as they are and dense: {_listed(frozen)}"))
    return model


def check_forward(model: FunctionalModel, inputs: Inputs, *, where: str) -> tuple[int, ...]:
    """Run two samples, and return the shape of one's logits: `(classes,)`, or `(*positions, classes)`.

    Raises:
        ModelError: if the model cannot take the inputs, or does not return finite logits `[n, ..., classes]`.
    """
    hint = "name other data with --data, change the images with --image-size or --grayscale, or the model"
    with torch.no_grad():
        logits = _logits(model.returned, model.pick, inputs, 2, where=where, hint=hint)
    return tuple(logits.shape[1:])


def takes_channels_last(model: FunctionalModel, inputs: Inputs) -> bool:
    """Whether the network convolves, and runs with weights laid out channels last, where convolutions are faster.

    A network that flattens with `view` may not: it relies on the other layout.
    """
    if not any(isinstance(layer, nn.Conv2d) for layer in model.module.modules()):
        return False
    try:
        with torch.no_grad():
            model.bind()(channels_last(model.params), inputs.batch(torch.arange(2)))
    except RuntimeError:
        return False
    return True


def channels_last(params: Params) -> Params:
    """The same values, those of four dimensions laid out channels last."""
    return {name: p.to(memory_format=torch.channels_last) if p.ndim == 4 else p for name, p in params.items()}


def check_training(module: nn.Module, pick: Pick, inputs: Inputs, *, batch_size: int, where: str) -> None:
    """Run one batch in training mode, on a copy: batch norm and some torchvision models then act differently.

    Raises:
        ModelError: if that fails as in `check_forward`, or no trainable parameter acts on the output.
    """
    copied = copy.deepcopy(module).train()
    hint = "try another --batch-size or other data with --data, or mend the model"
    with torch.random.fork_rng():  # Dropout draws from the global generator
        logits = _logits(copied, pick, inputs, batch_size, where=f"{where} in training mode", hint=hint)
    if not logits.requires_grad:
        raise ModelError(
            where,
            "has an output that no trainable parameter acts on",
            hint="check requires_grad, detach() and no_grad()",
        )


def check_kernel(model: FunctionalModel, inputs: Inputs, *, outputs: int, trainable: bool, where: str) -> None:
    """Take one product with the network's kernel, and if it is to be trained, the product's derivative.

    Raises:
        ModelError: if one of the network's operations lacks a derivative that this needs.
    """
    x1, x2 = inputs.batch(torch.arange(2)).chunk(2)
    leaves = {name: p.detach().requires_grad_() for name, p in model.params.items()}
    probe = torch.ones(1, outputs, device=inputs.device)
    try:
        products = kernel_product(model.bind(), leaves, x1, x2, probe, create_graph=trainable)
        if trainable:
            total = products.product.sum() + products.logits1.sum() + products.logits2.sum()
            torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    except RuntimeError as error:
        raise ModelError(
            where,
            f"has an operation without the derivatives that its kernel needs: {error}",
            hint="write that operation in terms of torch's own; --debug shows where it is",
        ) from error


def pick_prunable(
    model: FunctionalModel, inputs: Inputs | None, *, exclude: tuple[str, ...], where: str
) -> tuple[str, ...]:
    """Names of the weights to prune.

    Raises:
        ModelError: if there are none, or some do not act on the output.
    """
    names = prunable_names(model, exclude)
    if not names:
        raise ModelError(
            where,
            "has no prunable weights: none is trainable, of two or more dimensions and not excluded",
            hint="check --exclude and requires_grad",
        )
    if inputs is not None and (unused := _unused(model, names, inputs)):
        raise ModelError(
            where,
            f"never uses {_listed(unused)} for its output, so their share of the density would be lost",
            hint=" ".join(f"--exclude {name!r}" for name in unused),
        )
    return names


def check_labels(inputs: Inputs, *, shape: tuple[int, ...], purpose: str) -> None:
    """Refuse data without labels, or with labels that the network has no output for.

    Args:
        inputs: the data.
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


def known_standardisation(checkpoint: Checkpoint | None) -> Standardisation | None:
    """What the checkpoint's network was trained with, where there is a checkpoint that says."""
    return checkpoint.standardisation if checkpoint else None


def require_samples(inputs: Inputs, n: int) -> None:
    """Refuse data too small to work with.

    Raises:
        DataError: if there are fewer than `n` samples.
    """
    if len(inputs) < n:
        raise DataError(inputs.samples.spec, f"has {len(inputs)} samples, {n} are needed", hint="name more data")


def _logits(
    forward: Callable[[Tensor], object], pick: Pick, inputs: Inputs, samples: int, *, where: str, hint: str
) -> Float[Tensor, "n *positions c"]:
    x = inputs.batch(torch.arange(min(samples, len(inputs))))
    try:
        outputs = forward(x)
    except (Exception, SystemExit) as error:
        raise ModelError(
            where,
            f"cannot take inputs of shape {list(x.shape)} and type {_dtype(x)} from {inputs.samples.spec}:"
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
            f"returns a {type(logits).__name__}, not one tensor of logits",
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


def _unused(model: FunctionalModel, names: tuple[str, ...], inputs: Inputs) -> list[str]:
    leaves: Params = {name: p.detach().requires_grad_() for name, p in model.params.items()}
    logits = model.bind()(leaves, inputs.batch(torch.arange(min(2, len(inputs)))))
    if not logits.requires_grad:
        return list(names)
    gradients = torch.autograd.grad(logits.sum(), [leaves[name] for name in names], allow_unused=True)
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]


def _listed(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
