"""The cache of compiled code, which later runs use again."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

FOLDER = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled_code_private() -> None:
    """Have torch cache compiled code in the user's own folder, or where `TORCHINDUCTOR_CACHE_DIR` says.

    Torch's default is a folder in /tmp whose name anyone can guess, and torch runs the code that it finds there.
    """
    if FOLDER not in os.environ:
        folder = user_cache_path("ntt-cli") / "compiled"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            folder = Path(tempfile.mkdtemp(prefix="ntt-compiled-"))  # torch can work without an old cache
        os.environ[FOLDER] = str(folder)
    # This logger reports on each machine without a GPU that it found no GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
