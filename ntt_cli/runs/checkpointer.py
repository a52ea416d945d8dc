"""Save the state of a run: regularly, when it is asked to end, and when its result cannot be written."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from ntt_cli.errors import DivergedError, OutputError
from ntt_cli.files.atomic import remove_durably
from ntt_cli.files.metadata import ModelRecord, RunRecord
from ntt_cli.files.state import Kind, State, write_state
from ntt_cli.networks.batch_norm import is_statistic
from ntt_cli.runtime.events import EventSink, Warned
from ntt_cli.runtime.memory import give_back_free_memory
from ntt_cli.runtime.process_group import SINGLE, ProcessGroup
from ntt_cli.runtime.signals import Interrupted, Stop, reraise_as_interrupt


def no_checkpoints() -> RunCheckpointer:
    """A checkpointer for work that has no output: it never saves."""
    nobody = RunRecord(
        config={}, model=ModelRecord(source="", sha256=None), weights_sha256=None, data_sha256=None, machine={}
    )
    return RunCheckpointer(None, "prune state", nobody, math.inf, Stop(), lambda _: None)


@dataclass
class RunCheckpointer:
    """Decides when the state of a run is saved.

    Attributes:
        path: of the state's file; `None` to save nothing.
        kind: of the state.
        run: the record of the run.
        every: seconds between two saves; 0 saves after each step.
        stop: whether the run was asked to end.
        on_event: told when a state cannot be saved; the run goes on.
        found: the state that an interrupted run saved; `None` to start from the beginning.
        group: the processes of the run. All end after the same step, and the first process saves for all.
    """

    path: Path | None
    kind: Kind
    run: RunRecord
    every: float
    stop: Stop
    on_event: EventSink
    found: State | None = None
    group: ProcessGroup = SINGLE
    _saved: int | None = None
    _last: float = field(init=False)
    _end: Callable[[], State] | None = None

    def __post_init__(self) -> None:
        self._last = time.monotonic()
        if self.found is not None:
            self._saved = self.found.step

    def maybe_save(self, state: Callable[[], State]) -> None:
        """After a step: save the state if it is time, or if the run is to end.

        Raises:
            Interrupted: if the run is to end; its state is saved.
            DivergedError: if the state is not finite, which is never saved.
            OutputError: if the run is to end and its state cannot be saved.
        """
        if self._all_asked() and (number := self.stop.follow_request()) is not None:
            self._save(state())
            raise Interrupted(number, self.kept)
        if time.monotonic() - self._last < self.every:
            return
        try:
            self._save(state())
        except OutputError as error:
            # The next save may succeed. The run may still be able to write its result, so it goes on.
            self.on_event(Warned(f"{error}; the run goes on, and {self.kept}"))
        self._last = time.monotonic()

    def save_if_unfinished(self, state: Callable[[], State]) -> None:
        """After the last step: the state that `finishing` saves if the result is not written."""
        self._end = state

    @contextlib.contextmanager
    def finishing(self) -> Generator[None]:
        """A context in which the result is measured and written; afterwards the state is removed.

        Yields:
            nothing.

        Raises:
            Interrupted: if the run is to end; its state is saved.
            OutputError: if the result cannot be written.
        """
        try:
            with reraise_as_interrupt(self.stop):
                yield
        except Interrupted as interruption:
            self._save_end()
            raise Interrupted(interruption.number, self.kept) from interruption
        except OutputError as error:
            with contextlib.suppress(OutputError):
                self._save_end()
            hint = error.hint if self._saved is None else f"{error.hint}; then go on with --resume, for {self.kept}"
            raise OutputError(error.where, error.what, hint=hint) from error
        finally:
            self._end = None  # it holds the run, which holds this: the network's memory would wait for the collector
        # A state beside a complete result does no harm, so the run does not fail if it cannot be removed.
        with contextlib.suppress(OutputError):
            if self.group.first and self.path is not None:
                remove_durably(self.path)

    def diverged(self, where: str, what: str) -> DivergedError:
        """The error for numbers that are no longer finite."""
        return DivergedError(where, what, hint=f"try a smaller --learning-rate; {self.kept}")

    @property
    def kept(self) -> str:
        """What the run has saved on disk, in words."""
        return "nothing was written" if self._saved is None else f"{self.path} holds step {self._saved:,}"

    def _all_asked(self) -> bool:
        """Whether any process was asked to end, the same in all; a later signal counts at the next step."""
        if self.group.size > 1:
            if not (asked := self.group.maximum(self.stop.asked or 0)):
                return False
            self.stop.asked = asked
        return True

    def _save_end(self) -> None:
        if self._end is not None:
            self._save(self._end())

    def _save(self, state: State) -> None:
        if self.path is None or state.step == self._saved or not self.group.first:
            return
        # Parameters and statistics never recover from NaN, but an optimiser's squares may be infinite for a while.
        statistics = {name: value for name, value in state.part("buffer").items() if is_statistic(name)}
        for name, value in (state.part("param") | statistics).items():
            frozen = isinstance(value, nn.Parameter) and not value.requires_grad
            if not frozen and not value.isfinite().all():
                raise self.diverged(f"step {state.step}", f"{name} is no longer finite")
        give_back_free_memory()
        write_state(self.path, state, kind=self.kind, run=self.run)
        self._saved = state.step
