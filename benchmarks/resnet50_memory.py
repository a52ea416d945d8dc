"""What `ntt prune` of a ResNet-50 with 1,000 outputs takes: the process's peak, base and all, and the seconds.

    python benchmarks/resnet50_memory.py [--image-size 64 --batch-size 16 --limit-gib 2] [--steps 10]

Without a size it does 64×64 in batches of 16, for which 2 GiB are the limit, and 224×224 in batches of 8, for 8 GiB.
The base is what Python, torch and ntt take before there is a network.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

BASE = "import torchvision.models, ntt_cli as ntt; ntt.prune"


def peak_gib(command: list[str]) -> tuple[float, float]:
    """The peak of the process's resident memory in GiB, and its seconds."""
    begun = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    kilobyte = 1 if sys.platform == "darwin" else 1024
    return usage.ru_maxrss * kilobyte / 2**30, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--limit-gib", type=float, default=2)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    given = (options.image_size, options.batch_size, options.limit_gib)
    base, _ = peak_gib([sys.executable, "-c", BASE])
    table = Table("inputs", "batch", "peak, GiB", "above the base", "limit", "", "seconds, whole run")
    with tempfile.TemporaryDirectory() as folder:
        for size, batch, limit in [given] if options.image_size else [(64, 16, 2.0), (224, 8, 8.0)]:
            model = Path(folder) / f"resnet50_{size}.py"
            model.write_text(
                f"from torchvision.models import resnet50\n\nINPUT_SHAPE = (3, {size}, {size})\n\n\n"
                "def build_model():\n    return resnet50()\n"
            )
            command = [sys.executable, "-m", "ntt_cli", "prune", str(model), "--sparsity", "0.9", "--data", "noise:64"]
            command += ["--steps", str(options.steps), "--batch-size", str(batch), "--device", "cpu", "--quiet"]
            command += ["--output", str(Path(folder) / f"{size}.safetensors"), "--force"]
            peak, seconds = peak_gib(command)
            verdict = "inside" if peak <= limit else "OVER"
            cells = (f"{peak:.2f}", f"{peak - base:.2f}", f"{limit:g} GiB", verdict, f"{seconds:.0f}")
            table.add_row(f"{size}×{size}", str(batch), *cells)
            print(f"{size}×{size}:", *cells, flush=True, file=sys.stderr)
    Console().print(f"ResNet-50, 1,000 outputs, {options.steps} steps; base {base:.2f} GiB")
    Console().print(table)


if __name__ == "__main__":
    main()
