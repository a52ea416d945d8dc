"""`ntt compare`."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.options import COMMON, build_config, common_of, options_of, with_parameters
from ntt_cli.cli.progress import progress
from ntt_cli.cli.run import call, command_line, guarded
from ntt_cli.comparison.rows import columns_of
from ntt_cli.config import OUTPUT, CompareConfig

if TYPE_CHECKING:
    from ntt_cli.comparison.results import ComparePlan, CompareReport, CompareRow

EXAMPLES = """Examples:

  ntt compare model.py --methods ntt,synflow,snip,random --sparsities 0.9,0.95,0.99 --jobs 2

  ntt compare model.py --learning-rates 1e-3,3e-3,1e-2 --seeds 1,2,3,4,5 --plan

  ntt compare model.py --trial $SLURM_ARRAY_TASK_ID -o results/
"""

PLAN = Annotated[
    bool,
    typer.Option(
        "--plan",
        help="Show the trials, and how long those not done will take, from a few measured steps; train nothing.",
        rich_help_panel=OUTPUT,
    ),
]


def command() -> Callable[..., None]:
    """The command with its options."""
    plan = inspect.Parameter("plan", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=PLAN)
    return with_parameters(compare, [*options_of(CompareConfig), plan, *COMMON])


def compare(ctx: typer.Context, **values: Any) -> None:
    common = common_of(values)
    with guarded(common.streams, debug=common.debug, again=command_line(ctx)):
        config = build_config(CompareConfig, ctx, common.config)

        begun, given = time.monotonic(), config.given() | {"output": config.output}
        if values["plan"]:
            with progress(common.streams) as on_event:
                plan = call(lambda: ntt.compare(**given, progress=on_event, plan=True))
            common.streams.result(plan, human=_plan(plan), quiet=plan.output)
            return
        with progress(common.streams) as on_event:
            report = call(lambda: ntt.compare(**given, progress=on_event))
        common.streams.result(report, human=_summary(report), quiet=report.output)
        for failure in report.failed:
            common.streams.fail(f"trial {failure.trial}: {failure.error}")
        if report.failed:
            common.streams.say("the same command runs the failed trials again, and no others")
            raise typer.Exit(max(failure.exit_code for failure in report.failed))
        common.streams.say(f"done in {time.monotonic() - begun:.0f} s; see {report.page or report.output}")


def _summary(report: CompareReport) -> RenderableType:
    folder = Text(report.output, style="bold")
    if not report.rows:  # every trial failed
        return folder
    columns = columns_of(report.rows)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("method", no_wrap=True)
    table.add_column("labels before training", no_wrap=True)
    for heading in columns.values():
        table.add_column(heading, justify="right", no_wrap=True)
    methods = dict.fromkeys(row.method for row in report.rows)
    for method in methods:
        rows = {row.sparsity: row for row in report.rows if row.method == method}
        labels = "yes" if any(row.labels_before_training for row in rows.values()) else "no"
        table.add_row(method, labels, *(_cell(rows.get(level)) for level in columns))
    count = len({result.seed for result in report.results})
    head = Text(f"test accuracy in %, mean ± standard deviation over {count} seed{'s' * (count != 1)}", style="dim")
    return Group(folder, head, table)


def _cell(row: CompareRow | None) -> Text:
    if row is None:
        return Text("")
    spread = "" if row.std is None else f" ± {100 * row.std:.2f}"
    return Text(f"{100 * row.mean:.2f}{spread}", style="bold" if row.best else "")


def _plan(plan: ComparePlan) -> RenderableType:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("--trial", justify="right")
    table.add_column("what", no_wrap=True)
    table.add_column("")
    for trial in plan.trials:
        table.add_row(str(trial.number), Text(trial.trial), "done" if trial.done else "")
    left = sum(not trial.done for trial in plan.trials)
    duration = timedelta(seconds=round(plan.seconds))
    return Group(table, Text(f"{left} of {len(plan.trials)} trials to do, about {duration} one after the other"))
