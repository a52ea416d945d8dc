"""A task of the user's own: `loss(outputs, targets)`, and `metrics(outputs, targets)`, in model.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ntt_cli.data.batch import parts_of
from ntt_cli.data.inputs import Inputs
from ntt_cli.errors import ModelError
from ntt_cli.networks.copying import copy_module
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.targets import call_to_measure, losses_in, returned_in
from ntt_cli.runtime.seeding import global_draws_apart
from ntt_cli.tasks.base import Task

TaskFunction = Callable[[Any, Any], Any]

RESERVED = {"count", "loss"}


@dataclass(frozen=True)
class OwnTask(Task):
    """Functions of `outputs`, exactly what the network returns, and `targets`, exactly what the data holds.

    Attributes:
        loss_function: gives the mean loss of a batch.
        metrics_function: gives its metrics by name, if there are any.
        where: the file, for messages.
    """

    loss_function: TaskFunction
    metrics_function: TaskFunction | None
    where: str

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return checked_loss(self._call("loss", self.loss_function, outputs, targets), self.where)

    def metrics(self, outputs: Any, targets: Any) -> Mapping[str, Tensor]:
        if self.metrics_function is None:
            return {}
        return checked_metrics(self._call("metrics", self.metrics_function, outputs, targets), self.where)

    def _call(self, name: str, function: TaskFunction, outputs: Any, targets: Any) -> Any:
        try:
            return function(outputs, targets)
        except KeyboardInterrupt:
            raise
        except (Exception, SystemExit) as error:
            what = f"{name}(outputs, targets) raised {type(error).__name__}: {error}"
            raise ModelError(self.where, what, hint=f"mend {name} in that file") from error


def checked_loss(value: Any, where: str) -> Tensor:
    """A loss, which must be one number.

    Raises:
        ModelError: if it is something else.
    """
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        what = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        hint = "return the mean loss of the batch, a tensor with one number"
        raise ModelError(where, f"loss(outputs, targets) returns {what}, not one number", hint=hint)
    return value.reshape(())


def checked_metrics(values: Any, where: str) -> dict[str, Tensor]:
    """Metrics by name, each of which must be one number.

    Raises:
        ModelError: if they are something else.
    """
    hint = "return a dict of numbers by the names of metrics, each the mean over the batch; not count or loss"
    if not isinstance(values, Mapping):
        what = f"metrics(outputs, targets) returns a {type(values).__name__}, not a dict"
        raise ModelError(where, what, hint=hint)
    found = {}
    for name, value in values.items():
        try:
            number = torch.as_tensor(value).double().reshape(())
        except (TypeError, ValueError, RuntimeError) as error:
            raise ModelError(where, f"metric {name} is not one number", hint=hint) from error
        if not isinstance(name, str) or name in RESERVED:
            raise ModelError(where, f"metrics(outputs, targets) returns the name {name!r:.99}", hint=hint)
        found[name] = number
    return found


def try_once(task: Task, loaded: LoadedModel, inputs: Inputs, *, trains: bool) -> None:
    """Give a task of the user's own two samples, so that a wrong function is found before any work.

    Raises:
        ModelError: if its loss or metrics are not numbers, or `trains` and the loss has no gradient.
    """
    if type(task).__module__.startswith("ntt_cli.") and not isinstance(task, OwnTask):
        return
    where, indices = loaded.source, torch.arange(1 if inputs.samples.bundled else min(2, len(inputs)))
    with global_draws_apart(inputs.device):
        network = copy_module(loaded.module).to(inputs.device).eval()
        x, targets = (parts_of(batch) for batch in inputs.labelled(indices))
        returned = call_to_measure(network, network, x[0], targets[0], loaded.select_outputs)
        outputs, targets = task.outputs_of(returned, loaded.select_outputs), targets[0]
        loss = checked_loss(task.loss(losses_in(outputs), targets), where)
    if trains and not loss.requires_grad:
        what = "loss(outputs, targets) does not depend on the outputs: it has no gradient"
        raise ModelError(where, what, hint="compute it by torch operations, without detach(), item() or no_grad()")
    with torch.no_grad():
        metrics = checked_metrics(task.metrics(returned_in(outputs), targets), where)
    if task.headline != "loss" and task.headline not in metrics:
        what = f"metrics(outputs, targets) gives no {task.headline}, which is its headline"
        raise ModelError(where, what, hint=f"it gives {', '.join(metrics) or 'nothing'}")
