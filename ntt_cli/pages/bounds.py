"""How much of a name and of a list is shown, since a file may hold names and lists of any length."""

from __future__ import annotations

from unicodedata import category

MOST_LETTERS = 160
"""Of a name."""

MOST_LETTERS_OF_TEXT = 4_000
"""Of a sentence or a command, which hold several names."""

MOST_ROWS = 200
"""Of a table or a plot: nobody reads more, and to draw more takes minutes."""


def shown(name: str, most: int = MOST_LETTERS) -> str:
    """A name in one line and at most so many letters, its control and direction characters spelt out."""
    # The end stays too: names of layers differ there.
    short = name if len(name) <= most else f"{name[: most // 2 - 1]}…{name[-most // 2 :]}"
    return escaped(short)


def escaped(text: str, keep: str = "") -> str:
    """The text with its control and format characters, such as those that turn the direction of writing, spelt out."""
    return "".join(c if c in keep or category(c)[0] != "C" else c.encode("unicode_escape").decode() for c in text)


def and_more(count: int) -> str:
    """What is said below the first `MOST_ROWS` of more."""
    return f"… and {count - MOST_ROWS:,} more"
