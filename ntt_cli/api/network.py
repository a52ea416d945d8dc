"""A network and its masks, as the public functions return and take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import nn

from ntt_cli.api.calls import apart
from ntt_cli.api.words import told_in_python
from ntt_cli.config import ModelOptions, typed
from ntt_cli.documents import Summary
from ntt_cli.errors import OutputError, UsageError
from ntt_cli.files.atomic import check_outputs
from ntt_cli.files.checkpoint import Checkpoint, checkpoint_of, read_checkpoint
from ntt_cli.masks.masks import count_kept, without_biases
from ntt_cli.networks.functional import saved_tensors
from ntt_cli.networks.loading.objects import sparse_copy
from ntt_cli.results import FinetuneReport, PruneReport
from ntt_cli.runs.outcome import Outcome
from ntt_cli.runs.sources import OWN, Sources
from ntt_cli.tensors import Masks

S = TypeVar("S", bound=Summary)

IN_MEMORY = Path("the network")
TEACHER = Path("the teacher")
"""In the place of a checkpoint's path."""


@dataclass(frozen=True, eq=False, repr=False)
class SparseNetwork:
    """A network with its weights and masks.

    `prune`, `finetune` and `load` return one, and all functions take it where they take a network. It can be pickled
    where its network can.

    Attributes:
        read: its tensors and masks, and what their file says about itself.
        architecture: what its module is copied from or built by.
        options: which network that is, where a name stands for it.
    """

    read: Callable[[], Checkpoint]
    architecture: Sources
    options: Mapping[str, Any]

    def __repr__(self) -> str:
        weights = without_biases(self.masks)
        kept, size = count_kept(weights), sum(mask.numel() for mask in weights.values())
        what = f"{kept:,} of {size:,} prunable weights kept" if size else "dense"
        return f"<{type(self).__name__} of {_name(self)}: {what}>"

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The network as its file holds it.

        Raises:
            CheckpointError: if it is in a file that was not read yet, and cannot be read now.
        """
        with told_in_python():
            return self.read()

    @property
    def masks(self) -> Masks:
        """Bool masks by the name of their weight, `True` = kept; none for a dense network."""
        return self.checkpoint.masks

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """What the network's outputs stand for, in their order, where that is known."""
        return self.checkpoint.class_names

    @cached_property
    def model(self) -> nn.Module:
        """A copy of the network with these weights, pruned ones exactly `0.0`; it is yours, and made once.

        Raises:
            ModelError: if the network that a name stands for can no longer be built.
        """
        with apart(sources=self.architecture):
            module = self.architecture.model
            if module is None:
                module = self.architecture.load_model(ModelOptions(**self.options), seed=0).module
            return sparse_copy(module, self.checkpoint.tensors)


@dataclass(frozen=True, eq=False, repr=False)
class Result(SparseNetwork, Generic[S]):
    """What a run made.

    Attributes:
        report: what the run did; the fields are those of `--json`.
        warnings: what it warned of.
    """

    report: S
    warnings: tuple[str, ...] = ()
    outcome: Outcome[S] | None = None

    def save(self, path: str | PathLike[str], *, force: bool = False) -> Path:
        """Write the checkpoint, a safetensors file that anyone can load, and the report beside it.

        Args:
            path: of the checkpoint; the report is `NAME.report.safetensors`.
            force: overwrite files that are there.

        Returns:
            the checkpoint's path.

        Raises:
            OutputError: if there is a file already, or it cannot be written.

        Example:
            >>> import tempfile, torch, ntt_cli as ntt
            >>> net = torch.nn.Linear(4, 8)
            >>> result = ntt.prune(net, sparsity=0.5, method="magnitude")
            >>> path = result.save(tempfile.mkdtemp() + "/sparse.safetensors")
            >>> ntt.load(path, net).masks["weight"].sum()
            tensor(16)
        """
        output = Path(path)
        with told_in_python(objects=True):
            if self.outcome is None or self.outcome.contents is None:
                raise OutputError(output, "the network is in a file already", hint=f"copy {self.checkpoint.path}")
            check_outputs(output, force=force)
            self.outcome.write(output)
        return output


class PruneResult(Result[PruneReport]):
    """A network that `prune` made sparse.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> result = ntt.prune(torch.nn.Linear(4, 8), sparsity=0.5, method="magnitude")
        >>> result
        <PruneResult of torch.nn.modules.linear.Linear: 16 of 32 prunable weights kept>
        >>> type(result.model), result.masks["weight"].dtype, result.report.density
        (<class 'torch.nn.modules.linear.Linear'>, torch.bool, 0.5)
    """


class FinetuneResult(Result[FinetuneReport]):
    """A network that `finetune` trained: that of the epoch with the best accuracy on the samples held out.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> x, y = torch.randn(64, 4), torch.arange(64) % 3
        >>> result = ntt.finetune(torch.nn.Linear(4, 3), (x, y), epochs=2)
        >>> result, len(result.report.epochs)
        (<FinetuneResult of torch.nn.modules.linear.Linear: dense>, 2)
    """


R = TypeVar("R", PruneResult, FinetuneResult)


def result_of(
    kind: type[R], outcome: Outcome[Any], warnings: list[str], architecture: Sources, options: Mapping[str, Any]
) -> R:
    """The result of a run, which wrote its files or holds what they would."""
    own = Sources(model=architecture.model, trained=True)
    of_model = {name: options[name] for name in ModelOptions.model_fields if name in options}
    return kind(partial(_read, outcome), own, of_model, outcome.report, tuple(warnings), outcome)


def _read(outcome: Outcome[Any]) -> Checkpoint:
    if outcome.contents is None:  # the same run was here before, or another process wrote it
        return read_checkpoint(Path(outcome.report.output))
    return checkpoint_of(outcome.contents, IN_MEMORY)


Model = str | PathLike[str] | nn.Module | SparseNetwork
"""A name as on the command line, a network, or what a function here returned."""


@told_in_python()
def network_of(model: Model, *, trained: bool = True) -> tuple[dict[str, Any], Sources]:
    """The options and the source of a network."""
    if isinstance(model, SparseNetwork):
        return {**model.options, "model": _name(model)}, replace(model.architecture, checkpoint=model.checkpoint)
    if isinstance(model, nn.Module):
        return {"model": _class_of(model)}, Sources(model=model, trained=trained)
    if isinstance(model, str | PathLike):
        return {"model": fspath(model)}, Sources()
    hint = "give a torch.nn.Module, a name as on the command line, or what prune, finetune or load returned"
    raise UsageError("model", f"is a value of type {type(model).__name__}", hint=hint)


def data_of(data: object) -> tuple[dict[str, Any], object | None]:
    """The options of data that a name stands for, or the object that they are."""
    if data is None or isinstance(data, str | PathLike):
        return {"data": None if data is None else fspath(data)}, None
    return {}, data


def sources_of(model: Model, data: object, *, trained: bool = True) -> tuple[dict[str, Any], Sources]:
    """The options of a network and of data that names stand for, and those of the two that are objects."""
    network, sources = network_of(model, trained=trained)
    named, objects = data_of(data)
    return network | named, replace(sources, data=objects)


@told_in_python()
def own_weights(model: Model, option: str, options: Mapping[str, Any], *, required: bool = False) -> Any:
    """What the option for a file of weights is set to, where the network may have weights of its own."""
    given = options.get(option)
    if isinstance(model, SparseNetwork):
        if given is not None:
            hint = "leave it out, or give the torch.nn.Module in the place of the result"
            raise UsageError(f"{option}={typed(given)}", "the network has weights and masks of its own", hint=hint)
        return OWN
    return OWN if given is None and required and isinstance(model, nn.Module) else given


@told_in_python()
def teacher_of(teacher: object) -> tuple[str | None, Checkpoint | None]:
    """The name of a teacher's weights, and the weights where they are in memory."""
    if teacher is None:
        return None, None
    if isinstance(teacher, str | PathLike):
        return fspath(teacher), None
    if isinstance(teacher, SparseNetwork):
        return str(TEACHER), replace(teacher.checkpoint, path=TEACHER)
    if isinstance(teacher, nn.Module):
        values = {name: value.detach().cpu() for name, value in saved_tensors(teacher).items()}
        return str(TEACHER), Checkpoint(path=TEACHER, tensors=values, masks={}, record=None)
    hint = "give a network, or a file of its weights"
    raise UsageError("teacher", f"is a value of type {type(teacher).__name__}", hint=hint)


@told_in_python()
def module_of(model: nn.Module | SparseNetwork) -> nn.Module:
    if isinstance(model, SparseNetwork):
        return model.model
    if isinstance(model, nn.Module):
        return model
    hint = "give a torch.nn.Module, or what prune, finetune or load returned"
    raise UsageError("model", f"is a value of type {type(model).__name__}", hint=hint)


def _name(network: SparseNetwork) -> str:
    module = network.architecture.model
    return str(network.options["model"]) if module is None else _class_of(module)


def _class_of(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
