"""Make `ntt_cli/resources/digits.npz` from the `digits.csv.gz` that scikit-learn ships.

    pip download scikit-learn --no-deps && unzip scikit_learn-*.whl sklearn/datasets/data/digits.csv.gz
    python benchmarks/make_digits.py sklearn/datasets/data/digits.csv.gz ntt_cli/resources/digits.npz

Of each class a fifth, drawn at random by a fixed seed, is the test part. The same input gives the same bytes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

TEST_FRACTION = 0.2


def main(source: Path, destination: Path) -> None:
    table = np.loadtxt(source, delimiter=",", dtype=np.uint8)
    x, y = table[:, :-1].reshape(-1, 1, 8, 8), table[:, -1].astype(np.int64)
    generator = np.random.default_rng(0)
    is_test = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        members = generator.permutation(np.flatnonzero(y == label))
        is_test[members[: round(TEST_FRACTION * len(members))]] = True
    np.savez_compressed(destination, x_train=x[~is_test], y_train=y[~is_test], x_test=x[is_test], y_test=y[is_test])
    print(f"{destination}: {(~is_test).sum()} training and {is_test.sum()} test images")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
