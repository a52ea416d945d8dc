"""One network and one source on their way through all commands, each checked by other means than ntt's own."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ntt_cli.runtime.signals import Stop
from tests.cli.conftest import Ntt, Result
from tests.sweep.sources import Array, Source


@dataclass(frozen=True)
class Pair:
    """A network and a source, and what somebody who uses both would rightly expect.

    Attributes:
        network: its name in `networks.py`.
        source: writes the data.
        options: what the network needs to be told in every command.
        prune: what else `prune` is told.
        path: where the model's file lies.
        dense: trainable parameters of two or more dimensions that stay dense.
        says: patterns that a command's words must match, by command.
        select_outputs: the logits among what the network returns.
        random: the data are others in each reading, so that no other loop finds the same accuracy.
        kernel: kernels are matched too, as they are by default; without them a walk takes a third of the time.
        stateful: what a pass does depends on more than the weights. Pruning is then interrupted and resumed as well,
            which is half of a walk; fine-tuning always is.
    """

    network: str
    source: Callable[[], Source]
    options: tuple[str, ...] = ()
    prune: tuple[str, ...] = ()
    path: str = "model.py"
    dense: tuple[str, ...] = ()
    says: Mapping[str, str] | None = None
    select_outputs: Callable[[Any], Tensor] = lambda outputs: outputs
    random: bool = False
    kernel: bool = False
    stateful: bool = False


class Walk:
    """Runs the commands, and remembers what they said."""

    def __init__(self, pair: Pair, source: Source, ntt: Ntt) -> None:
        self.pair, self.source, self.ntt = pair, source, ntt
        self.said: dict[str, str] = {}

    def run(self, command: str, *arguments: object, code: int = 0) -> Result:
        given = [command, self.pair.path, *self.pair.options, *self.source.options, "--device", "cpu", *arguments]
        result = self.ntt(*given)
        assert result.code == code, f"ntt {' '.join(map(str, given))}\nexit {result.code}\n{result.out}{result.err}"
        assert "Traceback" not in result.err
        self.said[command] = self.said.get(command, "") + result.out + result.err
        return result

    def data(self, test: bool = False) -> list[str]:
        named = self.source.test if test and self.source.test else self.source.data
        return [] if named is None else ["--data", named]

    def interrupted_after(self, looks: int, command: str, *arguments: object, output: str) -> bytes:
        """The output of a run that was interrupted after so many steps and went on."""
        follow_request = Stop.follow_request

        def counting(stop: Stop) -> int | None:
            nonlocal looks
            looks -= 1
            if looks == 0:
                stop.asked = signal.SIGINT
            return follow_request(stop)

        Stop.follow_request = counting  # type: ignore[method-assign]
        try:
            self.run(command, *arguments, "-o", output, code=130)
        finally:
            Stop.follow_request = follow_request  # type: ignore[method-assign]
        assert not Path(output).exists()
        self.run(command, *arguments, "-o", output, "--resume")
        return Path(output).read_bytes()

    def through_all_commands(self) -> None:
        pair, source = self.pair, self.source
        prune = ("--sparsity", "0.5", "--steps", "4", "--mask-update-every", "2", *self.data(), *pair.prune)
        prune += () if pair.kernel else ("--kernel-weight", "0")
        result = self.run("prune", *prune, "--json").document
        sparse = Path("sparse.safetensors")
        if pair.kernel or pair.stateful:
            again = self.interrupted_after(2, "prune", *prune, output="again.safetensors")
            assert again == sparse.read_bytes(), "pruning is not the same when resumed"
        self.check_zeros(sparse, result)
        inspected = self.ntt("inspect", sparse)
        assert inspected.code == 0
        assert f"{result['kept']:,} of {result['prunable']:,}" in inspected.out
        for name in self.masks(sparse):
            assert name.encode("unicode_escape").decode() in inspected.out or name in inspected.out
        self.said["inspect"] = inspected.out + inspected.err
        assert self.ntt("verify", sparse).code == 0
        if source.y_test is None:
            self.evaluate(sparse)
        else:
            self.with_labels()
        for command, pattern in (pair.says or {}).items():
            assert re.search(pattern, self.said[command]), self.said[command]

    def with_labels(self) -> None:
        tune = ("--checkpoint", "sparse.safetensors", "--epochs", "2", "--batch-size", "16", *self.data())
        self.run("finetune", *tune)
        again = self.interrupted_after(2, "finetune", *tune, output="again_tuned.safetensors")
        tuned = Path("tuned.safetensors")
        assert again == tuned.read_bytes(), "fine-tuning is not the same when resumed"
        before, after = load_file("sparse.safetensors"), load_file(tuned)
        for name, mask in self.masks(tuned).items():
            assert (after[name][~mask] == 0).all(), f"{name}: zeros are filled"
            assert torch.equal(mask, before[name] != 0), f"{name}: other weights are kept"
        found = self.evaluate(tuned)
        if not self.pair.random:
            self.check_accuracy(tuned, found["accuracy"])

    def evaluate(self, path: Path) -> Any:
        """What `evaluate` finds, where the network is its own teacher."""
        found = self.run("evaluate", "-c", path, "--teacher", path, *self.data(test=True), "--json").document
        assert found["agreement"]["top1_agreement"] in {1.0, None}
        assert found["agreement"]["logit_distance"] == 0
        return found

    def check_zeros(self, path: Path, report: Mapping[str, Any]) -> None:
        tensors = load_file(path)
        trainable = {name: p for name, p in self.network().named_parameters() if p.requires_grad}
        expected = {name for name, p in trainable.items() if p.ndim >= 2 and name not in self.pair.dense}
        layers = {layer["name"]: layer for layer in report["layers"]}
        assert layers.keys() == expected, "other weights are pruned than a user expects"
        for name, layer in layers.items():
            assert int(tensors[name].count_nonzero()) == layer["kept"], f"{name}: the count is not exact"
        assert report["prunable"] == sum(trainable[name].numel() for name in expected)
        assert report["kept"] == sum(layer["kept"] for layer in layers.values()) == round(report["prunable"] / 2)

    def masks(self, path: Path) -> dict[str, Tensor]:
        with safe_open(path, "pt") as file:
            record = json.loads(file.metadata()["ntt"])
        tensors = load_file("sparse.safetensors")
        return {name: tensors[name] != 0 for name in record["layers"]}

    def network(self) -> nn.Module:
        """The network by plain Python."""
        arguments = dict(value.split("=", 1) for value in self.pair.options if "=" in value)
        path = Path(self.pair.path)
        torch.manual_seed(0)
        stdout = os.dup(1)
        os.dup2(2, 1)
        try:
            if (path.parent / "__init__.py").exists():
                sys.path.insert(0, str(path.parent.parent.resolve()))
                try:
                    module = importlib.import_module(f"{path.parent.name}.{path.stem}")
                finally:
                    del sys.path[0]
            else:
                spec = importlib.util.spec_from_file_location("plain_python", path)
                assert spec is not None
                assert spec.loader is not None
                module = importlib.util.module_from_spec(spec)
                sys.modules["plain_python"] = module
                spec.loader.exec_module(module)
            network: nn.Module = module.build_model(**{key: int(value) for key, value in arguments.items()})
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
        return network

    def check_accuracy(self, path: Path, top1: float) -> None:
        """By a loop in plain torch, over inputs that plain numpy normalises."""
        network = self.network()
        network.load_state_dict(load_file(path), strict=True)
        network.eval()
        assert self.source.y_test is not None
        x, y = self.source.x_test, torch.from_numpy(np.asarray(self.source.y_test))
        if x.dtype.kind == "f":
            x = normalised(x, self.source.x)
        with torch.no_grad():
            logits = torch.cat([
                self.pair.select_outputs(network(batch.clone())) for batch in torch.from_numpy(x).split(16)
            ])
        counted = y != -100
        right = (logits.argmax(-1) == y)[counted]
        assert round(top1 * len(right), 6) == int(right.sum())


def normalised(x: Array, by: Array) -> Array:
    axes = tuple(i for i in range(x.ndim) if i != 1) if x.ndim in {2, 4} else None
    values = by.astype(np.float64)
    mean, std = (np.asarray(f(values, axis=axes, keepdims=True)) for f in (np.mean, np.std))
    return ((x - mean.astype(np.float32)) / np.where(std == 0, 1, std).astype(np.float32)).astype(np.float32)
