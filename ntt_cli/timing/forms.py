"""The forms in which a network runs: a module of PyTorch, a program of torch.export, an ONNX file in onnxruntime."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ntt_cli.data.batch import arguments, described, named_tensors
from ntt_cli.errors import CheckpointError, UsageError
from ntt_cli.files.safetensors_header import require_file
from ntt_cli.networks.outputs import ONLY, tensors_in
from ntt_cli.runtime.logs import without_logs

PYTORCH, PROGRAM, ONNX = "PyTorch", "torch.export", "onnxruntime"

INSTALL = "pip install onnx onnxscript onnxruntime"
AGAIN = "write it again with ntt export, or leave it out"

COMPILED = ("data/aotinductor/", "custom_obj_", "opaque_obj_")
"""Parts of a .pt2 archive that are machine code or pickles. `ntt export` writes none."""

TYPES = {"float": torch.float32, "float16": torch.float16, "double": torch.float64, "int64": torch.int64}
TYPES |= {"int32": torch.int32, "bool": torch.bool}
"""Types of an ONNX file's inputs, `tensor(float)` for example."""

Call = Callable[[], Any]


@dataclass(frozen=True, eq=False)
class Form:
    """A network in one form.

    Attributes:
        file: its file, as it was named.
        runtime: what runs it.
        prepare: makes, of a part of a batch, a function that runs a pass through the network.
        tensors: gives the outputs by name, of what a pass returned.
        version: of the runtime, where that is not torch.
    """

    file: str
    runtime: str
    prepare: Callable[[Any], Call]
    tensors: Callable[[Any], dict[str, Tensor]]
    version: str = ""


def of_module(file: str, module: nn.Module, runtime: str = PYTORCH) -> Form:
    """A module in evaluation mode, or a program that torch.export has made into one."""

    def prepare(part: Any) -> Call:
        positional, named = arguments(part, module)
        return lambda: module(*positional, **named)

    return Form(file, runtime, prepare, _tensors)


def _tensors(returned: Any) -> dict[str, Tensor]:
    return {ONLY: returned} if isinstance(returned, Tensor) else tensors_in(returned)


def open_program(file: str, device: torch.device) -> Form:
    """A program that `torch.export.save` wrote.

    Torch's reader would unpickle anything. Here it reads tensors alone, and refuses pickles and compiled code. It still
    evaluates formulas for sizes that the file holds, so that a program is code: the user must have named it.

    Raises:
        CheckpointError: if it is none, or cannot be read.
    """
    path = Path(file)
    require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(path, f"is no program of torch.export: {error}", hint=AGAIN) from error
    if compiled := [name for name in names if any(part in name for part in COMPILED)]:
        what = f"holds compiled code or a pickle, {compiled[0]:.99}, which is not run here"
        raise CheckpointError(path, what, hint=AGAIN)
    from torch.export.passes import move_to_device_pass

    try:
        with _tensors_alone():
            program = torch.export.load(path)
        module = move_to_device_pass(program, str(device)).module()
    except Exception as error:  # damaged files raise errors of many kinds
        what = f"cannot be read as a program of torch.export: {first_line(error)}"
        raise CheckpointError(path, what, hint=AGAIN) from error
    return of_module(file, module, PROGRAM)


@contextmanager
def _tensors_alone() -> Generator[None]:
    """While it is active, `torch.load` unpickles tensors and nothing else, and torch logs nothing."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        with without_logs():
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def open_onnx(file: str, threads: int, names: Sequence[str] = ()) -> Form:
    """An ONNX file in onnxruntime, on the CPU; `names` are those of the network's positional arguments.

    Raises:
        UsageError: if onnxruntime is not installed.
        CheckpointError: if the file cannot be read.
    """
    path = Path(file)
    require_file(path)
    try:
        import onnxruntime
    except ImportError as error:
        what = "needs onnxruntime, which is not installed"
        raise UsageError(file, what, hint=INSTALL) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    # Otherwise the threads of one network would go on looking for work, and slow down the one that is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for each kind
        raise CheckpointError(path, f"onnxruntime cannot read it: {first_line(error)}", hint=AGAIN) from error
    outputs = [each.name for each in session.get_outputs()]

    def prepare(part: Any) -> Call:
        given = _for_onnx(file, session.get_inputs(), _by_name(part, names))
        return lambda: session.run(None, given)

    def tensors(returned: Any) -> dict[str, Tensor]:
        return dict(zip(outputs, map(torch.as_tensor, returned), strict=True))

    return Form(file, ONNX, prepare, tensors, version=onnxruntime.__version__)


def _by_name(part: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of a part of a batch, by the names of the network's arguments."""
    tensors = dict(named_tensors(part))
    if isinstance(part, dict):
        return tensors
    return dict(zip([*names[: len(tensors)], *list(tensors)[len(names) :]], tensors.values(), strict=True))


def _for_onnx(file: str, inputs: list[Any], part: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arrays that the file takes, by their names or in their order. One without an effect may be missing there.

    Raises:
        CheckpointError: if it takes others.
    """
    names = [each.name for each in inputs]
    by_name = part if part.keys() >= set(names) else dict(zip(names, part.values(), strict=False))
    if len(by_name) < len(names) or (by_name is not part and len(names) < len(part)):
        what = f"takes the inputs {', '.join(names)}, and the network {', '.join(part)}"
        raise CheckpointError(file, what, hint=AGAIN)
    found = {}
    for each in inputs:
        kind = each.type.removeprefix("tensor(").removesuffix(")")
        if kind not in TYPES:
            raise CheckpointError(file, f"its input {each.name} is of type {each.type}", hint=AGAIN)
        found[each.name] = by_name[each.name].cpu().to(TYPES[kind]).contiguous().numpy()
    return found


def first_pass(form: Form, part: Any) -> dict[str, Tensor]:
    """The outputs of a form for a part of a batch.

    Raises:
        CheckpointError: if the form does not take it.
        OutOfMemoryError: as torch raises it.
    """
    try:
        return form.tensors(form.prepare(part)())
    except (CheckpointError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # runtimes have classes of their own
        what = f"{form.runtime} cannot run it on inputs of {described(part)}: {first_line(error)}"
        hint = "export it again with the same --data or --image-size; if its batch is fixed, use --batch-size 1"
        raise CheckpointError(form.file, what, hint=hint) from error


def matched(file: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A form's outputs by the names of the network's: those of the same name, or else the next of the same shape.

    Raises:
        CheckpointError: if there is none for an output.
    """
    left = dict(found)
    chosen = {}
    for name, value in expected.items():
        alike = [key for key, other in left.items() if other.shape == value.shape and other.is_floating_point()]
        if not alike:
            shapes = ", ".join(f"{key} {[*other.shape]}" for key, other in found.items())
            what = f"gives {shapes or 'no tensors'}, and the checkpoint {name} {[*value.shape]}"
            raise CheckpointError(file, what, hint="name what was exported from this checkpoint")
        chosen[name] = left.pop(name if name in alike else alike[0])
    return chosen


def first_line(error: Exception) -> str:
    """What an error says, in a line of bounded length."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0]:.200}" if lines else type(error).__name__
