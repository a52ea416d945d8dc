"""The trials of a comparison side by side, in worker processes that each run one trial after the other."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from ntt_cli.comparison.queue import TrialQueue, failure_of
from ntt_cli.comparison.results import TrialFailure
from ntt_cli.comparison.trial import Trial, run_trial
from ntt_cli.config import CompareConfig
from ntt_cli.errors import NttError
from ntt_cli.runtime.events import EventSink
from ntt_cli.runtime.signals import GRACE_SECONDS, Interrupted, Stop, handle_signals


@dataclass
class _Worker:
    """A process that runs one trial after the other, the pipe to it, and the trial that it runs now."""

    process: BaseProcess
    pipe: Connection
    trial: Trial | None = None

    def begin(self, trial: Trial) -> None:
        self.trial = trial
        # If the process has died already, `end` finds out.
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(trial)

    def end(self) -> tuple[Trial, TrialFailure | None]:
        """Wait for the trial's end; why it failed, `None` if it did not."""
        assert self.trial is not None
        trial, self.trial = self.trial, None
        failure: TrialFailure | None
        try:
            failure = self.pipe.recv()
        except EOFError:
            self.process.join()
            what = f"its process ended with exit code {self.process.exitcode}"
            failure = TrialFailure(trial=trial.name, what=what, exit_code=NttError.exit_code)
        return trial, failure


def run_trials(config: CompareConfig, trials: Sequence[Trial], on_event: EventSink) -> list[TrialFailure]:
    """Run the trials in other processes, `config.jobs` at a time, and return why some of them failed.

    If a process is killed, as when memory runs out, only its own trial fails. No process outlives this one.
    """
    queue = TrialQueue(config, list(trials), on_event)
    workers: list[_Worker] = []
    queue.tell()
    try:
        while queue.waiting or queue.running:
            while len(queue.running) < config.jobs and (trial := queue.start_next()) is not None:
                _free_worker(config, workers).begin(trial)
            ready = set(wait([worker.pipe for worker in workers if worker.trial is not None]))
            for worker in [worker for worker in workers if worker.pipe in ready]:
                ended = worker.end()
                if not worker.process.is_alive():
                    workers.remove(worker)
                queue.end(*ended)
    finally:
        _end(workers)
    return queue.failed


def _end(workers: Sequence[_Worker]) -> None:
    """End the processes, all at the same time; the trials that run save their state first."""
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))
        worker.process.kill()
        worker.process.join()
        worker.pipe.close()


def _free_worker(config: CompareConfig, workers: list[_Worker]) -> _Worker:
    """A worker without a trial, or a new one. Workers are kept: each takes seconds to import torch."""
    for worker in workers:
        if worker.trial is None:
            return worker
    processes = multiprocessing.get_context("spawn")
    ours, theirs = processes.Pipe()
    threads = max(1, torch.get_num_threads() // config.jobs)
    process: BaseProcess = processes.Process(target=_work, args=(config, theirs, threads))
    process.start()
    theirs.close()  # the process has its own copy, and closes the pipe when it ends
    workers.append(_Worker(process, ours))
    return workers[-1]


def _work(config: CompareConfig, pipe: Connection, threads: int) -> None:
    """What a worker's process does: run trials until there are no more."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # A terminal sends the interrupt to every process; the comparison's own process ends the trials.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
            pipe.send(_run(config, trial, stop))


def _run(config: CompareConfig, trial: Trial, stop: Stop) -> TrialFailure | None:
    """Run the trial; why it failed, `None` if it did not."""
    try:
        run_trial(config, trial, stop)
    except Interrupted:
        raise
    except BaseException as error:  # a network may raise SystemExit, KeyboardInterrupt and others
        if stop.asked is not None:
            raise Interrupted(stop.asked) from error
        return failure_of(trial, error)
    return None


def _end_with_parent() -> None:
    """End this process when the comparison's own is killed, so that nothing writes into the folder any more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
