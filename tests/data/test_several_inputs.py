"""Several inputs, in a dict or a tuple, against the same values in one tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

import ntt_cli as ntt
from ntt_cli.config import DataOptions
from ntt_cli.data import Samples, data_sha256, load_samples
from ntt_cli.data.batch import Batch, same
from ntt_cli.data.sources.objects import samples_of
from ntt_cli.errors import DataError, NttError

X, Y = torch.randn(48, 6, generator=torch.Generator().manual_seed(0)), torch.arange(48) % 3
LEFT, RIGHT = X[:, :4].contiguous(), X[:, 4:].contiguous()
DICT, TUPLE = {"left": LEFT, "right": RIGHT}, (LEFT, RIGHT)
every_kind = pytest.mark.parametrize("inputs", [DICT, TUPLE], ids=["dict", "tuple"])


class One(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


class Two(One):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return super().forward(torch.cat([left, right], dim=1))


def networks() -> tuple[One, Two]:
    torch.manual_seed(0)
    one, two = One(), Two()
    two.load_state_dict(one.state_dict())
    return one, two


def options(**more: Any) -> DataOptions:
    return DataOptions(**more)


def read(data: object, *, labelled: bool = True, **more: Any) -> Samples:
    return samples_of(data, options=options(**more), labelled=labelled)


@every_kind
@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("trained", [False, True])
def test_transfer(inputs: Batch, micro_batch: int | None, trained: bool) -> None:
    one, two = networks()
    settings: dict[str, Any] = {"sparsity": 0.5, "steps": 6, "batch_size": 16, "trained": trained}
    settings["micro_batch"] = micro_batch
    expected, found = ntt.prune(one, X, **settings), ntt.prune(two, (inputs, None), **settings)
    for name, value in expected.model.state_dict().items():
        assert torch.equal(found.model.state_dict()[name], value), name
    assert found.report.agreement == expected.report.agreement


@every_kind
@pytest.mark.usefixtures("few_rounds")
@pytest.mark.parametrize("method", ["wanda", "snip", "grasp", "logit-snip", "synflow"])
def test_masks_of_other_methods(inputs: Batch, method: str) -> None:
    one, two = networks()
    expected, found = (
        ntt.prune(one, (X, Y), sparsity=0.5, method=method),
        ntt.prune(two, (inputs, Y), sparsity=0.5, method=method),
    )
    assert all(torch.equal(found.masks[name], mask) for name, mask in expected.masks.items())


@every_kind
def test_training_and_evaluation(inputs: Batch) -> None:
    one, two = networks()
    expected, found = ntt.finetune(one, (X, Y), epochs=2), ntt.finetune(two, (inputs, Y), epochs=2)
    assert found.report.epochs == expected.report.epochs
    one_report = ntt.evaluate(expected, (X, Y), teacher=one, kernels=True)
    two_report = ntt.evaluate(found, (inputs, Y), teacher=two, kernels=True)
    for field in ("accuracy", "agreement", "flops_dense", "samples"):
        assert getattr(two_report, field) == getattr(one_report, field)


@every_kind
def test_kernels(inputs: Batch) -> None:
    one, two = networks()
    probe = torch.randn(48, 3, generator=torch.Generator().manual_seed(1))
    assert torch.equal(ntt.empirical_ntk(two, inputs), ntt.empirical_ntk(one, X))
    for micro_batch in (None, 5):
        expected = ntt.kernel_vector_product(one, X, X, probe, micro_batch=micro_batch)
        assert torch.equal(ntt.kernel_vector_product(two, inputs, inputs, probe, micro_batch=micro_batch), expected)


class Items(Dataset[Any]):
    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> Any:
        parts = {"left": LEFT[i], "right": RIGHT[i].tolist()}
        if self.kind == "dict":
            return parts | {"labels": int(Y[i])}
        return (LEFT[i], RIGHT[i]), int(Y[i])


@pytest.mark.parametrize("kind", ["dict", "tuple"])
def test_items_of_a_dataset(kind: str) -> None:
    found = read(Items(kind))
    assert same(found.inputs(torch.arange(48)), DICT if kind == "dict" else TUPLE)
    assert found.labels is not None
    assert found.labels.tolist() == Y.tolist()
    assert found.labels_name == ("labels" if kind == "dict" else None)
    assert ("labels are labels" in found.described()) == (kind == "dict")


def test_list_of_dicts() -> None:
    found = read([{"left": left, "right": right} for left, right in zip(*TUPLE, strict=True)])
    assert same(found.inputs(torch.arange(48)), DICT)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("part", ["", "_train"])
def test_arrays_in_a_file(tmp_path: Path, suffix: str, part: str) -> None:
    path = tmp_path / f"data{suffix}"
    arrays = {f"{name}{part}": value for name, value in (DICT | {"y": Y}).items()}
    if suffix == ".npz":
        np.savez(path, **{name: value.numpy() for name, value in arrays.items()})
    else:
        save_file(arrays, path)
    found = load_samples(options(data=str(path)), split="train")
    assert same(found.inputs(torch.arange(48)), DICT)
    assert found.labels is not None
    assert found.labels.tolist() == Y.tolist()
    assert found.split == ("train" if part else None)


def test_factories(tmp_path: Path) -> None:
    path = tmp_path / "data.py"
    path.write_text(
        "import torch\n"
        "ids, mask = torch.arange(12).view(4, 3), torch.tensor([[1, 1, 0]] * 4)\n"
        "def build_data(): return {'ids': ids, 'mask': mask.bool(), 'labels': torch.arange(4)}\n"
        "def nested(): return (ids, mask), None\n"
        "def pair(): return ids + 2, mask\n"
    )
    found = load_samples(options(data=str(path)), split="train")
    assert [part.dtype for part in found.inputs(torch.arange(2)).values()] == [torch.int64, torch.bool]  # type: ignore[union-attr]
    assert found.labels is not None
    assert found.labels.tolist() == [0, 1, 2, 3]
    assert "of ids [3], mask [3]; labels are labels" in found.described()
    nested = load_samples(options(data=f"{path}:nested"), split="train")
    assert isinstance(nested.inputs(torch.arange(2)), tuple)
    assert nested.labels is None
    with pytest.raises(DataError) as refused:
        load_samples(options(data=f"{path}:pair"), split="train")
    assert refused.value.hint == "return a dict of input_ids and attention_mask, or ((ids, mask), None)"


def test_what_a_part_may_hold() -> None:
    images = torch.arange(2 * 5 * 5 * 3, dtype=torch.uint8).view(2, 5, 5, 3)
    found = read({"image": images, "mask": torch.ones(2, 5, dtype=torch.uint8), "t": torch.tensor([-1.5, 2.0])})
    image, mask, t = found.inputs(torch.arange(2)).values()  # type: ignore[union-attr]
    assert torch.equal(image, images.movedim(3, 1) / 255)
    assert mask.dtype == torch.int64
    assert t.tolist() == [-1.5, 2.0]
    small = read({"image": images, "t": torch.zeros(2)}, image_size="2").inputs(torch.arange(2))
    assert small["image"].shape == (2, 3, 2, 2)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ({"a": torch.zeros(4, 2), "b": torch.zeros(3, 2)}, "different numbers of samples: a 4, b 3"),
        ({"a": torch.zeros(4, 2), "b": torch.full((4,), torch.nan)}, "sample 0 holds a b that is not finite"),
        ({"a": torch.zeros(4, 2), "b": torch.tensor(1.0)}, r"holds b of shape \[\]"),
        ({"a": torch.zeros(4, 2), "y": Y[:4], "labels": Y[:4]}, "has both labels and y in one dict"),
        ({"a": torch.zeros(4, 2), "b": ["x"] * 4}, "is a dict of a, b"),
    ],
)
def test_what_is_refused(data: object, what: str) -> None:
    with pytest.raises(DataError, match=what):
        read(data)


def test_no_mean_is_subtracted_from_several_inputs() -> None:
    with pytest.raises(NttError, match="are several tensors") as refused:
        ntt.prune(networks()[1], DICT, sparsity=0.5, method="wanda", mean=0.5, std=0.5)
    assert "leave out" in (refused.value.hint or "")


class Towers(One):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(torch.cat([x, y], dim=1))


def test_an_input_named_as_labels() -> None:
    inputs = {"x": LEFT, "y": RIGHT}
    with pytest.raises(NttError) as refused:
        ntt.prune(Towers(), inputs, sparsity=0.5, method="wanda")
    assert "return (inputs, None)" in (refused.value.hint or "")
    assert ntt.prune(Towers(), (inputs, None), sparsity=0.5, method="wanda").report.density == 0.5


def test_hash_knows_names_and_values() -> None:
    hashes = {
        data_sha256(read((data, None)))
        for data in (DICT, TUPLE, {"left": LEFT, "other": RIGHT}, {"left": LEFT, "right": RIGHT + 1})
    }
    assert len(hashes) == 4


class Encoder(nn.Module):
    """Each token alone, so that what stands at padding changes outputs there and nowhere else."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.last = nn.Embedding(9, 6), nn.Linear(6, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.last(torch.tanh(self.embedding(input_ids))) + 0 * attention_mask[..., None]


@pytest.mark.parametrize("kernel_weight", [0.0, 1.0])
def test_padding_changes_nothing(kernel_weight: float) -> None:
    torch.manual_seed(0)
    net, ids = Encoder(), torch.randint(1, 9, (24, 5))
    mask = (torch.arange(5) < torch.randint(2, 5, (24, 1))).long()

    def pruned(ids: Tensor, mask: Tensor) -> ntt.PruneResult:
        data = {"input_ids": ids, "attention_mask": mask}
        method = ntt.NTT(score="magnitude", kernel_weight=kernel_weight)  # a saliency has a probe, too
        return ntt.prune(net, data, sparsity=0.5, steps=5, batch_size=8, method=method)

    kept = ids * mask
    first, other = pruned(kept, mask), pruned(kept + 7 * (1 - mask), mask)
    for name, value in first.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[name], value), name
    assert other.report.agreement == first.report.agreement
    if not kernel_weight:  # a probe of another length has other values
        longer = pruned(nn.functional.pad(kept, (0, 3), value=5), nn.functional.pad(mask, (0, 3)))
        for name, value in first.model.state_dict().items():
            torch.testing.assert_close(longer.model.state_dict()[name], value)
