from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file

from ntt_cli.config import DataOptions
from ntt_cli.data import Samples, load_samples, samples
from ntt_cli.errors import DataError
from ntt_cli.files import free_memory
from tests.data.refusal import refusal


def load(path: Path, *, split: str = "train", **options: object) -> Samples:
    return load_samples(DataOptions(data=str(path), **options), split=split)


def everything(data: Samples) -> torch.Tensor:
    return data.inputs(torch.arange(len(data)))


def saved(path: Path, array: npt.ArrayLike) -> Path:
    np.save(path, np.asarray(array))
    return path


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 6, 4), (5, 1, 6, 4)),
        ((5, 6, 4, 3), (5, 3, 6, 4)),
        ((5, 6, 4, 1), (5, 1, 6, 4)),
        ((5, 3, 6, 4), (5, 3, 6, 4)),
        ((5, 3, 6, 3), (5, 3, 6, 3)),
        ((5, 2, 6, 7), (5, 2, 6, 7)),
        ((5, 24), (5, 24)),
        ((5, 2, 3, 6, 4), (5, 2, 3, 6, 4)),
    ],
)
def test_bytes_are_images_in_0_to_1_with_channels_first(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    raw = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    x = everything(load(saved(tmp_path / "x.npy", raw)))
    assert x.shape == expected
    assert x.dtype == torch.float32
    reference = np.moveaxis(raw, 3, 1) if expected != shape and raw.ndim == 4 else raw.reshape(expected)
    np.testing.assert_allclose(x.numpy(), reference / 255, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_become_float32_as_they_lie(tmp_path: Path, dtype: npt.DTypeLike) -> None:
    raw = np.linspace(-2, 2, 5 * 6 * 4 * 3).reshape(5, 6, 4, 3).astype(dtype)
    x = everything(load(saved(tmp_path / "x.npy", np.asfortranarray(raw))))
    assert x.dtype == torch.float32
    np.testing.assert_array_equal(x.numpy(), raw.astype(np.float32))


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint16, np.int64, ">i2"])
def test_other_integers_are_tokens(tmp_path: Path, dtype: npt.DTypeLike) -> None:
    x = everything(load(saved(tmp_path / "x.npy", np.arange(12, dtype=dtype).reshape(4, 3))))
    assert x.dtype == torch.int64
    assert x.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
@pytest.mark.parametrize("limit", [None, 40])
def test_a_value_that_is_not_finite_is_found_with_its_sample(tmp_path: Path, value: float, limit: int | None) -> None:
    raw = np.zeros((50, 3))
    i = int(samples.draw(50, 40)[17])
    raw[i, 2] = raw[49, 0] = value
    with refusal(f"sample {i} holds a value that is not a finite float32", hint="NaN"):
        load(saved(tmp_path / "x.npy", raw), limit=limit)


@pytest.mark.parametrize(
    ("array", "what", "hint"),
    [
        (np.float32(3), "shape [], without a dimension that counts samples", "[n, features]"),
        (np.zeros(784), "shape [784], without a dimension that counts samples", "[n, features]"),
        (np.zeros((0, 3)), "holds no samples: its inputs have shape [0, 3]", "not empty"),
        (np.zeros((3, 0)), "holds no samples: its inputs have shape [3, 0]", "not empty"),
        (np.array([["a", "b"]]), "inputs of type <U1", "float32"),
        (np.zeros((2, 2), dtype=bool), "inputs of type bool", "uint8"),
        (np.zeros((2, 2), dtype=complex), "inputs of type complex128", "float32"),
        (np.array([[0, 1], [2, -1]]), "sample 1 holds a negative number, and integers are tokens", "float32"),
        (np.array([[0, 1], [2, 2**64 - 1]], dtype=np.uint64), "sample 1 holds a negative number", "from 0"),
    ],
)
def test_arrays_that_are_no_inputs(tmp_path: Path, array: npt.ArrayLike, what: str, hint: str) -> None:
    with refusal(what, hint=hint):
        load(saved(tmp_path / "x.npy", array))


class Planted:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.trace,)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    array = np.array([[Planted(trace)]], dtype=object)
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    np.savez(tmp_path / "x.npz", x=array)
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Planted(trace)))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Planted(trace)))
    for name in ("x.npy", "x.npz", "bare.npz"):
        with refusal("holds Python objects, which are never unpickled", hint="save plain arrays"):
            load(tmp_path / name)
    with refusal("cannot be read", hint="save it again"):
        load(tmp_path / "bare.npy")
    assert not trace.exists()
    pickle.loads((tmp_path / "bare.npy").read_bytes())
    assert trace.exists()  # or the test would prove nothing


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"junk", b"\x93NUMPY\x01\x00v\x00{'descr'", b"PK\x03\x04junk"])
def test_damaged_files(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with refusal(f"{path}: ", hint=""):
        load(path)


def npy(descr: str, shape: tuple[int, ...], content: bytes = b"") -> bytes:
    """A .npy file that says whatever it is told to."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("descr", ["<U0", "|V0", "|S0"])
def test_endless_arrays_of_nothing(tmp_path: Path, descr: str) -> None:
    content = npy(descr, (2**40, 10))
    (tmp_path / "x.npy").write_bytes(content)
    zipped(tmp_path / "x.npz", {"x.npy": content})
    for suffix in ("npy", "npz"):
        with refusal("takes 8192.0 GiB of memory to read", hint="divide it"):
            load(tmp_path / f"x.{suffix}")


@pytest.mark.parametrize("limit", [None, 3])
@pytest.mark.parametrize(
    ("descr", "shape", "size", "hint"),
    [("|u1", (2**40, 1), 2**40, "divide it into smaller files"), ("<f4", (2, 2**38), 2**41, "cut its samples")],
)
def test_files_with_holes(
    tmp_path: Path, descr: str, shape: tuple[int, ...], size: int, hint: str, limit: int | None
) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(npy(descr, shape))
    os.truncate(path, path.stat().st_size + size)
    with refusal("GiB of memory to read", hint=hint):
        load(path, limit=limit)


@pytest.mark.parametrize("shape", [(2**40, 10), (2**62, 2**62), (-1, 10), (1,) * 65])
def test_absurd_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    (tmp_path / "x.npy").write_bytes(npy("<f4", shape))
    zipped(tmp_path / "x.npz", {"x.npy": npy("<f4", shape)})
    for suffix in ("npy", "npz"):
        with refusal("cannot be read", hint="save it again"):
            load(tmp_path / f"x.{suffix}")


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "x.npz", {"x.npy": npy("|u1", (64, 2**20), bytes(2**26)), "other": bytes(2**26)})
    assert path.stat().st_size < 2**18
    monkeypatch.setattr(free_memory, "free_memory", lambda: 2**27 + 1000)
    assert len(load(path)) == 64
    monkeypatch.setattr(free_memory, "free_memory", lambda: 2**27)
    with refusal("takes 0.1 GiB of memory to read, of which 0.1 GiB are free", hint=".npy file"):
        load(path)


@pytest.mark.parametrize(
    "names", [("x", "x.npy"), ("x.npy", "x"), ("x.npy", "x.npy")], ids=["hidden first", "hidden last", "twice"]
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_bomb_beside_a_small_array_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]
) -> None:
    """NumPy would read one of them, and the size that was looked at was the other's."""
    path = tmp_path / "x.npz"
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in zip(
            names, [npy("|u1", (64, 2**20), bytes(2**26)), npy("|u1", (4, 4), bytes(16))], strict=True
        ):
            archive.writestr(name, content)
    monkeypatch.setattr(free_memory, "free_memory", lambda: 2**24)
    with refusal("holds x 2 times", hint="numpy.savez"):
        load(path)


@pytest.mark.parametrize(("descr", "times"), [("|u1", 1), ("|i1", 8), ("<i4", 2), ("<f2", 2), ("<f4", 1)])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_what_numbers_take_as_inputs_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, descr: str, times: int, suffix: str
) -> None:
    """Small integers become int64: eight times as much."""
    size = 2**12
    content = npy(descr, (64, size // 64 // np.dtype(descr).itemsize), bytes(size))
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(content) if suffix == "npy" else zipped(path, {"x.npy": content})
    monkeypatch.setattr(free_memory, "free_memory", lambda: 2 * times * size + 400)
    assert len(load(path)) == 64
    monkeypatch.setattr(free_memory, "free_memory", lambda: 2 * times * size - 1)
    with refusal("of memory to read", hint="float32" if times > 1 or suffix == "npy" else ".npy file"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"hello"])
def test_members_that_are_no_arrays(tmp_path: Path, content: bytes) -> None:
    whole = npy("<f4", (1, 2), bytes(8))
    for members in ({"x.npy": content}, {"x": content}, {"x.npy": whole, "y.npy": content}):
        name = "y" if len(members) > 1 else "x"
        with refusal(f"{name} is no array", hint="numpy.savez"):
            load(zipped(tmp_path / "x.npz", members))


def test_a_thousand_names_are_not_all_listed(tmp_path: Path) -> None:
    path = zipped(tmp_path / "x.npz", {f"a{i}.npy": b"" for i in range(1000)})
    with pytest.raises(DataError) as caught:
        load(path)
    assert len(caught.value.what) < 400


def test_tensors_are_checked_like_a_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for entry, what, hint in (
        ('"dtype":"F4","shape":[2,2],"data_offsets":[0,2]', "x is of type F4", "save it as F32"),
        ('"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]', "x has an absurd shape", "do not trust"),
    ):
        header = f'{{"x":{{{entry}}}}}'.encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(2 if "F4" in entry else 0))
        with refusal(what, hint=hint):
            load(path)


def test_truncated_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npy", np.zeros((100, 10)))
    path.write_bytes(path.read_bytes()[:-8])
    with refusal("cannot be read", hint="save it again"):
        load(path)
    np.savez_compressed(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(100, 10)))
    damaged = bytearray((tmp_path / "x.npz").read_bytes())
    damaged[200:220] = bytes(20)
    (tmp_path / "x.npz").write_bytes(damaged)
    with refusal("cannot be read", hint="save it again"):
        load(tmp_path / "x.npz")


def test_an_array_under_the_name_of_an_archive(tmp_path: Path) -> None:
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.zeros((2, 2)))
    with refusal("is one array, not an archive", hint="x.npy"):
        load(tmp_path / "x.npz")


@pytest.mark.parametrize(("inputs", "labels"), [("x", "y"), ("inputs", "labels"), ("images", "y")])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_an_undivided_archive_is_the_same_for_both_splits(
    tmp_path: Path, inputs: str, labels: str, suffix: str
) -> None:
    x, y = np.arange(12, dtype=np.float32).reshape(6, 2), np.array([0, 1, 2, 0, 1, 2])
    path = save_archive(tmp_path / f"data{suffix}", {inputs: x, labels: y, "unrelated": np.zeros(3)})
    for split in ("train", "test"):
        data = load(path, split=split)
        np.testing.assert_array_equal(everything(data).numpy(), x)
        assert data.labels is not None
        assert data.labels.tolist() == y.tolist()
        assert data.split is None


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("test_name", ["test", "val"])
def test_a_divided_archive_gives_each_split_its_own(tmp_path: Path, suffix: str, test_name: str) -> None:
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "x_train": np.zeros((4, 2), dtype=np.float32),
        "y_train": np.zeros(4, dtype=np.uint8),
        f"x_{test_name}": np.ones((3, 2), dtype=np.float32),
        f"y_{test_name}": np.ones((3, 1), dtype=np.int32),
    }
    path = save_archive(tmp_path / f"data{suffix}", arrays)
    train, test = load(path, split="train"), load(path, split="test")
    assert (len(train), len(test)) == (4, 3)
    assert (train.split, test.split) == ("train", "test")
    assert everything(test).unique().tolist() == [1.0]
    assert train.labels is not None
    assert test.labels is not None
    assert (train.labels.tolist(), test.labels.tolist()) == ([0] * 4, [1] * 3)
    assert train.labels.dtype == test.labels.dtype == torch.int64


def save_archive(path: Path, arrays: dict[str, npt.NDArray[np.generic]]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    return path


@pytest.mark.parametrize(
    ("arrays", "what", "hint"),
    [
        ({}, "holds nothing, but no x or inputs or images", "save inputs as x"),
        ({"arr_0": np.zeros((2, 2))}, "holds arr_0, but no x or inputs or images", "save inputs as x"),
        ({"x_test": np.zeros((2, 2))}, "holds x_test, but no x_train or", "x_train, y_train"),
        ({"x": np.zeros((2, 2)), "images": np.zeros((2, 2))}, "holds both x and images", "keep one"),
        (
            {"x": np.zeros((2, 2)), "y": np.zeros(2, dtype=int), "labels": np.zeros(2, dtype=int)},
            "holds both y and labels",
            "keep one",
        ),
        ({"x": np.zeros((2, 2)), "y": np.zeros(3, dtype=int)}, "has 2 inputs but 3 labels", "exactly one label"),
        ({"x": np.zeros((2, 2)), "y": np.array(["a", "b"])}, "has labels of type <U1", "astype('int64')"),
        ({"x": np.zeros((2, 2)), "y": np.array(1)}, "has labels of shape [], not [2]", "one whole number a sample"),
        ({"x": np.zeros((2, 2)), "y": np.array([0, -1])}, "the label of sample 1 is -1", "from 0"),
    ],
)
def test_archives_without_usable_inputs_or_labels(
    tmp_path: Path, arrays: dict[str, npt.NDArray[np.generic]], what: str, hint: str
) -> None:
    with refusal(what, hint=hint):
        load(save_archive(tmp_path / "data.npz", arrays))


def test_half_precision_tensors_of_safetensors(tmp_path: Path) -> None:
    x = torch.tensor([[0.5, -1.5], [2.0, 3.0]], dtype=torch.bfloat16)
    save_file({"x": x}, tmp_path / "x.safetensors")
    data = load(tmp_path / "x.safetensors")
    torch.testing.assert_close(everything(data), x.float())
    assert data.labels is None


@pytest.mark.parametrize("limit", [1, 2, 5, 99])
def test_a_limit_keeps_inputs_and_labels_together(tmp_path: Path, limit: int) -> None:
    np.savez(tmp_path / "data.npz", x=np.arange(10.0).reshape(10, 1), y=np.arange(10))
    data = load(tmp_path / "data.npz", limit=limit)
    assert len(data) == min(limit, 10)
    assert data.labels is not None
    assert everything(data)[:, 0].tolist() == data.labels.tolist()


@pytest.mark.parametrize("limit", [None, 1, 30])
def test_a_file_too_large_for_memory_reads_the_same_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    path = saved(tmp_path / "x.npy", raw)
    order = torch.randperm(50 if limit is None else limit)
    eager = load(path, limit=limit, image_size="4", grayscale=True)
    monkeypatch.setattr(samples, "EAGER_BYTES", 8 * 8 * 3 - 1)
    lazy = load(path, limit=limit, image_size="4", grayscale=True)
    assert not isinstance(lazy.source, type(eager.source))
    assert len(lazy) == len(eager)
    assert torch.equal(lazy.inputs(order), eager.inputs(order))


def test_a_file_too_large_for_memory_is_checked_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "EAGER_BYTES", 0)
    raw = np.zeros((50, 3))
    raw[31] = np.nan
    data = load(saved(tmp_path / "x.npy", raw))
    data.inputs(torch.tensor([30, 32]))
    with refusal("sample 31 holds a value that is not a finite float32", hint="NaN"):
        data.inputs(torch.tensor([1, 31]))
    with refusal("inputs of type bool", hint="uint8"):
        load(saved(tmp_path / "bool.npy", np.zeros((5, 2), dtype=bool)))


def test_options_for_images_refuse_other_arrays(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npy", np.zeros((5, 3, 8, 8)))
    with refusal("holds no uint8 images that --image-size could change", hint="leave out --image-size"):
        load(path, image_size="4")
    with refusal("holds no uint8 images that --grayscale could change", hint="leave out --grayscale"):
        load(path, grayscale=True)
    with refusal("images of 4 channels, for which there is no gray", hint="leave out --grayscale"):
        load(saved(tmp_path / "rgba.npy", np.zeros((5, 8, 8, 4), dtype=np.uint8)), grayscale=True)


def test_a_member_that_holds_less_than_its_header_says(tmp_path: Path) -> None:
    """The length of a member is right, and NumPy would take what the header says."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**9, 500)})
    with ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("x.npy", header.getvalue() + b"0" * 100)
    size = len(header.getvalue()) + 100
    with refusal(f"x holds {size} bytes, and by its header 2,000,000,000,000", hint="save it again"):
        load(tmp_path / "x.npz")


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_a_table_with_fields_is_named(tmp_path: Path, suffix: str) -> None:
    table = np.zeros(50, dtype=[("a", "f4"), ("b", "f4")])
    path = tmp_path / f"x.{suffix}"
    np.save(path, table) if suffix == "npy" else np.savez(path, x=table)
    with refusal("holds inputs with fields (a, b), not an array of numbers", hint="structured_to_unstructured"):
        load(path)


def with_labels(path: Path, y: npt.NDArray[np.generic]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, x=np.zeros((3, 4), np.float32), y=y)
    else:
        save_file({"x": torch.zeros(3, 4), "y": torch.from_numpy(y)}, path)
    return path


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
def test_a_label_beyond_every_class_is_named_as_it_is(tmp_path: Path, name: str) -> None:
    path = with_labels(tmp_path / name, np.array([0, 2**64 - 1, 1], np.uint64))
    with refusal("the label of sample 1 is 18446744073709551615", hint="number the classes from 0"):
        load(path)


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
def test_labels_that_are_true_or_false_are_classes_1_and_0(tmp_path: Path, name: str) -> None:
    data = load(with_labels(tmp_path / name, np.array([True, False, True])))
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_several_arrays_of_labels_are_a_dict(tmp_path: Path, suffix: str) -> None:
    x, y = np.zeros((5, 2), "float32"), np.arange(5)
    whole = {"x": x, "y_class": y, "y_box": np.ones((5, 4), "float32"), "notes": 2 * y}
    found = load(save_archive(tmp_path / f"a{suffix}", whole), limit=3)
    chosen = samples.draw(5, 3).tolist()
    assert isinstance(found.labels, dict)
    assert found.labels.keys() == {"class", "box"}
    assert found.labels["class"].tolist() == chosen
    assert found.labels["box"].shape == (3, 4)
    assert found.labels["box"].dtype == torch.float32
    times = {"train": 2, "test": 1}
    parts = {f"{name}_{part}": np.concatenate([a] * n) for name, a in whole.items() for part, n in times.items()}
    path = save_archive(tmp_path / f"b{suffix}", parts)
    for split, n in times.items():
        labels = load(path, split=split).labels
        assert isinstance(labels, dict)
        assert len(labels["class"]) == 5 * n
    lone = load(save_archive(tmp_path / f"c{suffix}", {"x": x, "y_class": y}))
    assert lone.labels is None
    one_short = save_archive(tmp_path / f"d{suffix}", {"x": x, "y_class": y, "y_box": y[:4]})
    with refusal("has 5 inputs but 4 labels", hint="save exactly one label for each input"):
        load(one_short)
