from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ntt_cli.cli.progress import Board, LivePanel, progress
from ntt_cli.cli.streams import Streams
from ntt_cli.runtime import progress as module
from ntt_cli.runtime.events import (
    EpochDone,
    Evaluated,
    Event,
    MasksUpdated,
    StepsDone,
    TrainingStarted,
    TrainingStepsDone,
    TransferStarted,
    TrialsChanged,
    Validated,
    Warned,
)

TRANSFER: list[Event] = [
    Warned("[frozen] weights"),
    TransferStarted(2000, {"fc1.weight": 100, "fc[2].weight": 50}),
    MasksUpdated(0, 0.75, 37, {"fc1.weight": 0.8, "fc[2].weight": 0.65}),
    StepsDone(1000, 0.5, 0.25),
    MasksUpdated(1000, 0.5, 38, {"fc1.weight": 0.6, "fc[2].weight": 0.3}),
    StepsDone(2000, 0.125, 0.0625),
]
TRAINING: list[Event] = [
    TrainingStarted(2, 3),
    TrainingStepsDone(3, 1.5),
    EpochDone(1, 1.75, 0.5),
    TrainingStepsDone(6, 1.0),
    EpochDone(2, 1.25, None),
]


def console_on(file: io.StringIO, *, terminal: bool = True, height: int = 30) -> Console:
    return Console(file=file, force_terminal=terminal, width=70, height=height)


def without_style(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def streams_on(err: Console, *, quiet: bool = False) -> Streams:
    return Streams(out=Console(file=io.StringIO()), err=err, mode="human", quiet=quiet)


def lines_of(events: list[Event], *, quiet: bool = False, terminal: bool = False) -> list[str]:
    err = io.StringIO()
    with progress(streams_on(console_on(err, terminal=terminal), quiet=quiet)) as on_event:
        for event in events:
            on_event(event)
    return without_style(err.getvalue()).splitlines()


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 2.0, 30.0, 31.0, 60.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    warning, first, last = lines_of(TRANSFER)
    assert warning == "warning: [frozen] weights"
    values = "density 75.00% · mask changes 37 · kernel distance 0.5000 · output distance 0.2500"
    assert first == f"step 1,000/2,000 · {values} · 30 s left"
    assert last.startswith("step 2,000/2,000 · density 50.00% · mask changes 38 · kernel distance 0.1250")
    assert last.endswith("· 60 s")


def test_every_epoch_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    lines = lines_of(TRAINING)
    assert "step 3/6 · loss 1.5000 · epoch 1 · validation accuracy 50.00% · 0 s" in lines
    assert lines[-1].startswith("step 6/6 · loss 1.0000 · epoch 2")


def test_evaluation_has_a_line_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    assert lines_of([Evaluated(256, 300), Evaluated(300, 300)]) == ["sample 300/300 · 0 s"]


def test_every_trial_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.time, "monotonic", lambda: 0.0)
    trials = [
        TrialsChanged(done=0, failed=0, total=2, running=()),
        TrialsChanged(done=0, failed=0, total=2, running=("ntt-0.9-seed1", "snip-0.9-seed1")),
        TrialsChanged(done=1, failed=1, total=2, running=()),
    ]
    assert lines_of(list(trials)) == [
        "trial 0/2 · running ntt-0.9-seed1, snip-0.9-seed1 · failed 0 · 0 s",
        "trial 2/2 · running none · failed 1 · 0 s",
    ]


def test_quiet_keeps_the_warnings() -> None:
    assert lines_of(TRANSFER, quiet=True) == ["warning: [frozen] weights"]
    assert lines_of(TRANSFER, quiet=True, terminal=True) == ["warning: [frozen] weights"]


def panel_after(events: list[Event], *, height: int = 30) -> str:
    panel = LivePanel(console_on(io.StringIO(), height=height))
    for event in events:
        panel.take(event)
    shown = io.StringIO()
    console_on(shown, height=height).print(panel.render())
    return without_style(shown.getvalue())


def test_the_panel_shows_the_layers() -> None:
    assert "preparing" in panel_after([])
    shown = panel_after(TRANSFER[:4])
    for words in ("Neural Tangent Transfer", "1,000/2,000 steps", "50%"):
        assert words in shown
    rows = [line.strip("│ \n").split() for line in shown.splitlines()]
    assert ["density", "mask", "changes", "kernel", "distance", "output", "distance"] in rows
    assert ["75.00%", "37", "0.5000", "0.2500"] in rows
    assert ["fc1.weight", "80.0%"] in [row[:2] for row in rows]
    assert ["fc[2].weight", "65.0%"] in [row[:2] for row in rows]


def test_the_panel_fits_on_a_low_terminal() -> None:
    layers = {f"layer{i}": 0.5 for i in range(40)}
    shown = panel_after([TransferStarted(10, dict.fromkeys(layers, 1)), MasksUpdated(0, 0.5, 1, layers)], height=20)
    assert len(shown.splitlines()) <= 20
    assert "layer11" in shown
    assert "and 28 more layers" in shown


def test_the_panel_of_other_work() -> None:
    assert "Training" in panel_after(TRAINING)
    assert "validation accuracy" in panel_after(TRAINING)
    assert "50.00%" in panel_after(TRAINING)
    assert "100/300 samples" in panel_after([Evaluated(100, 300)])


def test_a_terminal_is_left_clean() -> None:
    shown = "\n".join(lines_of([*TRANSFER, *TRAINING], terminal=True))
    assert "warning: [frozen] weights" in shown
    assert shown.rfind("\x1b[?25h") > shown.rfind("\x1b[?25l") >= 0  # the cursor is back


def test_a_transfer_of_unknown_length_says_when_it_will_end() -> None:
    board = Board()
    board.take(TransferStarted(3000, {"fc.weight": 10}))
    assert not board.take(Validated(900, 0.25, None))
    assert board.total == 3000
    assert board.take(Validated(1000, 0.24, 1100))
    assert (board.total, board.values["validation distance"]) == (1100, "0.2400")
