from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ntt_cli.networks.outputs import NoSuchOutput, field_of, tensor_fields, usual_logits

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
