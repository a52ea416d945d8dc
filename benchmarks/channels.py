"""Trained ResNets at half their operations, without labels, as pruned: accuracy, and latency in onnxruntime.

    python benchmarks/channels.py --data DIR --weights DIR [--results FILE] [--depth 20 --depth 56] [--flops 0.5]
        [--steps 500] [--batch-size 64] [--images 2048] [--on validation]

`--data` has the folders `train` and `test` of CIFAR-10 images, one folder a class; `--weights` has
`resnet20.safetensors` and `resnet56.safetensors` (akamaster/pytorch_resnet_cifar10). Methods see 2,048 training images
without labels. The figure is the accuracy on all test images. For choices, `--on validation` measures it on 2,000
other training images.

The lines: NTT's own loop over channels; `magnitude`, by `ntt prune`; Torch-Pruning's pruner with its group magnitude,
local and global, its ratio searched for the same operations. (Its own rounding to eight is not used: at a larger ratio
it may keep more channels, so no ratio gives half.) All have their batch-norm statistics estimated on the same images.
The shortcuts of these networks pad channels with zeros on both sides, which Torch-Pruning follows to the wrong
channels: it is told to leave the residual channels alone, as ntt finds out by itself.

Latency is that of the smaller network over the dense one's, both in onnxruntime with one thread, in pairs that take
turns in one process: the median of the pairs' ratios, and their quartiles. What is measured is the thread's time on the
processor, so other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
import torch_pruning
from pretrained_subjects import Sources, outputs_of, pictures
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ntt_cli as ntt
from ntt_cli.networks.channels import removed_by, shrink
from ntt_cli.networks.functional import functional_model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
JUDGED = {"validation": 2_000, "test": 10_000}
BATCHES = {1: 400, 64: 40}
"""Pairs of timings, by batch size."""
SMALL = torch.zeros(2, 3, 32, 32)


def flops(network: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(SMALL[:1])
    return int(counter.get_total_flops())


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def by_ntt(network: nn.Module, images: Tensor, target: float, **options: Any) -> nn.Module:
    result = ntt.prune(
        network, images, structure="channels", target_flops=target, mean=MEAN, std=STD, device="cpu", **options
    )
    assert result.checkpoint.record is not None
    assert result.checkpoint.record.channels is not None
    removed = removed_by(result.checkpoint.record.channels)
    return shrink(functional_model(result.model), removed, SMALL, where="ResNet")


def by_torch_pruning(network: nn.Module, images: Tensor, target: float, *, together: bool) -> nn.Module:
    """Its pruner, at the smallest ratio that leaves no more than these operations."""
    least, most = 0.0, 1.0
    for _ in range(12):
        ratio = (least + most) / 2
        small = copy.deepcopy(network).eval()
        with warnings.catch_warnings(action="ignore"):
            torch_pruning.pruner.MetaPruner(
                small,
                SMALL,
                importance=torch_pruning.importance.GroupMagnitudeImportance(),
                global_pruning=together,
                pruning_ratio=ratio,
                ignored_layers=[small.conv1, small.linear],
            ).step()
        enough = flops(small) <= target * flops(network)
        least, most = (least, ratio) if enough else (ratio, most)
        if enough:
            found = small
    return recalibrated(found, images)


def recalibrated(network: nn.Module, images: Tensor) -> nn.Module:
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    with torch.no_grad():
        network.train()
        for part in normalised(images).split(128):
            network(part)
    return network.eval()


def session(network: nn.Module, folder: Path, name: str) -> onnxruntime.InferenceSession:
    path = folder / f"{name}.onnx"
    with warnings.catch_warnings(action="ignore"):
        batch = {"x": {0: torch.export.Dim.DYNAMIC}}
        torch.onnx.export(network, (SMALL,), path, dynamo=True, dynamic_shapes=batch, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def latency(dense: nn.Module, small: nn.Module, batch: int) -> dict[str, float]:
    """Seconds of both, and the median and quartiles of their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        sessions = [session(network, Path(folder), name) for network, name in ((dense, "dense"), (small, "small"))]
    x = torch.randn(batch, 3, 32, 32).numpy()

    def seconds(one: onnxruntime.InferenceSession) -> float:
        begun = time.thread_time()
        one.run(None, {one.get_inputs()[0].name: x})
        return time.thread_time() - begun

    pairs = [[seconds(one) for one in sessions] for _ in range(BATCHES[batch])][BATCHES[batch] // 10 :]
    low, middle, high = statistics.quantiles((b / a for a, b in pairs), n=4)
    of_both = {
        name: statistics.median(times) for name, times in zip(("dense", "small"), zip(*pairs, strict=True), strict=True)
    }
    return of_both | {"ratio": middle, "low": low, "high": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--results", type=Path)
    parser.add_argument("--depth", type=int, action="append")
    parser.add_argument("--only", action="append")
    parser.add_argument("--flops", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--on", choices=["test", "validation"], default="test")
    given = parser.parse_args()
    torch.set_num_threads(1)
    sources = Sources(data=given.data, weights=given.weights)
    others = JUDGED["validation"] if given.on == "validation" else 0
    images, labels = pictures(sources, "train", given.images + others)
    inputs, judged = images[: given.images], (images[given.images :], labels[given.images :])
    if given.on == "test":
        judged = pictures(sources, "test", JUDGED["test"])
    shown, truth = normalised(judged[0]), judged[1]
    own = {"steps": given.steps, "batch_size": given.batch_size}
    lines: dict[str, Callable[[nn.Module], nn.Module]] = {
        "magnitude": lambda net: by_ntt(net, inputs, given.flops, method="magnitude"),
        "torch-pruning, local": lambda net: by_torch_pruning(net, inputs, given.flops, together=False),
        "torch-pruning, global": lambda net: by_torch_pruning(net, inputs, given.flops, together=True),
        "ntt": lambda net: by_ntt(net, inputs, given.flops, **own),
    }
    for depth in given.depth or (20, 56):
        file = given.weights / f"resnet{depth}.safetensors"
        dense = ntt.load(file, f"sample_models/resnet_cifar.py:resnet{depth}").model.eval()
        whole = (outputs_of(dense, shown).argmax(1) == truth).double().mean().item()
        for name in given.only or lines:
            begun = time.process_time()
            small = lines[name](dense)
            row: dict[str, Any] = {
                "depth": depth,
                "line": name,
                "on": given.on,
                "flops": flops(small) / flops(dense),
                "dense": whole,
                "accuracy": (outputs_of(small, shown).argmax(1) == truth).double().mean().item(),
                "seconds": time.process_time() - begun,
                "latency": {batch: latency(dense, small, batch) for batch in BATCHES},
            }
            row |= own if name == "ntt" else {}
            print(json.dumps(row), flush=True)
            if given.results:
                with given.results.open("a", encoding="utf-8") as file_of_results:
                    file_of_results.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
