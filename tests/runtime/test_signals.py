from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Generator

import pytest

from ntt_cli.runtime import signals as module
from ntt_cli.runtime.signals import Interrupted, Stop, handle_signals, leaving
from tests.processes import run

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@pytest.fixture(autouse=True)
def _heard() -> Generator[None]:
    """A shell starts background jobs with the interrupt ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


def send_and_sleep(number: int) -> None:
    send(number)
    time.sleep(60)


@BOTH
def test_work_that_does_not_check_is_interrupted(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted) as caught, handle_signals(Stop()):
        send(number)
    assert (caught.value.number, caught.value.kept) == (number, "no file is half-written")
    assert signal.getsignal(number) is before


@BOTH
def test_work_that_checks_is_left_alone(number: int) -> None:
    stop = Stop()
    with handle_signals(stop):
        with stop.patiently():
            assert stop.follow_request() is None
            send(number)
            assert stop.follow_request() == number
            stop.asked = None  # as if it had been followed
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


def test_a_signal_that_is_ignored_stays_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = Stop()
    with leaving(), handle_signals(stop):
        send(signal.SIGINT)
    assert stop.asked is None
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_a_request_after_the_last_check() -> None:
    stop = Stop()
    with pytest.raises(Interrupted), handle_signals(stop), stop.patiently():
        send(signal.SIGTERM)


def test_work_that_never_checks_is_interrupted_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.05)
    stop = Stop()
    with pytest.raises(Interrupted) as caught, handle_signals(stop), stop.patiently():
        send_and_sleep(signal.SIGTERM)
    assert caught.value.number == signal.SIGTERM


def test_following_the_request_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.05)
    stop = Stop()
    with handle_signals(stop):
        stop.patient = True
        send(signal.SIGTERM)
        assert stop.follow_request() == signal.SIGTERM
        time.sleep(0.2)  # it saves


@BOTH
def test_the_second_one_ends_at_once(number: int) -> None:
    code = f"""
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from ntt_cli.runtime.signals import Stop, handle_signals
stop = Stop()
with handle_signals(stop):
    stop.patient = True
    try:
        os.kill(os.getpid(), {number})
        print("first", flush=True)
        os.kill(os.getpid(), {number})
        time.sleep(60)
    finally:
        print("never", flush=True)
"""
    done = run([sys.executable, "-c", code])
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "first\n", "")
