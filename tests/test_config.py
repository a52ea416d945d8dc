from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from ntt_cli.config import (
    COMMANDS,
    PAPER_PRESET,
    BenchConfig,
    CompareConfig,
    EvaluateConfig,
    ExportConfig,
    FinetuneConfig,
    Group,
    Options,
    PruneConfig,
    method_class,
    method_names,
    readers_of,
    recorded,
)

REQUIRED: dict[type[Options], dict[str, Any]] = {
    PruneConfig: {"model": "net.py", "sparsity": 0.9},
    FinetuneConfig: {"model": "net.py"},
    EvaluateConfig: {"model": "net.py", "checkpoint": "x.safetensors"},
    CompareConfig: {"model": "net.py"},
    BenchConfig: {"model": "net.py", "checkpoint": "x.safetensors"},
    ExportConfig: {"checkpoint": "x.safetensors", "to": "packed"},
}
every_command = pytest.mark.parametrize("config", COMMANDS.values(), ids=list(COMMANDS))


def prune(**values: Any) -> PruneConfig:
    return PruneConfig(**(REQUIRED[PruneConfig] | values))


@every_command
def test_what_must_be_given(config: type[Options]) -> None:
    config(**REQUIRED[config])
    for name in REQUIRED[config]:
        with pytest.raises(ValidationError, match="Field required"):
            config(**{key: value for key, value in REQUIRED[config].items() if key != name})
    one_of_two = {"sparsity"} & REQUIRED[config].keys()  # or target_flops
    required = {name for name, field in config.model_fields.items() if field.is_required()}
    assert required | one_of_two == REQUIRED[config].keys()


@every_command
def test_every_option_has_a_description_and_a_group(config: type[Options]) -> None:
    for name, field in config.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
        assert sum(isinstance(item, Group) for item in field.metadata) == 1, name


@every_command
def test_frozen_and_without_strangers(config: type[Options]) -> None:
    made = config(**REQUIRED[config])
    with pytest.raises(ValidationError, match="frozen"):
        made.model = "other.py"
    with pytest.raises(ValidationError, match="Extra inputs"):
        config(**REQUIRED[config], sparsty=0.5)


BAD: list[tuple[type[Options], str, Any]] = [
    *((PruneConfig, "sparsity", value) for value in (1, 1.5, -0.1, math.nan, math.inf, "high", None)),
    *((PruneConfig, "steps", value) for value in (0, -1, 2.5, "many")),
    *((PruneConfig, "epochs", value) for value in (0, -1, math.nan)),
    *((PruneConfig, "batch_size", value) for value in (0, 1, 2.5)),
    *((PruneConfig, "learning_rate", value) for value in (0, -1e-3, math.inf)),
    *((kind, name, 2**64) for kind in (PruneConfig, EvaluateConfig, FinetuneConfig) for name in ("seed", "batch_size")),
    *((PruneConfig, name, -1) for name in ("kernel_weight", "weight_penalty", "mask_update_every", "seed")),
    *((PruneConfig, name, "best") for name in ("method", "preset", "score", "allocation", "schedule", "objective")),
    *((PruneConfig, "image_size", value) for value in ("", "3by4", "3x4x5", "-3", "large")),
    *((PruneConfig, "input_shape", value) for value in ("", "3,4", "3x", "x3")),
    (PruneConfig, "limit", 0),
    (PruneConfig, "exclude", "fc*"),
    (PruneConfig, "model_arg", "a=1"),
    *((FinetuneConfig, "epochs", value) for value in (0, 1.5)),
    *((FinetuneConfig, "validation", value) for value in (-0.1, 1, math.nan)),
    *((FinetuneConfig, "learning_rate", value) for value in (0, -1)),
    *((FinetuneConfig, "warmup", value) for value in (-0.1, 1, math.nan)),
    (FinetuneConfig, "batch_size", 0),
    (FinetuneConfig, "weight_decay", -1),
    (FinetuneConfig, "optimiser", "adam"),
    (FinetuneConfig, "rate_schedule", "step"),
    *((EvaluateConfig, "min_accuracy", value) for value in (-0.1, 97, math.nan)),
    (EvaluateConfig, "batch_size", 0),
    (EvaluateConfig, "split", "valid"),
    *((BenchConfig, name, 0) for name in ("batch_size", "seconds", "threads")),
    *((BenchConfig, "seconds", value) for value in (-1, math.nan, math.inf)),
]


@pytest.mark.parametrize(("config", "name", "value"), BAD)
def test_values_out_of_bounds(config: type[Options], name: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**(REQUIRED[config] | {name: value}))
    assert {error["loc"][0] for error in caught.value.errors()} == {name}  # a number or a word has two


@pytest.mark.parametrize(
    ("config", "name", "value"),
    [
        (PruneConfig, "sparsity", 0),
        (PruneConfig, "sparsity", 0.999999),
        (PruneConfig, "epochs", 0.5),
        (PruneConfig, "weight_penalty", 0),
        (PruneConfig, "image_size", "32"),
        (PruneConfig, "image_size", "32x48"),
        (PruneConfig, "input_shape", "3x32x32"),
        (FinetuneConfig, "validation", 0),
        (EvaluateConfig, "min_accuracy", 0),
        (EvaluateConfig, "min_accuracy", 1),
    ],
)
def test_values_at_the_bounds(config: type[Options], name: str, value: Any) -> None:
    assert getattr(config(**(REQUIRED[config] | {name: value})), name) == value


def test_steps_or_epochs() -> None:
    assert (prune(steps=5).steps, prune(steps=5).epochs) == (5, None)
    assert (prune(epochs=5).steps, prune(epochs=5).epochs) == (None, 5)
    with pytest.raises(ValidationError, match="either steps or epochs, not both"):
        prune(steps=5, epochs=5)


def test_the_papers_settings() -> None:
    paper = prune(preset="paper")
    assert {name: getattr(paper, name) for name in PAPER_PRESET} == PAPER_PRESET
    assert (paper.objective, paper.allocation, paper.schedule) == ("paper", "layerwise", "constant")
    assert (paper.learning_rate, paper.batch_size, paper.epochs) == (5e-4, 64, 20)


def test_what_is_given_goes_before_the_preset() -> None:
    paper = prune(preset="paper", steps=10, allocation="erk", learning_rate=0.1)
    assert (paper.steps, paper.epochs, paper.allocation, paper.learning_rate) == (10, None, "erk", 0.1)
    assert paper.objective == "paper"
    assert prune(preset="paper", epochs=3).epochs == 3


UNREAD: list[tuple[type[Options], str, Any, dict[str, Any], str]] = [
    *(
        (PruneConfig, name, value, {"method": "magnitude"}, "method magnitude does not read it; ntt, .*ntt-fresh")
        for name, value in {
            "preset": "default",
            "mask": "random",
            "score": "magnitude",
            "schedule": "cubic",
            "objective": "paper",
            "kernel_params": "all",
            "steps": 5,
            "epochs": 1,
            "batches": 2,
            "learning_rate": 2e-3,
            "kernel_weight": 0,
            "weight_penalty": 0,
            "mask_update_every": 9,
            "compile": True,
            "batch_size": 9,
            "checkpoint_every": 0,
        }.items()
    ),
    (PruneConfig, "batch_size", 9, {"method": "synflow"}, "method synflow does not read it; ntt, .* and wanda do"),
    (PruneConfig, "steps", 5, {"sparsity": 0}, "sparsity 0 prunes nothing and does not read it"),
    (PruneConfig, "layer_density", ("*=1",), {"sparsity": 0}, "sparsity 0 prunes nothing and does not read it"),
    *(
        (
            PruneConfig,
            name,
            value,
            {"sparsity": 0.5, "pattern": "2:4"},
            "--pattern 2:4 says how many weights each layer",
        )
        for name, value in {"allocation": "erk", "layer_density": ("*=1",)}.items()
    ),
    (PruneConfig, "score", "magnitude", {"mask": "random"}, "mask random is fixed and does not read it; mask learned"),
    (PruneConfig, "schedule", "cubic", {"mask": "random"}, "mask random is fixed and does not read it; mask learned"),
    (PruneConfig, "mask_update_every", 5, {"mask": "random"}, "mask random is fixed and does not read it"),
    *(
        (config, "allow_mismatch", True, {}, "it is read with --resume alone")
        for config in (PruneConfig, FinetuneConfig)
    ),
    *((FinetuneConfig, name, True, {}, "about a checkpoint's zeros; --checkpoint") for name in ("dense", "keep_zeros")),
    (EvaluateConfig, "kernels", True, {}, "--teacher names it"),
]


@pytest.mark.parametrize(("config", "name", "value", "others", "why"), UNREAD, ids=str)
def test_options_that_would_do_nothing(
    config: type[Options], name: str, value: Any, others: dict[str, Any], why: str
) -> None:
    with pytest.raises(ValidationError, match=why) as caught:
        config(**(REQUIRED[config] | others | {name: value}))
    (error,) = caught.value.errors()
    assert (error["loc"], error["type"]) == ((name,), "unread")
    config(**(REQUIRED[config] | others))


def test_what_a_preset_fills_in_is_not_given() -> None:
    assert prune(preset="paper", mask="random").score == "magnitude"
    with pytest.raises(ValidationError, match="mask random is fixed"):
        prune(preset="paper", mask="random", score="saliency")


def test_nothing_at_all_may_be_given_to_every_method() -> None:
    nothing = {"steps": None, "compile": False, "layer_density": (), "allow_mismatch": False}
    assert prune(method="magnitude", **nothing).steps is None


def test_which_methods_read_what() -> None:
    moving = [name for name in method_names() if method_class(name).moves_weights]
    ours, layerwise = ["ntt", "gmp", "ntt-fresh", "ntt-shuffled"], ["asr", "obc", "reconstruct", "sparsegpt"]
    assert set(moving) == {*ours, *layerwise}
    assert moving == readers_of("checkpoint_every")
    assert {*moving, "cts-kl", "imp"} == set(readers_of("steps"))
    assert [name for name in moving if method_class(name).default_steps is None] == ours
    without_batches = {"eoi", "lamp", "magnitude", "phew", "random", "random-rescaled", "synflow"}
    assert set(method_names()) - without_batches == set(readers_of("batch_size"))


@pytest.mark.parametrize(("pattern", "sparsity"), [("2:4", 0.5), ("1:4", 0.75), ("3:4", 0.25), ("7:16", 0.5625)])
def test_the_sparsity_follows_from_the_pattern(pattern: str, sparsity: float) -> None:
    assert PruneConfig(model="m.py", pattern=pattern).sparsity == sparsity
    assert PruneConfig(model="m.py", pattern=pattern, sparsity=sparsity).sparsity == sparsity
    assert recorded(PruneConfig(model="m.py", pattern=pattern))["pattern"] == pattern
    with pytest.raises(ValidationError, match=f"--pattern {pattern} has a sparsity of {sparsity} ") as caught:
        PruneConfig(model="m.py", pattern=pattern, sparsity=0.9)
    assert caught.value.errors()[0]["loc"] == ("sparsity",)
    assert PruneConfig(model="m.py", pattern="1:3", sparsity=0.666667).sparsity == 0.666667


@pytest.mark.parametrize("pattern", ["", "2", "2:", "4:2", "0:4", "4:4", "-2:4", "2:4:8", "a:b", "1.5:4", "2;4"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValidationError, match="is not N:M, like 2:4, with N from 1 to below M"):
        PruneConfig(model="m.py", pattern=pattern, sparsity=0.5)


def test_what_is_recorded_does_not_say_where_it_goes() -> None:
    first = prune(output="a.safetensors", force=True, exclude=("fc*",))
    assert recorded(first) == recorded(prune(output="b.safetensors", exclude=("fc*",)))
    assert recorded(first)["exclude"] == ["fc*"]
    assert recorded(first)["sparsity"] == 0.9
    here = {"output", "force", "resume", "checkpoint_every", "allow_mismatch", "data_root", "download", "workers"}
    if_given = {"weights_prefix", "ignore_extra", "outputs", "structure", "target_flops", "pattern", "hidden"}
    assert recorded(first).keys() == PruneConfig.model_fields.keys() - here - if_given
    assert recorded(prune(weights="x.safetensors", ignore_extra=True))["ignore_extra"] is True
    finetune = FinetuneConfig(model="net.py", output="a.safetensors")
    if_given |= {"class_weights", "label_smoothing", "task"}
    assert recorded(finetune).keys() == FinetuneConfig.model_fields.keys() - here - if_given
