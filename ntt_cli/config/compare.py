"""Options of `ntt compare`."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from ntt_cli.config.fields import MOST_EPOCHS, NAMED, UNLESS_DEFAULT, Group, ReadWhen, unread
from ntt_cli.config.methods import method_class, method_names, readers_of, split_method
from ntt_cli.config.options import (
    DEVICE,
    EXCLUDE,
    INCLUDE,
    OPTIMISER,
    WARMUP,
    DataOptions,
    ModelOptions,
    TaskOptions,
    TransferSteps,
    WeightsOptions,
    split_at_commas,
)
from ntt_cli.config.pattern import AGREE, PATTERN_HELP, PatternText, parse_pattern
from ntt_cli.config.prune import METHOD_OPTIONS, PruneConfig, as_fields
from ntt_cli.config.words import advice, joined, problem_of, typed

REFERENCES = ("dense", "trained-magnitude")
"""What `ntt compare` can compare besides the methods of `ntt prune`."""


def method_of(entry: str, pattern: str | None = None) -> tuple[str, dict[str, Any]]:
    """A method and its options for `ntt prune`, from an entry of `--methods` like `ntt:allocation=global:steps=500`.

    Raises:
        ValueError: if there is no such method, or it does not read an option, or none under this pattern.
    """
    name = entry.partition(":")[0]
    methods = (*method_names(), *REFERENCES)
    if name not in methods:
        raise ValueError(f"{typed(name)} is no method; {advice(name, methods)}")
    try:
        _, given = split_method(entry, METHOD_OPTIONS if name != "dense" else [])
    except ValueError as error:
        raise ValueError(f"{typed(entry)}: {error}") from error
    options = as_fields(given)
    if name != "dense":
        method = "magnitude" if name == "trained-magnitude" else name
        try:
            level = {"sparsity": 0.5} if pattern is None else {"pattern": pattern}
            PruneConfig(**options | {"model": "", "method": method} | level)
        except ValidationError as error:
            problem = problem_of(error, PruneConfig)
            where = problem.name.replace("_", "-") or "options"
            raise ValueError(f"{typed(entry)}: {where}: {problem.what}") from error
    return name, options


def _takes_steps(entry: str) -> bool:
    name, options = method_of(entry)
    return name in _with_steps() and not {"steps", "epochs"} & options.keys()


def _with_steps() -> list[str]:
    """The methods whose weights take steps unasked."""
    kinds = {name: method_class(name) for name in readers_of("steps")}
    return [name for name, kind in kinds.items() if kind.moves_weights and kind.default_steps is None]


def _who_takes_steps() -> str:
    return f"no method reads it; {joined(_with_steps())} do, without steps of their own"


class CompareConfig(ModelOptions, WeightsOptions, DataOptions, TaskOptions):
    """`ntt compare`."""

    weights: str | None = Group.MODEL.option(
        None,
        "Trained weights of the teacher: a .safetensors or .pt file, a folder with one; or factory,"
        " where the factory loads them. Default: random weights, by seed.",
        NAMED,
        ReadWhen(
            lambda config: any(method_of(entry)[0] != "trained-magnitude" for entry in config.methods),
            "trained-magnitude trains weights of its own",
        ),
    )
    exclude: tuple[str, ...] = EXCLUDE
    include: tuple[str, ...] = INCLUDE
    pattern: PatternText | None = Group.MODEL.option(
        None,
        PATTERN_HELP,
        UNLESS_DEFAULT,
        ReadWhen(lambda config: set(config.methods) != {"dense"}, "method dense does not read it; all others do"),
    )
    test_data: str | None = Group.DATA.option(
        None, "Labelled data to test on. Default: the test part of the data.", NAMED
    )
    methods: tuple[str, ...] = Group.METHOD.option(
        ("ntt", "synflow", "snip", "magnitude", "random"),
        "Methods, separated by commas: those of ntt prune, with options like ntt:allocation=global:steps=500; dense;"
        " and trained-magnitude, which trains the dense network first.",
        min_length=1,
    )
    sparsities: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Group.METHOD.option(
        (0.9, 0.95),
        "Sparsities, separated by commas. With --pattern, that of the pattern.",
        ReadWhen(lambda config: set(config.methods) != {"dense"}, "method dense does not read it; all others do"),
        min_length=1,
    )
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**63)], ...] = Group.METHOD.option(
        (1, 2, 3), "Seeds, separated by commas; rates are chosen on the first.", min_length=1
    )
    steps: Annotated[
        TransferSteps, Group.METHOD, ReadWhen(lambda config: any(map(_takes_steps, config.methods)), _who_takes_steps)
    ] = None
    epochs: int = Group.TRAINING.option(
        10, "Passes over the training samples in each fine-tuning.", ge=1, le=MOST_EPOCHS
    )
    validation: float = Group.TRAINING.option(
        0.1, "Fraction of the training samples on which epochs and rates are chosen.", ge=0, lt=1
    )
    optimiser: Literal["adamw", "sgd"] = OPTIMISER
    learning_rates: tuple[Annotated[float, Field(gt=0)], ...] = Group.TRAINING.option(
        (),
        "Rates to choose from, separated by commas. Each method and sparsity gets the rate that is best on the first"
        " seed's validation samples. Default: the rate that ntt finetune would use.",
        ReadWhen(
            lambda config: len(config.learning_rates) < 2 or config.validation > 0,
            "validation 0 holds out no samples to choose a rate by",
        ),
    )
    warmup: float = WARMUP
    device: str = DEVICE
    jobs: int = Group.MACHINE.option(
        1,
        "How many trials run side by side.",
        ReadWhen(lambda config: config.trial is None, "trial {trial} runs alone"),
        ge=1,
        le=1024,
    )
    trial: int | None = Group.MACHINE.option(
        None, "Run only the trial of this number in --plan; for job arrays.", ge=1, lt=2**63
    )
    checkpoint_every: float = Group.OUTPUT.option(60.0, "Seconds between two saves of a trial's state.", ge=0)
    output: str = Group.OUTPUT.option(
        "comparison", "Folder of the results; trials that have a result there are not repeated."
    )

    @model_validator(mode="before")
    @classmethod
    def _sparsity_of_pattern(cls, given: Any) -> Any:
        """Fill in the sparsity that a pattern has; the pattern itself is checked with all other fields."""
        if isinstance(given, dict) and given.get("sparsities") is None and isinstance(given.get("pattern"), str):
            with suppress(ValueError):
                return given | {"sparsities": (parse_pattern(given["pattern"]).sparsity,)}
        return given

    @model_validator(mode="after")
    def _goes_with_pattern(self) -> Self:
        if self.pattern is not None:
            own = parse_pattern(self.pattern).sparsity
            if any(abs(level - own) > AGREE for level in self.sparsities):
                raise unread(self, "sparsities", f"--pattern {self.pattern} has a sparsity of {own:.6g}")
            for entry in self.methods:
                method_of(entry, self.pattern if entry != "dense" else None)
        return self

    @field_validator("methods", "sparsities", "seeds", "learning_rates", mode="before")
    @classmethod
    def _split_at_commas(cls, given: Any) -> Any:
        return split_at_commas(given)

    @field_validator("sparsities", "seeds", "learning_rates")
    @classmethod
    def _each_once(cls, numbers: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(dict.fromkeys(numbers))  # 0.9 and 0.90 would have the same folder

    @field_validator("methods")
    @classmethod
    def _known(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        for entry in methods:
            method_of(entry)
        return methods
