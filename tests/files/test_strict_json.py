from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntt_cli.files.strict_json import DEEPEST, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_writes_comes_back(value: object) -> None:
    assert parse_json(json.dumps(value)) == value


def test_the_deepest_that_is_read() -> None:
    deepest = DEEPEST - 1
    assert parse_json("[" * deepest + "1" + "]" * deepest)
    assert parse_json('{"a":' * deepest + "1" + "}" * deepest)
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        for depth in (DEEPEST, 500, 100_000):
            with pytest.raises(ValueError, match="it is nested too deeply"):
                parse_json(opening * depth + "1" + closing * depth)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ('{"a":1,"b":2,"a":1}', "it names 'a' twice"),
        ('[{"a":{"b":2,"b":3}}]', "it names 'b' twice"),
        ("[NaN]", "it holds NaN"),
        ("[-Infinity]", "it holds -Infinity"),
        ("[1e999]", "it holds 1e999, which is beyond every float"),
        ("[" + "9" * 5000 + "]", "Exceeds the limit"),
        (r'["\ud800"]', "surrogates not allowed"),
        (r'{"\udfff":1}', "surrogates not allowed"),
    ],
)
def test_what_has_no_single_meaning(text: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_json(text)
