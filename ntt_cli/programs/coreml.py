"""A program as a package of Core ML, which leaves the zeros of its weights out of the file."""

from __future__ import annotations

import io
import json
import re
import shutil
import warnings
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from platform import system
from types import ModuleType
from typing import Any

import numpy
import torch
from torch import Tensor

from ntt_cli.data.batch import Batch, tensors_of
from ntt_cli.errors import ModelError, UsageError
from ntt_cli.files.folder import replace_folder, temporary_folder
from ntt_cli.programs.described import Described
from ntt_cli.programs.program import Program
from ntt_cli.runtime.logs import without_logs

LEAST_ZEROS = 1 / 32
"""From this fraction of zeros on, a bit for each weight takes less than the zeros of float32 that it saves."""

NARROW = {"int64": "int32", "float64": "float32"}
"""The types that Core ML has in place of others."""


def as_core_ml_says(found: Described) -> Described:
    """The same inputs and outputs with Core ML's types, and names that it takes: those of variables."""

    def said(part: dict[str, Any]) -> dict[str, Any]:
        return {
            re.sub(r"\W", "_", name if name[:1].isalpha() else f"output_{name}"): of
            | {"dtype": NARROW.get(of["dtype"], of["dtype"])}
            for name, of in part.items()
        }

    return replace(found, inputs=said(found.inputs), outputs=said(found.outputs))


def write_coreml(path: Path, program: Program) -> float | None:
    """Write a program, and return the largest difference of Core ML's outputs from the network's.

    Weights are stored as a bit for each and the values of those that are kept. With weights in float16 the program
    computes in float16, else in float32. It is compared on macOS in float32: no other system runs it.

    Raises:
        UsageError: if coremltools does not load beside the installed torch.
        ModelError: if an operation has no Core ML, or the outputs differ by more than rounding.
        OutputError: if the file system refuses.
    """
    half = any(value.dtype == torch.float16 for value in program.traced.state_dict.values())
    with _quiet():
        made = _converted(_coremltools(), program, half=half)
        compared = None if half or system() != "Darwin" else program.difference(lambda x: _outputs(made, program, x))
        with temporary_folder(path) as folder:
            saved, readable = folder / "saved.mlpackage", folder / "readable"
            made.save(str(saved))
            _copy(saved, readable)
            replace_folder(readable, path)
    return compared


def _copy(folder: Path, to: Path) -> None:
    """Copy files and empty folders; those of coremltools are their owner's alone to read, these follow the umask."""
    to.mkdir()
    for entry in sorted(folder.rglob("*")):
        place = to / entry.relative_to(folder)
        place.mkdir() if entry.is_dir() else shutil.copyfile(entry, place)


def _converted(ct: Any, program: Program, *, half: bool) -> Any:
    outputs = program.about["outputs"]
    try:
        dense = ct.convert(
            program.traced.run_decompositions(),  # attention as it is traced loses its mask in coremltools 9
            outputs=[ct.TensorType(name, dtype=getattr(numpy, of["dtype"])) for name, of in outputs.items()],
            minimum_deployment_target=ct.target.iOS16,  # the first with weights that leave zeros out
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            compute_units=ct.ComputeUnit.CPU_ONLY,  # of the comparison; the package runs where its user says
        )
        zeros = ct.optimize.coreml.OpThresholdPrunerConfig(
            threshold=0.0, minimum_sparsity_percentile=LEAST_ZEROS, weight_threshold=0
        )
        made = ct.optimize.coreml.prune_weights(dense, ct.optimize.coreml.OptimizationConfig(global_config=zeros))
    except Exception as failure:  # of whatever kind an operation's translation gives
        reason = next((line.strip() for line in str(failure).splitlines() if line.strip()), type(failure).__name__)
        what = f"cannot be written as Core ML: {reason:.200}"
        raise ModelError(program.where, what, hint="use --to onnx or pt2, or other operations") from failure
    for name, said in program.about.items():
        made.user_defined_metadata[name] = said if isinstance(said, str) else json.dumps(said, sort_keys=True)
    return made


def _outputs(made: Any, program: Program, x: Batch) -> list[Tensor]:
    names = program.about["inputs"]
    by_name = x if isinstance(x, dict) else dict(zip(names, tensors_of(x), strict=True))
    given = {name: by_name[name].to(getattr(torch, names[name]["dtype"])).numpy() for name in names}
    found = made.predict(given)
    return [torch.from_numpy(found[name]) for name in program.about["outputs"]]


def _coremltools() -> ModuleType:
    try:
        import coremltools
    except Exception as failure:  # it reads private parts of torch, which come and go
        what = f"coremltools {version('coremltools')} does not load beside torch {torch.__version__}: {failure!s:.200}"
        hint = "pip install -U coremltools, or use --to onnx or pt2"
        raise UsageError("--to coreml", what, hint=hint) from failure
    module: ModuleType = coremltools
    return module


@contextmanager
def _quiet() -> Generator[None]:
    """While it is active, coremltools says nothing: what it has not been tested with, and how far it is."""
    with without_logs(), warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
