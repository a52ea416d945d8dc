from __future__ import annotations

import math
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ntt_cli.networks.outputs import NoSuchOutput, counted_rows, field_of, label_loss, tensor_fields, usual_logits

A, B = torch.zeros(2, 3), torch.ones(2, 4)


@dataclass
class Outputs:
    logits: Tensor
    hidden: Tensor


Named = namedtuple("Named", ["logits", "aux"])


@pytest.mark.parametrize(
    ("outputs", "field"),
    [
        (B, None),
        (B, "anything"),
        ({"logits": B, "hidden": A}, None),
        ({"a": A, "b": B}, "b"),
        ({0: A, 1: B}, "1"),
        ((A, B), "1"),
        ([A, B], "1"),
        (Named(A, B), "aux"),
        (Named(A, B), "1"),
        (Named(B, A), None),
        (Outputs(A, B), "hidden"),
        (Outputs(B, A), None),
    ],
)
def test_a_field_of_whatever_a_network_returns(outputs: object, field: str | None) -> None:
    assert field_of(outputs, field) is B


@pytest.mark.parametrize("outputs", [(A, B), {"a": A}, None, 3])
def test_without_a_usual_field_the_outputs_are_left_as_they_are(outputs: object) -> None:
    assert usual_logits(outputs) is outputs


@pytest.mark.parametrize(
    ("outputs", "listed"),
    [({"a": A, "b": B}, "a dict of a, b"), ((A, B), "a tuple of 0, 1"), (3, "an int of no fields")],
)
def test_a_field_that_is_not_there(outputs: object, listed: str) -> None:
    with pytest.raises(NoSuchOutput) as caught:
        field_of(outputs, "c")
    assert caught.value.args == (f"has no output c; it returns {listed}",)


def test_only_tensors_are_offered() -> None:
    assert tensor_fields({"a": A, "n": 3, "b": B}) == ["a", "b"]
    assert tensor_fields(A) == []


def test_the_loss_of_many_positions_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3)], [9.0, 9.0]], [[0.0, 0.0], [math.log(7), 0.0]]])
    labels = torch.tensor([[1, -100], [0, 1]])
    losses = [-math.log(3 / 4), -math.log(1 / 2), -math.log(1 / 8)]
    for shaped in (logits, logits.flatten(1)):
        assert float(label_loss(shaped, labels)) == pytest.approx(sum(losses) / 3)
        assert float(label_loss(shaped, labels, reduction="sum")) == pytest.approx(sum(losses))


def test_rows_that_count() -> None:
    logits = torch.arange(12.0).view(2, 3, 2)
    rows, labels = counted_rows(logits, torch.tensor([[0, -100, 1], [-100, -100, 0]]))
    assert rows.tolist() == [[0, 1], [4, 5], [10, 11]]
    assert labels.tolist() == [0, 1, 0]
