from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from ntt_cli.errors import DataError, NttError
from ntt_cli.runtime.events import Event, Warned
from ntt_cli.tasks.classification import CLASSIFICATION
from tests.parts import inputs_of, refusal


def told(error: NttError) -> tuple[str, str]:
    return str(error), error.hint


@pytest.mark.parametrize(
    ("labels", "shape"),
    [
        ([0, 1, 2, 2], (3,)),
        ([0, -100, 2, -100], (3,)),
        ([[0, 1], [2, -100], [0, 0], [1, 1]], (2, 3)),
    ],
)
def test_labels_that_fit(labels: list[int], shape: tuple[int, ...]) -> None:
    heard: list[Event] = []
    CLASSIFICATION.check(inputs_of(torch.zeros(4, 2), torch.tensor(labels)), heard.append, shape=shape, purpose="")
    assert heard == []


@pytest.mark.parametrize(
    ("names", "labels", "warned"),
    [
        (("cat", "dog"), [0, 1] * 30, "2"),
        (("cat", "dog"), [0, 1], "2"),  # names are no guess
        (("cat", "dog", "eel"), [0, 1] * 30, None),
        (None, [0, 1] * 30, "2"),
        (None, [0, 1] * 29, None),
        (None, [0, 2] * 30, None),
    ],
)
def test_outputs_without_a_class_are_a_warning(
    names: tuple[str, ...] | None, labels: list[int], warned: str | None
) -> None:
    inputs = inputs_of(torch.zeros(len(labels), 2), torch.tensor(labels))
    heard: list[Event] = []
    named = replace(inputs, samples=replace(inputs.samples, class_names=names))
    CLASSIFICATION.check(named, heard.append, shape=(3,), purpose="")
    expected = f"some data has {warned} classes, and the network 3 outputs: some have no class"
    assert heard == ([] if warned is None else [Warned(expected)])


@pytest.mark.parametrize(
    ("labels", "shape", "what", "hint"),
    [
        (
            [0, 1, 3, 4],
            (3,),
            "label 3 of sample 2 is out of range: the model has 3 outputs",
            "mend the labels, or build the model with more outputs (--model-arg)",
        ),
        (
            [0, 1, 1, -1],
            (3,),
            "label -1 of sample 3 is out of range: the model has 3 outputs",
            "mend the labels, or build the model with more outputs (--model-arg)",
        ),
        (
            [[0, 1], [1, 9], [9, 1], [0, 0]],
            (2, 3),
            "label 9 of sample 1 is out of range: the model has 3 outputs",
            "mend the labels, or build the model with more outputs (--model-arg)",
        ),
        (
            [[0, 1], [1, 0], [0, 0], [1, 1]],
            (3,),
            "has labels of shape [4, 2] for logits of shape [4, 3]",
            "save one whole number for each row of logits, not one-hot rows, or pick others with --logits",
        ),
        (
            [0, 1, 0, 1],
            (),
            "has classes as labels, and the network one number for each sample",
            "name other labels or outputs",
        ),
        (
            [-100, -100, -100, -100],
            (3,),
            "has no label but -100, which counts for nothing",
            "name labelled data",
        ),
        (
            None,
            (3,),
            "has no labels; they are needed",
            "use one folder a class, or arrays with a key y",
        ),
    ],
)
def test_labels_that_do_not_fit(labels: list[int] | None, shape: tuple[int, ...], what: str, hint: str) -> None:
    inputs = inputs_of(torch.zeros(4, 2), None if labels is None else torch.tensor(labels))
    error = refusal(DataError, CLASSIFICATION.check, inputs, lambda _: None, shape=shape, purpose="they are needed")
    assert told(error) == (f"some data: {what}", hint)


def test_the_loss_of_many_positions_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3)], [9.0, 9.0]], [[0.0, 0.0], [math.log(7), 0.0]]])
    labels = torch.tensor([[1, -100], [0, 1]])
    losses = [-math.log(3 / 4), -math.log(1 / 2), -math.log(1 / 8)]
    for shaped in (logits, logits.flatten(1)):
        assert float(CLASSIFICATION.loss(shaped, labels)) == pytest.approx(sum(losses) / 3)
        assert float(CLASSIFICATION.loss(shaped, labels, "sum")) == pytest.approx(sum(losses))


def test_what_counts_and_what_is_correct() -> None:
    outputs = torch.tensor([[2.0, 1.0], [0.0, 3.0], [5.0, 4.0]])
    targets = torch.tensor([0, 0, -100])
    by_hand = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(3))]
    assert int(CLASSIFICATION.count(targets)) == 2
    assert float(CLASSIFICATION.total(outputs, targets)) == pytest.approx(sum(by_hand))
    assert float(CLASSIFICATION.loss(outputs, targets)) == pytest.approx(sum(by_hand) / 2)
    statistics = CLASSIFICATION.statistics(outputs, targets)
    assert (statistics["labels"].tolist(), statistics["right"].tolist()) == ([2, 0], [1, 0])
    assert CLASSIFICATION.results(statistics) == {"accuracy": 0.5, "loss": pytest.approx(sum(by_hand) / 2)}
