"""NTT's own options. `ntt prune --help` needs them without the method's module, which imports torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ntt_cli.config.options import MOST_EPOCHS, MOST_STEPS, NTT, Options, ReadWhen, TransferSteps

PRUNES = ReadWhen(lambda config: config.sparsity > 0, "sparsity 0 prunes nothing and does not read it")
_FIXED = "mask {mask} is fixed and does not read it; mask learned does"
LEARNED_MASK = ReadWhen(lambda config: config.mask == "learned", _FIXED)
MASK_UPDATES = ReadWhen(lambda config: config.mask == "learned" or config.steps == "auto", _FIXED)

PAPER_PRESET: dict[str, Any] = {
    "score": "magnitude",
    "objective": "paper",
    "allocation": "layerwise",
    "schedule": "constant",
    "learning_rate": 5e-4,
    "batch_size": 64,
    "kernel_weight": 1e-3,
    "epochs": 20,
}
"""Liu & Zenke 2020, arXiv 2006.08228. `methods.ntt.settings` has the weight penalties of this preset."""


class NTTOptions(Options):
    """How NTT prunes; the names in `words.BEHIND_METHOD` are given as in `--method ntt:score=magnitude`."""

    preset: Annotated[
        Literal["default", "paper"], Field(description="paper: the settings of Liu & Zenke 2020."), NTT, PRUNES
    ] = "default"
    mask: Annotated[
        Literal["learned", "random", "magnitude", "synflow", "logit-snip", "ntk-sap"],
        Field(description="NTT's mask: learned with the weights, or chosen first by this method and then fixed."),
        NTT,
        PRUNES,
    ] = "learned"
    score: Annotated[
        Literal["saliency", "magnitude"],
        Field(description="Which weights stay: by |w| and their effect on the logits, or by |w| alone."),
        NTT,
        PRUNES,
        LEARNED_MASK,
    ] = "saliency"
    schedule: Annotated[
        Literal["cubic", "constant"],
        Field(description="How the density falls over the first half of the steps."),
        NTT,
        PRUNES,
        LEARNED_MASK,
    ] = "cubic"
    objective: Annotated[
        Literal["relative", "paper"], Field(description="Form of the distances to the teacher."), NTT, PRUNES
    ] = "relative"
    kernel_params: Annotated[
        Literal["all", "active"], Field(description="Kernel over all entries, or over kept ones only."), NTT, PRUNES
    ] = "all"
    steps: Annotated[TransferSteps, NTT, PRUNES] = None
    epochs: Annotated[
        float | None,
        Field(gt=0, le=MOST_EPOCHS, description="Transfer steps as passes over the data, instead of --steps."),
        NTT,
        PRUNES,
    ] = None
    batches: Annotated[
        int | None,
        Field(
            ge=1,
            lt=2**31,
            description="Draw this many batches and repeat them, so that the teacher sees each batch once. Default: a"
            " new batch for each step.",
        ),
        NTT,
        PRUNES,
    ] = None
    learning_rate: Annotated[float, Field(gt=0, description="Adam's rate in the transfer."), NTT, PRUNES] = 2e-3
    kernel_weight: Annotated[
        float | None,
        Field(
            ge=0,
            description="Weight of the kernel distance. Default: 1; 0 with --weights, where the outputs alone gave the"
            " more accurate network.",
        ),
        NTT,
        PRUNES,
    ] = None
    weight_penalty: Annotated[
        float | None,
        Field(
            ge=0,
            description="Weight of the squared norm of kept weights."
            " Default: 0; with --preset paper 1e-4, or 1e-5 where there are convolutions.",
        ),
        NTT,
        PRUNES,
    ] = None
    mask_update_every: Annotated[
        int, Field(ge=1, le=MOST_STEPS, description="Steps between mask updates."), NTT, PRUNES, MASK_UPDATES
    ] = 100
    compile: Annotated[
        bool,
        Field(
            description="Compile the steps with torch.compile, which takes a minute or two and a C++ compiler, or on a"
            " GPU Triton; steps are faster then, most of all those of transformers and of small networks."
        ),
        NTT,
        PRUNES,
    ] = False

    def gives(self, name: str) -> bool:
        """Whether the user gave the option with an effect; a preset does not count."""
        preset = PAPER_PRESET if self.preset == "paper" else {}
        return super().gives(name) and not (name in preset and getattr(self, name) == preset[name])

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("preset") == "paper":
            length = {"epochs"} if given.get("steps") is not None else set()
            return {k: v for k, v in PAPER_PRESET.items() if k not in length} | given
        return given

    @model_validator(mode="after")
    def _one_length(self) -> NTTOptions:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give either steps or epochs, not both")
        return self
