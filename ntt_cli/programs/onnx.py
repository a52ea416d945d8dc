"""A program as ONNX, which onnxruntime and others run."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ntt_cli.data.batch import Batch, tensors_of
from ntt_cli.errors import ModelError
from ntt_cli.files.atomic import write_atomically
from ntt_cli.networks.precision import HALF
from ntt_cli.programs.program import Program
from ntt_cli.runtime.logs import without_logs

LARGEST = 2**31 - 2**20
"""Bytes of weights in one ONNX file, whose format ends at 2 GiB."""


def write_onnx(path: Path, program: Program) -> float:
    """Write a program, and return the largest difference of onnxruntime's outputs from the network's.

    Raises:
        ModelError: if an operation has no ONNX, the weights are too large, or the outputs differ by more than rounding.
        OutputError: if the file system refuses.
    """
    # The optimiser would compute the float32 numbers of weights in half precision, and store these.
    optimize = not any(value.dtype in HALF for value in program.traced.state_dict.values())
    inputs, outputs = list(program.about["inputs"]), list(program.about["outputs"])
    if sum(value.nbytes for value in program.traced.state_dict.values()) > LARGEST:
        raise ModelError(program.where, "is larger than 2 GiB, where one ONNX file ends", hint="use --to pt2")
    try:
        with warnings.catch_warnings(), without_logs():
            warnings.simplefilter("ignore")  # of torch's own parts and onnxscript's
            made = torch.onnx.export(
                program.traced,
                (),
                input_names=inputs,
                output_names=outputs,
                dynamo=True,
                optimize=optimize,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as failure:
        raise ModelError(program.where, _why(failure), hint="use --to pt2, or other operations") from failure
    assert made is not None
    content = _finished(made.model_proto, program)
    found = list[float]()
    write_atomically(path, content, check=lambda written: found.append(program.difference(_session(written, inputs))))
    return found[0]


def _finished(model: Any, program: Program) -> bytes:
    """The file: what it says about itself, names of free axes, and no notes of the exporter at each operation."""
    names = program.axes
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), size.dim_param)
    for part in [model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer, *model.functions]:
        del part.metadata_props[:]
    del model.metadata_props[:]
    for name, said in program.about.items():
        model.metadata_props.add(key=name, value=said if isinstance(said, str) else json.dumps(said, sort_keys=True))
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _session(written: Path, names: list[str]) -> Callable[[Batch], list[Tensor]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    session = onnxruntime.InferenceSession(written.read_bytes(), options, providers=["CPUExecutionProvider"])
    taken = {each.name for each in session.get_inputs()}  # an input without an effect is left out

    def run(x: Batch) -> list[Tensor]:
        by_name = x if isinstance(x, dict) else dict(zip(names, tensors_of(x), strict=True))
        return [
            torch.from_numpy(y) for y in session.run(None, {n: v.numpy() for n, v in by_name.items() if n in taken})
        ]

    return run


def _why(failure: BaseException) -> str:
    """What has no ONNX, from the innermost of torch's reasons."""
    while failure.__cause__ is not None:
        failure = failure.__cause__
    lines = [line.strip() for line in str(failure).splitlines() if line.strip()]
    return f"cannot be written as ONNX: {lines[0] if lines else type(failure).__name__:.200}"
