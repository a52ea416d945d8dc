"""Options of `ntt finetune` and `ntt evaluate`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ntt_cli.config.options import (
    DATA,
    MACHINE,
    MODEL,
    MOST_EPOCHS,
    NAMED,
    OUTPUT,
    TRAINING,
    DataOptions,
    MachineOptions,
    ModelOptions,
    Options,
    OutputOptions,
    ReadWhen,
    Split,
    Warmup,
)

OF_A_CHECKPOINT = ReadWhen(
    lambda config: config.checkpoint is not None, "it is about a checkpoint's zeros; --checkpoint names one"
)


class ZerosOptions(Options):
    """What zeros mean in a checkpoint that ntt did not write, which does not say so itself."""

    keep_zeros: Annotated[
        bool,
        Field(
            description="Keep all zeros of a checkpoint that ntt did not write, as pruned weights. Default: only in"
            " weights with many zeros, with a warning."
        ),
        MODEL,
        OF_A_CHECKPOINT,
    ] = False
    dense: Annotated[
        bool, Field(description="Treat the checkpoint's zeros as weights like all others."), MODEL, OF_A_CHECKPOINT
    ] = False

    @model_validator(mode="after")
    def _one_meaning(self) -> Self:
        if self.keep_zeros and self.dense:
            raise ValueError("give either keep_zeros or dense, not both")
        return self


class FinetuneConfig(ZerosOptions, ModelOptions, DataOptions, MachineOptions, OutputOptions):
    """`ntt finetune`."""

    checkpoint: Annotated[
        str | None,
        Field(description="Sparse or dense .safetensors file to start from. Default: random weights."),
        MODEL,
        NAMED,
    ] = None
    epochs: Annotated[int, Field(ge=1, le=MOST_EPOCHS, description="Passes over the training samples."), TRAINING] = 10
    batch_size: Annotated[int, Field(ge=1, lt=2**31, description="Samples a step."), TRAINING] = 64
    optimiser: Annotated[
        Literal["adamw", "sgd"],
        Field(description="AdamW, or SGD with momentum 0.9, gradients clipped to norm 1."),
        TRAINING,
    ] = "adamw"
    learning_rate: Annotated[
        float | None, Field(gt=0, description="Peak rate. Default: by optimiser and density, see the README."), TRAINING
    ] = None
    rate_schedule: Annotated[
        Literal["cosine", "constant"], Field(description="How the rate changes over the steps."), TRAINING
    ] = "cosine"
    warmup: Warmup = 0.05
    weight_decay: Annotated[float, Field(ge=0, description="Weight decay, decoupled with AdamW."), TRAINING] = 0.0
    validation: Annotated[
        float, Field(ge=0, lt=1, description="Fraction of the samples on which the best epoch is chosen."), TRAINING
    ] = 0.1
    output: Annotated[
        str | None,
        Field(
            description="The trained checkpoint. Default: tuned.safetensors, dense.safetensors without --checkpoint."
        ),
        OUTPUT,
    ] = None

    @property
    def named_output(self) -> str:
        """The output, or its default."""
        default = "dense.safetensors" if self.checkpoint is None else "tuned.safetensors"
        return default if self.output is None else self.output


class EvaluateConfig(ZerosOptions, ModelOptions, DataOptions, MachineOptions):
    """`ntt evaluate`."""

    checkpoint: Annotated[str, Field(description="The .safetensors file to evaluate."), MODEL]
    split: Annotated[Split, Field(description="Which part of a named data set."), DATA] = "test"
    teacher: Annotated[
        str | None,
        Field(description="Weights to compare with, a .safetensors file of the same model; needs no labels."),
        MODEL,
    ] = None
    kernels: Annotated[
        bool,
        Field(description="With --teacher: also the distance between the two networks' kernels."),
        OUTPUT,
        ReadWhen(lambda config: config.teacher is not None, "they are compared with a teacher's; --teacher names it"),
    ] = False
    batch_size: Annotated[int, Field(ge=1, lt=2**31, description="Samples a forward pass."), MACHINE] = 256
    min_accuracy: Annotated[
        float | None, Field(ge=0, le=1, description="Exit 1 if the accuracy is below this, 0.97 means 97%."), OUTPUT
    ] = None
