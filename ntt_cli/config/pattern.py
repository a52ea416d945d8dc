"""Patterns: `N:M` keeps N of every M consecutive weights of the input axis. Needs no torch."""

from __future__ import annotations

import re
from typing import Annotated, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, NonNegativeInt, PositiveInt, model_validator

from ntt_cli.config.fields import ReadWhen

AGREE = 1e-6
"""How far a sparsity may be from that of the pattern beside it, as 0.666667 is from 1:3."""


class Pattern(NamedTuple):
    """`keep` of every `of` weights."""

    keep: int
    of: int

    @property
    def sparsity(self) -> float:
        """The fraction of weights that it removes."""
        return 1 - self.keep / self.of

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}"


class Groups(BaseModel):
    """Where a weight has a pattern: every `of` consecutive entries along `axis`, of which `keep` are kept.

    A group lies along this axis alone: the entries of one group differ in no other index.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep: PositiveInt
    of: PositiveInt
    axis: NonNegativeInt

    @model_validator(mode="after")
    def _keeps_some(self) -> Self:
        if self.keep >= self.of:
            raise ValueError(f"keeps {self.keep} of {self.of}")
        return self


def parse_pattern(text: str) -> Pattern:
    """The pattern of `2:4`.

    Raises:
        ValueError: if the text is not `N:M`, with `N` from 1 to below `M`.
    """
    if re.fullmatch(r"\d{1,9}:\d{1,9}", text):
        keep, of = map(int, text.split(":"))
        if 0 < keep < of:
            return Pattern(keep, of)
    raise ValueError("is not N:M, like 2:4, with N from 1 to below M")


PatternText = Annotated[str, AfterValidator(lambda text: str(parse_pattern(text)))]

PATTERN_HELP = (
    "N:M, like 2:4: keep N of every M consecutive weights of the input axis, in place of a sparsity. Weights whose"
    " inputs are no multiple of M stay dense."
)

NO_PATTERN = ReadWhen(
    lambda config: config.pattern is None, "--pattern {pattern} says how many weights each layer keeps"
)
