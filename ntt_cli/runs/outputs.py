"""The output of a run: one run at a time, no unasked overwriting, and resuming of interrupted runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from ntt_cli.config import FinetuneConfig, PruneConfig, flag, name_of, recorded
from ntt_cli.data import Samples, data_sha256
from ntt_cli.documents import Summary
from ntt_cli.errors import CheckpointError, OutputError, ResumeError
from ntt_cli.files.atomic import (
    HOUR,
    can_sync,
    check_outputs,
    check_writable,
    remove_durably,
    remove_orphans,
    report_path,
    state_path,
)
from ntt_cli.files.lock import locked
from ntt_cli.files.metadata import AnyRecord, CheckpointRecord, ReportRecord, RunRecord, read_header
from ntt_cli.files.state import Kind, read_state
from ntt_cli.networks.loading.models import LoadedModel
from ntt_cli.runs.checkpointer import RunCheckpointer, no_checkpoints
from ntt_cli.runs.sources import Sources
from ntt_cli.runtime.events import EventSink, Noted, Warned
from ntt_cli.runtime.machine import describe_machine, pick_device
from ntt_cli.runtime.process_group import ProcessGroup, this_process_group
from ntt_cli.runtime.signals import Stop

S = TypeVar("S", bound=Summary)

RunConfig = PruneConfig | FinetuneConfig


@contextlib.contextmanager
def output_lock(output: Path | None, config: RunConfig, group: ProcessGroup, on_event: EventSink) -> Generator[None]:
    """Lock the output, if there is one, and remove files that killed runs left; the first process does it for all.

    Raises:
        OutputError: if another run is using the output, it cannot be written, or it would overwrite something.
    """
    if output is None or not group.first:
        yield
        return
    check_outputs(output, force=True)
    with locked(output) as alone:
        if not alone:
            on_event(Warned(f"the file system has no locks: let no other run write {output}"))
        if not can_sync(output.parent):
            on_event(Warned(f"the file system does not write to disk when asked: a power cut may cost {output}"))
        # Check only now: the run that had the lock before may have written the output.
        check_outputs(output, force=config.force or config.resume)
        state = state_path(output)
        check_writable(state, force=True)
        for path in (output, report_path(output), state):
            remove_orphans(path, older_than=0 if alone else HOUR)
        if state.exists() and not config.resume and not config.force:
            hint = "go on with --resume, or start from the beginning with --force"
            raise OutputError(state, "holds the state of an unfinished run", hint=hint)
        yield


def run_record(
    config: RunConfig, loaded: LoadedModel, sources: Sources, samples: Sequence[Samples], settled: dict[str, Any]
) -> RunRecord:
    """The record of everything that affects the bytes that the run writes; `settled` are defaults that were filled in.

    Model and data have names here even if they were given as objects.
    """
    names = {"model": loaded.source} | ({"data": name_of(samples[0].spec)} if samples else {})
    return RunRecord(
        config=recorded(config) | settled | names,
        model=loaded.record,
        weights_sha256=sources.weights_sha256(config.weights if isinstance(config, PruneConfig) else config.checkpoint),
        data_sha256=data_sha256(*samples) if samples else None,
        machine=describe_machine(pick_device(config.device)) | {"processes": str(this_process_group().size)},
    )


def _record_of(path: Path) -> AnyRecord | None:
    """The record of a file; `None` if it is not complete, or has none."""
    try:
        return read_header(path).record
    except CheckpointError:
        return None


def _is_of(run: RunRecord, record: AnyRecord | None) -> bool:
    """Whether a record is that of a checkpoint or report that the same run wrote."""
    return isinstance(record, CheckpointRecord | ReportRecord) and record.run_sha256 == run.sha256


def finished(output: Path | None, config: RunConfig, run: RunRecord, kind: type[S], on_event: EventSink) -> S | None:
    """With `--resume`, the report of the same run, if it has already written everything; otherwise `None`."""
    if output is None or not config.resume:
        return None
    report = _record_of(report_path(output))
    if not isinstance(report, ReportRecord) or not (_is_of(run, report) and _is_of(run, _record_of(output))):
        return None
    try:
        summary = kind.model_validate(report.summary)
    except ValidationError:
        return None  # another version of ntt wrote it, with other fields
    on_event(Noted(f"{output} is whole already, of the same run; nothing to do"))
    with contextlib.suppress(OutputError):
        remove_durably(state_path(output))
    return summary


def open_checkpointer(
    output: Path | None, config: RunConfig, run: RunRecord, stop: Stop, group: ProcessGroup, on_event: EventSink
) -> RunCheckpointer:
    """The checkpointer of a run that is about to start or, with `--resume`, to go on; without an output it never saves.

    Raises:
        ResumeError: if the run cannot go on from the saved state.
        OutputError: if files of another run are in the way.
    """
    if output is None:
        return no_checkpoints()
    path = state_path(output)
    kind: Kind = "prune state" if isinstance(config, PruneConfig) else "finetune state"
    checkpointer = RunCheckpointer(path, kind, run, config.checkpoint_every, stop, on_event, group=group)
    if not config.resume:
        if group.first:
            remove_durably(path)
        return checkpointer
    for there in (output, report_path(output)):
        if there.exists() and not config.force and not _is_of(run, _record_of(there)):
            hint = "name another with --output, or overwrite it with --force"
            raise OutputError(there, f"is of another run{_how_other(output, run)}", hint=hint)
    if not path.exists():
        on_event(Noted(f"there is no {path} to go on from; starting from the beginning"))
        return checkpointer
    state, left_by = read_state(path, kind=kind)
    _check_same(path, left_by, run, on_event, allow_mismatch=config.allow_mismatch)
    on_event(Noted(f"going on from step {state.step:,}"))
    return replace(checkpointer, found=state)


def announce(work: str, output: Path | None, checkpointer: RunCheckpointer, on_event: EventSink) -> None:
    """Say what a run will do and write; one that goes on has said from where."""
    if output is not None and checkpointer.found is None:
        on_event(Noted(f"to do: {work}; then {output} and {report_path(output)} are written"))


def _how_other(output: Path, run: RunRecord) -> str:
    """How the run that wrote a checkpoint differs, as far as its record tells; it has no hash of weights or data."""
    record = _record_of(output)
    if not isinstance(record, CheckpointRecord):
        return ""
    what = _other_run(record, run) or ["the file of weights or the data differ"]
    return f": {'; '.join(what)}"


def _other_run(then: CheckpointRecord | RunRecord, now: RunRecord) -> list[str]:
    """The options and Python files that differ."""
    options = _differing(then.config, now.config, flag)
    file = _differs("the model's file", then.model.sha256, now.model.sha256)
    return options + file + _differing(then.model.modules, now.model.modules, "the module {}".format)


def _differing(then: Mapping[str, Any], now: Mapping[str, Any], call: Callable[[str], str]) -> list[str]:
    names = sorted({*then, *now})
    return [text for name in names for text in _differs(call(name), then.get(name), now.get(name))]


def _check_same(path: Path, left_by: RunRecord, run: RunRecord, on_event: EventSink, *, allow_mismatch: bool) -> None:
    """Refuse a state of another run.

    Raises:
        ResumeError: if the runs differ; it names the differences.
    """
    if what := _other_run(left_by, run) + _differs("the file of weights", left_by.weights_sha256, run.weights_sha256):
        hint = "go on with what it was begun with, or start from the beginning with --force and without --resume"
        raise ResumeError(path, f"is the state of another run: {'; '.join(what)}", hint=hint)
    where = _differing(left_by.machine, run.machine, str) + _differs("the data", left_by.data_sha256, run.data_sha256)
    if not where:
        return
    if not allow_mismatch:
        hint = "go on where it was begun, or give up the same bytes with --allow-mismatch"
        raise ResumeError(path, f"was saved under other conditions: {'; '.join(where)}", hint=hint)
    on_event(Warned("the result will not be that of an uninterrupted run: " + "; ".join(where)))


def _differs(name: str, then: object, now: object) -> list[str]:
    """How two values differ, in words; nothing where they are the same."""
    return [] if then == now else [f"{name} was {_short(then)} and is {_short(now)}"]


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
