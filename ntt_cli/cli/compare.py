"""`ntt compare`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import ntt_cli as ntt
from ntt_cli.cli.options import build_config, own_flag, with_options
from ntt_cli.cli.render import plain_table
from ntt_cli.cli.run import call, command_line, guarded
from ntt_cli.cli.streams import make_streams
from ntt_cli.comparison.results import ComparePlan, CompareReport, CompareRow, columns_of, lines_of, metric_of, rows_of
from ntt_cli.config import CompareConfig

EXAMPLES = (
    "ntt compare model.py --methods ntt,synflow,snip,random --sparsities 0.9,0.95,0.99 --jobs 2",
    "ntt compare model.py --learning-rates 1e-3,3e-3,1e-2 --seeds 1,2,3,4,5 --plan",
    "ntt compare model.py --trial $SLURM_ARRAY_TASK_ID -o results/",
)
MOST_USED = ("weights", "data", "methods", "sparsities", "seeds", "epochs", "jobs", "output", "plan")

PLAN = own_flag(
    "--plan", help="Show the trials, and how long those not done will take, from a few measured steps; train nothing."
)


@with_options(CompareConfig, PLAN)
def compare(ctx: typer.Context, **values: Any) -> None:
    streams = make_streams(as_json=values["json"], quiet=values["quiet"])
    with guarded(streams, debug=values["debug"], again=command_line(ctx)):
        config = build_config(CompareConfig, ctx)
        given = config.given() | {"output": config.output}
        if values["plan"]:
            plan = call(streams, lambda on_event: ntt.compare(**given, progress=on_event, plan=True))
            streams.result(plan, human=_plan(plan), quiet=plan.output)
            return
        report = call(streams, lambda on_event: ntt.compare(**given, progress=on_event))
        streams.result(report, human=_summary(report), quiet=report.output)
        for failure in report.failed:
            streams.fail(f"trial {failure.trial}: {failure.what}")
        if report.failed:
            streams.say("the same command runs the failed trials again, and no others")
            raise typer.Exit(max(failure.exit_code for failure in report.failed))
        streams.say(f"done in {streams.seconds:.0f} s; see {report.page or report.output}")


def _summary(report: CompareReport) -> RenderableType:
    folder = Text(report.output, style="bold")
    if not report.rows:  # every trial failed
        return folder
    if not any(result.trained for result in report.results):
        return Group(folder, *_table(report, report.rows, ""))
    before = _table(report, rows_of(report.results, as_pruned=True), " as pruned")
    return Group(folder, *before, *_table(report, report.rows, " after fine-tuning"))


def _table(report: CompareReport, rows: Sequence[CompareRow], when: str) -> list[RenderableType]:
    """A table under its heading."""
    table = plain_table(["method", "labels before training"], columns_of(rows).values())
    for method, labels, own in lines_of(rows, dict.fromkeys(row.method for row in rows)):
        cells = (Text(row.in_words, style="bold" if row.best else "") if row else "" for row in own)
        table.add_row(method, labels, *cells)
    count = len({result.seed for result in report.results})
    name, unit = metric_of(rows)
    what = f"test {name}{' in %' if unit else ''}{when}"
    return [Text(f"{what}, mean ± standard deviation over {count} seed{'s' * (count != 1)}", style="dim"), table]


def _plan(plan: ComparePlan) -> RenderableType:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("--trial", justify="right")
    table.add_column("what", no_wrap=True)
    table.add_column("")
    for trial in plan.trials:
        table.add_row(str(trial.number), Text(trial.trial), "done" if trial.done else "")
    left = sum(not trial.done for trial in plan.trials)
    duration = timedelta(seconds=round(plan.estimated_seconds))
    return Group(table, Text(f"{left} of {len(plan.trials)} trials to do, about {duration} one after the other"))
