"""Checks, before a file is read, that its contents fit into memory."""

from __future__ import annotations

import os
from pathlib import Path

from ntt_cli.errors import NttError

UNKNOWN = 8 * 2**30
"""The free memory to assume where the system does not report it."""

MEMORY = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes that this process may still allocate, within the limits of the machine and of its container."""
    return min(_of_machine(), _of_container())


def require_memory(where: str | Path, size: int, *, error: type[NttError], hint: str) -> None:
    """Refuse contents larger than half of the free memory: they are also copied or converted once."""
    free = free_memory()
    if 2 * size > free:
        what = f"takes {size / 2**30:.1f} GiB of memory to read, of which {free / 2**30:.1f} GiB are free"
        raise error(where, what, hint=hint)


def _of_machine() -> int:
    try:
        lines = MEMORY.read_text(encoding="ascii").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # not Linux
        known = {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= getattr(os, "sysconf_names", {}).keys()
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if known else UNKNOWN


def container_limit() -> int | None:
    """The memory limit of this process's container, in bytes; `None` without a container or a limit."""
    try:
        most = (GROUP / "memory.max").read_text(encoding="ascii").strip()
    except OSError:  # no container, or one with version 1 of cgroups
        return None
    return int(most) if most.isdigit() else None


def _of_container() -> int:
    limit = container_limit()
    if limit is None:
        return 2**63
    try:
        used = int((GROUP / "memory.current").read_text(encoding="ascii"))
        cached = (GROUP / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return limit
    given_back = sum(int(line.split()[1]) for line in cached if line.startswith(("active_file ", "inactive_file ")))
    return max(0, limit - used + given_back)
