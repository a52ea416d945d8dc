"""What `ntt prune --dry-run` predicts, beside what the run then takes: time and peak memory.

    python benchmarks/dry_run.py

Each is a process of its own, as a user would start it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

RUNS = {
    "LeNet-300-100": ("sample_models/lenet_300_100.py", "--steps", "3000"),
    "LeNet-5": ("sample_models/lenet5_caffe.py", "--steps", "500"),
    "ViT": ("sample_models/vit_tiny.py", "--steps", "100"),
    "ResNet-20": ("sample_models/resnet20.py", "--steps", "40", "--data", "noise:4096"),
}
CHILD = """
import json, resource, sys, time
import ntt_cli as ntt
options, plan = json.loads(sys.argv[1]), sys.argv[2] == "plan"
prune, method = ntt.prune, ntt.NTT  # what is imported at first use
begun = time.monotonic()
found = prune(**options, dry_run=plan)
taken = time.monotonic() - begun
kilobyte = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilobyte
print(json.dumps([found.estimated_seconds, found.peak_memory_bytes, taken] if plan else [taken, peak, taken]))
"""


def measure(config: dict[str, object], what: str) -> tuple[float, float, float]:
    """Seconds, peak MiB, and how long it took to know."""
    command = [sys.executable, "-W", "ignore", "-c", CHILD, json.dumps(config), what]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    seconds, peak, taken = json.loads(done.stdout.splitlines()[-1])
    return seconds, peak / 2**20, taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=list(RUNS))
    options = parser.parse_args()
    table = Table("model", "steps", "dry run", "predicted", "run", "error", "predicted, MiB", "run, MiB", "error")
    with tempfile.TemporaryDirectory() as folder:
        for name, (model, *more) in RUNS.items():
            if options.only not in {None, name}:
                continue
            given = dict(zip(more[::2], more[1::2], strict=True))
            config: dict[str, object] = {"model": model, "sparsity": 0.95, "force": True, "device": "cpu"}
            config |= {option.removeprefix("--"): value for option, value in given.items()}
            config["steps"] = int(given["--steps"])
            config["output"] = str(Path(folder) / "sparse.safetensors")
            predicted, mib, spent = measure(config, "plan")
            seconds, peak, _ = measure(config, "run")
            times = (f"{spent:.0f} s", f"{predicted:.0f} s", f"{seconds:.0f} s", f"{predicted / seconds - 1:+.0%}")
            table.add_row(name, given["--steps"], *times, f"{mib:.0f}", f"{peak:.0f}", f"{mib / peak - 1:+.0%}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
