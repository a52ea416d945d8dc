"""Load models that the user names: a Python file, an importable factory, an architecture of torchvision or timm."""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ntt_cli.config import ModelOptions
from ntt_cli.data.batch import Batch
from ntt_cli.errors import ModelError
from ntt_cli.files.atomic import file_sha256, require_text
from ntt_cli.files.metadata import MeanStd, ModelRecord
from ntt_cli.files.named import python_file, write_one
from ntt_cli.networks.loading.checks import check_kind, check_network
from ntt_cli.networks.loading.declared import declared_in
from ntt_cli.networks.loading.lazy import has_lazy, make_lazy
from ntt_cli.networks.loading.published import configured_mean_std
from ntt_cli.networks.loading.timm_networks import build_from_timm
from ntt_cli.networks.output_mask import OutputMask
from ntt_cli.networks.outputs import Heads, SelectOutputs, chosen_outputs, field_of, usual_logits
from ntt_cli.runtime.python_source import load_python, local_modules, user_code
from ntt_cli.runtime.seeding import global_draws_apart, seed_as_users_do

Factory = Callable[..., object]
DEFAULT_FACTORY = "build_model"


@dataclass(frozen=True)
class LoadedModel:
    """A newly built network, and the values that its file declares.

    Attributes:
        module: the network, as its factory returned it.
        source: the model's name, which does not depend on the folder of its file or on how its path was typed.
        sha256: of the Python file; `None` for an importable or torchvision model.
        data: `DATA` in the file. If it has a slash or a dot and exists beside the file, it is relative to the file's
            folder, as in `images/`; otherwise it is unchanged.
        input_shape: `INPUT_SHAPE` in the file: the shape of one sample without the batch dimension.
        select_outputs: maps what the network returns to its outputs, from `--outputs`, `--logits` or `logits(outputs)`
            in the file.
        modules: local Python modules that were imported to build it, with the SHA-256 of each file.
        trained: `TRAINED` in the file: its factory returns trained weights.
        mean_std: `MEAN` and `STD` in the file, which normalise the network's inputs.
        loss: `loss(outputs, targets)` in the file, of what the network returns and what the data holds.
        metrics: `metrics(outputs, targets)` in the file, of the same; there is none without a loss.
        output_mask: `output_mask(batch)` in the file, of what the network takes.
    """

    module: nn.Module
    source: str
    sha256: str | None = None
    data: str | None = None
    input_shape: tuple[int, ...] | None = None
    select_outputs: SelectOutputs = usual_logits
    modules: dict[str, str] = field(default_factory=dict)
    trained: bool = False
    mean_std: MeanStd | None = None
    loss: Callable[[Any, Any], Any] | None = None
    metrics: Callable[[Any, Any], Any] | None = None
    output_mask: OutputMask | None = None

    @property
    def record(self) -> ModelRecord:
        """The record of the model in a checkpoint."""
        return ModelRecord(source=self.source, sha256=self.sha256, modules=self.modules)

    @property
    def declares_logits(self) -> bool:
        """Whether `logits(outputs)` in the file selects the logits; it must put the classes on the last axis."""
        select = self.select_outputs.select if isinstance(self.select_outputs, Heads) else self.select_outputs
        return select is not usual_logits and not isinstance(select, partial)


FirstBatch = Callable[[LoadedModel], Batch | None]
"""Gives samples of what a network is run on; `None` if that is not known."""


def load_model(options: ModelOptions, *, seed: int, first_batch: FirstBatch = lambda _: None) -> LoadedModel:
    """Build the network that the options name, with weights drawn from `seed`; global generators stay unchanged.

    A network with lazy layers runs once on its first batch, which makes their weights; without one, the layers stay
    lazy.

    Raises:
        ModelError: if there is no such model, its code fails, or it does not build a network.
    """
    for name in (options.model, *options.model_arg):
        require_text(name, ModelError)
    loaded = _load(options.model, parse_arguments(options.model_arg), first_batch, seed=seed)
    chosen = chosen_by(options)
    return loaded if chosen is None else replace(loaded, select_outputs=chosen)


def chosen_by(options: ModelOptions) -> SelectOutputs | None:
    """What picks the outputs that `--logits` or `--outputs` names; `None` without either."""
    if options.outputs:
        return partial(chosen_outputs, names=options.outputs)
    return None if options.logits is None else partial(field_of, field=options.logits)


def _load(source: str, arguments: Mapping[str, object], first_batch: FirstBatch, *, seed: int) -> LoadedModel:
    python = python_file(source)
    target, _, name = source.rpartition(":")
    with global_draws_apart():
        seed_as_users_do(seed)
        if python:
            return _from_file(*python, arguments, first_batch)
        if target == "torchvision":
            return _from_torchvision(source, name, arguments)
        if target == "timm":
            return _from_timm(source, name, arguments)
        if name and all(part.isidentifier() for part in target.split(".")):
            return _from_package(source, arguments, first_batch)
        what, hint = _why_no_model(source, Path(target or source))
        raise ModelError(source, what, hint=hint)


def _from_file(path: Path, name: str, arguments: Mapping[str, object], first_batch: FirstBatch) -> LoadedModel:
    module = load_python(path, ModelError, otherwise=write_one(path))
    declared = declared_in(module, path)
    if not name and not hasattr(module, DEFAULT_FACTORY):
        # Never guess: once the file has a second candidate, the same command would change its meaning.
        candidates = [f"{path}:{candidate}" for candidate in _candidates(module, arguments)]
        several = " and several candidates" if len(candidates) > 1 else ""
        hint = f"name {' or '.join(candidates)}" if candidates else "define build_model() to return the network"
        raise ModelError(path, f"has no build_model(){several}", hint=hint)
    factory = _find_factory(module, str(path), name or DEFAULT_FACTORY)
    loaded = LoadedModel(
        module=_build(factory, f"{path}:{name or DEFAULT_FACTORY}", path, arguments),
        source=path.name if name in {"", DEFAULT_FACTORY} else f"{path.name}:{name}",
        sha256=file_sha256(path),
        modules=local_modules(path),
        **declared,
    )
    return _finished(loaded, f"{path}:{name or DEFAULT_FACTORY}", path, first_batch)


def _from_package(source: str, arguments: Mapping[str, object], first_batch: FirstBatch) -> LoadedModel:
    target, _, name = source.rpartition(":")
    here = Path(target)  # in the working folder, so that `ntt` finds its modules as `python -m ntt_cli` does
    with user_code(here, ModelError):
        factory = _find_factory(importlib.import_module(target), target, name)
    loaded = LoadedModel(_build(factory, source, here, arguments), source, modules=local_modules(here))
    return _finished(loaded, source, here, first_batch)


def _from_torchvision(source: str, name: str, arguments: Mapping[str, object]) -> LoadedModel:
    from torchvision import models  # the import takes a second, so only models that need it pay

    known = models.list_models(module=models)  # classifiers only: they return one tensor and download nothing
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known)
        hint = f"the nearest are {', '.join(near)}" if near else "torchvision.models.list_models() lists them"
        raise ModelError(source, "torchvision has no such classifier", hint=hint)
    for forbidden in arguments.keys() & {"weights", "pretrained"}:
        hint = "save them as a .safetensors file and name it with --weights"
        raise ModelError(f"--model-arg {forbidden}", "torchvision's weights are not downloaded", hint=hint)
    try:
        built = models.get_model(name, weights=None, **arguments)
    except Exception as failure:
        hint = f"look up what torchvision.models.{name} takes and mend --model-arg"
        raise ModelError(source, f"raised {type(failure).__name__}: {failure}", hint=hint) from failure
    return LoadedModel(built, source, input_shape=(3, 224, 224))


def _from_timm(source: str, name: str, arguments: Mapping[str, object]) -> LoadedModel:
    built, configuration, trained = build_from_timm(source, name, arguments)
    shape = configuration.get("input_size")
    mean_std = configured_mean_std(configuration) if trained else None
    return LoadedModel(built, source, input_shape=shape and tuple(shape), trained=trained, mean_std=mean_std)


def parse_arguments(given: tuple[str, ...]) -> dict[str, object]:
    """What `--model-arg` passes to a factory.

    Raises:
        ModelError: if one is not KEY=VALUE, or given twice.
    """
    arguments: dict[str, object] = {}
    for item in given:
        name, equals, text = item.partition("=")
        option = f"--model-arg {item}"
        if not equals or not name.isidentifier():
            raise ModelError(option, "is not KEY=VALUE", hint="write it like --model-arg width=64")
        if name in arguments:
            raise ModelError(option, f"{name} is given twice", hint="keep one of them")
        try:
            arguments[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # deeply nested ones too
            arguments[name] = text
    return arguments


def _build(factory: Factory, where: str, code: Path, arguments: Mapping[str, object]) -> nn.Module:
    _check_arguments(factory, where, arguments)
    with user_code(code, ModelError):
        built = factory(**arguments)
    if not isinstance(built, nn.Module):
        hint = "return the network itself, no tuple, class or state dict"
        raise ModelError(where, f"returned a value of type {type(built).__name__}, not a torch.nn.Module", hint=hint)
    check_kind(built, where, verb="return")
    return built


def _finished(loaded: LoadedModel, where: str, code: Path, first_batch: FirstBatch) -> LoadedModel:
    """The network with its lazy layers made, and checked."""
    if has_lazy(loaded.module) and (x := first_batch(loaded)) is not None:
        make_lazy(loaded.module, x, where, user_code(code, ModelError))
    check_network(loaded.module, where, user_code(code, ModelError))
    return loaded


def _check_arguments(factory: Factory, where: str, arguments: Mapping[str, object]) -> None:
    try:
        signature = inspect.signature(factory)
    except ValueError:  # compiled code need not have a signature
        return
    parameters = signature.parameters
    try:
        signature.bind(**arguments)
    except TypeError as mismatch:
        takes = ", ".join(parameters)
        hint = f"it takes {takes}: --model-arg NAME=VALUE" if takes else "it takes no --model-arg"
        raise ModelError(where, str(mismatch), hint=hint) from mismatch
    for name, value in arguments.items():
        if isinstance(value, str) and name in parameters and isinstance(parameters[name].default, bool):
            what = f"{name} is True or False, and the string {value!r} would count as True"
            raise ModelError(f"--model-arg {name}={value}", what, hint=f"write {name}=True or {name}=False")


def _find_factory(module: ModuleType, where: str, name: str) -> Factory:
    found = getattr(module, name, None)
    if found is None:
        public = {k.lower(): k for k, value in vars(module).items() if callable(value) and not k.startswith("_")}
        near = difflib.get_close_matches(name.lower(), public, n=1)
        hint = f"did you mean {where}:{public[near[0]]}?" if near else f"name a function or class as {where}:NAME"
        raise ModelError(where, f"defines no {name}", hint=hint)
    if isinstance(found, nn.Module) or not callable(found):
        what = f"is a value of type {type(found).__name__}, not a function or class that builds the network"
        hint = "let a function build and return the network, so that --seed decides its weights"
        raise ModelError(f"{where}:{name}", what, hint=hint)
    return found  # type: ignore[no-any-return]  # `callable` tells mypy nothing of what a user's object returns


def _candidates(module: ModuleType, arguments: Mapping[str, object]) -> list[str]:
    """Functions and classes of the file that could build the network from these arguments."""

    def builds(value: object) -> bool:
        if not (inspect.isfunction(value) or (inspect.isclass(value) and issubclass(value, nn.Module))):
            return False
        try:
            inspect.signature(value).bind(**arguments)
        except TypeError:
            return False
        return value.__module__ == module.__name__

    return [name for name, value in vars(module).items() if not name.startswith("_") and builds(value)]


def _why_no_model(source: str, target: Path) -> tuple[str, str]:
    script = Path(f"{target}.py")
    if script.is_file():
        return "names no model", f"did you mean {script}?"
    if target.suffix == ".py":
        return "names no factory after the colon", f"write {target} or {target}:factory"
    if source and target.is_dir():
        return "is a folder, not a Python file", "name the .py file that builds the network"
    if target.is_file():
        return "is not a Python file", "name the .py file that builds the network; a file of weights goes to --weights"
    return (
        "names no model",
        "name it as model.py, model.py:factory, package.module:factory, torchvision:NAME or timm:NAME",
    )
