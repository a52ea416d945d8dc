"""Which task the targets and the outputs are for, by name or by their types and shapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ntt_cli.data.batch import tensors_of
from ntt_cli.data.inputs import Inputs
from ntt_cli.data.samples import IGNORED
from ntt_cli.errors import DataError, UsageError
from ntt_cli.networks.checks import require_one
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.outputs import Heads
from ntt_cli.runtime.events import EventSink, Noted
from ntt_cli.tasks.base import Task
from ntt_cli.tasks.binary import Binary, MultiLabel
from ntt_cli.tasks.classification import (
    CLASSIFICATION,
    LanguageModelling,
    PixelClassification,
    ShiftedLanguageModelling,
    described,
    fits_grid,
)
from ntt_cli.tasks.own import OwnTask
from ntt_cli.tasks.regression import Regression, fits

TASKS: dict[str, Task] = {
    task.name: task
    for task in (CLASSIFICATION, Binary(), MultiLabel(), Regression(), PixelClassification(), LanguageModelling())
}
"""The built-in tasks, by name."""

COMPARED = 64
"""Samples to compare, to find out whether targets are the inputs themselves."""


@dataclass(frozen=True)
class Choice:
    """What decides on the task, besides the targets.

    Attributes:
        named: the value of `--task`.
        own: the task that model.py defines, or that the caller passed.
        shape: of one sample's outputs.
        classes_last: whether the user's own function put the classes on the last axis of the outputs.
    """

    named: str
    own: Task | None
    shape: tuple[int, ...]
    classes_last: bool = False


def task_of(
    named: str, loaded: LoadedModel, inputs: Inputs, on_event: EventSink, *, heads: Heads, own: object = None
) -> Task:
    """The task of a network with these outputs on this data.

    It is the one that is named; the caller's own; that of `loss(outputs, targets)` in the model's file; or a built-in
    one.

    Raises:
        DataError: if the targets fit several tasks, or none.
        ModelError: if a built-in task has several outputs to choose from.
        UsageError: if `own` is no task, or there is none of one's own.
    """
    if own is not None and not isinstance(own, Task):
        raise UsageError("task", f"is a {type(own).__name__}", hint=f"give an ntt_cli.Task, or {', '.join(TASKS)}")
    if own is None and loaded.loss is not None:
        own = OwnTask(loaded.loss, loaded.metrics, loaded.source)
    if inputs.samples.labels is not None and (own is None or named in TASKS):
        require_one(heads, where=loaded.source)
    return choose_task(Choice(named, own, heads.shape, loaded.declares_logits), inputs, on_event)


def choose_task(choice: Choice, inputs: Inputs, on_event: EventSink) -> Task:
    """The task of this data; a note says which, unless it was named or is classification.

    Raises:
        DataError: if the targets fit several tasks, or none.
        UsageError: if `--task own` names a task that is not there.
    """
    if choice.named == "own" and choice.own is None:
        hint = "define loss(outputs, targets) in model.py, or name a built-in task"
        raise UsageError("--task own", "the model's file defines no loss", hint=hint)
    targets = inputs.samples.labels
    if choice.named == "own" or (choice.named == "auto" and choice.own is not None):
        assert choice.own is not None
        return choice.own
    if choice.named != "auto":
        task = TASKS[choice.named]
        return _shifted(inputs) if isinstance(task, LanguageModelling) else task
    if targets is None:
        return CLASSIFICATION
    if not isinstance(targets, Tensor):
        what = "has targets of several parts, which no built-in task takes"
        raise DataError(inputs.samples.spec, what, hint="define loss(outputs, targets) in model.py")
    name, why = _by_shape(targets, choice, inputs)
    task = _shifted(inputs) if name == LanguageModelling.name else TASKS[name]
    if task is not CLASSIFICATION:
        on_event(Noted(f"task: {name} ({why})"))
    return task


def _by_shape(targets: Tensor, choice: Choice, inputs: Inputs) -> tuple[str, str]:
    """The name of the task, and why; docs/tasks.md has the same rules as a table."""
    shape, target, spec = choice.shape, tuple(targets.shape[1:]), inputs.samples.spec
    floats, same = targets.is_floating_point(), fits(tuple(targets.shape[1:]), shape)
    zeros_and_ones = bool(((targets == 0) | (targets == 1)).all())
    one = shape in {(), (1,)}
    if not floats and target == shape[:-1] and not one:
        if len(shape) > 2 and fits_grid(target, shape) and not choice.classes_last:
            raise _ambiguous(targets, choice, spec, "classification", "pixel-classification")
        if len(shape) == 2 and _are_inputs(inputs):
            return "language-modelling", "targets that are the inputs, and outputs [positions, tokens]"
        return "classification", "a whole number for each row of outputs"
    if not floats and len(shape) > 2 and shape[0] > 1 and fits_grid(target, shape):
        return "pixel-classification", "a whole number for each place of the outputs' maps"
    if same and zeros_and_ones:
        if one:
            return "binary", "targets 0 and 1, and one output"
        if floats and len(shape) > 1:
            raise _ambiguous(targets, choice, spec, "multi-label", "regression")
        if len(shape) == 1 and len(targets) > 1 and bool((targets.flatten(1).sum(dim=1) == 1).all()):
            what = f"has {described(targets)} with a single 1 in each row: one-hot rows, or labels of several kinds"
            hint = "save class numbers instead of one-hot rows, by y.argmax(1), or name --task multi-label"
            raise DataError(spec, what, hint=hint)
        return "multi-label", "targets 0 and 1 of the outputs' shape"
    if same and floats:
        return "regression", "float targets of the outputs' shape"
    if same:
        what = f"has whole numbers of the outputs' shape, {[len(targets), *shape]}: class numbers, or amounts"
        hint = "--task regression takes them as amounts; class numbers need one output for each class"
        raise DataError(spec, what, hint=hint)
    if floats:
        what = f"has labels of type {str(targets.dtype).removeprefix('torch.')} and shape {list(targets.shape)}"
        what += f" for outputs of shape {[len(targets), *shape]}"
        hint = "save the number of each sample's class, by y.astype('int64'), of one-hot rows by y.argmax(1);"
        raise DataError(spec, what, hint=f"{hint} for regression, save targets of the outputs' shape")
    return "classification", "whole numbers"


def _ambiguous(targets: Tensor, choice: Choice, spec: str, *tasks: str) -> DataError:
    shape = [len(targets), *choice.shape]
    what = f"has {described(targets)} for outputs of shape {shape}, which may be for {' or for '.join(tasks)}"
    return DataError(spec, what, hint=f"say which: {' or '.join(f'--task {task}' for task in tasks)}")


def _shifted(inputs: Inputs) -> LanguageModelling:
    return ShiftedLanguageModelling() if _are_inputs(inputs) else LanguageModelling()


def _are_inputs(inputs: Inputs) -> bool:
    """Whether the targets are the inputs themselves: a sequence of tokens."""
    labels, some = inputs.samples.labels, torch.arange(min(COMPARED, len(inputs)))
    if not isinstance(labels, Tensor) or labels.is_floating_point():
        return False
    x = inputs.samples.inputs(some)
    return any(_same(part, labels[some]) for part in tensors_of(x))


def _same(x: Tensor, targets: Tensor) -> bool:
    # A position to ignore, such as padding, may be anything.
    if x.is_floating_point() or x.shape != targets.shape:
        return False
    counted = targets != IGNORED
    return bool(counted.any()) and torch.equal(x[counted], targets[counted])
