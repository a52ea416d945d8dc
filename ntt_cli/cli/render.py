"""Parts of results that several commands show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ntt_cli.pages.bounds import MOST_ROWS, and_more, shown
from ntt_cli.results import Agreement, KernelSummary, LayerSummary, StructureSummary


def plain_table(left: Iterable[str], right: Iterable[str] = ()) -> Table:
    """A table without lines, by the headings of its columns; those on the right are aligned to the right."""
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, no_wrap=True, justify="right")
    return table


def layer_table(layers: Sequence[LayerSummary]) -> Table:
    """One row a prunable weight."""
    table = plain_table(["layer"], ["shape", "kept", "of", "density"])
    for layer in layers[:MOST_ROWS]:
        counts = f"{layer.kept:,}", f"{layer.size:,}", f"{layer.density:.2%}"
        table.add_row(Text(shown(layer.name)), "×".join(map(str, layer.shape)), *counts)
    if len(layers) > MOST_ROWS:
        table.add_row(f"{and_more(len(layers))}; --json lists all")
    return table


def channel_lines(structure: StructureSummary) -> list[RenderableType]:
    """How many channels are left, in all and by layer, and what the smaller network costs."""
    table = plain_table(["channels of"], ["kept", "of"])
    for group in structure.channels[:MOST_ROWS]:
        table.add_row(Text(shown(group.layer) + ", heads" * group.are_heads), f"{group.kept:,}", f"{group.channels:,}")
    if len(structure.channels) > MOST_ROWS:
        table.add_row(f"{and_more(len(structure.channels))}; --json lists all")
    return [table, Text(structure.in_words)]


def agreement_line(agreement: Agreement) -> Text:
    choice = "" if agreement.top1_agreement is None else f"same first choice {agreement.top1_agreement:.2%}, "
    kernel = "" if agreement.kernel_distance is None else f", kernel distance {agreement.kernel_distance:.4f}"
    name = "output" if agreement.top1_agreement is None else "logit"
    each = ", ".join(f"{head} {distance:.4f}" for head, distance in (agreement.heads or {}).items())
    distance = f"{name} distance {agreement.logit_distance:.4f}{f' ({each})' if each else ''}"
    cosine = "" if agreement.cosine is None else f", cosine {agreement.cosine:.4f}"
    return Text(f"agreement with the teacher: {choice}{distance}{cosine}{kernel}")


def kernel_line(kernels: KernelSummary) -> Text:
    alignment = "" if kernels.alignment is None else f"alignment {kernels.alignment:.4f}, "
    return Text(f"kernels on {kernels.extent}: {alignment}effective rank {kernels.ranks}")
