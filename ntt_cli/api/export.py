"""`ntt_cli.export`."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path

from ntt_cli.api.calls import Progress, apart
from ntt_cli.api.network import SparseNetwork
from ntt_cli.api.words import told_in_python
from ntt_cli.config import advice, typed
from ntt_cli.errors import UsageError
from ntt_cli.files.atomic import file_sha256
from ntt_cli.files.checkpoint import Checkpoint, read_checkpoint
from ntt_cli.files.export import DTYPES, FORMATS, Exported, check_export, convert, default_output
from ntt_cli.files.shards import find_weights
from ntt_cli.results import ExportReport
from ntt_cli.runtime.events import EventSink, Warned


def export(
    checkpoint: str | PathLike[str] | SparseNetwork,
    *,
    to: str,
    output: str | PathLike[str] | None = None,
    dtype: str | None = None,
    force: bool = False,
    progress: Progress = False,
) -> ExportReport:
    """Write a checkpoint in another form.

    `packed` is a checkpoint without its zeros: mask bits and kept values, compressed. All functions and commands take
    it as they take the checkpoint; `docs/formats.md` has its format and a reader in 20 lines. `torch` is a state dict
    with each pruned weight as `NAME_orig` and `NAME_mask`, as `torch.nn.utils.prune` has them.

    Args:
        checkpoint: a file of weights, as `load` takes it, or what `prune`, `finetune` or `load` returned.
        to: the form: `packed` or `torch`.
        output: the file to write, which ends in `.safetensors`; by default `sparse.packed.safetensors` beside
            `sparse.safetensors`. A network in memory has no default.
        dtype: `float16` or `bfloat16`: the type to which floating-point tensors are rounded. By default none are.
        force: overwrite a file that is there.
        progress: `True` writes warnings to stderr; a function is given each event.

    Returns:
        what was written, with its sizes in bytes.

    Raises:
        UsageError: if an option is wrong, or has no effect.
        CheckpointError: if the checkpoint cannot be read, is damaged, or has values beyond the largest of `dtype`.
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
    """
    in_memory = isinstance(checkpoint, SparseNetwork)
    with told_in_python(objects=in_memory):
        _require_one_of("--to", to, list(FORMATS))
        if dtype is not None:
            _require_one_of("--dtype", dtype, list(DTYPES))
        named = None if isinstance(checkpoint, SparseNetwork) else Path(fspath(checkpoint))
        if named is None and output is None:
            raise UsageError("--output", "is missing: the network is in memory", hint="name the file to write")
    with apart(progress) as (on_event, _), told_in_python(objects=in_memory):
        path = Path(output) if output is not None else default_output(named or Path(), to)
        check_export(path, named, force=force)
        exported, size = _opened(checkpoint)
        dense = sum(value.nbytes for value in exported.checkpoint.tensors.values())
        if dtype is not None:
            exported = _converted(exported, dtype, on_event)
        FORMATS[to](path, exported)
    return _report(path, to, exported.checkpoint, size, dense)


def _require_one_of(option: str, value: str, known: list[str]) -> None:
    if value not in known:
        raise UsageError(f"{option} {typed(value)}".rstrip(), "is not known", hint=advice(str(value), known))


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
        tensors=len(tensors),
        bytes=path.stat().st_size,
        checkpoint_bytes=checkpoint_bytes,
        dense_bytes=dense_bytes,
        sha256=file_sha256(path),
    )
