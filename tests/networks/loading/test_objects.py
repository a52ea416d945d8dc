from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from ntt_cli.errors import ModelError
from ntt_cli.networks.copying import results_of
from ntt_cli.networks.loading.lazy import has_lazy
from ntt_cli.networks.loading.objects import loaded_from, sparse_copy, state_sha256
from ntt_cli.networks.outputs import usual_logits
from ntt_cli.runtime.seeding import global_state
from tests.data.refusal import refusal


class Tied(nn.Module):
    """Two names of one parameter, and a list that holds a layer's weight once more."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3, sparse=True)
        self.body = nn.GRU(3, 3)
        self.head = nn.Linear(3, 5)
        self.head.weight = self.embed.weight
        self.listed = [self.head.weight, self.head.bias]
        self.register_buffer("scale", torch.ones(1).expand(5))
        self.register_buffer("steps", torch.zeros(2), persistent=False)
        self.nothing = nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.embed(x))[0]) * self.scale  # type: ignore[no-any-return]


class Views(nn.Module):
    """Two parameters over one memory, which are not one object."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = nn.Parameter(self.first.weight.data)
        self.sum = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x)) + self.sum  # type: ignore[no-any-return]


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.Flatten(), nn.Linear(16, 3))


def mixed() -> nn.Module:
    """Modes, types and gradients that differ from layer to layer, and a lock, which has no copy."""
    net = small().double()
    net[1].eval()
    net[0].requires_grad_(False)
    net[4].half()
    net[4].weight.grad = torch.ones_like(net[4].weight)
    net.lock = threading.Lock()  # type: ignore[assignment]
    net.register_forward_hook(lambda *_: None)
    return net


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: torchvision.models.resnet18(num_classes=10),
    "small": small,
    "evaluated": lambda: small().eval(),
    "mixed": mixed,
    "tied": Tied,
    "views": Views,
    "parametrised": lambda: nn.Sequential(weight_norm(nn.Linear(3, 3)), nn.LSTM(3, 2)),
}
every_network = pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)


def everything_of(module: nn.Module) -> list[Any]:
    """All that could be changed: of each module its mode, attributes and hooks, and of each tensor itself and bytes."""
    found: list[Any] = []
    for name, part in module.named_modules(remove_duplicate=False):
        found.append((name, id(part), part.training, type(part)))
        for key, value in vars(part).items():
            found.append((name, key, sorted(map(str, value)) if isinstance(value, dict | set) else id(value)))
        for key, tensor in (part._parameters | part._buffers).items():
            if tensor is not None:
                about = id(tensor), tensor.data_ptr(), tensor.requires_grad, tensor.stride()
                grad = tensor.grad if tensor.is_leaf else None
                values = tensor.detach().clone().flatten().view(torch.uint8).numpy().tobytes()
                found.append((name, key, about, tensor.device, tensor.dtype, id(grad), values))
    return found


@contextmanager
def unchanged(module: nn.Module) -> Generator[None]:
    before, generators = everything_of(module), global_state()
    yield
    assert everything_of(module) == before
    assert global_state() == generators


def own_memory(module: nn.Module) -> set[int]:
    values = [*module.parameters(), *module.buffers()]
    return {value.untyped_storage().data_ptr() for value in values if value.numel()}


@every_network
def test_the_copy_has_the_values_and_the_callers_network_is_unchanged(build: Callable[[], nn.Module]) -> None:
    module = build()
    with unchanged(module):
        loaded = loaded_from(module, trained=True)
        with torch.no_grad():
            for p in loaded.module.parameters():
                p.zero_()
        loaded = loaded_from(module, trained=True)
    assert type(loaded.module) is type(module)
    assert not own_memory(loaded.module) & own_memory(module)
    ours, theirs = loaded.module.state_dict(), module.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in theirs)
    modes = [(name, part.training) for name, part in module.named_modules()]
    assert [(name, part.training) for name, part in loaded.module.named_modules()] == modes
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    assert {name for name, p in loaded.module.named_parameters() if not p.requires_grad} == frozen


def test_what_is_known_of_it() -> None:
    loaded = loaded_from(NETWORKS["resnet"](), trained=False)
    assert loaded.source == "torchvision.models.resnet.ResNet"
    assert (loaded.sha256, loaded.data, loaded.input_shape, loaded.modules) == (None, None, None, {})
    assert (loaded.trained, loaded.mean_std, loaded.declares_logits) == (False, None, False)
    assert loaded.select_outputs is usual_logits
    with torch.no_grad():
        assert loaded.module.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    chosen = loaded_from(Tied(), trained=True, select_outputs=lambda outputs: outputs[0])
    assert chosen.source == f"{__name__}.Tied"
    assert chosen.trained
    assert chosen.select_outputs((1, 2)) == 1
    assert chosen.declares_logits


def test_tied_parameters_stay_tied() -> None:
    for copied in (loaded_from(Tied(), trained=False).module, sparse_copy(Tied(), Tied().state_dict())):
        assert copied.head.weight is copied.embed.weight is copied.listed[0]
        assert copied.head.bias is copied.listed[1]
        assert copied.body._flat_weights[0] is copied.body.weight_ih_l0
    for copied in (loaded_from(Views(), trained=False).module, sparse_copy(Views(), Views().state_dict())):
        assert copied.second.weight is copied.first.weight
        assert copied.second.bias is not copied.first.bias
        assert [name for name, _ in copied.named_parameters()] == ["sum", "first.weight", "first.bias", "second.bias"]


def test_the_copy_is_one_to_compute_with() -> None:
    module = Tied()
    with torch.inference_mode():
        module.head.bias = nn.Parameter(torch.ones(5))
    with unchanged(module):
        copied = loaded_from(module, trained=False).module
    assert not copied.embed.sparse
    assert module.embed.sparse
    copied.scale.mul_(2)  # an expanded view would refuse
    copied(torch.tensor([[1, 2]])).sum().backward()
    assert not copied.head.bias.is_inference()
    assert copied.head.bias.grad is not None


@every_network
def test_a_sparse_copy(build: Callable[[], nn.Module]) -> None:
    module, other = build(), build()
    state = {name: (value * 0.5).to(value.dtype).detach().clone() for name, value in other.state_dict().items()}
    masked = next(name for name, value in state.items() if value.ndim > 1)
    state[masked].view(-1)[::2] = 0
    for name, value in state.items():
        if name != masked and other.state_dict()[name].data_ptr() == other.state_dict()[masked].data_ptr():
            value.copy_(state[masked])
    with unchanged(module):
        made = sparse_copy(module, state)
    assert not own_memory(made) & own_memory(module)
    assert all(torch.equal(value, state[name]) for name, value in made.state_dict().items())
    assert [value.dtype for value in made.state_dict().values()] == [v.dtype for v in module.state_dict().values()]
    assert [part.training for part in made.modules()] == [part.training for part in module.modules()]
    assert [p.requires_grad for p in made.parameters()] == [p.requires_grad for _, p in sorted_like(made, module)]


def sorted_like(made: nn.Module, module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    named = dict(module.named_parameters(remove_duplicate=False))
    return [(name, named[name]) for name, _ in made.named_parameters()]


def test_a_sparse_copy_needs_all_values_and_no_others() -> None:
    module = small()
    state = module.state_dict()
    with unchanged(module):
        for wrong in (
            {name: value for name, value in state.items() if name != "4.bias"},
            state | {"more": torch.ones(1)},
            state | {"4.bias": torch.ones(4)},
        ):
            with refusal("Sequential: does not load the state dict: Error", hint="belongs to", error=ModelError):
                sparse_copy(module, wrong)


def test_a_hash_of_values() -> None:
    module = small()
    found = state_sha256(module)
    assert len(found) == 64
    assert state_sha256(copy.deepcopy(module).eval()) == found
    assert state_sha256(loaded_from(module, trained=False).module) == found
    others = [copy.deepcopy(module) for _ in range(5)]
    with torch.no_grad():
        others[0][4].bias[2] += 1e-6  # a value
        others[1][1].running_mean[0] = -0.0  # a sign
    others[2].double()  # a type
    others[3][4].bias = nn.Parameter(others[3][4].bias.detach().view(1, 3))  # a shape
    others[4] = nn.Sequential(*others[4], nn.Identity()).append(nn.Linear(1, 1))  # a name
    assert len({found, *map(state_sha256, others)}) == 6
    renamed = nn.Sequential(nn.Identity(), *module)
    assert state_sha256(renamed) != found
    module.register_buffer("cache", torch.ones(2), persistent=False)
    assert state_sha256(module) == found
    tied = Tied()
    assert state_sha256(tied) == state_sha256(loaded_from(tied, trained=False).module)


class Computed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, 2))
        self.twice = self.w * 2


def test_results_of_computations_are_copied_and_known_as_such() -> None:
    module = Computed()
    with unchanged(module):
        copied = loaded_from(loaded_from(module, trained=False).module, trained=False).module
    assert [(name, value.tolist()) for name, value in results_of(copied)] == [("twice", [[2, 2], [2, 2]])]


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_lazy_layers_of_a_copy_are_made_by_the_first_batch() -> None:
    module = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    copied = loaded_from(module, trained=False, seed=4, first_batch=lambda _: torch.ones(2, 5)).module
    torch.manual_seed(4)
    assert torch.equal(copied[0].weight, nn.Linear(5, 3).weight)
    assert (copied[1].running_mean.tolist(), copied[1].training) == ([0, 0, 0], True)
    assert has_lazy(module)
    with refusal("Sequential: cannot take inputs of [2, 3]: ", hint="one batch through it", error=ModelError):
        loaded_from(
            nn.Sequential(nn.LazyLinear(3), nn.Linear(4, 1)), trained=False, first_batch=lambda _: torch.ones(2, 3)
        )


class Overlapping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        memory = torch.ones(6)
        self.a, self.b = nn.Parameter(memory[:4]), nn.Parameter(memory[2:])


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo: object) -> None:
        raise RuntimeError("mine alone")


@pytest.mark.filterwarnings("ignore:.*deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("build", "what", "hint"),
    [
        (
            lambda: nn.DataParallel(small()),
            "the network is wrapped in DataParallel",
            "pass the network inside, model.module",
        ),
        (lambda: torch.compile(nn.Linear(2, 3)), "OptimizedModule: the network is compiled", "pass the network itself"),
        (lambda: torch.jit.script(nn.Linear(2, 3)), "the network is TorchScript", "pass the torch.nn.Module that"),
        (lambda: nn.Sequential(torch.jit.script(nn.ReLU())), "Sequential: 0 is TorchScript", "made of"),
        (lambda: nn.Linear(2, 3, device="meta"), "Linear: weight has no values", "on the CPU"),
        (Overlapping, "Overlapping: a [4] and b [4] share memory, and are not one parameter", "clone()"),
        (lambda: nn.Sequential(Uncopyable(2, 2)), "cannot be copied: RuntimeError: mine alone", "__deepcopy__"),
        (lambda: nn.Linear, "model: is the class Linear, not a torch.nn.Module", "Net()"),
        (lambda: "model.py", "model: is a value of type str, not a torch.nn.Module", "Net()"),
    ],
)
def test_what_is_no_network_to_work_with(build: Callable[[], Any], what: str, hint: str) -> None:
    module = build()
    with refusal(what, hint=hint, error=ModelError):
        loaded_from(module, trained=False)
