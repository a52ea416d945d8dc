"""What all functions have in common: the caller's torch is left alone, nothing is printed, errors have a hint."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import ntt_cli as ntt
from ntt_cli.api.words import in_python
from ntt_cli.config import PruneConfig
from ntt_cli.runtime.events import EpochDone, Noted, StepsDone
from tests.api.objects import equal, left_alone, network, refusal, samples
from tests.processes import run

pytestmark = pytest.mark.usefixtures("folder")

X, Y = samples()


def _prune(net: nn.Module, **options: Any) -> object:
    return ntt.prune(net, X, sparsity=0.5, steps=3, **options)


def _snip(net: nn.Module, **options: Any) -> object:
    return ntt.prune(net, (X, Y), sparsity=0.5, method="snip", **options)


def _finetune(net: nn.Module, **options: Any) -> object:
    return ntt.finetune(net, (X, Y), epochs=1, **options)


def _evaluate(net: nn.Module, **options: Any) -> object:
    return ntt.evaluate(net, (X, Y), teacher=net, **options)


def _compare(net: nn.Module, **options: Any) -> object:
    several = {"methods": "random", "sparsities": 0.5, "seeds": 1, "epochs": 1}
    return ntt.compare(net, (X, Y), test_data=(X, Y), **several, **options)


def _load(net: nn.Module, **options: Any) -> object:
    ntt.prune(net, sparsity=0.5, method="magnitude").save("loaded.safetensors", force=True)
    return ntt.load("loaded.safetensors", net, **options).model


WORK = [_prune, _snip, _finetune, _evaluate, _compare, _load]
all_work = pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)


@all_work
def test_nothing_of_the_callers_is_changed(work: Callable[..., object]) -> None:
    net = network()
    with left_alone(net):
        work(net)


def test_nor_is_it_by_an_error() -> None:
    net = network()
    with left_alone(net):
        refusal(ntt.NttError, ntt.prune, net, X[:, :3], sparsity=0.5, steps=3)


@all_work
@pytest.mark.parametrize("around", ["no_grad", "inference_mode", "float64", "meta"])
def test_the_result_does_not_depend_on_the_callers_torch(work: Callable[..., object], around: str) -> None:
    net = network()
    plain = work(net)
    dtype = torch.get_default_dtype()
    if around == "float64":
        torch.set_default_dtype(torch.float64)
    Path("comparison").rename("first") if work is _compare else None
    contexts = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode, "meta": lambda: torch.device("meta")}
    try:
        with contexts.get(around, nullcontext)(), left_alone(net):
            other = work(net)
            model = getattr(other, "model", None)  # made where it is asked for
    finally:
        torch.set_default_dtype(dtype)
    if isinstance(model, nn.Module):
        assert isinstance(plain, ntt.SparseNetwork)
        assert equal(model.state_dict(), plain.model.state_dict())
        model(X).sum().backward()  # it can be trained
    elif isinstance(other, ntt.EvaluateReport):
        assert other == plain


@all_work
def test_nothing_is_printed(
    work: Callable[..., object], capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    work(network())
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list


@all_work
def test_progress_is_told_on_stderr(work: Callable[..., object], capfd: pytest.CaptureFixture[str]) -> None:
    work(network(), progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert err or work is _load  # of a file that ntt wrote there is nothing to say


def test_a_function_is_given_events() -> None:
    events: list[Any] = []
    ntt.prune(network(), X, sparsity=0.5, steps=3, progress=events.append)
    assert [event.step for event in events if isinstance(event, StepsDone)][-1] == 3
    ntt.finetune(network(), (X, Y), epochs=2, progress=events.append)
    assert [event.epoch for event in events if isinstance(event, EpochDone)] == [1, 2]
    assert not any("--" in event.message for event in events if isinstance(event, Noted))


def test_progress_of_another_kind() -> None:
    said = refusal(ntt.NttError, _prune, network(), progress="yes")
    assert said.startswith("progress: is a value of type str")


def test_an_error_in_a_progress_function_goes_through() -> None:
    def fail(_event: object) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        _prune(network(), progress=fail)


def test_warnings_are_logged_and_kept(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="ntt_cli"):
        result = ntt.prune(network(), X, sparsity=0.5, method="magnitude")
    assert result.warnings == tuple(caplog.messages) == ("frozen parameters stay as they are and dense: 4.bias",)


# Errors.


def test_unknown_options_name_the_nearest() -> None:
    for typo, meant in {"sparsty": "sparsity", "stepz": "steps", "learning_rat": "learning_rate"}.items():
        said = refusal(ntt.NttError, ntt.prune, network(), X, **{typo: 0.9})
        assert said == f"{typo}=0.9: is not an option | did you mean {meant}?"
    assert "sparsity: is required" in refusal(ntt.NttError, ntt.prune, network(), X)
    assert "epochz=3" in refusal(ntt.NttError, ntt.finetune, network(), (X, Y), epochz=3)
    assert "min_acuracy" in refusal(ntt.NttError, ntt.evaluate, network(), (X, Y), min_acuracy=0.5)
    assert "did you mean seeds?" in refusal(ntt.NttError, ntt.compare, network(), (X, Y), seed=3)
    assert "did you mean logits?" in refusal(ntt.NttError, ntt.load, "a.safetensors", network(), logit=0)
    assert "there are allocation, " in refusal(ntt.NttError, ntt.prune, network(), X, sparsity=0.5, qqq=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sparsity": 1.5}, "sparsity=1.5: should be less than 1 | Fraction"),
        ({"sparsity": -0.1}, "sparsity=-0.1: should be greater than or equal to 0"),
        ({"sparsity": "many"}, "sparsity=many: is not a number"),
        ({"sparsity": True}, "sparsity=True: is not a number"),
        ({"sparsity": 0.99}, "sparsity=0.99: is too high for this model"),
        ({"method": "magnitud"}, "is not one of ntt, asr"),
        ({"method": 3}, "method: is a value of type int"),
        ({"steps": 3, "method": "magnitude"}, "steps=3: method magnitude does not read it; ntt, asr, cts-kl"),
        ({"steps": 0}, "steps=0: should be greater than or equal to 1"),
        ({"device": "gpu"}, "device=gpu: there is no such device here"),
        ({"exclude": "3.*", "method": "magnitude"}, "exclude="),
        ({"exclude": "*"}, "has no prunable weights"),
        ({"allow_mismatch": True, "output": "a.safetensors"}, "it is read with resume=True alone"),
        ({"compile": True, "micro_batch": 4}, "give either compile or micro_batch"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    assert said in refusal(ntt.NttError, ntt.prune, network(), X, **{"sparsity": 0.5} | options)


def test_data_that_does_not_fit() -> None:
    net = network()
    for work in (ntt.prune, ntt.finetune, ntt.evaluate):
        options = {"sparsity": 0.5} if work is ntt.prune else {}
        assert refusal(ntt.NttError, work, net, **options).startswith("data: is missing | give inputs")
        assert "data: is a int" in refusal(ntt.NttError, work, net, 3, **options)
        assert "give inputs of the shape" in refusal(ntt.NttError, work, net, (X[:, :3], Y), **options)
    for said in (
        refusal(ntt.NttError, ntt.prune, net, X, sparsity=0.5, method="snip"),
        refusal(ntt.NttError, ntt.finetune, net, X),
        refusal(ntt.NttError, ntt.evaluate, net, X),
    ):
        assert "has no labels" in said
        assert "give a pair (inputs, labels)" in said
    assert "label 3 of sample 0 is out of range" in refusal(ntt.NttError, ntt.evaluate, net, (X, Y + 3))


def test_a_network_of_float64_stays_one() -> None:
    pruned = ntt.prune(network().double(), X, sparsity=0.5, method="magnitude").model
    assert {p.dtype for p in pruned.parameters()} == {torch.float64}


def test_networks_of_another_kind() -> None:
    for model in (3, None, nn.Linear, {"weight": X}):
        assert "model: is a value of type" in refusal(ntt.NttError, ntt.prune, model, X, sparsity=0.5)


def test_weights_from_two_places() -> None:
    sparse = ntt.prune(network(), sparsity=0.5, method="magnitude")
    for work, option in ((ntt.finetune, "checkpoint"), (ntt.evaluate, "checkpoint"), (ntt.prune, "weights")):
        options = {option: "a.safetensors"} | ({"sparsity": 0.5} if work is ntt.prune else {})
        said = refusal(ntt.NttError, work, sparse, (X, Y), **options)
        assert said.startswith(f"{option}=a.safetensors: the network has weights and masks of its own")


def test_a_file_that_is_there() -> None:
    result = ntt.prune(network(), sparsity=0.5, method="magnitude")
    assert result.save("a.safetensors") == Path("a.safetensors")
    for work in (lambda: result.save("a.safetensors"), lambda: _prune(network(), output="a.safetensors")):
        said = refusal(ntt.NttError, work)
        assert said.startswith("a.safetensors: exists already")
        assert "force=True" in said
    result.save("a.safetensors", force=True)
    assert "is not named .safetensors" in refusal(ntt.NttError, result.save, "a.pt")


def test_where_all_is_named_the_hint_below_the_traceback_is_for_python() -> None:
    ntt.init("model.py")
    with pytest.raises(ntt.NttError) as caught:
        ntt.init("model.py")
    assert caught.value.__notes__ == ["hint: name another file, or overwrite it with force=True"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--sparsity 0.99", "sparsity=0.99"),
        ("add --resume; else name another with --output", "add resume=True; else name another with output"),
        ("match the logits alone with --kernel-weight 0", "match the logits alone with kernel_weight=0"),
        ("--method ntt:score=magnitude", "score=magnitude"),
        ("with --steps auto masks change", "with steps=auto masks change"),
        ("leave out --grayscale", "leave out grayscale"),
        ("names it with --teacher; a word - or two -- dashes", "names it with teacher; a word - or two -- dashes"),
        ("mend it; --debug shows where it is", "mend it"),
        ("--kernels-of-mine", "kernels_of_mine"),
    ],
)
def test_words_of_the_command_line_become_those_of_python(typed: str, meant: str) -> None:
    assert in_python(typed) == meant


def test_help_of_options_names_no_flag() -> None:
    assert not any("--" in in_python(field.description or "") for field in PruneConfig.model_fields.values())


def test_numbers_and_paths_of_other_kinds() -> None:
    options = {"sparsity": np.float32(0.5), "seed": np.int64(1), "method": "magnitude"}
    first = ntt.prune(network(), **options)
    first.save("a.safetensors")
    again = ntt.prune(network(5), weights=Path("a.safetensors"), **options)
    assert equal(again.masks, first.masks)


def test_options_as_python_has_them() -> None:
    images = torch.arange(20 * 3 * 8 * 8, dtype=torch.uint8).view(20, 3, 8, 8)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 8), nn.Linear(8, 3))
    common: dict[str, Any] = {"sparsity": 0.5, "method": "wanda", "image_size": 4}
    typed = ntt.prune(net, images, layer_density=("2.weight=0.4",), mean="0.5,0.4,0.3", std="0.2,0.2,0.1", **common)
    meant = ntt.prune(net, images, layer_density={"2.weight": 0.4}, mean=(0.5, 0.4, 0.3), std=[0.2, 0.2, 0.1], **common)
    assert equal(meant.masks, typed.masks)
    assert typed.report.layers[1].density == pytest.approx(0.4, abs=0.02)
    sized = ntt.prune(net, "noise:20", input_shape=(3, 4, 4), sparsity=0.5, method="magnitude", exclude="2.*")
    assert sized.report.prunable == 8 * 3 * 4 * 4


def test_options_about_files_that_are_not_written() -> None:
    for name, value in {"force": True, "resume": True, "checkpoint_every": 1.0}.items():
        for work in (_prune, _finetune):
            said = refusal(ntt.NttError, work, network(), **{name: value})
            assert said.startswith(f"{name}={value}: nothing is written")
            assert said.endswith("give output, or leave it out")


def test_signals_of_the_caller_are_heard() -> None:
    """No handler is set: a signal in the midst of work is KeyboardInterrupt, as everywhere."""

    def interrupt(_event: object) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            _prune(network(), progress=interrupt, output="a.safetensors")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(Path().glob("*.safetensors"))


def test_all_names_are_there() -> None:
    for name in ntt.__all__:
        if name not in {"empirical_ntk", "kernel_vector_product"}:
            assert getattr(ntt, name)
    assert set(dir(ntt)) == set(ntt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        _ = ntt.prun  # type: ignore[attr-defined]


def test_a_module_of_the_same_name_does_not_take_the_place_of_a_function() -> None:
    code = "import ntt_cli.comparison.compare, ntt_cli.api.report, ntt_cli as n; n.prune; n.report; print(n.compare)"
    done = run([sys.executable, "-c", code])
    assert done.returncode == 0
    assert done.stdout.startswith("<function compare")
