"""Worker processes that read samples: torch's DataLoader with requests that are made one call at a time."""

from __future__ import annotations

import math
import multiprocessing
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ntt_cli.errors import DataError

READ_AHEAD = 2
"""Parts of a call that each worker is given at once."""


class _Results(Dataset[Any]):
    """The results of a function by its argument; an exception is a result, so that it keeps its type."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.function = function

    def __getitem__(self, request: Any) -> Any:
        try:
            return self.function(request)
        except Exception as failure:
            return _portable(failure)


@dataclass
class _Requests:
    """The requests of one call, a part at a time."""

    parts: list[list[Any]] = field(default_factory=list)

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self.parts)


class WorkerPool:
    """Processes that compute a function. They start at the first call, and end with the pool or with this process.

    Results do not depend on their number: a function that draws random numbers seeds them by its argument. It must not
    hold what holds the pool: both would stay, with the processes, until the garbage collector comes by.
    """

    def __init__(self, function: Callable[[Any], Any], workers: int, where: str) -> None:
        self._requests = _Requests()
        self._workers, self._where = workers, where
        self._loader = _loader(_Results(function), self._requests, workers) if workers else None
        self._function = function

    def map(self, requests: Sequence[Any]) -> list[Any]:
        """The results of all requests, in order. The first exception of one is raised.

        Raises:
            DataError: if a worker process ended.
        """
        if self._loader is None:
            return [self._function(request) for request in requests]
        size = math.ceil(len(requests) / (READ_AHEAD * self._workers)) or 1
        self._requests.parts = [list(requests[first : first + size]) for first in range(0, len(requests), size)]
        try:
            results = [result for part in self._loader for result in part]
        except RuntimeError as ended:
            what = f"a worker process ended: {str(ended).splitlines()[0]}"
            raise DataError(self._where, what, hint="give fewer --workers; memory may have run out") from ended
        failure = next((result for result in results if isinstance(result, Exception)), None)
        if failure is None:
            return results
        try:
            raise failure
        finally:
            del failure, results  # else the error and this call would keep each other, and the processes, alive


def _loader(results: _Results, requests: _Requests, workers: int) -> DataLoader[Any]:
    forks = "fork" in multiprocessing.get_all_start_methods()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
        return DataLoader(
            results,
            batch_sampler=requests,
            num_workers=workers,
            collate_fn=list,
            generator=torch.Generator(),  # global generators are left alone
            persistent_workers=True,
            multiprocessing_context="fork" if forks else None,  # a user's module cannot be pickled
            worker_init_fn=_with_usual_signals,
        )


def _with_usual_signals(_: int) -> None:
    """Leave Ctrl-C to the main process, which needs its workers to end the step; SIGTERM ends a worker at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _portable(failure: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(failure))  # noqa: S301  # what this process itself has written
    except Exception:
        return RuntimeError(f"{type(failure).__name__}: {failure}")
    return failure
