"""Check that all processes do the same run: a network or data that depends on `RANK` would go unnoticed."""

from __future__ import annotations

import hashlib
import json

import torch

from ntt_cli.errors import UsageError
from ntt_cli.files.metadata import RunRecord
from ntt_cli.files.state import State
from ntt_cli.runtime.process_group import ProcessGroup
from ntt_cli.tensors import Params


def same_run(group: ProcessGroup, run: RunRecord, tensors: Params, found: State | None) -> Params:
    """The first process's parameters and buffers, after a check that the processes' networks differ in these alone.

    Raises:
        UsageError: in every process, if they differ; it names the differences.
        LostError: if another process has ended.
    """
    if group.size == 1:
        return tensors
    shapes = {name: [str(value.dtype), *value.shape] for name, value in tensors.items()}
    what: dict[str, tuple[object, str]] = {
        "the options": (run.config, "start every process with the same command"),
        "the network": (
            [run.model.model_dump(mode="json"), run.weights_sha256, shapes],
            "let build_model() build one network, whatever RANK is; check that all machines have the same files",
        ),
        "the data": (
            run.data_sha256,
            "let every process read all samples, whatever RANK is: each takes its own share of every batch",
        ),
        "the step to go on from": (found.step if found else 0, "let all processes see the same folder"),
    }
    digests = [hashlib.sha256(json.dumps(value).encode()).digest() for value, _ in what.values()]
    own = torch.tensor([list(digest) for digest in digests], dtype=torch.uint8)
    first = group.broadcast({"digests": own.clone()})["digests"]
    differ = group.all_reduce({"differ": (own != first).any(dim=1).float()})["differ"]
    for (name, (_, hint)), count in zip(what.items(), differ.tolist(), strict=True):
        if count:
            raise UsageError(name, f"not the same in all {group.size} processes", hint=hint)
    return group.broadcast(tensors)
