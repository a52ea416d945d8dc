"""The MATLAB files of SVHN's cropped digits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from ntt_cli.config import Split
from ntt_cli.errors import DataError


def svhn_file(folder: Path, split: Split) -> Path:
    return folder / f"{split}_32x32.mat"


def read_svhn(folder: Path, split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images `[n, 3, 32, 32]` and labels `[n]`, in which the digit 0 is class 0 and not, as in the file, class 10.

    Raises:
        DataError: if scipy is not installed, or the file is not one of SVHN's.
    """
    path = svhn_file(folder, split)
    try:
        from scipy.io import loadmat  # an optional dependency
    except ImportError as failure:
        raise DataError(
            "svhn", "is stored as MATLAB files, which scipy reads", hint="pip install 'ntt-cli[svhn]'"
        ) from failure
    try:
        content = loadmat(path, variable_names=["X", "y"])
        images, labels = content["X"], content["y"].reshape(-1)
    except Exception as failure:  # scipy raises whatever it trips over in a damaged file
        what = f"cannot be read as MATLAB's X and y: {type(failure).__name__}: {failure}"
        raise DataError(path, what, hint="fetch this file again") from failure
    if images.ndim == 3:  # MATLAB has no fourth dimension of length 1
        images = images[..., None]
    if images.shape[:3] != (32, 32, 3) or images.dtype != np.uint8:
        what = f"holds images of shape {list(images.shape)} and type {images.dtype}, not bytes of [32, 32, 3, n]"
        raise DataError(path, what, hint="take SVHN's format 2, the cropped digits")
    return images.transpose(3, 2, 0, 1), np.where(labels == 10, 0, labels).astype(np.int64)
