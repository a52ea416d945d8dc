from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ntt_cli.kernels.product import Outputs, OutputsAndProduct, compute_outputs
from ntt_cli.masks.masks import as_bits
from ntt_cli.methods.ntt.compiled import CompilationError, Compiled, CompiledGradients, CompiledOutputs
from ntt_cli.methods.ntt.objective import Objective
from ntt_cli.methods.ntt.step import StepBatch, start_student, transfer_gradients, transfer_step
from ntt_cli.networks.functional import functional_model
from ntt_cli.runtime.execution import Execution
from ntt_cli.tensors import Masks, Params
from tests.shares import RecordedGroup

RELATIVE = Objective("relative", kernel_weight=0.5, weight_penalty=0.1)


@pytest.fixture
def traced_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is traced runs as it is: compiling takes long, and nothing here depends on it."""
    monkeypatch.setattr(torch, "compile", lambda traced, **_: traced)


class Network(nn.Module):
    """A convolution, batch norm, layer norm, attention and a heavy Linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.layer_norm, self.head = nn.LayerNorm(4), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))).flatten(2).transpose(1, 2)
        x = x + self.attention(self.layer_norm(x), x, x, need_weights=False)[0]
        return self.head(torch.tanh(x).flatten(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return Network().double()


def tensors(*shapes: tuple[int, ...], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def masks_of(params: Params) -> Masks:
    masks = {name: tensors(tuple(p.shape))[0] > 0 for name, p in params.items() if p.dim() > 1}
    return as_bits(masks, params)


def assert_same(one: Params, two: Params) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("traced_alone")
@pytest.mark.parametrize("active", [False, True], ids=["all", "active"])
def test_gradients_are_those_that_are_not_compiled(active: bool) -> None:
    objective, execution = replace(RELATIVE, active=active), Execution(keep_graph=active)
    model = functional_model(network())
    masks, compiled = masks_of(model.params), CompiledGradients(model)
    for seed, density in ((1, 0.5), (2, 0.25)):  # other batches, buffers, masks and densities: not compiled again
        x1, x2, probe, *values = tensors((3, 1, 4, 4), (2, 1, 4, 4), (2, 3), (3, 3), (2, 3), (3, 3), seed=seed)
        buffers = model.buffers | {"norm.running_mean": tensors((4,), seed=seed)[0]}
        chosen = {name: mask if seed == 1 else ~mask for name, mask in masks.items()}
        arguments = model.bind(buffers), model.params, chosen, StepBatch(x1, x2, probe, OutputsAndProduct(*values))
        expected = transfer_gradients(*arguments, density=density, objective=objective, execution=execution)
        actual = compiled(*arguments, density=density, objective=objective, execution=execution)
        assert_same(vars(expected[0]), vars(actual[0]))
        assert_same(expected[1], actual[1])
    assert len(compiled._compiled._made) == 1


@pytest.mark.usefixtures("traced_alone")
@pytest.mark.parametrize("batch_statistics", [False, True])
def test_gradients_of_the_logits_alone(batch_statistics: bool) -> None:
    model = functional_model(network())
    apply = model.bind(batch_statistics=batch_statistics)
    x1, x2, *values = tensors((3, 1, 4, 4), (2, 1, 4, 4), (3, 3), (2, 3))
    arguments = apply, model.params, masks_of(model.params), StepBatch(x1, x2, None, Outputs(*values))
    options = {"density": 0.5, "objective": RELATIVE}
    (loss, gradients), (own, others) = (
        CompiledGradients(model)(*arguments, **options),
        transfer_gradients(*arguments, **options),
    )
    assert loss.kernel_distance is loss.alignment is None
    torch.testing.assert_close(loss.total, own.total)
    assert_same(others, gradients)


@pytest.mark.usefixtures("traced_alone")
def test_outputs_are_those_that_are_not_compiled_for_each_size_of_a_batch() -> None:
    model = functional_model(network())
    compiled = CompiledOutputs(model)
    for n in (3, 2, 3):
        x1, x2, probe = tensors((n, 1, 4, 4), (2, 1, 4, 4), (2, 3), seed=n)
        found = compiled(model.bind(), model.params, x1, x2, probe)
        assert_same(vars(compute_outputs(model.bind(), model.params, x1, x2, probe)), vars(found))
    assert len(compiled._compiled._made) == 2


def test_steps_of_parts_and_of_shares_are_not_compiled() -> None:
    model = functional_model(network())
    x1, x2, probe, *values = tensors((3, 1, 4, 4), (2, 1, 4, 4), (2, 3), (3, 3), (2, 3), (3, 3))
    asked = []

    def compiled(*arguments: object, **options: object) -> tuple[object, Params]:
        asked.append(arguments)
        return transfer_gradients(*arguments, **options)

    student = start_student(model, ["head.weight"], learning_rate=0.1, compiled=compiled)
    batch = StepBatch(x1, x2, probe, OutputsAndProduct(*values))
    transfer_step(student, batch, RELATIVE, Execution(micro_batch=2))
    transfer_step(student, batch, RELATIVE, Execution(group=RecordedGroup(rank=0, size=2)))
    assert not asked
    transfer_step(student, batch, RELATIVE)
    assert len(asked) == 1


def branches(_fixed: None, x: Tensor) -> Tensor:
    return x if x.sum() > 0 else -x


def fails(_fixed: None, x: Tensor) -> Tensor:
    raise ValueError("no\nwhatever")


@pytest.mark.parametrize(("function", "says"), [(branches, "data-dependent|tracing"), (fails, "^no$")])
def test_what_cannot_be_traced(function: Callable[..., Tensor], says: str) -> None:
    with pytest.raises(CompilationError, match=says):
        Compiled(function)(None, torch.ones(2))


def test_memory_that_runs_out_while_tracing_is_no_matter_of_compilers() -> None:
    def large(_fixed: None, x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        Compiled(large)(None, torch.ones(2))


@pytest.mark.usefixtures("traced_alone")
def test_what_is_fixed_and_the_layout_are_of_the_kind() -> None:
    compiled = Compiled(lambda factor, x: factor * x.view(-1))
    x = torch.arange(6.0).view(2, 3)
    assert torch.equal(compiled(2, x), 2 * x.flatten())
    assert torch.equal(compiled(3, x), 3 * x.flatten())
    assert torch.equal(compiled(3, x + 1), 3 * x.flatten() + 3)
    assert len(compiled._made) == 2
    with pytest.raises(CompilationError):  # traced anew, and found to have no such view
        compiled(3, x.t())
