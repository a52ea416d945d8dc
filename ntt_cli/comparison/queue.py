"""The queue of a comparison's trials: which wait, which run, and how the others ended."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field

from ntt_cli.comparison.trial import Trial, learning_rate_source
from ntt_cli.config import CompareConfig
from ntt_cli.errors import INTERNAL_ERROR, NttError
from ntt_cli.runtime.events import EventSink, TrialsChanged
from ntt_cli.runtime.python_source import blame


@dataclass(frozen=True)
class Failure:
    """Why a trial has no result, and the exit code of a command that fails in the same way."""

    error: str
    exit_code: int


@dataclass
class TrialQueue:
    """The trials to run; `on_event` is told of every change.

    Attributes:
        config: of the comparison.
        waiting: trials that have not begun, in the order in which they begin.
        on_event: gets a `TrialsChanged`.
        running: trials at work.
        done: how many trials have ended with a result.
        failed: why the other trials that ended have none, by name.
    """

    config: CompareConfig
    waiting: list[Trial]
    on_event: EventSink
    running: list[Trial] = field(default_factory=list)
    done: int = 0
    failed: dict[str, Failure] = field(default_factory=dict)

    def tell(self) -> None:
        """Tell how many trials are where."""
        total = self.done + len(self.failed) + len(self.running) + len(self.waiting)
        names = tuple(trial.name for trial in self.running)
        self.on_event(TrialsChanged(done=self.done, failed=len(self.failed), total=total, running=names))

    def start_next(self) -> Trial | None:
        """Begin the first waiting trial whose learning rate source has ended; `None` if there is no such trial.

        If the source failed, its followers begin too, and each fails with an error that names the source.
        """
        unfinished = [*self.waiting, *self.running]
        for trial in self.waiting:
            if learning_rate_source(self.config, trial) not in unfinished:
                self.waiting.remove(trial)
                self.running.append(trial)
                self.tell()
                return trial
        return None

    def end(self, trial: Trial, failure: Failure | None) -> None:
        """Note that a running trial has ended, with a result if `failure` is `None`."""
        self.running.remove(trial)
        if failure is None:
            self.done += 1
        else:
            self.failed[trial.name] = failure
        self.tell()


def failure_of(error: BaseException) -> Failure:
    """What a trial failed with: in one line for an error of ntt or of the user's code, else with its traceback."""
    known = error if isinstance(error, NttError) else blame(error)
    if known is None:
        return Failure("".join(traceback.format_exception(error)), INTERNAL_ERROR)
    return Failure(f"{known.where}: {known.what}; {known.hint}", known.exit_code)
