from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from ntt_cli.errors import CheckpointError, UsageError
from ntt_cli.files.checkpoint import Checkpoint, read_checkpoint
from ntt_cli.networks.loading.weights import LoadedWeights, ReadAs, load_into


class Net(nn.Module):
    """Layers, a batch norm, a table of whole numbers, two causal masks and a statistic."""

    def __init__(self, *, classes: int = 3, persistent: bool = True) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 5))
        self.head = nn.Linear(5, classes)
        self.register_buffer("position_ids", torch.arange(4), persistent=persistent)
        self.register_buffer("mask", torch.full((2, 2), -math.inf).triu(1), persistent=persistent)
        self.register_buffer("visible", torch.ones(2, 2).tril())
        self.register_buffer("scale", torch.ones(2))


def checkpoint(tensors: dict[str, Tensor], masks: dict[str, Tensor] | None = None) -> Checkpoint:
    return Checkpoint(path=Path("x.safetensors"), tensors=tensors, masks=masks or {}, record=None)


def state(seed: int = 1, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    net = Net(**options).train()
    net.body(torch.randn(8, 4))  # so that its statistics are not those of a new network
    return {name: value.clone() for name, value in net.state_dict().items()}


def loaded(tensors: dict[str, Tensor], **options: Any) -> tuple[Net, LoadedWeights]:
    torch.manual_seed(2)
    net = Net(**options)
    return net, load_into(net, checkpoint(tensors))


def refusal(module: nn.Module, tensors: dict[str, Tensor]) -> tuple[list[str], str]:
    with pytest.raises(CheckpointError) as caught:
        load_into(module, checkpoint(tensors))
    assert caught.value.exit_code == 2
    assert caught.value.where == "x.safetensors"
    return caught.value.what.splitlines(), caught.value.hint


def renamed(by: Callable[[str], str]) -> dict[str, Tensor]:
    return {by(name): value for name, value in state().items()}


def without(part: str) -> dict[str, Tensor]:
    return {name: value for name, value in state().items() if part not in name}


@pytest.mark.parametrize(
    ("tensors", "notes"),
    [
        (state(), ()),
        (renamed("module.{}".format), ("prefix module. dropped",)),
        (renamed("model.{}".format), ("prefix model. dropped",)),
        (renamed("_orig_mod.{}".format), ("prefix _orig_mod. dropped",)),
        (renamed("module._orig_mod.{}".format), ("prefix module._orig_mod. dropped",)),
        (renamed("model.module.net.{}".format), ("prefix model.module.net. dropped",)),
        (
            renamed(lambda name: name.replace("body.", "body._orig_mod.")),
            ("names read without wrappers, body._orig_mod.0.weight as body.0.weight",),
        ),
        (without("num_batches"), ("1 counter num_batches_tracked missing and set to 0",)),
        (without("position_ids"), ("position_ids missing and left as the network has them",)),
        (without("mask"), ("mask missing and left as the network has them",)),
        (without("visible"), ("visible missing and left as the network has them",)),
        (
            renamed("net.{}".format) | {"criterion.weight": torch.ones(3), "metrics.total": torch.tensor(5.0)},
            ("prefix net. dropped", "left out criterion.weight, metrics.total, another part of the file than net."),
        ),
        (
            renamed("backbone.{}".format) | {"neck.weight": torch.ones(3, 5)},
            ("prefix backbone. dropped", "left out neck.weight, another part of the file than backbone."),
        ),
        (
            state() | {"steps": torch.tensor(7), "decay": torch.tensor([0.9]), "embeddings.ids": torch.arange(9)},
            ("left out steps, decay, embeddings.ids, which no layer has",),
        ),
        (state() | {"extra": torch.ones(3)}, ("left out extra, which no layer has",)),
        (
            {f"module.{name}": value for name, value in without("num_batches").items()}
            | {"n_averaged": torch.tensor(3)},
            (
                "prefix module. dropped",
                "1 counter num_batches_tracked missing and set to 0",
                "left out n_averaged, which no layer has",
            ),
        ),
        (state() | {f"h.{i}.ids": torch.arange(2) for i in range(9)}, ("left out 9 of ids, which no layer has",)),
    ],
)
def test_forms_in_which_weights_are_published(tensors: dict[str, Tensor], notes: tuple[str, ...]) -> None:
    net, found = loaded(tensors)
    assert found.notes == notes
    for name, value in state().items():
        if name in found.tensors:
            assert torch.equal(net.state_dict()[name], value)
            assert torch.equal(found.tensors[name], value)
    assert found.tensors.keys() >= dict(net.named_parameters()).keys()


def test_a_prefix_that_only_the_network_has() -> None:
    torch.manual_seed(2)
    wrapper = nn.ModuleDict({"net": Net()})
    assert load_into(wrapper, checkpoint(state())).notes == ("prefix net. added",)
    assert torch.equal(wrapper.state_dict()["net.head.weight"], state()["head.weight"])


def test_buffers_that_the_network_makes_itself_are_left_out() -> None:
    _, found = loaded(state(), persistent=False)
    assert found.notes == ("left out position_ids, mask, which no layer has",)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    """Rounded once, as torch rounds them; counters may be of any type that holds them."""
    tensors = {name: value.to(dtype) for name, value in state().items()}
    net, found = loaded(tensors)
    assert found.notes == (f"{str(dtype).removeprefix('torch.')} read into float32",)
    assert torch.equal(net.head.weight, tensors["head.weight"].float())
    assert net.state_dict()["body.1.num_batches_tracked"] == 1
    load_into(net.to(dtype), checkpoint(state()))
    assert torch.equal(net.head.weight, state()["head.weight"].to(dtype))


def test_pruned_weights_of_torch() -> None:
    net = Net()
    prune.random_unstructured(net.head, "weight", 0.4)  # type: ignore[no-untyped-call]
    tensors = {name: value.clone() for name, value in net.state_dict().items()}
    assert "head.weight_orig" in tensors
    tensors = {f"module.{name}": value for name, value in tensors.items()}
    other, found = loaded(tensors)
    assert found.notes == ("prefix module. dropped", "1 pair of NAME_orig and NAME_mask joined")
    assert torch.equal(other.head.weight, net.head.weight)
    assert found.masks.keys() == {"head.weight"}
    assert torch.equal(found.masks["head.weight"], net.head.weight_mask.bool())


@pytest.mark.parametrize("kind", [torch.float32, torch.uint8, torch.bool])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_mask_beside_its_weight(kind: torch.dtype, prefix: str) -> None:
    mask = torch.rand(3, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    weight = state()["head.weight"] * mask
    tensors = state() | {"head.weight": weight, "head.weight_mask": mask.to(kind)}
    net, found = loaded({f"{prefix}{name}": value for name, value in tensors.items()})
    assert found.notes[-1] == "1 mask NAME_mask read"
    assert torch.equal(found.masks["head.weight"], mask)
    assert torch.equal(net.head.weight, weight)


@pytest.mark.parametrize("wrong", [torch.zeros(3, 5), torch.full((3, 5), 0.5), torch.ones(5, 3)])
def test_what_is_no_mask_of_the_weight_beside_it(wrong: Tensor) -> None:
    what, _ = refusal(Net(), state() | {"head.weight_mask": wrong})
    assert what[0] == "holds layers that the model lacks:"


@pytest.mark.parametrize("prefix", ["", "net."])
@pytest.mark.parametrize("old", [True, False])
def test_weight_normalisation_that_the_network_lacks(prefix: str, old: bool) -> None:
    parts = ("weight_g", "weight_v") if old else tuple(f"parametrizations.weight.original{i}" for i in (0, 1))
    tensors = {name: value for name, value in state().items() if name not in {"body.0.weight", "head.weight"}}
    for layer in ("body.0", "head"):
        weight = state()[f"{layer}.weight"]
        tensors |= {f"{layer}.{parts[0]}": weight[:, :1], f"{layer}.{parts[1]}": weight}
    what, hint = refusal(Net(), {f"{prefix}{name}": value for name, value in tensors.items()})
    assert what[0] == "holds body.0.weight, head.weight with weight normalisation, which the model lacks:"
    assert hint.startswith("build the model with weight_norm, as it was trained, or call")


def test_one_of_two_networks_in_a_file_is_not_chosen() -> None:
    wrapper = nn.ModuleDict({"net": Net()})
    two = {f"{part}.{name}": value for part in ("student", "ema") for name, value in state().items()}
    with pytest.raises(CheckpointError):
        load_into(wrapper, checkpoint(two))


def test_masks_go_by_the_names_of_the_network() -> None:
    mask = torch.rand(3, 5) < 0.5
    tensors = renamed("module.{}".format)
    found = load_into(Net(), checkpoint(tensors, {"module.head.weight": mask}))
    assert found.masks.keys() == {"head.weight"}
    assert torch.equal(found.masks["head.weight"], mask)


def test_the_part_under_a_prefix_alone() -> None:
    tensors = renamed("net.{}".format) | {f"ema.{name}": value for name, value in state(seed=5).items()}
    mask = torch.ones(3, 5, dtype=torch.bool)
    for prefix, seed in (("net.", 1), ("ema.", 5)):
        net = Net()
        found = load_into(net, checkpoint(tensors, {"ema.head.weight": mask}), ReadAs(prefix))
        assert found.notes == (f"{len(state())} of them under {prefix}",)
        assert found.masks.keys() == ({"head.weight"} if prefix == "ema." else set())
        assert all(torch.equal(net.state_dict()[name], value) for name, value in state(seed=seed).items())
    with pytest.raises(UsageError) as caught:
        load_into(Net(), checkpoint(tensors), ReadAs("backbone."))
    assert str(caught.value) == "--weights-prefix backbone.: begins no name in x.safetensors"
    assert caught.value.hint == "names there begin with ema., net."


def test_layers_that_the_model_lacks_are_left_out_on_demand() -> None:
    tensors = state() | {"neck.weight": torch.ones(3, 5), "neck.bias": torch.ones(3)}
    what, hint = refusal(Net(), tensors)
    assert what[0] == "holds layers that the model lacks:"
    assert "--ignore-extra" in hint
    net = Net()
    found = load_into(net, checkpoint(tensors), ReadAs(ignore_extra=True))
    assert found.notes == ("left out neck.weight, neck.bias, which the model lacks",)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in state().items())
    with pytest.raises(UsageError, match=r"--ignore-extra: does nothing: the model has all tensors of x\.safetensors"):
        load_into(Net(), checkpoint(state() | {"steps": torch.tensor(7)}), ReadAs(ignore_extra=True))
    with pytest.raises(CheckpointError, match="head.weight is"):
        load_into(Net(), checkpoint(tensors | {"head.weight": torch.ones(2, 2)}), ReadAs(ignore_extra=True))


def test_names_that_the_network_itself_translates() -> None:
    """Weight norm as torch wrote it before it was a parametrisation, which its own hook still reads."""
    torch.manual_seed(0)
    old, new = nn.Linear(3, 2), weight_norm(nn.Linear(3, 2))
    tensors = {"bias": old.bias.data, "weight_v": old.weight.data, "weight_g": torch.full((2, 1), 2.0)}
    load_into(new, checkpoint(tensors))
    assert torch.equal(new.parametrizations.weight.original1, old.weight)
    assert new.weight.norm(dim=1).tolist() == pytest.approx([2.0, 2.0])


def test_one_name_of_a_tied_weight_is_enough(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    save_model(network, str(tmp_path / "x.safetensors"))
    read = read_checkpoint(tmp_path / "x.safetensors")
    assert len(read.tensors) == 2
    other = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="missing"):
        load_into(other, read)
    other[1].weight = other[0].weight
    load_into(other, read)
    assert torch.equal(other[0].weight, network[0].weight)


def test_two_values_for_one_tied_weight() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    load_into(network, checkpoint({"0.weight": torch.ones(2, 2), "1.weight": torch.ones(2, 2)}))
    what, hint = refusal(network, {"0.weight": torch.ones(2, 2), "1.weight": torch.zeros(2, 2)})
    assert what == ["0.weight and 1.weight are one weight in the model, and differ in the file"]
    assert hint.startswith("build the network with a weight of its own for each")


@pytest.mark.parametrize(
    ("tensors", "what", "hint"),
    [
        (
            without("head"),
            [
                "lacks the network's last layer, head, as files do that were saved without a head:",
                "  missing head.weight [3, 5]",
                "  missing head.bias [3]",
            ],
            "name the file of the whole network",
        ),
        (without("body.0"), ["lacks some of the network's layers:", "  missing body.0.weight [5, 4]"], "--model-arg"),
        (
            without("running_mean"),
            ["lacks the running statistics of batch normalisation:", "  missing body.1.running_mean [5]"],
            "track_running_stats=False",
        ),
        (without("scale"), ["lacks some of the network's buffers:", "  missing scale [2]"], "persistent=False"),
        (
            {name: value for name, value in state().items() if "scale" not in name and "running" not in name},
            [
                "lacks some of the network's buffers:",
                "  missing scale [2]",
                "  missing body.1.running_mean [5]",
                "  missing body.1.running_var [5]",
            ],
            "state_dict()",
        ),
        (
            state(classes=7),
            [
                "has another number of outputs than the model:",
                "  head.weight is [7, 5], the model has [3, 5]",
                "  head.bias is [7], the model has [3]",
            ],
            "--model-arg",
        ),
        (
            state() | {"body.3.weight": torch.ones(5, 5)},
            ["holds layers that the model lacks:", "  extra body.3.weight [5, 5]"],
            "--model-arg",
        ),
        # A bias that the network lacks would be missed.
        (state() | {"body.bias": torch.ones(5)}, ["holds layers that the model lacks:", "  extra body.bias [5]"], ""),
        (
            state() | {f"ema.{name}": value for name, value in state().items()},
            ["holds the network more than once, as its plain names and ema.:"],
            "name one, --weights-prefix ema., or save it alone",
        ),
        (
            {f"{part}.{name}": value for part in ("model", "ema") for name, value in state().items()},
            ["holds the network more than once, as model. and ema.:"],
            "name one, --weights-prefix ema., or save it alone",
        ),
        (
            renamed(lambda name: name.replace("body", "trunk")),
            ["has other names for the same shapes, as another implementation of the network would:"],
            "rename its tensors",
        ),
        (
            {f"{name}.lora_A": value for name, value in state().items()},
            ["holds an adapter (LoRA), not a network:"],
            "merge it",
        ),
        (
            state() | {"head.weight": torch.ones(3, 5, dtype=torch.int8), "head.scale": torch.ones(3, 1)},
            [
                "holds weights of other types, perhaps quantised:",
                "  head.weight is of type int8, the model has float32",
            ],
            "dequantise them, and save them as F32, F16 or BF16",
        ),
        (
            state() | {"head.weight": torch.ones(3, 5, dtype=torch.complex64)},
            [
                "holds weights of other types, perhaps quantised:",
                "  head.weight is of type complex64, the model has float32",
            ],
            "",
        ),
        ({"a": torch.zeros(2, 3), "n": torch.tensor(1)}, ["belongs to another model:"], "--model-arg"),
    ],
)
def test_files_that_do_not_fit_and_why(tensors: dict[str, Tensor], what: list[str], hint: str) -> None:
    found, found_hint = refusal(Net(), tensors)
    assert found[: len(what)] == what
    assert hint in found_hint


def test_another_model_and_all_that_tells_them_apart() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1, bias=False))
    other = {
        "0.weight": torch.zeros(2, 3),
        "0.bias": torch.zeros(3),
        "2.weight": torch.zeros(1, 2),
        "n": torch.tensor(1),
    }
    assert refusal(network, other) == (
        [
            "belongs to another model:",
            "  missing 1.weight [1, 3]",
            "  0.weight is [2, 3], the model has [3, 2]",
            "  extra 2.weight [1, 2]",
        ],
        "name the model, and the --model-arg values, that it was made with",
    )


def test_a_list_of_misfits_is_bounded() -> None:
    network = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(50)))
    what, _ = refusal(network, {"w": torch.zeros(2, 2)})
    assert len(what) == 22
    assert what[-1] == "  and 31 more"


def test_weights_must_be_numbers_and_buffers_need_not() -> None:
    _, found = loaded(state())
    assert found.tensors["mask"].isinf().any()
    for wrong in (math.nan, math.inf):
        tensors = state() | {"head.bias": torch.tensor([0.0, wrong, 0.0])}
        assert refusal(Net(), tensors) == (["head.bias holds NaN or infinity"], "train or prune the network again")


def test_numbers_that_half_precision_cannot_hold() -> None:
    what, hint = refusal(Net().half(), state() | {"head.bias": torch.full((3,), 1e6)})
    assert (what, hint) == (["head.bias holds numbers beyond float16"], "build the network in a wider type")
