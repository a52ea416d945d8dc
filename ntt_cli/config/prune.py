"""Options of `ntt prune`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, Self

from pydantic import ValidationError, field_validator, model_validator
from pydantic_core import InitErrorDetails

from ntt_cli.config.fields import NAMED, UNLESS_DEFAULT, Group, ReadWhen, unread
from ntt_cli.config.methods import method_class, method_names, readers_of, split_method
from ntt_cli.config.ntt import PRUNES, NTTOptions
from ntt_cli.config.options import (
    EXCLUDE,
    INCLUDE,
    DataOptions,
    MachineOptions,
    ModelOptions,
    OutputOptions,
    SaveEvery,
    WeightsOptions,
)
from ntt_cli.config.pattern import AGREE, NO_PATTERN, PATTERN_HELP, PatternText, parse_pattern
from ntt_cli.config.words import joined, not_one_of

BY_METHOD = "by method"
"""Field metadata: only methods that list the option read it. All of NTT's own options are of this kind."""

SINGLE_WEIGHTS = ReadWhen(
    lambda config: config.structure == "weights",
    "--structure channels compares the channels of all layers and does not read it",
)


class PruneConfig(NTTOptions, ModelOptions, WeightsOptions, DataOptions, MachineOptions, OutputOptions):
    """`ntt prune`: what every method reads, and NTT's own options."""

    pattern: PatternText | None = Group.MODEL.option(None, PATTERN_HELP, UNLESS_DEFAULT, SINGLE_WEIGHTS)
    sparsity: float | None = Group.MODEL.option(
        None,
        "Fraction of the prunable weights to remove, 0.95 keeps 5%. Required without --pattern and --target-flops.",
        ge=0,
        lt=1,
    )
    target_flops: float | None = Group.MODEL.option(
        None,
        "With --structure channels, instead of --sparsity: the operations of the smaller network over those of the"
        " whole one, at most this.",
        UNLESS_DEFAULT,
        ReadWhen(lambda config: config.structure == "channels", "it is read with --structure channels alone"),
        gt=0,
        lt=1,
    )
    weights: str | None = Group.MODEL.option(
        None,
        "Trained weights of the teacher: a .safetensors or .pt file, a folder with one; or factory,"
        " where the factory loads them. Default: random weights.",
        NAMED,
    )
    exclude: tuple[str, ...] = EXCLUDE
    include: tuple[str, ...] = INCLUDE
    method: str = Group.METHOD.option(
        "ntt",
        "ntt learns mask and weights; most others choose a mask and stop. Options may follow the name, as in"
        " ntt:score=magnitude.",
    )
    structure: Literal["weights", "channels"] = Group.METHOD.option(
        "weights",
        "What is removed: single weights, or whole channels (filters, hidden units, heads) with all that depends on"
        " them. ntt export then writes a smaller network.",
        UNLESS_DEFAULT,
        PRUNES,
    )
    allocation: Literal["erk", "layerwise", "global"] | None = Group.METHOD.option(
        None,
        "How the density is spread over the layers. Default: for ntt global where there are convolutions, else erk;"
        " layerwise for wanda; erk for magnitude, random, gmp, obc, sparsegpt, reconstruct and asr; global for the"
        " others.",
        PRUNES,
        SINGLE_WEIGHTS,
        NO_PATTERN,
    )
    layer_density: tuple[str, ...] = Group.METHOD.option(
        (),
        "PATTERN=DENSITY for the layers whose name matches; the others share the remaining weights. Repeatable.",
        PRUNES,
        SINGLE_WEIGHTS,
        NO_PATTERN,
    )
    batch_size: int | None = Group.METHOD.option(
        None,
        "Samples a step, halved into the kernel's two sides. Default: 64.",
        PRUNES,
        BY_METHOD,
        ge=2,
        lt=2**31,
    )
    micro_batch: int | None = Group.MACHINE.option(
        None,
        "Put at most this many samples through the network at once; the result is the same up to rounding, but where"
        " batch norm goes by the batch. Default: half a batch, and fewer once memory runs out.",
        ge=1,
        lt=2**31,
    )
    kernels: bool = Group.METHOD.option(
        False,
        "Measure both networks' kernels at the end: distance, alignment and spectra. Always on if the transfer has a"
        " kernel term.",
    )
    output: str | None = Group.OUTPUT.option(
        "sparse.safetensors", "The sparse checkpoint; a report is written beside it."
    )
    checkpoint_every: Annotated[SaveEvery, PRUNES, BY_METHOD] = 60.0

    @model_validator(mode="before")
    @classmethod
    def _split_method(cls, given: Any) -> Any:
        """Turn options after the method's name into normal options."""
        if not isinstance(given, dict) or not isinstance(given.get("method"), str) or ":" not in given["method"]:
            return given
        try:
            name, options = split_method(given["method"], METHOD_OPTIONS, given)
        except ValueError as error:
            context = {"error": ValueError(str(error))}
            problem = InitErrorDetails(type="value_error", loc=("method",), input=given["method"], ctx=context)
            wrong = ValidationError.from_exception_data(cls.__name__, [problem])
            raise wrong from error
        return given | as_fields(options) | {"method": name}

    @model_validator(mode="before")
    @classmethod
    def _sparsity_of_pattern(cls, given: Any) -> Any:
        """Fill in the sparsity that a pattern has; the pattern itself is checked with all other fields."""
        if isinstance(given, dict) and given.get("sparsity") is None and isinstance(given.get("pattern"), str):
            with suppress(ValueError):
                return given | {"sparsity": parse_pattern(given["pattern"]).sparsity}
        return given

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str) -> str:
        if method not in method_names():
            raise ValueError(not_one_of(method, method_names()))
        return method

    @property
    def density(self) -> float:
        """The fraction to keep: of the prunable weights, or with `target_flops` of the operations."""
        if self.target_flops is not None:
            return self.target_flops
        assert self.sparsity is not None
        return 1 - self.sparsity

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.sparsity is None and self.target_flops is None:
            error = InitErrorDetails(type="missing", loc=("sparsity",), input=None)
            raise ValidationError.from_exception_data(type(self).__name__, [error])
        if self.sparsity is not None and self.target_flops is not None:
            raise ValueError("give either sparsity or target_flops, not both")
        return self

    @model_validator(mode="after")
    def _whole_batches(self) -> Self:
        if self.compile and self.micro_batch is not None:
            raise ValueError("give either compile or micro_batch: only steps of whole batches are compiled")
        return self

    @model_validator(mode="after")
    def _sparsity_is_that_of_pattern(self) -> Self:
        if self.pattern is not None and self.sparsity is not None:
            own = parse_pattern(self.pattern).sparsity
            if not math.isclose(self.sparsity, own, abs_tol=AGREE):
                raise unread(self, "sparsity", f"--pattern {self.pattern} has a sparsity of {own:.6g}")
        return self

    @model_validator(mode="after")
    def _method_reads_what_is_given(self) -> Self:
        given = [name for name in _BY_METHOD if self.gives(name)]
        for name in given if self.sparsity != 0 else []:
            if name not in method_class(self.method).reads:
                readers = joined(readers_of(name))
                do = "does" if len(readers_of(name)) == 1 else "do"
                raise unread(self, name, f"method {self.method} does not read it; {readers} {do}")
        return self


def as_fields(options: Mapping[str, str]) -> dict[str, Any]:
    """Options after a method's name as fields of a configuration; repeatable ones become lists of one."""
    fields = PruneConfig.model_fields
    return {name: (value,) if isinstance(fields[name].default, tuple) else value for name, value in options.items()}


_BY_METHOD = [
    name
    for name, field in PruneConfig.model_fields.items()
    if BY_METHOD in field.metadata or name in NTTOptions.model_fields
]

METHOD_OPTIONS = [
    name
    for name, field in PruneConfig.model_fields.items()
    if name != "method"
    and (name in NTTOptions.model_fields or Group.DATA in field.metadata or Group.METHOD in field.metadata)
]
"""The options that may follow a method's name."""
