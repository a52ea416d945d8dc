"""`ntt_cli.export`."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from torch import nn

from ntt_cli.api.calls import Progress, apart, configured
from ntt_cli.api.network import SparseNetwork, data_of, network_of
from ntt_cli.api.words import told_in_python
from ntt_cli.config import COREML, HUB_FOLDER, LEAVE_OUT, PROGRAMS, ExportConfig, typed
from ntt_cli.errors import UsageError
from ntt_cli.files.atomic import file_sha256
from ntt_cli.files.checkpoint import Checkpoint, read_checkpoint
from ntt_cli.files.export import FORMATS, Exported, check_export, convert, default_output
from ntt_cli.files.folder import files_of
from ntt_cli.files.hub import WEIGHTS, Code, write_hub_folder
from ntt_cli.files.package import main_file
from ntt_cli.files.shards import find_weights
from ntt_cli.networks.loading.code import code_of, unknown_code
from ntt_cli.networks.loading.open import open_weights
from ntt_cli.programs import export as programs
from ntt_cli.results import ExportReport, HubReport, PackageReport, ProgramReport
from ntt_cli.runs.sources import OWN, Sources
from ntt_cli.runtime.events import EventSink, Warned


def export(
    checkpoint: str | PathLike[str] | SparseNetwork,
    *,
    to: str,
    output: str | PathLike[str] | None = None,
    model: str | PathLike[str] | nn.Module | None = None,
    data: object = None,
    progress: Progress = False,
    **options: Any,
) -> ExportReport:
    """Write a checkpoint in another form: its weights alone, or the network as a program without its code.

    `packed` is a checkpoint without its zeros: mask bits and kept values, compressed. All functions and commands take
    it as they take the checkpoint; `docs/formats.md` has its format and a reader in 20 lines. `torch` is a state dict
    with each pruned weight as `NAME_orig` and `NAME_mask`, as `torch.nn.utils.prune` has them.

    `pt2` is a program of `torch.export`, and `onnx` one for onnxruntime (`pip install 'ntt-cli[onnx]'`). Both take any
    number of samples. They take what the network takes, normalised inputs where it was made with them, and are compared
    with it on a few samples before they are kept. `coreml` is a program for Apple's systems (`pip install
    'ntt-cli[coreml]'`), a folder in which a zero takes one bit. It is compared on macOS alone, in float32.

    `hub-folder` is a folder with `model.safetensors`, a model card and, if `model` is a Python file, that file and what
    it imports from beside it. `huggingface_hub.upload_folder` takes it as it is; nothing is uploaded.

    Args:
        checkpoint: a file of weights, as `load` takes it, or what `prune`, `finetune` or `load` returned.
        to: the form: `packed`, `torch`, `pt2`, `onnx`, `coreml` or `hub-folder`.
        output: the file or folder to write; by default `sparse.packed.safetensors`, `sparse.pt2` or `sparse-hub` beside
            `sparse.safetensors`. A network in memory has no default.
        model: for a program, the network that the weights in a file belong to; an object, or a name as on the command
            line.
        data: for a program, inputs to trace and compare it on, as `evaluate` takes them; labels are not read.
        progress: `True` writes lines to stderr; a function is given each event.
        **options: all other options of `ntt export`, with underscores: `force=True`, `dtype="float16"`, to which
            floating-point tensors are rounded.

    Returns:
        what was written, with its sizes in bytes; a `ProgramReport` for a program, a `PackageReport` for Core ML, a
        `HubReport` for a folder.

    Raises:
        UsageError: if an option is wrong, or has no effect.
        CheckpointError: if the checkpoint cannot be read, is damaged, or has values beyond the largest of `dtype`.
        ModelError: if the network cannot be such a program.
        OutputError: if the output exists and `force` is not set, or cannot be written.

    Example:
        >>> import tempfile, torch, ntt_cli as ntt
        >>> net = torch.nn.Linear(400, 300)
        >>> path = tempfile.mkdtemp() + "/sparse.safetensors"
        >>> saved = ntt.prune(net, sparsity=0.95, method="magnitude", output=path)
        >>> packed = ntt.export(path, to="packed")
        >>> packed.dense_bytes // packed.bytes
        21
        >>> bool((ntt.load(packed.output, net).model.weight == ntt.load(path, net).model.weight).all())
        True
        >>> program = ntt.export(path, to="pt2", model=net, data=torch.randn(8, 400))
        >>> torch.export.load(program.output).module()(torch.randn(5, 400)).shape
        torch.Size([5, 300])
    """
    named, sources = _sources(checkpoint, to, model, data)
    own = {"to": to, "output": None if output is None else fspath(output)}
    config = configured(ExportConfig, named | options | own)
    with apart(progress, sources) as (on_event, _):
        file = None if isinstance(checkpoint, SparseNetwork) else Path(checkpoint)
        if file is None and config.output is None:
            raise UsageError("--output", "is missing: the network is in memory", hint="name the file to write")
        path = Path(config.output) if config.output is not None else default_output(file or Path(), to)
        check_export(path, to, file, force=config.force)
        exported, size = _opened(checkpoint)
        dense = sum(value.nbytes for value in exported.checkpoint.tensors.values())
        if config.dtype is not None:
            exported = _converted(exported, config.dtype, on_event)
        if to in PROGRAMS:
            program = programs.run(config, path, exported, sources, on_event)
            if to == COREML:
                report = _report(main_file(path), to, exported.checkpoint, size, dense)
                changes = program._asdict() | _of_folder(path, files_of(path))
                return PackageReport(**report.model_dump() | changes)
            report = _report(path, to, exported.checkpoint, size, dense)
            return ProgramReport(**report.model_dump(), **program._asdict())
        if to == HUB_FOLDER:
            code = _code(config, exported, sources, on_event)
            files = write_hub_folder(path, exported.checkpoint, code, config.license)
            report = _report(path / WEIGHTS, to, exported.checkpoint, size, dense)
            return HubReport(**report.model_dump() | _of_folder(path, files))
        FORMATS[to](path, exported)
        return _report(path, to, exported.checkpoint, size, dense)


def _of_folder(path: Path, files: dict[str, int]) -> dict[str, Any]:
    return {"output": str(path), "bytes": sum(files.values()), "bytes_by_file": files}


def _code(config: ExportConfig, exported: Exported, sources: Sources, on_event: EventSink) -> Code:
    """How the network of a checkpoint is built; one that is named must take the checkpoint's weights."""
    if config.model:
        loaded = sources.load_model(config, seed=0)
        open_weights(exported.checkpoint, loaded, on_event, options=config)
        if sources.model is None:
            return code_of(config, on_event)
    record = exported.checkpoint.record
    return unknown_code("the network" if record is None else record.model.source)


@told_in_python()
def _sources(
    checkpoint: str | PathLike[str] | SparseNetwork,
    to: str,
    model: str | PathLike[str] | nn.Module | None,
    data: object,
) -> tuple[dict[str, Any], Sources]:
    """The options of what names stand for, and what is in memory."""
    named, in_memory = data_of(data)
    if in_memory is not None and to not in PROGRAMS:
        raise UsageError("data", f"to={typed(to)} writes the weights alone, and does not read it", hint=LEAVE_OUT)
    if not isinstance(checkpoint, SparseNetwork):
        network, sources = ({}, Sources()) if model is None else network_of(model)
        named |= network | {"checkpoint": fspath(checkpoint)}
    elif model is not None:
        raise UsageError("model", "is given, and the checkpoint is a network in memory", hint=LEAVE_OUT)
    else:
        network, sources = network_of(checkpoint)
        named |= {"checkpoint": OWN} | (network if to in PROGRAMS else {})
    return named, replace(sources, data=in_memory)


def _opened(checkpoint: str | PathLike[str] | SparseNetwork) -> tuple[Exported, int | None]:
    """The checkpoint, and its bytes on disk."""
    if isinstance(checkpoint, SparseNetwork):
        return Exported(checkpoint.checkpoint, None), None
    files = find_weights(Path(checkpoint))
    return Exported(read_checkpoint(Path(checkpoint)), files.sha256), files.bytes


def _converted(exported: Exported, dtype: str, on_event: EventSink) -> Exported:
    found, zeros = convert(exported.checkpoint, dtype)
    if zeros:
        on_event(Warned(f"{zeros:,} kept weights are too small for {dtype} and became zero"))
    return Exported(found, exported.sha256)


def _report(
    path: Path, to: str, checkpoint: Checkpoint, checkpoint_bytes: int | None, dense_bytes: int
) -> ExportReport:
    tensors = checkpoint.tensors
    kinds = {str(value.dtype).removeprefix("torch.") for value in tensors.values() if value.is_floating_point()}
    return ExportReport(
        output=str(path),
        to=to,
        checkpoint=str(checkpoint.path),
        dtype=kinds.pop() if len(kinds) == 1 else None,
        tensor_count=len(tensors),
        bytes=path.stat().st_size,
        checkpoint_bytes=checkpoint_bytes,
        dense_bytes=dense_bytes,
        sha256=file_sha256(path),
    )
