"""NTT's own options. `ntt prune --help` needs them without the method's module, which imports torch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import model_validator

from ntt_cli.config.fields import MOST_EPOCHS, MOST_STEPS, UNLESS_DEFAULT, Group, Options, ReadWhen, T
from ntt_cli.config.options import TransferSteps

PRUNES = ReadWhen(lambda config: config.sparsity != 0, "sparsity 0 prunes nothing and does not read it")
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


def _option(default: T, help: str, *metadata: object, **bounds: Any) -> T:
    return Group.NTT.option(default, help, PRUNES, *metadata, **bounds)


class NTTOptions(Options):
    """How NTT prunes; the names in `words.BEHIND_METHOD` are given as in `--method ntt:score=magnitude`."""

    preset: Literal["default", "paper"] = _option("default", "paper: the settings of Liu & Zenke 2020.")
    mask: Literal["learned", "random", "magnitude", "wanda", "synflow", "logit-snip", "ntk-sap"] = _option(
        "learned",
        "NTT's mask: learned with the weights, or chosen first by this method and then fixed. For reconstruct and"
        " asr, which learn none: whose mask; magnitude's by default.",
    )
    score: Literal["saliency", "magnitude"] = _option(
        "saliency", "Which weights stay: by |w| and their effect on the logits, or by |w| alone.", LEARNED_MASK
    )
    schedule: Literal["cubic", "constant"] = _option(
        "cubic", "How the density falls over the first half of the steps.", LEARNED_MASK
    )
    objective: Literal["relative", "paper"] = _option("relative", "Form of the distances to the teacher.")
    kernel_params: Literal["all", "active"] = _option("all", "Kernel over all entries, or over kept ones only.")
    steps: Annotated[TransferSteps, Group.NTT, PRUNES] = None
    epochs: float | None = _option(
        None, "Transfer steps as passes over the data, instead of --steps.", gt=0, le=MOST_EPOCHS
    )
    batches: int | None = _option(
        None,
        "Draw this many batches and repeat them, so that the teacher sees each batch once. Default: a new batch for"
        " each step.",
        ge=1,
        lt=2**31,
    )
    learning_rate: float = _option(2e-3, "Adam's rate in the transfer.", gt=0)
    kernel_weight: float | None = _option(
        None,
        "Weight of the kernel distance. Default: 1; 0 with --weights, where the outputs alone gave the more accurate"
        " network.",
        ge=0,
    )
    hidden: bool = _option(
        False,
        "Match what the network's blocks return, too, which is better where samples are few. Without a kernel term.",
        UNLESS_DEFAULT,
    )
    weight_penalty: float | None = _option(
        None,
        "Weight of the squared norm of kept weights. Default: 0; with --preset paper 1e-4, or 1e-5 where there are"
        " convolutions.",
        ge=0,
    )
    mask_update_every: int = _option(100, "Steps between mask updates.", MASK_UPDATES, ge=1, le=MOST_STEPS)
    compile: bool = _option(
        False,
        "Compile the steps with torch.compile, which takes a minute or two and a C++ compiler, or on a GPU Triton;"
        " steps are faster then, most of all those of transformers and of small networks.",
    )

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
