from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ntt_cli.networks.outputs import Heads, NoSuchOutput, chosen_outputs, field_of, flat, heads_in, usual_logits

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


@dataclass
class Nested:
    pooled: Tensor
    states: tuple[Tensor, ...]
    mask: Tensor | None = None


ROW, NUMBERS = torch.full((2,), 3.0), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("outputs", "names"),
    [
        (A, ["output"]),
        (ROW, ["output"]),
        (NUMBERS, []),
        (torch.zeros(3, 4), []),
        ({"a": A, "n": 3, "ids": NUMBERS, "none": None, "words": ["x", "y"], "b": B}, ["a", "b"]),
        ((A, (B, ROW)), ["0", "1.0", "1.1"]),
        (Named(A, B), ["logits", "aux"]),
        (Nested(A, (B, ROW)), ["pooled", "states.0", "states.1"]),
        ({"last": A, "all": [B, A]}, ["last", "all.0"]),  # the same tensor once
        ({"loss": torch.zeros(()), "last": A, "past_key_values": ((B, B),)}, ["last"]),
        ({"last": A, "state": [B], "mems": (B,), "cache_params": {"conv": B}}, ["last"]),  # for a later call
        ({"last": A, "hidden_states": (B,), "decoder_attentions": (B,), "text": {"hidden_states": B}}, ["last"]),
        ({"hidden_states": (A, B), "ids": NUMBERS}, ["hidden_states.0", "hidden_states.1"]),  # there are no others
        ([{"boxes": A}, {"boxes": B}], []),  # a list of detections
        ({"y": A, "states": torch.zeros(3, 2)}, ["y"]),  # another first axis
        (3, []),
    ],
)
def test_heads_are_floating_tensors_with_a_row_for_each_sample(outputs: object, names: list[str]) -> None:
    assert list(heads_in(outputs, 2)) == names


def test_outputs_that_are_named() -> None:
    assert list(chosen_outputs(Nested(A, (B, ROW)), ("states.1", "pooled"))) == ["states.1", "pooled"]
    assert chosen_outputs(A, ("output",))["output"] is A
    assert list(heads_in(chosen_outputs({"a": A, "state": (B,)}, ("state.0",)), 2)) == ["state.0"]
    for outputs, name, what in (
        ({"a": A}, "b", "has no output b; it returns a dict of a"),
        (
            {"a": A, "ids": NUMBERS},
            "ids",
            "has an output ids of int64 [2], not real numbers with a row for each sample",
        ),
    ):
        with pytest.raises(NoSuchOutput) as caught:
            chosen_outputs(outputs, (name,))
        assert caught.value.args == (what,)


def test_rows_of_several_heads_and_back() -> None:
    heads = Heads(usual_logits, {"a": (3,), "n": (), "map": (2, 2)})
    outputs = {"a": A + 1, "n": ROW, "map": torch.arange(8.0).view(2, 2, 2)}
    rows = flat(heads({**outputs, "other": B}))
    assert rows.tolist() == [[1, 1, 1, 3, 0, 1, 2, 3], [1, 1, 1, 3, 4, 5, 6, 7]]
    back = heads.unflatten(rows)
    assert all(torch.equal(back[name], outputs[name]) for name in outputs)
    assert (heads.shape, heads.sizes, str(heads)) == ((8,), (3, 1, 4), "a [3], n [], map [2, 2]")
    one = Heads(usual_logits, {"output": (2, 2)})
    assert (one.shape, list(one.unflatten(one(outputs["map"]).flatten(1)))) == ((2, 2), ["output"])


def test_a_network_that_returns_something_else_than_before() -> None:
    heads = Heads(usual_logits, {"output": (3,)})
    with pytest.raises(NoSuchOutput, match="returns a tuple of 0, 1, and in its first pass one tensor"):
        heads((A, B))
    with pytest.raises(NoSuchOutput, match="returns one tensor, and in its first pass a, b"):
        Heads(usual_logits, {"a": (3,), "b": (4,)})(A)
