"""Match labels to a network's classes by name, never by the position of a class among those of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ntt_cli.data import Samples
from ntt_cli.errors import DataError
from ntt_cli.runtime.events import EventSink, Warned

MOST_NAMED = 10
"""The most classes that a line names."""


def by_name(samples: Samples, known: tuple[str, ...] | None, on_event: EventSink, *, purpose: str) -> Samples:
    """The samples with labels numbered like the network's outputs, if class names are known on both sides.

    `known` are the classes that the network learnt, in the order of its outputs. A warning says which of them are
    missing, and for what `purpose`, as in "accuracy is over"; or that labels are matched by number.

    Raises:
        DataError: if the network never learnt one of the classes.
    """
    if known is not None and samples.only_folder in known:
        labels = torch.zeros(len(samples), dtype=torch.int64)
        samples = replace(samples, labels=labels, class_names=(samples.only_folder,), only_folder=None)
    if known is None or not isinstance(samples.labels, Tensor) or samples.labels.is_floating_point():
        return samples
    names, there = samples.class_names, _classes_there(samples)
    if names is None:
        return _by_number(samples, known, there, on_event, purpose=purpose)
    if there and there[-1] >= len(names):
        what = f"has label {there[-1]} and names for {len(names)} classes"
        raise DataError(samples.spec, what, hint="mend its labels")
    if unknown := [names[i] for i in there if names[i] not in known]:
        hint = f"it knows {_listed(known)}; name the folders so, or leave these classes out"
        raise DataError(samples.spec, f"has classes that the network never learnt: {_listed(unknown)}", hint=hint)
    if samples.labels_read and names != known:
        what = f"numbers its classes otherwise than the network, {_listed(known)}, and its labels may change"
        raise DataError(samples.spec, what, hint="number them like the network's outputs")
    number = torch.tensor([known.index(name) if name in known else -1 for name in names])
    labels = torch.where(samples.labels < 0, samples.labels, number[samples.labels.clamp(min=0)])
    if missing := [name for name in known if name not in {names[i] for i in there}]:
        left = f"{len(known) - len(missing)} of {len(known)} classes"
        on_event(Warned(f"{samples.spec} has no samples of {_listed(missing)}: {purpose} the other {left}"))
    return replace(samples, labels=labels, class_names=known)


def by_name_or_anew(samples: Samples, known: tuple[str, ...] | None, on_event: EventSink) -> Samples:
    """As `by_name`, for training, which may also teach the network entirely new classes."""
    if isinstance(samples.labels, Tensor) and not samples.labels.is_floating_point() and known is not None:
        names, there = samples.class_names, _classes_there(samples)
        if names is None and there and there[-1] >= len(known):
            what = f"{samples.spec} has labels up to {there[-1]} without names, and the network learnt {len(known)}"
            now = f"classes, {_listed(known)}: it is trained on other classes from now on, which have no names"
            on_event(Warned(f"{what} {now}"))
            return samples
        if names is not None and not {*names} & {*known}:
            what = f"the network learnt {_listed(known)}, of which {samples.spec} has none"
            on_event(Warned(f"{what}: its outputs stand for {_listed(names)} from now on"))
            return samples
    return by_name(samples, known, on_event, purpose="the network is trained on")


def warn_of_order(samples: Samples, on_event: EventSink, *, outputs: int) -> None:
    """Warn that trained weights without class names, for so many outputs, may have their classes in another order."""
    names = samples.class_names
    if samples.labels is None or names is None:
        return
    wrong = [i for i, name in enumerate(names) if not name.isdecimal() or int(name) != i]
    numbered = all(name.isdecimal() for name in names)
    if len(names) < outputs or (numbered and wrong):
        first = wrong[0] if wrong else 0
        order = f"those of {samples.spec} are numbered in the order of their names: {names[first]} is {first}"
        on_event(Warned(f"the weights do not name their classes; {order}"))


def _by_number(
    samples: Samples, known: tuple[str, ...], there: Sequence[int], on_event: EventSink, *, purpose: str
) -> Samples:
    # Take labels without names for the numbers of the network's classes.
    if there and there[-1] >= len(known):
        what = f"has label {there[-1]}, and the network learnt {len(known)} classes: {_listed(known)}"
        hint = "number the labels in this order, or give the data class names: one folder a class"
        raise DataError(samples.spec, what, hint=hint)
    missing = [name for i, name in enumerate(known) if i not in there]
    numbered = [f"{i} is {name}" for i, name in enumerate(known) if name != str(i)]
    if missing or numbered:
        what = f"{samples.spec} has labels without names, which count as numbers of the network's classes"
        means = f": {_listed(numbered)}" if numbered else ""
        none = f"; there is none of {_listed(missing)}: {purpose} the others" if missing else ""
        on_event(Warned(what + means + none))
    return replace(samples, class_names=known)


def _classes_there(samples: Samples) -> list[int]:
    assert isinstance(samples.labels, Tensor)
    return [label for label in samples.labels.unique().tolist() if label >= 0]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
