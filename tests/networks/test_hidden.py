"""Hidden heads against direct calls of the blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

import ntt_cli as ntt
from ntt_cli.config import PruneConfig
from ntt_cli.data.inputs import Inputs
from ntt_cli.data.samples import InMemory, Samples
from ntt_cli.errors import UsageError
from ntt_cli.methods.ntt.score import update_masks
from ntt_cli.methods.ntt.step import start_student
from ntt_cli.methods.ntt.transfer import Transfer
from ntt_cli.networks.checks import check_forward
from ntt_cli.networks.functional import FunctionalModel, functional_model
from ntt_cli.networks.hidden import averaged, blocks_of, with_hidden_heads
from ntt_cli.pruning.job import prepare
from ntt_cli.runtime.micro_batching import MicroBatching
from tests.small_networks import write_network


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(self.conv(x)).relu()
        return found


class Stages(nn.Module):
    """A stem, two stages of blocks and a linear layer, as in a residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1)
        self.first = nn.Sequential(Block(2, 2), Block(2, 2))
        self.second = nn.Sequential(Block(2, 3))
        self.end = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.end(self.second(self.first(self.stem(x))).mean((2, 3)))
        return found


class Transformer(nn.Module):
    """Layers in a list, each with a state beside its value, one of them called twice."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> tuple[None, Tensor, Tensor]:
            return None, self.linear(x).tanh(), x.sum()

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([self.Layer() for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in [*self.layers, self.layers[1]]:
            x = layer(x)[1]
        return x.mean(1)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.fc2(self.fc1(x).relu())}


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found


def weights(module: nn.Module) -> list[str]:
    return [name for name, p in module.named_parameters() if p.ndim > 1]


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def with_hidden(module: nn.Module, x: Tensor) -> FunctionalModel:
    model = functional_model(module.eval())
    inputs = Inputs(Samples("drawn", InMemory(x)), None, torch.device("cpu"))
    heads = check_forward(model, inputs, lambda _: None, where="network")
    object.__setattr__(model, "select_outputs", heads)
    return with_hidden_heads(model, weights(module), x)


@pytest.mark.parametrize(
    ("make", "blocks"),
    [
        (Stages, ["first.0", "first.1", "second.0"]),
        (Transformer, ["layers.0", "layers.1", "layers.2"]),
        (Plain, ["fc1", "fc2"]),
        (Wrapped, ["body.0.0", "body.0.2"]),
        (lambda: nn.Linear(3, 2), [""]),
    ],
)
def test_blocks_are_the_members_of_containers(make: Callable[[], nn.Module], blocks: list[str]) -> None:
    module = make()
    assert list(blocks_of(module, weights(module))) == blocks


def test_a_block_without_prunable_weights_is_none() -> None:
    assert list(blocks_of(Stages(), ["first.1.conv.weight", "end.weight"])) == ["first.1"]


def test_heads_are_what_blocks_return_averaged_over_places() -> None:
    torch.manual_seed(0)
    module, x = Stages(), drawn(6, 1, 8, 8)
    model = with_hidden(module, x)
    assert model.heads is not None
    assert dict(model.heads.shapes) == {
        "output": (4,),
        "hidden.first.0": (2, 4, 4),
        "hidden.first.1": (2, 4, 4),
        "hidden.second.0": (3, 4, 4),
    }
    with torch.no_grad():
        first = module.first[0](module.stem(x))
        second = module.first[1](first)
        third = module.second(second)
        halved = [h.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5)).flatten(1) for h in (first, second, third)]
        torch.testing.assert_close(model.bind()(model.params, x), torch.cat([module(x), *halved], 1))
        torch.testing.assert_close(model.without_hidden_heads.bind()(model.params, x), module(x))


def test_a_block_that_is_called_twice_is_left_out_and_states_do_not_count() -> None:
    x = drawn(6, 2, 5)
    module = Transformer()
    model = with_hidden(module, x)
    assert model.heads is not None
    assert list(model.heads.shapes) == ["output", "hidden.layers.0", "hidden.layers.2"]
    with torch.no_grad():
        rows = model.bind()(model.params, x)
        torch.testing.assert_close(rows[:, 5:15], module.layers[0](x)[1].flatten(1))


@pytest.mark.parametrize("make", [Plain, Wrapped])
def test_what_makes_the_outputs_is_no_hidden_head(make: Callable[[], nn.Module]) -> None:
    model = with_hidden(make(), drawn(6, 6))
    assert model.heads is not None
    assert [name for name in model.heads.shapes if name.startswith("hidden.")] in (["hidden.fc1"], ["hidden.body.0.0"])


def test_a_network_of_one_layer_has_none() -> None:
    model = with_hidden(nn.Linear(6, 3), drawn(6, 6))
    assert model.heads is not None
    assert list(model.heads.shapes) == ["output"]
    assert model.without_hidden_heads is model


def test_scores_are_those_of_the_outputs_alone(folder: Path) -> None:
    model = write_network("plain")
    job = prepare(
        PruneConfig(model=model, sparsity=0.8, limit=40, device="cpu", batch_size=8, steps=20), lambda _: None
    )
    assert job.inputs is not None
    settings = replace(job.settings, hidden=True, objective=replace(job.settings.objective, kernel_weight=0.0))
    alone = Transfer(job.teacher, job.inputs, job.names, job.outputs, settings)
    both = alone.with_hidden_heads()
    assert both.outputs > alone.outputs
    masks = [
        update_masks(
            start_student(transfer.teacher, transfer.names, learning_rate=1e-3),
            transfer,
            0.2,
            MicroBatching(None, 8, lambda _: None),
        )
        for transfer in (alone, both)
    ]
    assert all(torch.equal(masks[0][name], masks[1][name]) for name in job.names)


@pytest.mark.parametrize("shape", [(2, 3, 9, 7), (2, 3, 2, 8), (2, 3, 4, 4), (2, 8, 9), (2, 8)])
def test_maps_alone_are_averaged(shape: tuple[int, ...]) -> None:
    value = drawn(*shape)
    if len(shape) < 4:
        assert averaged(value) is value
    else:
        small = averaged(value)
        assert small.shape == (*shape[:2], *(min(4, side) for side in shape[2:]))
        torch.testing.assert_close(small, F.adaptive_avg_pool2d(value, small.shape[2:]))


def test_the_report_has_the_distance_of_hidden_values(tmp_path: Path) -> None:
    module, x = Stages().eval(), drawn(64, 1, 8, 8)
    histories = []
    for hidden in (True, False):
        path = tmp_path / f"{hidden}.safetensors"
        ntt.prune(module, x, sparsity=0.5, steps=20, batch_size=8, hidden=hidden, device="cpu", seed=1, output=path)
        histories.append(load_file(path.with_suffix(".report.safetensors")))
    assert ["history.hidden_distance" in history for history in histories] == [True, False]
    hidden_distance = histories[0]["history.hidden_distance"]
    torch.testing.assert_close(histories[0]["history.total"], histories[0]["history.logit_distance"] + hidden_distance)
    assert hidden_distance.shape == (20,)
    assert hidden_distance.max() > 0


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"kernel_weight": 1}, "no part in a kernel term"),
        ({"objective": "paper"}, "not as objective=paper does"),
        ({"structure": "channels"}, "of which channels would be gone"),
        ({"output_mask": lambda x: torch.ones(len(x), 1, dtype=torch.bool)}, "output_mask is of outputs alone"),
        ({"method": "magnitude"}, "hidden"),
        ({"method": "obc"}, "hidden.*is of steps, and obc takes none unless it is told"),
    ],
)
def test_where_it_cannot_be_it_is_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        ntt.prune(Stages().eval(), drawn(16, 1, 8, 8), **{"sparsity": 0.5, "hidden": True, "device": "cpu", **options})


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(UsageError, match="has nothing to match"):
        ntt.prune(nn.Linear(6, 3), drawn(16, 6), sparsity=0.5, hidden=True, device="cpu")
