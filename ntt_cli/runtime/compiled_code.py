"""Where compiled code is kept from one run to the next."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

FOLDER = "TORCHINDUCTOR_CACHE_DIR"


def keep_compiled_code_private() -> None:
    """Have torch keep what it compiles in the user's own cache, or where `TORCHINDUCTOR_CACHE_DIR` says.

    Torch's default is a folder in /tmp of a name that anyone can foresee, and it runs what lies there.
    """
    if FOLDER not in os.environ:
        folder = user_cache_path("ntt-cli") / "compiled"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            folder = Path(tempfile.mkdtemp(prefix="ntt-compiled-"))  # torch can do without what it kept
        os.environ[FOLDER] = str(folder)
    # It says on each machine without a GPU that it found none.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
