"""Options of `ntt finetune` and `ntt evaluate`."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from ntt_cli.config.fields import MOST_EPOCHS, NAMED, UNLESS_DEFAULT, Group, Options, ReadWhen
from ntt_cli.config.options import (
    OPTIMISER,
    WARMUP,
    DataOptions,
    MachineOptions,
    ModelOptions,
    OutputOptions,
    Split,
    TaskOptions,
    WeightsOptions,
)
from ntt_cli.config.words import typed

OF_A_CHECKPOINT = ReadWhen(
    lambda config: config.checkpoint is not None, "it is about a checkpoint's zeros; --checkpoint names one"
)


class ZerosOptions(Options):
    """What zeros mean in a checkpoint that ntt did not write, which does not say so itself."""

    keep_zeros: bool = Group.MODEL.option(
        False,
        "Keep all zeros of a checkpoint that ntt did not write, as pruned weights. Default: only in weights with many"
        " zeros, with a warning.",
        OF_A_CHECKPOINT,
    )
    dense: bool = Group.MODEL.option(False, "Treat the checkpoint's zeros as weights like all others.", OF_A_CHECKPOINT)

    @model_validator(mode="after")
    def _one_meaning(self) -> Self:
        if self.keep_zeros and self.dense:
            raise ValueError("give either keep_zeros or dense, not both")
        return self


class FinetuneConfig(
    ZerosOptions, ModelOptions, WeightsOptions, DataOptions, TaskOptions, MachineOptions, OutputOptions
):
    """`ntt finetune`."""

    checkpoint: str | None = Group.MODEL.option(
        None,
        "Sparse or dense weights to start from: a .safetensors or .pt file, a folder with one; or factory,"
        " where the factory loads them. Default: random weights.",
        NAMED,
    )
    epochs: int = Group.TRAINING.option(10, "Passes over the training samples.", ge=1, le=MOST_EPOCHS)
    batch_size: int = Group.TRAINING.option(
        64,
        "Samples a step. Of data that gives whole batches: batches a step, one for each process by default.",
        ge=1,
        lt=2**31,
    )
    optimiser: Literal["adamw", "sgd"] = OPTIMISER
    learning_rate: float | None = Group.TRAINING.option(
        None, "Peak rate. Default: 1e-3 (adamw) or 2e-2 (sgd) over the density's root, at most ten times as high.", gt=0
    )
    rate_schedule: Literal["cosine", "constant"] = Group.TRAINING.option(
        "cosine", "How the rate changes over the steps."
    )
    warmup: float = WARMUP
    weight_decay: float = Group.TRAINING.option(0.0, "Weight decay, decoupled with AdamW.", ge=0)
    label_smoothing: float = Group.TRAINING.option(
        0.0, "Share of each label that is spread evenly over all classes.", UNLESS_DEFAULT, ge=0, lt=1
    )
    class_weights: str | None = Group.TRAINING.option(
        None,
        "Weights of the classes in the loss: one number each, separated by commas, or balanced, which weighs a class by"
        " one over its number of labels.",
        UNLESS_DEFAULT,
    )
    validation: float = Group.TRAINING.option(
        0.1, "Fraction of the samples on which the best epoch is chosen.", ge=0, lt=1
    )
    output: str | None = Group.OUTPUT.option(
        None, "The trained checkpoint. Default: tuned.safetensors, dense.safetensors without --checkpoint."
    )

    @property
    def named_output(self) -> str:
        default = "dense.safetensors" if self.checkpoint is None else "tuned.safetensors"
        return default if self.output is None else self.output


class EvaluateConfig(ZerosOptions, ModelOptions, WeightsOptions, DataOptions, TaskOptions, MachineOptions):
    """`ntt evaluate`."""

    checkpoint: Annotated[
        str,
        Field(description="The weights to evaluate: a .safetensors or .pt file, or a folder with one."),
        Group.MODEL,
    ]
    split: Split = Group.DATA.option("test", "Which part of a named data set.")
    teacher: str | None = Group.MODEL.option(
        None,
        "Weights of the same model to compare with: a .safetensors or .pt file, or a folder with one; needs no labels.",
    )
    kernels: bool = Group.OUTPUT.option(
        False,
        "With --teacher: also the distance between the two networks' kernels.",
        ReadWhen(lambda config: config.teacher is not None, "they are compared with a teacher's; --teacher names it"),
    )
    batch_size: int = Group.MACHINE.option(256, "Samples a forward pass.", ge=1, lt=2**31)
    min_accuracy: float | None = Group.OUTPUT.option(
        None, "Exit 1 if the accuracy is below this, 0.97 means 97%.", ge=0, le=1
    )
    min: tuple[str, ...] = Group.OUTPUT.option(
        (), "METRIC=VALUE: exit 1 if the metric is below this, as in f1=0.9 or cosine=0.95. Repeatable."
    )
    max: tuple[str, ...] = Group.OUTPUT.option(
        (), "METRIC=VALUE: exit 1 if the metric is above this, as in mse=0.1. Repeatable."
    )

    max_drop: float | None = Group.OUTPUT.option(
        None,
        "Exit 1 if the task's metric is worse than the baseline's by more than this, 0.01 means one point of accuracy.",
        ReadWhen(lambda config: config.baseline is not None, "it compares with other weights; --baseline names them"),
        ge=0,
    )
    baseline: str | None = Group.MODEL.option(
        None,
        "Weights of the same model, such as the dense ones, that --max-drop compares with.",
        ReadWhen(lambda config: config.max_drop is not None, "--max-drop alone reads it"),
    )
    max_bytes: int | None = Group.OUTPUT.option(
        None, "Exit 1 if the checkpoint takes more bytes than this on disk.", ge=1, lt=2**63
    )
    max_flops: int | None = Group.OUTPUT.option(
        None, "Exit 1 if a sample takes more operations than this, those of pruned weights left out.", ge=1, lt=2**63
    )
    min_sparsity: float | None = Group.OUTPUT.option(
        None, "Exit 1 if fewer of the prunable weights are pruned than this, 0.95 means 95%.", ge=0, le=1
    )
    junit: str | None = Group.OUTPUT.option(
        None,
        "Write the gates as a JUnit XML file too, one test case each; a file that is there is overwritten.",
        ReadWhen(lambda config: config.gated, "there is no gate to write"),
    )

    @property
    def gated(self) -> bool:
        """Whether there is a gate."""
        limits = self.min_accuracy, self.max_drop, self.max_bytes, self.max_flops, self.min_sparsity
        return any(limit is not None for limit in limits) or bool(self.min or self.max)

    @field_validator("min", "max")
    @classmethod
    def _are_limits(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        for entry in entries:
            limit_of(entry)
        return entries


def limit_of(entry: str) -> tuple[str, float]:
    """A metric and its limit, from `METRIC=VALUE`.

    Raises:
        ValueError: if it is not of this form.
    """
    name, _, text = entry.partition("=")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not name or not math.isfinite(value):
        raise ValueError(f"{typed(entry)} is not METRIC=VALUE, as in f1=0.9")
    return name, value
