"""`ntt_cli.inspect`, `ntt_cli.verify` and `ntt_cli.init`. None of them needs torch or runs the network's code."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path

from ntt_cli.api.words import told_in_python
from ntt_cli.config import ModelOptions
from ntt_cli.errors import UsageError
from ntt_cli.files import inspect as inspection
from ntt_cli.files import template
from ntt_cli.files.inspect import Inspection, Verification
from ntt_cli.results import ModelFile


@told_in_python()
def inspect(path: str | PathLike[str]) -> Inspection:
    """What a checkpoint or a report says about itself.

    Returns:
        its tensors by name, with their types and shapes, and the record that ntt wrote into it.

    Raises:
        CheckpointError: if it is neither, or damaged.

    Example:
        >>> import tempfile, torch, ntt_cli as ntt
        >>> path = tempfile.mkdtemp() + "/sparse.safetensors"
        >>> saved = ntt.prune(torch.nn.Linear(4, 8), sparsity=0.75, method="magnitude", output=path)
        >>> ntt.inspect(path).tensors["weight"].shape
        (8, 4)
    """
    return inspection.inspect(Path(path))


@told_in_python()
def verify(path: str | PathLike[str]) -> Verification:
    """Check every bit of a checkpoint or a report that ntt wrote, and every group of a pattern such as 2:4.

    Returns:
        its kind, size in bytes, number of tensors and SHA-256, and how many groups each pattern has.

    Raises:
        CheckpointError: if a bit has changed, a group breaks its pattern, or ntt did not write the file.

    Example:
        >>> import tempfile, torch, ntt_cli as ntt
        >>> path = tempfile.mkdtemp() + "/sparse.safetensors"
        >>> saved = ntt.prune(torch.nn.Linear(4, 8), sparsity=0.75, method="magnitude", output=path)
        >>> ntt.verify(path).tensor_count
        2
    """
    return inspection.verify(Path(path))


@told_in_python()
def init(
    path: str | PathLike[str] = "model.py", *, source: str | PathLike[str] | None = None, force: bool = False
) -> ModelFile:
    """Write a commented model file that every command takes as it is.

    Args:
        path: of the file, which ends in `.py`.
        source: `torchvision:NAME`, whose network the file builds; or a `.safetensors` file, whose names and shapes it
            lists for you to write the network by. Default: a small network on `digits`.
        force: overwrite a file that is there.

    Returns:
        what was written: `.output` is its path.

    Raises:
        UsageError: if the source is neither of these.
        ModelError: if torchvision has no such classifier.
        CheckpointError: if the `.safetensors` file cannot be read.
        OutputError: if the file is there already and `force` is not set, or cannot be written.

    Example:
        >>> import tempfile, ntt_cli as ntt
        >>> path = ntt.init(tempfile.mkdtemp() + "/model.py").output
        >>> round(ntt.prune(path, sparsity=0.9, method="magnitude").report.sparsity, 3)
        0.9
    """
    return template.run(Path(path), None if source is None else _text_of(Path(path), fspath(source)), force=force)


def _text_of(path: Path, source: str) -> str:
    """The text of a model file for a network of torchvision or a file of weights."""
    if source.startswith("torchvision:"):
        from ntt_cli.networks.loading.models import load_model  # imports torch, which no other source needs

        shape = load_model(ModelOptions(model=source), seed=0).input_shape
        assert shape is not None
        return template.of_torchvision(path, source.partition(":")[2], shape)
    if Path(source).suffix == ".safetensors":
        return template.of_weights(path, Path(source))
    hint = "other networks need no new file: every command takes model.py:factory, package.module:factory and timm:NAME"
    raise UsageError(f"--from {source}", "is neither torchvision:NAME nor a .safetensors file", hint=hint)
