"""The trials of a comparison side by side, in processes that each do one after the other."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from ntt_cli.comparison.trial import Trial, learning_rate_source, run_trial
from ntt_cli.config import CompareConfig
from ntt_cli.errors import INTERNAL_ERROR, NttError
from ntt_cli.runtime.events import EventSink, TrialsChanged
from ntt_cli.runtime.python_source import blame
from ntt_cli.runtime.signals import GRACE_SECONDS, Interrupted, Stop, handle_signals


@dataclass(frozen=True)
class Failure:
    """Why a trial has no result, and the exit code that its run would have had."""

    error: str
    exit_code: int


@dataclass
class _Worker:
    """A process, what is sent to it and comes back, and the trial that it works on."""

    process: BaseProcess
    pipe: Connection
    trial: Trial | None = None

    def give(self, trial: Trial) -> None:
        """Let it work on a trial."""
        self.trial = trial
        # One that is dead already is found so when it is listened to.
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(trial)

    def take(self) -> Failure | None:
        """Why the trial failed, `None` if it did not; waits for the word."""
        try:
            word: Failure | None = self.pipe.recv()
        except EOFError:
            self.process.join()
            return Failure(f"its process ended with exit code {self.process.exitcode}", NttError.exit_code)
        return word


@dataclass
class _Board:
    """Which trials are where."""

    waiting: list[Trial]
    workers: list[_Worker] = field(default_factory=list)
    done: int = 0
    failed: dict[str, Failure] = field(default_factory=dict)

    @property
    def running(self) -> list[Trial]:
        return [worker.trial for worker in self.workers if worker.trial is not None]

    def event(self) -> TrialsChanged:
        total = self.done + len(self.failed) + len(self.running) + len(self.waiting)
        names = tuple(trial.name for trial in self.running)
        return TrialsChanged(done=self.done, failed=len(self.failed), total=total, running=names)


def run_trials(config: CompareConfig, trials: Sequence[Trial], on_event: EventSink) -> dict[str, Failure]:
    """Run the trials, `config.jobs` at a time, and return why some failed, by name.

    A process that is killed, for want of memory, takes no trial but its own with it, and none outlives this one.
    """
    board = _Board(waiting=list(trials))
    on_event(board.event())
    try:
        while board.waiting or board.running:
            while len(board.running) < config.jobs and (trial := _next(config, board)) is not None:
                _free_worker(config, board).give(trial)
                on_event(board.event())
            heard = set(wait([worker.pipe for worker in board.workers if worker.trial is not None]))
            for worker in [worker for worker in board.workers if worker.pipe in heard]:
                assert worker.trial is not None
                why = worker.take()
                if why is None:
                    board.done += 1
                else:
                    board.failed[worker.trial.name] = why
                worker.trial = None
                if not worker.process.is_alive():
                    board.workers.remove(worker)
                on_event(board.event())
    finally:
        _end(board.workers)
    return board.failed


def _end(workers: Sequence[_Worker]) -> None:
    """Let the trials that run save their state, each process at the same time."""
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


def _next(config: CompareConfig, board: _Board) -> Trial | None:
    """The first waiting trial whose rate is known; with a failed source it runs too, and says so."""
    unknown = [*board.waiting, *board.running]
    for trial in board.waiting:
        if learning_rate_source(config, trial) not in unknown:
            board.waiting.remove(trial)
            return trial
    return None


def _free_worker(config: CompareConfig, board: _Board) -> _Worker:
    """One without a trial; a process takes seconds to import torch, so that it is kept from trial to trial."""
    for worker in board.workers:
        if worker.trial is None:
            return worker
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    threads = max(1, torch.get_num_threads() // config.jobs)
    process: BaseProcess = processes.Process(target=_work, args=(config, theirs, threads))
    process.start()
    theirs.close()  # the process has its own, so that its end closes the pipe
    board.workers.append(_Worker(process, ours))
    return board.workers[-1]


def _work(config: CompareConfig, pipe: Connection, threads: int) -> None:
    """The life of a process: trials, until there are no more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the comparison itself ends its trials
    stop = Stop()
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
    with (
        contextlib.redirect_stdout(sys.stderr),
        contextlib.suppress(Interrupted),
        handle_signals(stop, [signal.SIGTERM]),
    ):
        while True:
            try:
                trial = pipe.recv()
            except EOFError:
                return
            pipe.send(_failure(config, trial, stop))


def _failure(config: CompareConfig, trial: Trial, stop: Stop) -> Failure | None:
    """Run the trial, and return why it failed, `None` if it did not.

    Raises:
        Interrupted: if the comparison ends its trials.
    """
    try:
        run_trial(config, trial, stop)
    except Interrupted:
        raise
    except BaseException as error:  # a network may raise SystemExit and EOFError, too
        if stop.asked is not None:
            raise Interrupted(stop.asked) from error
        known = error if isinstance(error, NttError) else blame(error)
        if known is None:
            return Failure(traceback.format_exc(), INTERNAL_ERROR)
        return Failure(f"{known.where}: {known.what}; {known.hint}", known.exit_code)
    return None


def _end_with_parent() -> None:
    """A comparison that was killed leaves no process behind that would write into its folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
