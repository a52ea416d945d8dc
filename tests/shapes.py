"""The check of types and shapes that the tests put around every function of the mathematics."""

from __future__ import annotations

from collections.abc import Callable

from beartype import beartype


def checked(function: Callable[..., object]) -> Callable[..., object]:
    """By beartype, but for functions in functions: each call of the outer one would compile their checks anew."""
    return function if "<locals>" in function.__qualname__ else beartype(function)
