"""A network and its masks, as the public functions return and take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from ntt_cli.config import ModelOptions
from ntt_cli.errors import OutputError, UsageError
from ntt_cli.files.atomic import check_outputs
from ntt_cli.files.checkpoint import Checkpoint, Contents, checkpoint_of, read_checkpoint
from ntt_cli.networks.loading.objects import sparse_copy
from ntt_cli.results import FinetuneReport, PruneReport, Summary
from ntt_cli.runs.outcome import Outcome
from ntt_cli.runs.sources import OWN, Sources
from ntt_cli.tensors import Masks

S = TypeVar("S", bound=Summary)

OF_MODEL = tuple(ModelOptions.model_fields)
IN_MEMORY = Path("the network")
"""In the place of a checkpoint's path."""


@dataclass(frozen=True, eq=False)
class SparseNetwork:
    """A network with its weights and masks, from a file.

    Attributes:
        read: its tensors and masks, and what their file says about itself.
        architecture: what its module is copied from or built by.
        options: which network that is, where a name stands for it.
    """

    read: Callable[[], Checkpoint]
    architecture: Sources
    options: Mapping[str, Any]

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The network as its file holds it."""
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
        module = self.architecture.model
        if module is None:
            module = self.architecture.load_model(ModelOptions(**self.options), seed=0).module
        return sparse_copy(module, self.checkpoint.tensors)

    def sources(self, **objects: Any) -> Sources:
        """This network as the source of a run."""
        return replace(self.architecture, checkpoint=self.checkpoint, **objects)


@dataclass(frozen=True, eq=False)
class Result(SparseNetwork, Generic[S]):
    """What a run made.

    Attributes:
        report: what the run did; the fields are those of `--json`.
        warnings: what it warned of.
    """

    report: S
    warnings: tuple[str, ...] = ()
    outcome: Outcome[S] | None = field(default=None, repr=False)

    def save(self, path: str | PathLike[str], *, force: bool = False) -> Path:
        """Write the checkpoint, a safetensors file that anyone can load, and the report beside it.

        Args:
            path: of the checkpoint; the report is `NAME.report.safetensors`.
            force: overwrite files that are there.

        Raises:
            OutputError: if there is a file already, or it cannot be written.
        """
        output = Path(path)
        if self.outcome is None or self.outcome.contents is None:
            raise OutputError(output, "the network is in a file already", hint=f"copy {self.checkpoint.path}")
        check_outputs(output, force=force)
        self.outcome.write(output)
        return output


class PruneResult(Result[PruneReport]):
    """A network that `prune` made sparse."""


class FinetuneResult(Result[FinetuneReport]):
    """A network that `finetune` trained."""


R = TypeVar("R", PruneResult, FinetuneResult)


def result_of(
    kind: type[R], outcome: Outcome[Any], warnings: list[str], architecture: Sources, options: Mapping[str, Any]
) -> R:
    """The result of a run, which wrote its files or holds what they would."""
    contents: Contents | None = outcome.contents

    def read() -> Checkpoint:
        if contents is None:  # the same run was here before, or another process wrote it
            return read_checkpoint(Path(outcome.report.output))
        return checkpoint_of(contents, IN_MEMORY)

    return kind(
        read=read,
        architecture=Sources(model=architecture.model, trained=True),
        options={name: options[name] for name in OF_MODEL if name in options},
        report=outcome.report,
        warnings=tuple(warnings),
        outcome=outcome,
    )


Model = str | PathLike[str] | nn.Module | SparseNetwork
"""A name as on the command line, a network, or what a function here returned."""


def network_of(model: Model, *, trained: bool = True) -> tuple[dict[str, Any], Sources]:
    """The options and the source of a network.

    Raises:
        UsageError: if it is something else.
    """
    if isinstance(model, SparseNetwork):
        return {"model": _name(model), **{k: v for k, v in model.options.items() if k != "model"}}, model.sources()
    if isinstance(model, nn.Module):
        return {"model": f"{type(model).__module__}.{type(model).__qualname__}"}, Sources(model=model, trained=trained)
    if isinstance(model, str | PathLike):
        return {"model": fspath(model)}, Sources()
    raise UsageError(
        "model",
        f"is a value of type {type(model).__name__}",
        hint="give a torch.nn.Module, a name as on the command line, or what prune, finetune or load returned",
    )


def data_of(data: object) -> tuple[dict[str, Any], object | None]:
    """The options of data that a name stands for, or the object that they are."""
    if data is None or isinstance(data, str | PathLike):
        return {"data": None if data is None else fspath(data)}, None
    return {}, data


def weights_name(model: Model) -> str | None:
    """What stands in a configuration for the weights of a network in memory."""
    return None if isinstance(model, str | PathLike) else OWN


def values_of(tensors: Mapping[str, Tensor]) -> Checkpoint:
    """A state dict as a checkpoint that nobody wrote."""
    return Checkpoint(path=IN_MEMORY, tensors=dict(tensors), masks={}, record=None)


def _name(network: SparseNetwork) -> str:
    module = network.architecture.model
    if module is None:
        return str(network.options["model"])
    return f"{type(module).__module__}.{type(module).__qualname__}"
