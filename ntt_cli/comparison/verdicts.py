"""What a comparison found, in a sentence a sparsity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ntt_cli.comparison.results import CompareRow, columns_of, metric_of, percent
from ntt_cli.config import REFERENCES
from ntt_cli.pages.bounds import shown
from ntt_cli.pages.plots import COLOURS

RULE = "“Level” means within one standard error of the difference."


@dataclass(frozen=True)
class Finding:
    """The method that a comparison is about at one sparsity, and the best of those that it is compared with.

    Attributes:
        row: of the method.
        rival: the best other method without labels before training, if the method has none either; else the best other.
        others: how many the rival is the best of.
    """

    row: CompareRow
    rival: CompareRow | None
    others: int

    @property
    def in_words(self) -> str:
        """Both with their spread, and which is better; without a full stop."""
        own = f"{shown(self.row.method)} reaches {self.row.in_words}"
        if self.rival is None:
            return own
        kind = "method" if self.row.labels_before_training else "label-free method"
        which = f"the other {kind}" if self.others == 1 else f"the best other {kind}"
        return f"{own}; {which}, {shown(self.rival.method)}, {self.rival.in_words}: {self.verdict}"

    @property
    def verdict(self) -> str:
        """By how much the method is better or worse; level within one standard error of the difference."""
        if self.rival is None:
            return ""
        better = self.row.sign * (self.row.mean - self.rival.mean)
        error = _error_of_difference(self.row, self.rival)
        if better == 0 or (error is not None and abs(better) <= error):
            return "level"
        by = f"{'better' if better > 0 else 'worse'} by {self.row.shown(abs(better))}"
        return f"{by}, but a single seed may do that by chance" if error is None else by


def findings_of(rows: Sequence[CompareRow], ranked: Sequence[str]) -> dict[float, Finding]:
    """What was found at each sparsity; `ranked` are the methods, best first.

    A comparison is about `ntt`, or another form of it, or the best method. Where that has no result, it is about the
    best there.
    """
    free = {row.method for row in rows if not row.labels_before_training}
    candidates = [method for method in ranked if method not in REFERENCES]
    subjects = sorted(
        candidates, key=lambda method: (method != "ntt", method.partition(":")[0] != "ntt", method not in free)
    )
    found = {}
    for level in (level for level in columns_of(rows) if level is not None):
        here = {row.method: row for row in rows if row.sparsity == level and row.method not in REFERENCES}
        subject = next((here[method] for method in subjects if method in here), None)
        if subject is not None:
            comparable = [
                row
                for row in here.values()
                if row is not subject and (subject.labels_before_training or not row.labels_before_training)
            ]
            rival = max(comparable, key=lambda row: row.sign * row.mean, default=None)
            found[level] = Finding(subject, rival, len(comparable))
    return found


def sentences_of(
    rows: Sequence[CompareRow], pruned: Sequence[CompareRow] | None, ranked: Sequence[str]
) -> dict[str, str]:
    """A sentence for the dense network, if it takes part, and for each sparsity.

    With rows of the networks as pruned, which count where the weights were trained before, these come first.
    """
    sentences = {}
    for row in rows:
        if row.sparsity is None:
            sentences["Dense"] = f"the network reaches {row.in_words} with all of its weights."
    before = findings_of(pruned, ranked) if pruned else {}
    for level, finding in findings_of(rows, ranked).items():
        text = f"{finding.in_words}."
        if level in before:
            text = f"as pruned, {before[level].in_words}. After fine-tuning, {text}"
        sentences[f"At {percent(level)}"] = text
    return sentences


def methods_in_colour(rows: Sequence[CompareRow], found: Sequence[Finding], ranked: Sequence[str]) -> tuple[str, ...]:
    """Those that sentences name, most often first, then all others; of too many, the best with labels before alone."""
    subjects, rivals = [each.row.method for each in found], [each.rival.method for each in found if each.rival]
    named = [name for names in (subjects, rivals) for name in sorted(names, key=names.count, reverse=True)]
    order = list(dict.fromkeys([*named, *(method for method in ranked if method not in REFERENCES)]))
    if len(order) > len(COLOURS):
        labelled = {row.method for row in rows if row.labels_before_training}
        order = [method for method in order if method in named] + [method for method in order if method in labelled][:1]
    return tuple(dict.fromkeys(order))[: len(COLOURS)]


def note_on(rows: Sequence[CompareRow], seeds: Sequence[int]) -> str:
    """How to read the sentences."""
    name, unit = metric_of(rows)
    what = f"Test {name}{' in %' if unit else ''}"
    if not unit:
        what += ", higher is better" if rows[0].higher_is_better else ", lower is better"
    if len(seeds) == 1:
        return f"{what}, of one seed, so that the spread is not known."
    lacking = (row for row in rows if row.seeds < len(seeds))
    fewer = [f"{shown(row.method)}{_at(row)} ({row.seeds})" for row in lacking]
    note = f"{what}, mean ± standard deviation over {len(seeds)} seeds. {RULE}"
    return f"{note} Fewer seeds: {', '.join(fewer)}." if fewer else note


def _at(row: CompareRow) -> str:
    return "" if row.sparsity is None else f" at {percent(row.sparsity)}"


def _error_of_difference(one: CompareRow, other: CompareRow) -> float | None:
    """Of two means over seeds; `None` if a row has one seed."""
    if one.std is None or other.std is None:
        return None
    return math.sqrt(one.std**2 / one.seeds + other.std**2 / other.seeds)
