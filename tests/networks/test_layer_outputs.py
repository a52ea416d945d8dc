"""Layers that count in the place of what a network returns, against direct calls of these layers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.data.inputs import Inputs
from ntt_cli.data.samples import InMemory, Samples
from ntt_cli.errors import ModelError
from ntt_cli.networks.checks import check_forward
from ntt_cli.networks.functional import FunctionalModel, functional_model
from ntt_cli.networks.layer_outputs import last_layers
from ntt_cli.networks.outputs import chosen_outputs
from ntt_cli.runtime.events import Event, Noted


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classes, self.boxes = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 1)

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        return {"classes": self.classes(maps[0]).flatten(1), "boxes": self.boxes(maps[1])}


class Detector(nn.Module):
    """A backbone, a head, and a choice of boxes: other numbers of them in each image, and no derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head, self.choices = nn.Conv2d(1, 3, 3), Head(), 0

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        maps = self.backbone(x).relu_()
        found = self.head([maps, 2 * maps])
        self.choices += 1
        scores = found["classes"].detach().sigmoid()
        return [{"scores": row[row > 0.5], "labels": (row > 0.5).nonzero()[:, 0]} for row in scores]


class Levels(nn.Module):
    """One head for two levels, and an argument of the maximum at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aside, self.head = nn.Linear(16, 4), nn.Linear(16, 2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        h, aside = self.body(x), self.aside(x)
        scores: Tensor = self.head(h) + self.head(h.tanh()) + aside.sum(1, keepdim=True)
        return scores.argmax(1)


X = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def network(kind: type[nn.Module], *names: str) -> FunctionalModel:
    torch.manual_seed(0)
    model = functional_model(kind())
    return replace(model, select_outputs=partial(chosen_outputs, names=names)) if names else model


def checked(model: FunctionalModel) -> tuple[FunctionalModel, list[Event]]:
    told: list[Event] = []
    inputs = Inputs(Samples("x", InMemory(X)), None, torch.device("cpu"))
    return replace(model, select_outputs=check_forward(model, inputs, told.append, where="net.py")), told


def test_a_detector_is_compared_by_its_head() -> None:
    model, told = checked(network(Detector))
    what = "the network returns a list of dicts (scores, labels), which has no derivative"
    assert told == [
        Noted(f"outputs: {what}; compared is what its layer head returns"),
        Noted("outputs: head.classes [8], head.boxes [4, 2, 2]"),
    ]
    torch.manual_seed(0)
    plain = Detector()
    maps = plain.backbone(X).relu()
    want = plain.head([maps, 2 * maps])
    rows = model.bind()(model.params, X)
    torch.testing.assert_close(rows, torch.cat([want["classes"], want["boxes"].flatten(1)], 1).detach())


def test_the_pass_ends_with_the_head_and_has_derivatives() -> None:
    model, _ = checked(network(Detector))
    before = model.module.choices
    apply = model.bind()
    tangents = {name: torch.ones_like(p) for name, p in model.params.items()}
    product = torch.func.jvp(lambda p: apply(p, X), (model.params,), (tangents,))[1]
    params = {name: p.double() for name, p in model.params.items()}
    step = 1e-6
    ahead, behind = ({n: p + s * step for n, p in params.items()} for s in (1, -1))
    finite = (apply(ahead, X.double()) - apply(behind, X.double())) / (2 * step)
    torch.testing.assert_close(product.double(), finite, rtol=1e-4, atol=1e-4)
    assert model.module.choices == before
    assert isinstance(model.returned(X), list)  # the detections themselves, for a loss of the user's own
    assert not any(layer._forward_hooks for layer in model.module.modules())


def test_a_layer_of_several_calls_and_one_beside_it() -> None:
    model, told = checked(network(Levels))
    assert told[-1] == Noted("outputs: aside [2], head.0 [3], head.1 [3]")
    torch.manual_seed(0)
    plain = Levels()
    x = X.flatten(1)
    h = plain.body(x)
    want = torch.cat([plain.aside(x), plain.head(h), plain.head(h.tanh())], 1).detach()
    torch.testing.assert_close(model.bind()(model.params, X), want)


@pytest.mark.parametrize(
    ("names", "shapes"),
    [
        (("head.boxes",), {"head.boxes": (4, 2, 2)}),
        (("backbone", "head.classes"), {"backbone": (3, 2, 2), "head.classes": (8,)}),
        (("head",), {"head.classes": (8,), "head.boxes": (4, 2, 2)}),
    ],
)
def test_layers_by_name(names: tuple[str, ...], shapes: dict[str, tuple[int, ...]]) -> None:
    model, _ = checked(network(Detector, *names))
    assert model.heads is not None
    assert model.heads.shapes == shapes


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tail", "name outputs or layers with --outputs, or define logits(outputs) in model.py to pick one"),
        ("bakbone", "did you mean backbone?"),
        ("head.boxs", "did you mean head.boxes?"),
    ],
)
def test_a_layer_that_is_not_there(name: str, hint: str) -> None:
    inputs = Inputs(Samples("x", InMemory(X)), None, torch.device("cpu"))
    with pytest.raises(ModelError) as caught:
        check_forward(network(Detector, "backbone", name), inputs, print, where="net.py")
    assert (
        str(caught.value) == f"net.py: has no output and no layer {name}; it returns a list of dicts (scores, labels)"
    )
    assert caught.value.hint == hint


class Sorts(nn.Module):
    """No layer of it has a derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 2).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.inner(x.flatten(1))
        return scores.argmax(1)


def test_a_network_without_any_derivative_has_no_such_layers() -> None:
    net = Sorts()
    assert last_layers(net, len(X), lambda: net(X)) is None
