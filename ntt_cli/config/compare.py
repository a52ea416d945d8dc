"""Options of `ntt compare`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from ntt_cli.config.methods import method_class, method_names, readers_of, split_method
from ntt_cli.config.options import (
    DATA,
    MACHINE,
    METHOD,
    MODEL,
    MOST_EPOCHS,
    NAMED,
    OUTPUT,
    TRAINING,
    DataOptions,
    ModelOptions,
    ReadWhen,
    TransferSteps,
    Warmup,
)
from ntt_cli.config.prune import METHOD_OPTIONS, PruneConfig
from ntt_cli.config.words import advice, in_words, joined, typed

REFERENCES = ("dense", "trained-magnitude")
"""What `ntt compare` can compare besides the methods of `ntt prune`."""


def method_of(entry: str) -> tuple[str, dict[str, Any]]:
    """A method and its options for `ntt prune`, from an entry of `--methods` like `ntt:allocation=global:steps=500`.

    Raises:
        ValueError: if there is no such method or option, or a value is out of range.
    """
    name = entry.partition(":")[0]
    methods = (*method_names(), *REFERENCES)
    if name not in methods:
        raise ValueError(f"{typed(name)} is no method; {advice(name, methods)}")
    try:
        _, given = split_method(entry, METHOD_OPTIONS if name != "dense" else [])
    except ValueError as error:
        raise ValueError(f"{typed(entry)}: {error}") from error
    options: dict[str, Any] = {
        o: (v,) if isinstance(PruneConfig.model_fields[o].default, tuple) else v for o, v in given.items()
    }
    if name != "dense":
        method = "magnitude" if name == "trained-magnitude" else name
        try:
            PruneConfig(**options | {"model": "", "sparsity": 0.5, "method": method})
        except ValidationError as error:
            problems = error.errors()
            option = str(problems[0]["loc"][0]).replace("_", "-") if problems[0]["loc"] else "options"
            raise ValueError(f"{typed(entry)}: {option}: {in_words(problems)}") from error
    return name, options


def _takes_steps(entry: str) -> bool:
    name, options = method_of(entry)
    known = name in method_names()
    return known and "steps" in method_class(name).reads and not {"steps", "epochs"} & options.keys()


def _who_takes_steps() -> str:
    return f"no method reads it; {joined(readers_of('steps'))} do, without steps of their own"


class CompareConfig(ModelOptions, DataOptions):
    """`ntt compare`."""

    weights: Annotated[
        str | None,
        Field(description="Trained weights of the teacher, a .safetensors file. Default: random weights, by seed."),
        MODEL,
        NAMED,
        ReadWhen(
            lambda config: any(method_of(entry)[0] != "trained-magnitude" for entry in config.methods),
            "trained-magnitude trains weights of its own",
        ),
    ] = None
    exclude: Annotated[
        tuple[str, ...], Field(description="Leave weights whose name matches this pattern dense. Repeatable."), MODEL
    ] = ()
    include: Annotated[
        tuple[str, ...],
        Field(
            description="Prune parameters whose name matches this pattern too: embeddings, tables and norms, which stay"
            " dense otherwise. Repeatable."
        ),
        MODEL,
    ] = ()
    test_data: Annotated[
        str | None, Field(description="Labelled data to test on. Default: the test part of the data."), DATA, NAMED
    ] = None
    methods: Annotated[
        tuple[str, ...],
        Field(
            min_length=1,
            description="Methods, separated by commas: those of ntt prune, with options like"
            " ntt:allocation=global:steps=500; dense; and trained-magnitude, which trains the dense network first.",
        ),
        METHOD,
    ] = ("ntt", "synflow", "snip", "magnitude", "random")
    sparsities: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...],
        Field(min_length=1, description="Sparsities, separated by commas."),
        METHOD,
        ReadWhen(lambda config: set(config.methods) != {"dense"}, "method dense does not read it; all others do"),
    ] = (0.9, 0.95)
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0, lt=2**63)], ...],
        Field(min_length=1, description="Seeds, separated by commas; rates are chosen on the first."),
        METHOD,
    ] = (1, 2, 3)
    steps: Annotated[
        TransferSteps, METHOD, ReadWhen(lambda config: any(map(_takes_steps, config.methods)), _who_takes_steps)
    ] = None
    epochs: Annotated[
        int, Field(ge=1, le=MOST_EPOCHS, description="Passes over the training samples in each fine-tuning."), TRAINING
    ] = 10
    validation: Annotated[
        float,
        Field(ge=0, lt=1, description="Fraction of the training samples on which epochs and rates are chosen."),
        TRAINING,
    ] = 0.1
    optimiser: Annotated[
        Literal["adamw", "sgd"],
        Field(description="AdamW, or SGD with momentum 0.9, gradients clipped to norm 1."),
        TRAINING,
    ] = "adamw"
    learning_rates: Annotated[
        tuple[Annotated[float, Field(gt=0)], ...],
        Field(
            description="Rates to choose from, separated by commas. Each method and sparsity gets the rate that is best"
            " on the first seed's validation samples. Default: the rate that ntt finetune would use."
        ),
        TRAINING,
        ReadWhen(
            lambda config: len(config.learning_rates) < 2 or config.validation > 0,
            "validation 0 holds out no samples to choose a rate by",
        ),
    ] = ()
    warmup: Warmup = 0.05
    device: Annotated[str, Field(description="auto, cpu, cuda, cuda:N or mps."), MACHINE] = "auto"
    jobs: Annotated[
        int,
        Field(ge=1, le=1024, description="How many trials run side by side."),
        MACHINE,
        ReadWhen(lambda config: config.trial is None, "trial {trial} runs alone"),
    ] = 1
    trial: Annotated[
        int | None,
        Field(ge=1, lt=2**63, description="Run only the trial of this number in --plan; for job arrays."),
        MACHINE,
    ] = None
    checkpoint_every: Annotated[
        float, Field(ge=0, description="Seconds between two saves of a trial's state."), OUTPUT
    ] = 60.0
    output: Annotated[
        str, Field(description="Folder of the results; trials that have a result there are not repeated."), OUTPUT
    ] = "comparison"

    @field_validator("methods", "sparsities", "seeds", "learning_rates", mode="before")
    @classmethod
    def _split_at_commas(cls, given: Any) -> Any:
        if isinstance(given, list | tuple):
            parts = [part.strip() for item in given for part in str(item).split(",")]
            return tuple(dict.fromkeys(part for part in parts if part))
        return given

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
