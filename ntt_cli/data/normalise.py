"""Normalise inputs to mean 0 and deviation 1 with numbers from the training inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ntt_cli.data.batch import Batch
from ntt_cli.data.bundle import Bundle
from ntt_cli.errors import DataError, UsageError
from ntt_cli.files.metadata import MeanStd


def fit_mean_std(batches: Iterable[Float[Tensor, "_ ..."]]) -> MeanStd:
    """Mean and population deviation of all batches together.

    A deviation of 0 is replaced by 1, so that a constant channel is only shifted.

    Images `[n, c, h, w]` get one number a channel, vectors `[n, f]` one a feature, any other rank one in all. The
    batches are merged in float64 by Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance":
    `M2 = M2_a + M2_b + (mean_b - mean_a)^2 n_a n_b / (n_a + n_b)`.

    Raises:
        ValueError: if there are no batches.
    """
    count = 0
    mean = square = torch.zeros(1, dtype=torch.float64)
    for batch in batches:
        values = (batch.transpose(0, 1).flatten(1) if batch.dim() in {2, 4} else batch.reshape(1, -1)).double()
        n = values.shape[1]
        batch_mean = values.mean(dim=1)
        batch_square = (values - batch_mean[:, None]).square().sum(dim=1)
        shift = batch_mean - mean
        square = square + batch_square + shift.square() * (count * n / (count + n))
        count += n
        mean = mean + shift * (n / count)
    if count == 0:
        raise ValueError("no batches to fit mean and deviation to")
    std = (square / count).sqrt()
    return MeanStd(tuple(mean.tolist()), tuple(std.masked_fill(std == 0, 1.0).tolist()))


def normalise(x: Batch, by: MeanStd | None) -> Batch:
    """`(x - mean) / std`, by channel or feature if there is one number for each; `x` itself if `by` is `None`.

    Raises:
        DataError: if the inputs are tokens, are several tensors, or have another number of channels.
    """
    if by is None:
        return x
    if isinstance(x, Bundle):
        return replace(x, parts=tuple(normalise(part, by) for part in x.parts))
    if not isinstance(x, Tensor):
        hint = "leave out --mean and --std (MEAN and STD in model.py), and normalise them where the data are made"
        raise DataError("inputs", "are several tensors, which the network is given as they are", hint=hint)
    if not x.is_floating_point():
        hint = "leave out --mean and --std (MEAN and STD in model.py), or store measurements as float32"
        raise DataError("inputs", "are integers, so tokens, from which no mean can be subtracted", hint=hint)
    shape = [1] * x.dim()
    if len(by.mean) > 1:
        channels = x.shape[1] if x.dim() in {2, 4} else 1
        if channels != len(by.mean):
            what = f"have {channels} channel(s) or feature(s), but there are {len(by.mean)} means and deviations"
            hint = "give --mean and --std one number, or one for each channel, or use data of the same kind"
            raise DataError("inputs", what, hint=hint)
        shape[1] = channels
    return (x - x.new_tensor(by.mean).view(shape)) / x.new_tensor(by.std).view(shape)


def parse_mean_std(mean: str | None, std: str | None) -> MeanStd | None:
    """The numbers of `--mean` and `--std`, like "0.5" or "0.485,0.456,0.406"; `None` if neither is given.

    If one list has several numbers, a single number in the other counts for all of them.

    Raises:
        UsageError: if only one is given, one is not a list of numbers, a deviation is not positive, or counts differ.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        given, missing = ("--std", "--mean") if mean is None else ("--mean", "--std")
        raise UsageError(given, f"is given without {missing}", hint=f"give {missing} too, or neither")
    means, stds = _numbers("--mean", mean), _numbers("--std", std)
    try:
        return make_mean_std(means, stds)
    except ValueError as error:
        hint = "write them like --mean 0.5 --std 0.25"
        raise UsageError(f"--mean {mean} --std {std}", str(error), hint=hint) from error


def make_mean_std(means: Sequence[float], stds: Sequence[float]) -> MeanStd:
    """Mean and deviation from these numbers; a single number beside several counts for all of them.

    Raises:
        ValueError: if a number is not finite, a deviation is not positive, or the counts differ.
    """
    if not all(math.isfinite(number) for number in (*means, *stds)):
        raise ValueError("a number is not finite")
    if not all(number > 0 for number in stds):
        raise ValueError("a deviation is not above 0")
    channels = max(len(means), len(stds))
    if {len(means), len(stds)} - {1, channels} or not channels:
        raise ValueError(f"there are {len(means)} means and {len(stds)} deviations, not one of each a channel")
    return MeanStd(*(tuple(values) * (channels // len(values)) for values in (means, stds)))


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        hint = f"write {option} 0.5 or {option} 0.5,0.4,0.3"
        raise UsageError(option, f"{text} is not a list of numbers", hint=hint) from error
