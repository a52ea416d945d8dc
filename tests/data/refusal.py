from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import pytest

from ntt_cli.errors import DataError, NttError


@contextmanager
def refusal(what: str, *, hint: str, error: type[NttError] = DataError) -> Generator[None]:
    """The code within must raise such an error, with these words in its message and its remedy."""
    with pytest.raises(error) as caught:
        yield
    assert caught.value.exit_code == 2
    assert what in str(caught.value)
    assert hint in caught.value.hint
