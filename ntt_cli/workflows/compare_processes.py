"""The cells of a comparison side by side, each in a process of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from ntt_cli.config import CompareConfig
from ntt_cli.errors import NttError
from ntt_cli.workflows.compare_cell import Cell, folder_of, pilot_of, run_cell
from ntt_cli.workflows.events import CellsChanged, EventSink

FAILURE = "error.txt"


@dataclass
class _Board:
    """Which cells are where."""

    waiting: list[Cell]
    running: dict[BaseProcess, Cell] = field(default_factory=dict)
    done: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def event(self) -> CellsChanged:
        names = tuple(cell.name for cell in self.running.values())
        total = self.done + len(self.failed) + len(self.running) + len(self.waiting)
        return CellsChanged(done=self.done, failed=len(self.failed), total=total, running=names)


def run_cells(config: CompareConfig, cells: Sequence[Cell], on_event: EventSink) -> dict[str, str]:
    """Run the cells, `config.jobs` at a time, and return what those that failed said, by name.

    A process that is killed, for want of memory, takes no other with it, and none outlives this one.
    """
    board = _Board(waiting=list(cells))
    on_event(board.event())
    processes = multiprocessing.get_context("spawn")
    try:
        while board.waiting or board.running:
            while len(board.running) < config.jobs and (cell := _next(config, board)) is not None:
                (folder_of(config, cell) / FAILURE).unlink(missing_ok=True)
                threads = max(1, torch.get_num_threads() // config.jobs)
                process: BaseProcess = processes.Process(target=_work, args=(config, cell, threads))
                process.start()
                board.running[process] = cell
                on_event(board.event())
            finished = set(wait([process.sentinel for process in board.running]))
            for ended in [process for process in board.running if process.sentinel in finished]:
                ended.join()
                cell = board.running.pop(ended)
                if ended.exitcode == 0:
                    board.done += 1
                else:
                    board.failed[cell.name] = _why_failed(config, cell, ended.exitcode)
                on_event(board.event())
    finally:
        for left in board.running:
            left.kill()
            left.join()
    return board.failed


def _next(config: CompareConfig, board: _Board) -> Cell | None:
    """The first waiting cell whose rate is known; with a failed pilot it runs too, and says so."""
    unknown = [*board.waiting, *board.running.values()]
    for cell in board.waiting:
        if pilot_of(config, cell) not in unknown:
            board.waiting.remove(cell)
            return cell
    return None


def _why_failed(config: CompareConfig, cell: Cell, exit_code: int | None) -> str:
    path = folder_of(config, cell) / FAILURE
    if path.exists():
        return path.read_text(encoding="utf-8").strip()
    return f"its process ended with exit code {exit_code}"


def _work(config: CompareConfig, cell: Cell, threads: int) -> None:
    """The life of a cell's process.

    Raises:
        SystemExit: if the cell has no result.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")
    folder = folder_of(config, cell)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            run_cell(config, cell)
        except KeyboardInterrupt:
            raise SystemExit(130) from None  # the comparison itself says so
        except NttError as error:
            _note_failure(folder, f"{error.where}: {error.what}; {error.hint}")
            raise SystemExit(error.exit_code) from None
        except Exception:
            _note_failure(folder, traceback.format_exc())
            raise SystemExit(70) from None


def _note_failure(folder: Path, text: str) -> None:
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FAILURE).write_text(text + "\n", encoding="utf-8")


def _end_with_parent() -> None:
    """A comparison that was killed leaves no process behind that would write into its folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
