"""The trials of a comparison in this process, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from ntt_cli.comparison.queue import Failure, TrialQueue, failure_of
from ntt_cli.comparison.trial import Trial, run_trial
from ntt_cli.config import CompareConfig
from ntt_cli.runs.sources import AS_NAMED, Sources
from ntt_cli.runtime.events import EventSink


def run_trials_in_process(
    config: CompareConfig, trials: Sequence[Trial], on_event: EventSink, sources: Sources = AS_NAMED
) -> dict[str, Failure]:
    """Run the trials as `run_trials` does, for models and data that cannot be sent to another process.

    `config.jobs` is not read: one trial runs at a time. A trial that fails does not end the others. An interrupt ends
    the comparison, and is raised as it is.

    Returns:
        why some trials failed, by name.

    Raises:
        KeyboardInterrupt: if the work was interrupted; `Interrupted` is one.
    """
    queue = TrialQueue(config, list(trials), on_event)
    queue.tell()
    while (trial := queue.start_next()) is not None:
        queue.end(trial, _run(config, trial, sources))
    return queue.failed


def _run(config: CompareConfig, trial: Trial, sources: Sources) -> Failure | None:
    """Run the trial; why it failed, `None` if it did not."""
    try:
        run_trial(config, trial, sources=sources)
    except (Exception, SystemExit) as error:  # a network may call sys.exit
        return failure_of(error)
    return None
