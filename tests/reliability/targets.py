"""What is fuzzed: every reader of files that somebody else may have written, with small valid files to start from."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import zstandard
from PIL import Image
from safetensors.torch import save
from scipy.io import savemat

from ntt_cli.cli.inspect import inspect
from ntt_cli.config import DataOptions
from ntt_cli.config.file import read_config_file
from ntt_cli.data import load_samples
from ntt_cli.data.sources.cifar import read_cifar10_binary, read_cifar100
from ntt_cli.data.sources.idx import read_idx
from ntt_cli.data.sources.svhn import read_svhn
from ntt_cli.errors import NttError
from ntt_cli.files.checkpoint import layer_records, read_checkpoint
from ntt_cli.files.inspect import inspect as look
from ntt_cli.files.metadata import HASH_KEY, NO_HASH, put_file_hash
from ntt_cli.files.report_reader import read_report
from ntt_cli.pages.run import run_page
from tests.files.packed_files import RECORD, sealed

TENSORS = {"w": torch.tensor([[1.5, 0.0], [0.0, -2.0]]), "b": torch.zeros(2), "n": torch.tensor(3)}
HASH = "0" * 64
CHECKPOINT = {
    "config": {"seed": 1, "data": None, "model_arg": ["a=1"]},
    "file_sha256": NO_HASH,
    "format_version": 1,
    "kind": "prune",
    "layers": {name: layer.model_dump() for name, layer in layer_records({"w": TENSORS["w"] != 0}).items()},
    "model": {"source": "m.py", "sha256": None},
    "standardisation": {"mean": [0.5], "std": [0.25]},
    "tensors": dict.fromkeys(TENSORS, HASH),
}
REPORT = {
    "file_sha256": NO_HASH,
    "format_version": 1,
    "kind": "finetune report",
    "summary": {"output": "x.safetensors", "epochs": [{"epoch": 1, "train_loss": 0.5, "accuracy": 0.5}], "density": 1},
    "tensors": dict.fromkeys(TENSORS, HASH),
}


PARTS = {
    "masks": b"\x90",
    "values.F32": bytes(12) + b"\x00\x00\xc0\x00\x3f\xc0\x00\x00",
    "values.I64": b"\3" + bytes(7),
}
PACKED_INDEX = json.dumps({
    "record": CHECKPOINT | {"tensors": {}},
    "tensors": {
        "b": {"dtype": "F32", "kept": None, "shape": [3]},
        "n": {"dtype": "I64", "kept": None, "shape": []},
        "w": {"dtype": "F32", "kept": 2, "shape": [2, 2]},
    },
}).encode()


PACKED = sealed(RECORD, {name: zstandard.compress(data) for name, data in (PARTS | {"index": PACKED_INDEX}).items()})
HEADER = 8 + struct.unpack("<Q", PACKED[:8])[0]
"""The number of bytes before the parts."""


@dataclass(frozen=True)
class Target:
    """A reader, the name of the file that it is given, and what is in valid ones."""

    read: Callable[[Path], object]
    file: str
    seeds: tuple[bytes, ...]

    def attempt(self, data: bytes, folder: Path) -> bool:
        """Whether the reader accepts the data; it may refuse them with one of the project's own errors, and no other.

        Raises:
            AssertionError: if the error does not say what, where and what to do, within reason.
        """
        path = folder / self.file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # as they are outside of the tests
                self.read(path)
        except NttError as error:
            refused = error
        else:
            return True
        assert refused.what
        assert refused.hint
        assert len(str(refused)) < 5000, "its message is endless"
        return False


def _compact(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _sealed(record: bytes) -> bytes:
    """A whole checkpoint or report with this record, its own SHA-256 put in where there is room for it."""
    data = save(TENSORS, {"ntt": record.decode("utf-8", "replace")})
    return put_file_hash(data) if HASH_KEY + NO_HASH.encode() in data else data


def _record(path: Path) -> None:
    path.write_bytes(_sealed(path.read_bytes()))
    _inspect(path)
    read_checkpoint(path)


def _packed(path: Path) -> None:
    """A packed file with this index, its hashes and the sizes of its frames as they should be."""
    frames = {name: zstandard.compress(data) for name, data in (PARTS | {"index": path.read_bytes()}).items()}
    path.write_bytes(sealed(RECORD, frames))
    _inspect(path)
    read_checkpoint(path)


def _packed_header(path: Path) -> None:
    """A packed file with this header before its parts; its own SHA-256 is put in where there is room for it."""
    header = path.read_bytes()
    data = struct.pack("<Q", len(header)) + header + PACKED[HEADER:]
    path.write_bytes(put_file_hash(data) if HASH_KEY + NO_HASH.encode() in data else data)
    _inspect(path)
    read_checkpoint(path)


def _frames(path: Path) -> None:
    """A packed file with this in the place of its frames, one after the other."""
    data, names = path.read_bytes(), ["index", *PARTS]
    sizes = [len(zstandard.compress(part)) for part in (PACKED_INDEX, *PARTS.values())]
    begins = [sum(sizes[:at]) for at in range(len(sizes))]
    ends = [*begins[1:], max(len(data), sum(sizes))]
    frames = {name: data[a:b] or b"-" for name, a, b in zip(names, begins, ends, strict=True)}
    path.write_bytes(sealed(RECORD, frames))
    _inspect(path)
    read_checkpoint(path)


def _report(path: Path) -> None:
    path.write_bytes(_sealed(path.read_bytes()))
    _inspect(path)
    run_page(read_report(path))


def _inspect(path: Path) -> None:
    look(path)  # what it refuses, the command refuses; what it reads, the command must show
    for as_json in (False, True):
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            inspect(path, as_json=as_json, debug=True)


def _arrays(path: Path) -> None:
    data = load_samples(DataOptions(data=str(path), limit=5), split="train")
    data.inputs(torch.arange(len(data)))


def _images(path: Path) -> None:
    data = load_samples(DataOptions(data=str(path.parent), image_size="4"), split="train")
    data.inputs(torch.arange(len(data)))


def _cifar100(path: Path) -> None:
    (path.parent / "meta").write_bytes(pickle.dumps({"fine_label_names": ["a", "b"]}, 2))
    read_cifar100(path.parent, "train")


def _cifar100_names(path: Path) -> None:
    (path.parent / "train").write_bytes(_BATCHES[0])
    read_cifar100(path.parent, "train")


def _cifar10_binary(path: Path) -> None:
    (path.parent / "batches.meta.txt").write_text("a\nb\n")
    read_cifar10_binary(path.parent, "test")


def _npy(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npz(*, compressed: bool) -> bytes:
    file = io.BytesIO()
    arrays = {"x": np.ones((2, 3), np.float32), "y": np.arange(2)}
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def _stored_npz() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x_train.npy", _npy(np.ones((2, 4, 4), np.uint8)))
    return file.getvalue()


def _image(kind: str, mode: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(108, dtype=np.uint8).reshape(6, 6, 3)).convert(mode).save(file, kind)
    return file.getvalue()


def _mat() -> bytes:
    file = io.BytesIO()
    savemat(file, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[10], [1]], np.uint8)}, do_compression=True)
    return file.getvalue()


def _idx() -> bytes:
    return struct.pack(">I3I", 0x0803, 2, 2, 2) + bytes(range(8))


_BATCHES = tuple(
    pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "fine_labels": [0, 1], "filenames": ["a", "b"]}, protocol)
    for protocol in (2, 0, 4)
)
TOML = b'seed = 1\nmask-update-every = 7\n[prune]\nsparsity = 0.9\nmodel_arg = ["a=1"]\n[finetune]\nepochs = 3\n'

TARGETS = {
    "checkpoint": Target(
        read_checkpoint, "x.safetensors", (_sealed(_compact(CHECKPOINT)), save(TENSORS), save({"a": torch.ones(1)}))
    ),
    "packed index": Target(_packed, "x.safetensors", (PACKED_INDEX,)),
    "packed header": Target(
        _packed_header,
        "x.safetensors",
        (re.sub(HASH_KEY + rb"\w{64}", HASH_KEY + NO_HASH.encode(), PACKED[8:HEADER]),),
    ),
    "packed frames": Target(
        _frames, "x.safetensors", (b"".join(map(zstandard.compress, (PACKED_INDEX, *PARTS.values()))),)
    ),
    "record": Target(_record, "x.safetensors", (_compact(CHECKPOINT),)),
    "report": Target(_report, "x.report.safetensors", (_compact(REPORT),)),
    "config": Target(lambda path: read_config_file(path, "prune"), "ntt.toml", (TOML,)),
    "npy": Target(_arrays, "x.npy", tuple(_npy(np.ones((2, 3), kind)) for kind in ("u1", "f4", "i8", "f2"))),
    "npz": Target(_arrays, "x.npz", (_npz(compressed=True), _npz(compressed=False), _stored_npz())),
    "arrays": Target(_arrays, "x.safetensors", (save({"x": torch.ones(2, 3), "y": torch.arange(2)}),)),
    "idx": Target(lambda path: read_idx(path, dimensions=3), "images", (_idx(), gzip.compress(_idx(), mtime=0))),
    "cifar": Target(_cifar100, "cifar-100-python/train", _BATCHES),
    "cifar names": Target(_cifar100_names, "cifar-100/meta", (pickle.dumps({"fine_label_names": ["a", "b"]}, 2),)),
    "cifar binary": Target(_cifar10_binary, "cifar-10-batches-bin/test_batch.bin", (bytes(3073),)),
    "svhn": Target(lambda path: read_svhn(path.parent, "train"), "svhn/train_32x32.mat", (_mat(),)),
    **{
        f"image {kind}": Target(_images, f"{kind}/a.png", tuple(_image(kind, mode) for mode in modes))
        for kind, modes in {
            "png": ("RGB", "L", "P", "LA"),
            "jpeg": ("RGB", "L"),
            "bmp": ("RGB",),
            "gif": ("P",),
            "tiff": ("RGB", "L"),
            "webp": ("RGB",),
            "ppm": ("RGB",),
        }.items()
    },
}
