"""Write `docs/commands.md`: every command's `--help`, as it prints 100 columns wide. `--check` only compares."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

COMMANDS = ("", "prune", "finetune", "evaluate", "compare", "report", "inspect", "verify", "export", "bench", "init")
PAGE = Path(__file__).parent / "commands.md"
HEAD = """# Commands

Written by `make docs`; a test compares it with what the commands print. `ntt COMMAND -h` shows only the options that
are used most.

"""


def help_of(command: str) -> str:
    """What `ntt COMMAND --help` prints."""
    environment = os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}
    arguments = [sys.executable, "-m", "ntt_cli", *([command] if command else []), "--help"]
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines())


def page() -> str:
    """The whole page."""
    blocks = [f"## ntt {command}".rstrip() + f"\n\n```text\n{help_of(command)}\n```\n" for command in COMMANDS]
    return HEAD + "\n".join(blocks)


def words(text: str) -> set[str]:
    """What a page says, however the version of typer at hand lays it out."""
    return set(re.findall(r"[^\W_][\w.,:/-]*|--[\w-]+", text))


if __name__ == "__main__":
    if "--check" in sys.argv:
        changed = words(PAGE.read_text()) ^ words(page())
        sys.exit(f"docs/commands.md is out of date ({', '.join(sorted(changed))}): make docs" if changed else 0)
    PAGE.write_text(page())
