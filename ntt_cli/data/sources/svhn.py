"""The MATLAB files of SVHN's cropped digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ntt_cli.config import Split
from ntt_cli.data.sources.matlab import read_matlab
from ntt_cli.errors import DataError

CROPPED = "take SVHN's format 2, the cropped digits"


def svhn_file(folder: Path, split: Split) -> Path:
    return folder / f"{split}_32x32.mat"


def read_svhn(folder: Path, split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images `[n, 3, 32, 32]` and labels `[n]`, with class 0 for the digit 0, which is class 10 in the file."""
    path = svhn_file(folder, split)
    content = read_matlab(path, ("X", "y"))
    if missing := [name for name in ("X", "y") if name not in content]:
        raise DataError(path, f"its {missing[0]} is missing", hint=CROPPED)
    images, labels = content["X"], content["y"].reshape(-1)
    if images.ndim == 3:  # MATLAB has no fourth dimension of length 1
        images = images[..., None]
    if images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
        what = f"holds images of shape {list(images.shape)} and type {images.dtype}, not bytes of [32, 32, 3, n]"
        raise DataError(path, what, hint=CROPPED)
    if not np.isin(labels, np.arange(11)).all():
        raise DataError(path, "holds labels that are not 0 to 10", hint=CROPPED)
    return images.transpose(3, 2, 0, 1), np.where(labels == 10, 0, labels).astype(np.int64)
