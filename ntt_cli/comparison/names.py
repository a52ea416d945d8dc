"""The names of a comparison's trials. Needs no torch."""

from __future__ import annotations

from urllib.parse import quote

from ntt_cli.files.atomic import sha256_of

LONGEST_NAME = 100


def trial_name(method: str, sparsity: float | None, seed: int) -> str:
    """A trial's name, which is that of its folder."""
    level = "" if sparsity is None else f"-{sparsity!r}"
    # Some file systems have no colons; a comma cannot be in the method.
    name = quote(method.replace(":", ","), safe=",=*")
    if len(name) > LONGEST_NAME:  # an option may be a long path; file systems allow 255 letters
        name = f"{name[:LONGEST_NAME]}~{sha256_of(name.encode())[:16]}"
    return f"{name}{level}-seed{seed}"
