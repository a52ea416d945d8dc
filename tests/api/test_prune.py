from __future__ import annotations

import copy
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ntt_cli as ntt
from ntt_cli.masks.masks import count_kept
from tests.api.objects import equal, network, refusal, samples
from tests.cli.conftest import Ntt
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")

X, Y = samples()
SMALL = ("--sparsity", "0.8", "--seed", "3", "--limit", "100")


def prune(model: Any = None, data: Any = X, **options: Any) -> Any:
    return ntt.prune(network() if model is None else model, data, **{"sparsity": 0.5, "method": "magnitude"} | options)


@pytest.mark.parametrize("options", [{"steps": 5}, {"method": "snip"}, {"method": "synflow"}], ids=str)
def test_the_result_is_what_the_command_writes(command: Ntt, options: dict[str, Any]) -> None:
    model = write_network("plain")
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    typed = command("prune", model, *SMALL, *given, "--json", "-o", "typed.safetensors")
    assert typed.code == 0, typed.err
    result = ntt.prune(model, sparsity=0.8, seed=3, limit=100, **options)
    result.save("saved.safetensors")
    assert equal(load_file("saved.safetensors"), load_file("typed.safetensors"))
    assert Path("saved.safetensors").read_bytes() == Path("typed.safetensors").read_bytes()
    files = {"output": "typed.safetensors", "report": "typed.report.safetensors"}
    assert result.report.model_copy(update=files).model_dump(mode="json") == typed.report
    assert ntt.prune(model, sparsity=0.8, seed=3, limit=100, output="o.safetensors", **options).report.output
    assert Path("o.safetensors").read_bytes() == Path("typed.safetensors").read_bytes()


def test_a_network_with_the_same_weights_is_pruned_alike() -> None:
    """An object and a name with a file of the same weights give the same masks and weights."""
    model = write_network("plain")
    dense = ntt.finetune(model, epochs=1, limit=100)
    dense.save("dense.safetensors")
    named = ntt.prune(model, "digits", sparsity=0.8, limit=100, steps=5, weights="dense.safetensors")
    alike = ntt.prune(dense.model, "digits", sparsity=0.8, limit=100, steps=5, mean="0.0", std="1.0")
    assert count_kept(named.masks) == count_kept(alike.masks)
    assert equal(ntt.prune(dense, "digits", sparsity=0.8, limit=100, steps=5).masks, named.masks)


def test_the_result() -> None:
    net = network()
    result = prune(net)
    assert isinstance(result, ntt.PruneResult)
    assert repr(result) == "<PruneResult of torch.nn.modules.container.Sequential: 28 of 56 prunable weights kept>"
    assert {name: mask.dtype for name, mask in result.masks.items()} == {
        "0.weight": torch.bool,
        "4.weight": torch.bool,
    }
    assert count_kept(result.masks) == result.report.kept == 28
    assert result.model is result.model
    assert result.model is not net
    assert [part.training for part in result.model.modules()] == [part.training for part in net.modules()]
    values = result.model.state_dict()
    for name, mask in result.masks.items():
        assert torch.equal(values[name], net.state_dict()[name] * mask)
    assert (result.report.output, result.report.report, result.class_names) == ("", "", None)
    assert not list(Path().iterdir())


def test_two_results_of_one_seed_are_the_same() -> None:
    first, again, other = (prune(method="ntt", steps=5, seed=seed) for seed in (1, 1, 2))
    assert equal(first.model.state_dict(), again.model.state_dict())
    assert first.report == again.report
    assert not equal(first.model.state_dict(), other.model.state_dict())


def test_results_can_be_copied_and_pickled() -> None:
    net = network()
    result = prune(net)
    copied = copy.deepcopy(result.model)
    assert equal(copied.state_dict(), result.model.state_dict())
    for twin in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert equal(twin.masks, result.masks)
        assert equal(twin.model.state_dict(), result.model.state_dict())
        assert twin.report == result.report
        twin.save("twin.safetensors", force=True)
    ntt.verify("twin.safetensors")
    again = pickle.loads(pickle.dumps(ntt.load("twin.safetensors", net)))
    assert equal(again.masks, result.masks)


def test_data_in_all_forms_gives_the_same() -> None:
    dataset = TensorDataset(X, Y)
    loader = DataLoader(dataset, batch_size=7, shuffle=True)
    forms = [X, (X, Y), [X, Y], X.numpy(), (X.numpy(), Y.numpy()), dataset, loader, DataLoader(dataset, batch_size=40)]
    first, *others = [prune(data=form, method="ntt", steps=3).model.state_dict() for form in forms]
    assert all(equal(other, first) for other in others)
    refusal(ntt.NttError, prune, data=iter(loader))


def test_data_of_a_name_with_a_network_that_is_an_object() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert prune(net, "digits", limit=50).report.data == "digits"
    assert prune(net, "noise:20", input_shape="1x8x8").report.kept == 320
    assert "give input_shape" in refusal(ntt.NttError, prune, net, "noise:20", method="ntt", steps=3)
    assert "no such file or folder" in refusal(ntt.NttError, prune, net, "nowhere/")


def test_a_sparse_network_is_pruned_further() -> None:
    once = prune()
    for method in ("magnitude", "random"):
        twice = prune(once, sparsity=0.75, method=method)
        assert count_kept(twice.masks) == 14
    assert all((mask <= once.masks[name]).all() for name, mask in prune(once, sparsity=0.75).masks.items())
    assert prune(once, method="ntt", sparsity=0.75, steps=3).report.teacher == "the network"
    named = ntt.prune(write_network("plain"), sparsity=0.5, method="magnitude")
    assert ntt.prune(named, sparsity=0.75, method="magnitude").report.kept == named.report.kept // 2


def test_dry_run() -> None:
    for method, steps in (("ntt", 7), ("magnitude", 0)):
        plan = prune(method=method, dry_run=True, output="never.safetensors", **{"steps": 7} if steps else {})
        assert (plan.kept, plan.prunable, plan.steps) == (28, 56, steps)
        assert (plan.estimated_seconds is not None) == bool(steps)
    assert not list(Path().iterdir())


def test_random_weights_are_matched_by_their_kernel() -> None:
    net = network()
    assert prune(net, method="ntt", steps=3, trained=False).report.kernels is not None
    assert prune(net, method="ntt", steps=3).report.kernels is None


def test_the_same_run_again_is_not_done_again() -> None:
    first = prune(output="a.safetensors")
    again = prune(output="a.safetensors", resume=True)
    assert equal(again.masks, first.masks)
    assert equal(again.model.state_dict(), first.model.state_dict())
    assert "is in a file already | copy a.safetensors" in refusal(ntt.NttError, again.save, "b.safetensors")
    assert "resume" in refusal(ntt.NttError, prune, output="a.safetensors", sparsity=0.75)


# Methods of the caller's own.


def of(scores: Any, **attributes: Any) -> type[ntt.Method]:
    kind = type("Mine", (ntt.Method,), {"scores": scores} | attributes)
    return ntt.register_method("mine")(kind)


def magnitudes(_self: ntt.Method, context: ntt.MethodContext, _masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.abs() for name, weight in context.weights.items()}


def test_a_method_by_name_class_and_instance() -> None:
    @ntt.register_method("power")
    class Power(ntt.Method):
        allocation: ClassVar[str | None] = "erk"

        def __init__(self, power: float = 1.0) -> None:
            self.power, self.calls = power, 0

        def scores(self, context: ntt.MethodContext, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
            self.calls += 1
            return {name: weight.abs() ** self.power for name, weight in context.weights.items()}

    made = Power(power=2.0)
    masks = prune().masks
    for method in ("power", Power, made):
        result = prune(method=method)
        assert result.report.method == "power"
        assert equal(result.masks, masks)
    assert made.calls == 1
    assert not equal(prune(method=Power(power=-1.0)).masks, masks)
    assert prune(method=ntt.NTT, steps=3).report.steps == prune(method=ntt.NTT(), steps=3).report.steps == 3


def test_a_method_that_trains_scores_by_gradients() -> None:
    def scores(_self: ntt.Method, context: ntt.MethodContext, _masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        weights = {name: weight.clone().requires_grad_() for name, weight in context.weights.items()}
        loss = sum(
            nn.functional.cross_entropy(context.apply(context.params | weights, x), y) for x, y in context.labelled()
        )
        gradients = torch.autograd.grad(loss, list(weights.values()))
        return dict(zip(weights, (w * g for w, g in zip(weights.values(), gradients, strict=True)), strict=True))

    kind = of(scores, needs="labels")
    with torch.no_grad():
        assert prune(data=(X, Y), method=kind).report.kept == 28
    assert "method mine needs them" in refusal(ntt.NttError, prune, method=kind)


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (lambda w: {"0.weight": w["0.weight"]}, "lacks 4.weight"),
        (lambda w: w | {"0.bias": torch.ones(8)}, "gives scores of what is not pruned: 0.bias"),
        (lambda w: w | {"0.weight": torch.ones(4, 8)}, "gives for 0.weight the shape [4, 8], not [8, 4]"),
        (lambda w: w | {"0.weight": torch.ones(1, 4)}, "gives for 0.weight the shape [1, 4], not [8, 4]"),
        (lambda w: w | {"4.weight": w["4.weight"] * torch.nan}, "gives for 4.weight values that are not finite"),
        (lambda w: w | {"4.weight": w["4.weight"] > 0}, "gives for 4.weight values of type bool"),
        (lambda w: w | {"4.weight": w["4.weight"].tolist()}, "gives for 4.weight a value of type list"),
        (lambda w: None, "returns a value of type NoneType"),
        (lambda w: list(w), "returns a value of type list"),
    ],
    ids=["lacks", "more", "shape", "broadcast", "nan", "bool", "list", "nothing", "names"],
)
def test_scores_that_cannot_be_used(scores: Any, said: str) -> None:
    of(lambda _self, context, _masks: scores(context.weights))
    words = refusal(ntt.NttError, prune, method="mine", output="a.safetensors")
    assert words.startswith(f"scores() of method mine: {said}")
    assert not list(Path().glob("*.safetensors"))


def test_what_a_method_raises_goes_through() -> None:
    for error in (ZeroDivisionError("mine"), KeyboardInterrupt(), SystemExit(3), StopIteration()):

        def scores(*_: object, error: BaseException = error) -> dict[str, Tensor]:
            raise error

        kind = of(scores)
        with pytest.raises(type(error)) as caught:
            prune(method=kind, output="a.safetensors")
        assert caught.value is error
    assert not list(Path().iterdir())
    assert prune(output="a.safetensors").report.kept == 28  # nothing is held by the run that ended


def test_methods_that_are_not_registered() -> None:
    class Mine(ntt.Method):
        scores = magnitudes

    for method in (Mine, Mine(), ntt.Method):
        assert "is not registered | put @ntt_cli.register_method" in refusal(ntt.NttError, prune, method=method)
    first = ntt.register_method("mine")(Mine)
    assert prune(method=first).report.kept == 28

    class Child(first):  # type: ignore[misc, valid-type]
        pass

    assert "is not registered" in refusal(ntt.NttError, prune, method=Child)
    second = of(magnitudes)  # as a cell of a notebook that is run twice
    assert prune(method=second).report.kept == prune(method="mine").report.kept == 28
    assert "another class has taken the name mine" in refusal(ntt.NttError, prune, method=first)


def test_names_that_a_method_cannot_have() -> None:
    for name in ("", "My method", "ntt", "magnitude"):
        with pytest.raises(ValueError, match="choose another name|use small letters"):
            ntt.register_method(name)(type("Mine", (ntt.Method,), {}))
    with pytest.raises(TypeError, match="no subclass"):
        ntt.register_method("mine")(magnitudes)  # type: ignore[type-var]


def test_a_method_without_scores() -> None:
    ntt.register_method("empty")(type("Empty", (ntt.Method,), {}))
    with pytest.raises(NotImplementedError, match="gives neither scores"):
        prune(method="empty")


def test_untrained_weights_are_recorded() -> None:
    """They take other steps and another score, where all options are the same."""
    options = {"method": "ntt", "steps": 2, "kernel_weight": 1.0, "output": "x.safetensors"}
    prune(trained=False, **options)
    with pytest.raises(ntt.NttError, match="is of another run: .*trained was False and is None"):
        prune(trained=True, resume=True, **options)
    assert prune(trained=False, resume=True, **options).report.steps == 2
