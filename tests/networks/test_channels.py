import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn

from ntt_cli.errors import ModelError
from ntt_cli.masks.channels import Channels
from ntt_cli.networks.channels import FoundChannels, Removed, find_channels, removed_of, shrink
from ntt_cli.networks.functional import functional_model


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 5, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.depthwise = nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.outer = nn.Conv2d(5, 6, 1)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.first(x))
        h = h + self.outer(torch.sigmoid(self.depthwise(self.norm(self.inner(h)))))
        return self.last(h.mean((2, 3)))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 12), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(x).chunk(2, dim=-1)
        return self.down(value * torch.sigmoid(gate))


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv1d(2, 3, 3), nn.Conv1d(2, 4, 3)
        self.back = nn.ConvTranspose1d(7, 5, 2)
        self.last = nn.Linear(5 * 7, 2)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.left(x), self.right(x)], dim=1)
        return self.last(torch.cos(self.back(both)).flatten(1))


class Shifted(nn.Module):
    """Channels that are added in other places: what Torch-Pruning takes for the same ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.own, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(torch.relu(self.own(torch.relu(self.inner(h)) + h.roll(1, dims=-1))))


class Sized(nn.Module):
    """Its code holds a number of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(torch.relu(self.second(h)).view(-1, 2, 4).transpose(1, 2).reshape(-1, 8))


CASES = {
    "chain": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2)),
        (2, 4),
        {"1": 6, "3": 5},
    ),
    "convolutional": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.PReLU(4),
            nn.Flatten(),
            nn.Linear(36, 6),
            nn.ELU(),
            nn.Linear(6, 2),
        ),
        (2, 5, 5),
        {"0": 4, "4": 6},
    ),
    "residual": (Residual, (2, 4, 4), {"outer": 6, "depthwise": 5}),
    "gated": (Gated, (4,), {"up": 6}),
    "joined": (Joined, (2, 8), {"left": 3, "right": 4, "back": 5}),
}


def found_in(network: nn.Module, shape: tuple[int, ...], **options: object) -> tuple[FoundChannels, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(3, *shape)
    model = functional_model(network)
    names = [name for name, p in model.params.items() if p.ndim > 1 and name not in options.pop("dense", ())]
    return find_channels(model, x, names, where="net", **options), x


@pytest.mark.parametrize("case", CASES)
def test_the_smaller_network_equals_the_one_with_zeros(case: str) -> None:
    build, shape, sizes = CASES[case]
    network = build().double()
    for value in (*network.parameters(), *network.buffers()):
        if value.is_floating_point():
            nn.init.uniform_(value, 0.2, 1.2)
    found, x = found_in(copy.deepcopy(network).float(), shape)
    assert {group.layer: group.size for group in found.groups} == sizes
    assert found.left_out == {}
    stays = [torch.arange(group.size) % 3 != 1 for group in found.groups]
    weights = {name: p.shape for name, p in network.named_parameters() if p.ndim > 1}
    masks = Channels(found.groups, weights, {}, 0, by_flops=False).masks(stays, dict(network.named_parameters()))
    state = {name: value * masks[name] if name in masks else value for name, value in network.state_dict().items()}
    removed = {g.layer: removed_of(g, s) for g, s in zip(found.groups, stays, strict=True)}
    network.load_state_dict(state)
    smaller = shrink(functional_model(network), removed, x.double(), where="net")
    expected = network.eval()(x.double())
    torch.testing.assert_close(smaller(x.double()), expected, rtol=1e-12, atol=1e-12)
    left = sum(int(mask.sum()) for name, mask in masks.items() if name in weights)
    assert sum(p.numel() for p in smaller.parameters() if p.ndim > 1) == left
    assert expected.std() > 1e-3


@pytest.mark.parametrize(
    ("network", "shape", "left_out"),
    [
        (Shifted(), (4,), {"first": "a smaller network would not give the same outputs"}),
        (Sized(), (4,), {"second": "a smaller network would not give the same outputs"}),
        (
            nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)),
            (4,),
            {"0": "a LayerNorm divides by all of its channels"},
        ),
        (
            nn.Sequential(nn.Conv1d(4, 4, 1, groups=2), nn.Conv1d(4, 6, 1), nn.ReLU(), nn.Conv1d(6, 2, 1)),
            (4, 3),
            {"0": "a grouped convolution has as many channels in each of its groups"},
        ),
        (
            nn.Sequential(nn.Linear(4, 6), nn.Softmax(1), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)),
            (4,),
            {"0": "a smaller network would not give the same outputs"},
        ),
        (
            nn.Sequential(
                nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)),
                nn.ReLU(),
                nn.Linear(6, 5),
                nn.ReLU(),
                nn.Linear(5, 2),
            ),
            (4,),
            {"0": "the network computes their weights from others"},
        ),
    ],
    ids=["shifted", "sized", "LayerNorm", "grouped", "softmax", "weight norm"],
)
def test_what_cannot_be_removed_is_left_out(network: nn.Module, shape: tuple[int, ...], left_out: object) -> None:
    found, _ = found_in(network, shape)
    assert found.groups
    assert found.left_out == left_out


class Rotated(nn.Module):
    """Halves of channels change places, and two queries share a key: Torch-Pruning follows them to ever new indices."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.keys, self.values = nn.Linear(4, 16), nn.Linear(4, 8), nn.Linear(4, 8)
        self.inner, self.last = nn.Linear(16, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).view(*x.shape[:2], -1, 4).transpose(1, 2) for layer in (self.queries, self.keys, self.values)
        )
        k, v = (t[:, :, None].expand(-1, -1, 2, -1, -1).reshape(q.shape) for t in (self._rotated(k), v))
        mixed = nn.functional.scaled_dot_product_attention(self._rotated(q), k, v)
        return self.last(torch.relu(self.inner(mixed.transpose(1, 2).reshape(*x.shape[:2], 16))))

    @staticmethod
    def _rotated(t: Tensor) -> Tensor:
        return t * 0.6 + torch.cat((-t[..., 2:], t[..., :2]), dim=-1) * 0.8


class Cut(nn.Module):
    """A layer of tokens is cut along the axis that has a number from the front, which Torch-Pruning overlooks."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.inner, self.last = nn.Linear(4, 6), nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.up(x).chunk(2, dim=2)
        return self.last(torch.relu(self.inner(torch.relu(self.down(torch.sigmoid(a) * b)))))


@pytest.mark.parametrize(
    ("network", "shape", "found", "lost"),
    [
        (
            torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=3),
            (3, 16, 16),
            {"features.1.0.mlp.0", "features.3.0.mlp.0"},
            "features.3.0.mlp.3",
        ),
        (Rotated(), (5, 4), {"inner"}, "queries"),
        (Cut(), (5, 4), {"inner", "down"}, "up"),
    ],
    ids=["ever more indices", "ever more members", "an index that is not there"],
)
def test_what_cannot_be_followed_is_left_out(
    network: nn.Module, shape: tuple[int, ...], found: set[str], lost: str
) -> None:
    channels, _ = found_in(network, shape)
    assert {group.layer for group in channels.groups} == found
    assert channels.left_out[lost] == "Torch-Pruning cannot follow them"


def test_dense_and_fragile_weights_keep_their_channels() -> None:
    build, shape, _ = CASES["chain"]
    found, _ = found_in(build(), shape, dense=("1.weight",))
    assert found.left_out == {"1": "1.weight stays dense"}
    assert [group.layer for group in found.groups] == ["3"]
    found, _ = found_in(build(), shape, whole=("5.weight",))
    assert found.left_out == {"3": "the network divides by the norm of slices of 5.weight"}


def test_a_network_of_outputs_alone_has_no_channels() -> None:
    with pytest.raises(ModelError, match=r"be removed \(no Linear or convolution before its outputs\)") as caught:
        found_in(nn.Linear(4, 3), (4,))
    assert caught.value.hint == "leave out --structure, which prunes single weights"


def test_a_network_that_cannot_be_traced_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no graph")

    monkeypatch.setattr("torch_pruning.DependencyGraph.build_dependency", fail)
    with pytest.raises(ModelError, match="cannot be traced by Torch-Pruning") as caught:
        found_in(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), (4,))
    assert "RuntimeError: no graph" in str(caught.value)


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ({"1": [0]}, "does not give the same outputs without the channels"),
        ({"1": [9]}, "has no such channels"),
        ({"first": [0]}, "has no such channels"),
    ],
    ids=["not zero", "index", "layer"],
)
def test_what_is_not_there_or_not_zero_is_not_cut_off(removed: dict[str, list[int]], message: str) -> None:
    build, shape, _ = CASES["chain"]
    gone = {layer: Removed(outputs) for layer, outputs in removed.items()}
    with pytest.raises(ModelError, match=message):
        shrink(functional_model(build()), gone, torch.randn(3, *shape), where="net")
