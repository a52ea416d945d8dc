"""A model file to start from: a small network, one of torchvision's, or the names and shapes of a file of weights."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path

from ntt_cli.errors import OutputError
from ntt_cli.files.atomic import check_writable, write_atomically
from ntt_cli.files.inspect import inspect
from ntt_cli.results import ModelFile

OF_TORCHVISION = '''"""torchvision's {name}, which `ntt` makes sparse. Everything in this file is yours to change."""

# Next, in this folder, with your images and trained weights:
#
#     ntt prune {path} --sparsity 0.9 --data images/ --image-size {size} --weights dense.safetensors

from __future__ import annotations

from torch import nn
from torchvision.models import get_model

# The samples, unless --data names others. This is Gaussian noise, and only there to try the commands with.
DATA = "noise:64"

# The shape of one sample, without the batch dimension.
INPUT_SHAPE = {shape}


# `--model-arg num_classes=10` sets an argument. No weights are downloaded: --weights names a file of them.
def build_model(num_classes: int = 1000) -> nn.Module:
    return get_model("{name}", weights=None, num_classes=num_classes)
'''

OF_WEIGHTS = '''"""The network of some weights, which `ntt` makes sparse. Everything in this file is yours to change."""

# Next: write build_model(), so that its network has the tensors below, and then, in this folder:
#
#     ntt prune {path} --sparsity 0.9 --data images/ --weights {weights}

from __future__ import annotations

from torch import nn


def build_model() -> nn.Module:
    # The names, types and shapes in the file:
    #
{tensors}
    raise NotImplementedError("build_model() is yet to be written")
'''


def run(path: Path, text: str | None = None, *, force: bool) -> ModelFile:
    """Write a model file: this text, or else a commented one that every command accepts unchanged."""
    if path.is_dir():
        raise OutputError(path, "is a folder", hint=f"name a file in it: {path / 'model.py'}")
    if path.suffix != ".py":
        raise OutputError(path, "is not a .py file", hint=f"name it {path.with_name(path.name + '.py')}")
    if path.exists() and not force:
        raise OutputError(path, "exists already", hint="name another file, or overwrite it with --force")
    check_writable(path, force=True)
    if text is None:
        template = files("ntt_cli").joinpath("resources", "model_template.py").read_text(encoding="utf-8")
        text = template.replace("model.py", _quoted(path.name))
    write_atomically(path, text.encode())
    return ModelFile(output=str(path))


def of_torchvision(path: Path, name: str, shape: tuple[int, ...]) -> str:
    """The text of a file for a network of torchvision that takes inputs of this shape."""
    return OF_TORCHVISION.format(path=_quoted(path.name), name=name, shape=shape, size="x".join(map(str, shape[1:])))


def of_weights(path: Path, weights: Path) -> str:
    """The text of a file for the weights in a .safetensors file, of which only the header is read.

    Raises:
        CheckpointError: if it cannot be read, or is damaged.
    """
    tensors = inspect(weights).tensors
    lines = [f"    # {_in_a_comment(name)} {each.dtype} {list(each.shape)}" for name, each in tensors.items()]
    return OF_WEIGHTS.format(path=_quoted(path.name), weights=_quoted(str(weights)), tensors="\n".join(lines))


def _quoted(name: str) -> str:
    return _in_a_comment(shlex.quote(name))


def _in_a_comment(name: str) -> str:
    """A name that anybody may have chosen; one with a line break would end the comment, and its rest would be run."""
    return name if name.isprintable() else repr(name)
