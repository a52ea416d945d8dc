"""What other people's libraries log."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def without_logs() -> Generator[None]:
    """While it is active nothing is logged: for libraries that log about parts of their own, and raise what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
