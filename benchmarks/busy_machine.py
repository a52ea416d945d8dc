"""What does work beside other programs cost? `ntt prune` with ntt's patience at OpenMP's barriers, and with libgomp's.

    python benchmarks/busy_machine.py [--repeats 3] [--only resnet20]

Times a short `ntt prune` with as many threads as there are processors: on a machine that is idle otherwise, and beside
as many processes that do nothing but count. Prints seconds, the median of the repeats with the longest, and how often a
thread looks whether the others are done before it sleeps (`GOMP_SPINCOUNT`). A run is ended after LIMIT seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager

NETWORKS = {
    "digits_mlp": ("--data", "digits", "--steps", "100"),
    "lenet5_caffe": ("--data", "fashion-mnist", "--limit", "2000", "--steps", "40"),
    "resnet20": ("--data", "fashion-mnist", "--image-size", "14", "--model-arg", "channels=1", "--steps", "10"),
}
PATIENCE = {"ntt's": None, "libgomp's, 300,000": "300000"}
"""How often a thread looks; `None` leaves it to `ntt`."""
LIMIT = 300.0
PROCESSORS = len(os.sched_getaffinity(0))


@contextmanager
def others(count: int) -> Generator[None]:
    """So many processes at work beside this one.

    Yields:
        nothing.
    """
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def seconds(network: str, spins: str | None, folder: str) -> float:
    """Of one `ntt prune`."""
    options = ("--sparsity", "0.9", "--device", "cpu", "-q", "--force", "-o", f"{folder}/sparse.safetensors")
    command = [sys.executable, "-m", "ntt_cli", "prune", f"sample_models/{network}.py", *NETWORKS[network], *options]
    environment = os.environ | {"OMP_NUM_THREADS": str(PROCESSORS)}
    environment.pop("GOMP_SPINCOUNT", None)
    environment |= {} if spins is None else {"GOMP_SPINCOUNT": spins}
    begun = time.perf_counter()
    try:
        subprocess.run(command, check=True, capture_output=True, env=environment, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return LIMIT
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=NETWORKS)
    options = parser.parse_args()
    print(f"| {PROCESSORS} threads | looks | idle, seconds | beside {PROCESSORS} others, seconds |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for network in [options.only] if options.only else NETWORKS:
            # Turn by turn, so that what else changes on the machine changes for both.
            taken: dict[tuple[str, int], list[float]] = {}
            for _ in range(options.repeats):
                for count in (0, PROCESSORS):
                    for whose, spins in PATIENCE.items():
                        with others(count):
                            taken.setdefault((whose, count), []).append(seconds(network, spins, folder))
            for whose in PATIENCE:
                cells = [
                    f"{statistics.median(taken[whose, count]):.1f} (at most {max(taken[whose, count]):.1f})"
                    for count in (0, PROCESSORS)
                ]
                print(f"| {network} | {whose} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
