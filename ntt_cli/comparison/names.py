"""The names of a comparison's cells. Needs no torch."""

from __future__ import annotations

from urllib.parse import quote

from ntt_cli.files.atomic import sha256_of

LONGEST_NAME = 100


def cell_name(method: str, sparsity: float | None, seed: int) -> str:
    """The folder's name of a cell."""
    level = "" if sparsity is None else f"-{sparsity!r}"
    # Some file systems have no colons; a comma cannot be in the method.
    name = quote(method.replace(":", ","), safe=",=*")
    if len(name) > LONGEST_NAME:  # with a path among its options; a file system's names have 255 letters
        name = f"{name[:LONGEST_NAME]}~{sha256_of(name.encode())[:16]}"
    return f"{name}{level}-seed{seed}"
