from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import ntt_cli as ntt
from tests.api.objects import left_alone, network, refusal, samples
from tests.cli.conftest import Ntt
from tests.small_networks import write_network

pytestmark = pytest.mark.usefixtures("folder")

X, Y = samples()
TEST = samples(30, seed=2)
ONE = {"methods": "magnitude", "sparsities": 0.5, "seeds": 1, "epochs": 1}


def compare(model: Any = None, data: Any = (X, Y), **options: Any) -> Any:
    return ntt.compare(network() if model is None else model, data, **{"test_data": TEST} | ONE | options)


@pytest.mark.usefixtures("forked_workers")
def test_the_results_are_those_of_the_command(command: Ntt) -> None:
    model = write_network("plain")
    small = ("--methods", "magnitude", "--sparsities", "0.8", "--seeds", "1", "--epochs", "1", "--limit", "100")
    typed = command("compare", model, *small, "-o", "typed", "--json")
    assert typed.code == 0, typed.err
    options = {"methods": ("magnitude",), "sparsities": (0.8,), "seeds": (1,), "epochs": 1, "limit": 100}
    named = ntt.compare(model, output=Path("named"), **options)
    assert [row.model_dump(mode="json") for row in named.rows] == typed.document["rows"]


def test_a_method_of_the_callers_own_beside_others() -> None:
    @ntt.register_method("mine")
    class Mine(ntt.Method):
        def scores(self, context: ntt.MethodContext, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {name: weight.abs() for name, weight in context.weights.items()}

    net = network()
    with left_alone(net):
        report = compare(net, methods=(Mine, "magnitude", "dense"), sparsities=(0.5, 0.7), seeds=(1, 2))
    assert not report.failed
    assert {(row.method, row.sparsity) for row in report.rows} == {
        *((method, sparsity) for method in ("mine", "magnitude") for sparsity in (0.5, 0.7)),
        ("dense", None),
    }
    for row in (row for row in report.rows if row.sparsity):
        assert row.seeds == 2
        assert 0 <= row.mean <= 1
    assert Path("comparison/results.csv").is_file()
    assert report.page == "comparison/report.html"


def test_what_is_there_is_not_done_again() -> None:
    first = compare(output="a")
    files = {path: path.stat().st_mtime_ns for path in Path("a").rglob("*.safetensors")}
    assert compare(output="a").rows == first.rows
    assert {path: path.stat().st_mtime_ns for path in Path("a").rglob("*.safetensors")} == files
    said = refusal(ntt.NttError, compare, output="a", epochs=2)
    assert "epochs" in said


def test_plan() -> None:
    plan = compare(methods=("ntt:steps=3", "random"), seeds=(1, 2), plan=True)
    assert len(plan.trials) == 4
    assert not any(trial.done for trial in plan.trials)
    assert plan.estimated_seconds > 0
    assert not Path("comparison").exists()


def test_data_that_is_an_object_has_no_test_part() -> None:
    said = refusal(ntt.NttError, ntt.compare, network(), (X, Y), **ONE)
    assert said.startswith("test_data: is missing")
    assert refusal(ntt.NttError, ntt.compare, network(), **ONE).startswith("data: is missing")
    assert "has no labels to test with | give a pair" in refusal(ntt.NttError, compare, test_data=TEST[0])
    assert "has no labels" in refusal(ntt.NttError, compare, data=X)


def test_data_in_all_forms() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True)
    rows = [
        compare(data=data, test_data=test, output=f"of {number}").rows
        for number, (data, test) in enumerate([((X, Y), TEST), (loader, TensorDataset(*TEST))])
    ]
    assert rows[0] == rows[1]


def test_a_trial_that_fails_ends_no_others() -> None:
    @ntt.register_method("mine")
    class Mine(ntt.Method):
        def scores(self, context: ntt.MethodContext, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {}

    report = compare(methods=("mine", "random"))
    assert [row.method for row in report.rows] == ["random"]
    (failed,) = report.failed
    assert "scores() of method mine: lacks 0.weight, 4.weight" in failed.what


def test_an_interrupt_ends_all() -> None:
    @ntt.register_method("mine")
    class Mine(ntt.Method):
        def scores(self, context: ntt.MethodContext, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(methods=("mine", "random"))
    assert not list(Path("comparison").rglob("*.safetensors"))
    assert compare(methods="random").rows


def test_methods_and_options_that_do_not_fit() -> None:
    assert "did you mean magnitude?" in refusal(ntt.NttError, compare, methods="magnitud")
    assert "is not registered" in refusal(ntt.NttError, compare, methods=(ntt.Method,))
    assert "did you mean seeds?" in refusal(ntt.NttError, compare, seed=1)
    assert "sparsities=0" in refusal(ntt.NttError, compare, sparsities=0.0)


def test_results_of_other_functions() -> None:
    dense = ntt.finetune(nn.Linear(4, 3), (X, Y), epochs=1)
    report = compare(dense, methods=("magnitude", "random"))
    assert len(report.rows) == 2
    assert not report.failed
    assert torch.is_grad_enabled()
