"""Fuzzes one target under atheris: `python -m tests.reliability.fuzz TARGET [libFuzzer's options]`.

Atheris (`pip install atheris`) is no dependency: it has wheels for some Pythons alone. It watches which lines of ntt,
and of the readers in Python below it, an input reaches, and ends at the first error that is not ntt's own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ntt_cli", "tomllib", "pickletools", "zipfile", "gzip"]):
    from tests.reliability.targets import TARGETS

WORDS = [b"null", b"NaN", b"1e999", b"[[[[[[[[", b'{"a":', rb"\ud800", rb"\u001b[2J", b"9" * 20, b"-1"]
"""What mutations seldom come upon."""


def main() -> None:
    target = TARGETS[sys.argv[1]]
    folder = Path(tempfile.mkdtemp())  # stays behind: libFuzzer ends without a word to Python
    corpus, words = folder / "corpus", folder / "words"
    corpus.mkdir()
    for i, seed in enumerate(target.seeds):
        (corpus / str(i)).write_bytes(seed)
    words.write_text("".join('"' + "".join(rf"\x{byte:02x}" for byte in word) + '"\n' for word in WORDS))
    options = [f"-dict={words}", "-timeout=20", "-rss_limit_mb=3000", "-max_len=16384", *sys.argv[2:]]

    def attempt(data: bytes) -> None:
        target.attempt(data, folder)

    atheris.Setup([sys.argv[0], *options, str(corpus)], attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
