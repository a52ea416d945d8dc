"""The mean and deviation of a network's inputs. Where they come from depends on the origin of the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ntt_cli.config import DataOptions, name_of
from ntt_cli.data import Samples
from ntt_cli.data.batch import Batch, named_tensors
from ntt_cli.data.inputs import Inputs
from ntt_cli.data.normalise import fit_mean_std, parse_mean_std
from ntt_cli.errors import listed
from ntt_cli.files.checkpoint import Checkpoint
from ntt_cli.files.metadata import MeanStd, Normalisation, describe_inputs
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.networks.loading.published import PIXELS, configured_mean_std, published_mean_std
from ntt_cli.runtime.events import EventSink, Noted, Warned

OPTIONS = "--mean and --std"
BESIDE, CONFIGURED = "beside the weights", "its pretrained_cfg"
PUBLISHED = (BESIDE, CONFIGURED)
"""What the sources end in that publishers of weights name."""

ELSEWHERE = "the weights come from elsewhere and nobody named a normalisation"
STATISTICS_BATCH = 1024

HIGHEST_MEAN, HIGHEST_STD = 1, 4
"""Limits for pixels in [0, 1]. Larger numbers are meant for pixels of 0 to 255, whose deviations are 20 to 100."""


def known_normalisation(
    options: DataOptions, loaded: LoadedModel, checkpoint: Checkpoint | None, on_event: EventSink
) -> Normalisation | None:
    """The normalisation that the weights were trained with or are to have; `None` if it is to be fitted to the data.

    `--mean` and `--std` come first. For weights that ntt wrote, their record comes next. For other weights, `MEAN` and
    `STD` in the model's file come next, then a configuration of these weights. Without any of these, weights from
    elsewhere take raw inputs as they are, and for random weights mean and deviation are fitted to the data. Without a
    `checkpoint`, the weights are the factory's own. Differences are warned of.

    Raises:
        UsageError: if `--mean` and `--std` cannot be read.
    """
    recorded = None if checkpoint is None else checkpoint.normalisation
    given = parse_mean_std(options.mean, options.std)
    named = _named(given, loaded)
    if recorded is None:
        return named or _of_others(loaded, checkpoint)
    if named is None or named.by == recorded.by:
        return recorded
    assert checkpoint is not None
    made = f"{checkpoint.path} was made with inputs {describe_inputs(recorded.by)}"
    if given is None:
        how = "give --mean and --std to change that"
        on_event(Warned(f"{made}, which stays so; {named.source} say {describe_inputs(named.by)}: {how}"))
        return recorded
    on_event(Warned(f"{made}; from now on they are {describe_inputs(named.by)} ({named.source})"))
    return named


def open_inputs(
    samples: Samples, *, device: torch.device, known: Normalisation | None, on_event: EventSink, labelled: bool = True
) -> Inputs:
    """The samples with the normalisation `known`, or else that of their own statistics; notes describe both."""
    on_event(Noted(f"data: {samples.described()}" + "; labels are not read" * (not labelled)))
    if samples.changes == "always":
        what = (
            f"{samples.spec}: its items differ in each reading though torch, NumPy and random are seeded, so that"
            " neither the same command nor --resume will give the same bytes"
        )
        on_event(Warned(what))
    normalisation = normalisation_of(samples, _if_for_images(samples, known, on_event))
    note_inputs(samples, normalisation, on_event)
    applied = None if samples.normalised or normalisation is None else normalisation.by
    return Inputs(samples=samples, mean_std=applied, device=device, normalisation=normalisation)


def _if_for_images(samples: Samples, known: Normalisation | None, on_event: EventSink) -> Normalisation | None:
    """The normalisation, unless publishers of weights name it for images, and the inputs are none, or are several."""
    if known is None or known.by is None or samples.normalised or not known.source.endswith(PUBLISHED):
        return known
    x = samples.inputs(torch.arange(1))
    if isinstance(x, Tensor) and x.ndim == 4:
        return known
    source = f"{known.source} is for images"
    if not isinstance(x, Tensor):
        what = f"inputs: several, and {source} alone: they are as they are"
        images = [name for name, part in named_tensors(x) if part.ndim == 4 and part.is_floating_point()]
        if images:
            what += f"; normalise {listed(images)} where the data are made"
        on_event(Warned(what) if images else Noted(what))
    return Normalisation(None, source)


def normalisation_of(samples: Samples, known: Normalisation | None) -> Normalisation | None:
    """The normalisation `known`, or else the samples' statistics; `None` for tokens and noise, which have none."""
    if samples.normalised or (known is not None and known.by is not None):
        return known
    first = samples.inputs(torch.arange(1))
    if not isinstance(first, Tensor) or not first.is_floating_point():
        return None
    if known is not None:
        return known
    by = fit_mean_std(_one_tensor(samples.inputs(part)) for part in torch.arange(len(samples)).split(STATISTICS_BATCH))
    return Normalisation(by, f"the statistics of {name_of(samples.spec)}")


def _one_tensor(x: Batch) -> Tensor:
    assert isinstance(x, Tensor)
    return x


def note_inputs(samples: Samples | None, normalisation: Normalisation | None, on_event: EventSink) -> None:
    """Describe the network's inputs in a note; warn of a mean and deviation that do not fit them."""
    if samples is not None and samples.normalised:
        later = "" if normalisation is None else f"; those of later commands {in_words(normalisation)}"
        on_event(Noted(f"inputs: {samples.spec} as it is{later}"))
    elif normalisation is not None:
        on_event(Noted(f"inputs: {in_words(normalisation)}"))
    elif samples is not None:
        one = isinstance(samples.source.fetch(torch.arange(1)), Tensor)
        on_event(Noted(f"inputs: {'integers, ' * one}as they are"))
    if samples is not None and normalisation is not None and normalisation.by is not None:
        _warn_of_scale(samples, normalisation.by, normalisation.source, on_event)


def _warn_of_scale(samples: Samples, by: MeanStd, source: str, on_event: EventSink) -> None:
    """Warn of a mean and deviation for pixels of 0 to 255, if pixels are 0 to 1."""
    if max(by.mean) <= HIGHEST_MEAN and max(by.std) <= HIGHEST_STD:
        return
    first = samples.source.fetch(torch.arange(1))
    if not isinstance(first, Tensor) or first.dtype != torch.uint8:
        return  # values that are not pixels may be of any size
    what = (
        f"mean {_typed(by.mean)} and deviation {_typed(by.std)} ({source}) look like numbers for pixels of 0 to"
        f" {PIXELS}, but ntt reads pixels as 0 to 1; if so, write --mean {_typed(by.mean, PIXELS)}"
        f" --std {_typed(by.std, PIXELS)}, or MEAN and STD in model.py alike"
    )
    on_event(Warned(what))


def _typed(numbers: Sequence[float], divided_by: int = 1) -> str:
    """The numbers as `--mean` takes them; one number if all are the same."""
    shown = numbers[:1] if len(set(numbers)) == 1 else numbers
    return ",".join(f"{number / divided_by:.4g}" for number in shown)


def in_words(normalisation: Normalisation) -> str:
    """A normalisation and its source, in words."""
    words = f"{describe_inputs(normalisation.by)} ({normalisation.source})"
    if normalisation.source == ELSEWHERE:
        words += "; if they were trained with one, give --mean and --std, or write MEAN and STD in model.py"
    return words


def _named(given: MeanStd | None, loaded: LoadedModel) -> Normalisation | None:
    if given is not None:
        return Normalisation(given, OPTIONS)
    if loaded.mean_std is not None:
        return Normalisation(loaded.mean_std, f"MEAN and STD in {loaded.source.partition(':')[0]}")
    return None


def _of_others(loaded: LoadedModel, checkpoint: Checkpoint | None) -> Normalisation | None:
    """The normalisation that the authors of the weights published; `None` if ntt drew or wrote the weights."""
    if checkpoint is None:
        if not loaded.trained:
            return None
        by, source = configured_mean_std(getattr(loaded.module, "pretrained_cfg", None)), CONFIGURED
        return Normalisation(None, ELSEWHERE) if by is None else Normalisation(by, source)
    if checkpoint.record is not None:
        return None
    published = published_mean_std(checkpoint.path)
    if published is None:
        return Normalisation(None, ELSEWHERE)
    by, name = published
    return Normalisation(by, f"{name} {BESIDE}")
