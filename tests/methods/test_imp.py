from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ntt_cli as ntt
from ntt_cli.methods.imp import rounds_to
from ntt_cli.runtime.seeding import seeded

STEPS, RATE, BATCH, SEED = 40, 0.01, 8, 3
WEIGHTS = ("0.weight", "2.weight")


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def data() -> tuple[Tensor, Tensor]:
    """Classes that the first three inputs tell; the others are noise."""
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    return x, x[:, :3].argmax(1)


def trained(net: nn.Sequential, masks: dict[str, Tensor], steps: range) -> dict[str, Tensor]:
    """By torch's own Adam on the module, pruned entries set to zero before and after each step."""
    x, labels = data()
    parameters = dict(net.named_parameters())
    optimiser = torch.optim.Adam(net.parameters(), lr=RATE)
    for step in steps:
        with torch.no_grad():
            for name, mask in masks.items():
                parameters[name].mul_(mask)
        chosen = torch.randint(len(x), (BATCH,), generator=seeded(SEED, step))
        optimiser.zero_grad()
        cross_entropy(net(x[chosen]), labels[chosen]).backward()
        for name, mask in masks.items():
            gradient = parameters[name].grad
            assert gradient is not None
            gradient.mul_(mask)
        optimiser.step()
    return {name: p.detach() * masks.get(name, torch.tensor(1)) for name, p in parameters.items()}


def test_the_rounds_are_those_of_a_fifth_each() -> None:
    assert [rounds_to(d) for d in (0.9, 0.8, 0.79, 0.64, 0.512, 0.1, 0.01)] == [1, 1, 2, 2, 3, 11, 21]


def test_as_written_down_step_by_step() -> None:
    """Three rounds to 51.2%: of 45 weights 36, 29 and 23 are left; the rewound weights are those after two steps."""
    x, labels = data()
    options = {"steps": STEPS, "learning_rate": RATE, "batch_size": BATCH, "seed": SEED}
    result = ntt.prune(
        network(), (x, labels), sparsity=1 - 0.512, method="imp", mean=0.0, std=1.0, trained=False, **options
    )

    early = math.ceil(STEPS * 2000 / 63_000)
    assert early == 2
    rewound = trained(network(), {}, range(early))
    masks = {name: torch.ones_like(rewound[name], dtype=torch.bool) for name in WEIGHTS}
    begun = early
    for left in (36, 29, 23):
        net = network()
        net.load_state_dict(rewound)
        after = trained(net, masks, range(begun, begun + STEPS))
        lowest = torch.cat([after[name].abs().flatten() for name in WEIGHTS]).sort(descending=True).values[left - 1]
        masks = {name: after[name].abs() >= lowest for name in WEIGHTS}
        begun += STEPS

    assert sum(int(mask.sum()) for mask in masks.values()) == result.report.kept == 23
    for name in WEIGHTS:
        assert torch.equal(result.masks[name], masks[name])
        torch.testing.assert_close(result.model.get_parameter(name).detach(), rewound[name] * masks[name])
    assert result.report.steps == early + 3 * STEPS


def test_inputs_that_tell_the_class_are_kept() -> None:
    found = ntt.prune(network(), data(), sparsity=0.6, method="imp", steps=200, learning_rate=0.02, trained=False)
    kept = found.masks["0.weight"].sum(0)
    assert kept[:3].sum() > 2 * kept[3:].sum()


def test_without_labels_there_is_nothing_to_train_on() -> None:
    with pytest.raises(ntt.NttError, match="label"):
        ntt.prune(network(), data()[0], sparsity=0.5, method="imp", steps=2)
