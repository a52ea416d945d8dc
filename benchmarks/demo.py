"""`make demo`: prune, fine-tune and evaluate on the embedded digits, beside a random mask at the same sparsity.

Everything goes through the command line as a user would type it; the files land in ./demo.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

MODEL = "sample_models/digits_mlp.py"
SPARSITY = 0.95
FOLDER = Path("demo")


def ntt(*arguments: str) -> dict[str, Any]:
    """Run one command, its progress shown, and return its JSON."""
    print("$ ntt", *arguments, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "ntt_cli", *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.returncode)
    return dict(json.loads(done.stdout))


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    rows = []
    for method, name in (("ntt", "Neural Tangent Transfer"), ("random", "random mask")):
        sparse, tuned = f"{FOLDER}/{method}.safetensors", f"{FOLDER}/{method}-tuned.safetensors"
        pruned = ntt("prune", MODEL, "--sparsity", str(SPARSITY), "--method", method, "--output", sparse)
        ntt("finetune", MODEL, "--checkpoint", sparse, "--epochs", "30", "--output", tuned)
        rows.append((name, pruned, ntt("evaluate", MODEL, "--checkpoint", tuned)))
    ntt("finetune", MODEL, "--epochs", "30", "--output", f"{FOLDER}/dense.safetensors")
    dense = ntt("evaluate", MODEL, "--checkpoint", f"{FOLDER}/dense.safetensors")
    table = Table("network", "weights", "labels to find it", "test accuracy", "FLOPs", title="digits_mlp on digits")
    table.add_row("dense", f"{dense['parameters']:,}", "", f"{dense['accuracy']:.1%}", f"{dense['flops_dense']:,}")
    for name, pruned, evaluated in rows:
        accuracy = f"{evaluated['accuracy']:.1%}"
        table.add_row(name, f"{pruned['kept']:,}", "none", accuracy, f"{evaluated['flops_sparse']:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
