from __future__ import annotations

import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntt_cli.data.sources.pickled import Array, Refused, read_pickle

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(min_size=1),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple),
    max_leaves=15,
)


@settings(deadline=None)
@given(VALUES, st.integers(1, 5))
def test_plain_values_come_back(value: object, protocol: int) -> None:
    assert read_pickle(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back(protocol: int, order: str) -> None:
    array = np.array(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), order=order)
    if protocol == 5:
        with pytest.raises(Refused, match="asks for numpy._core.numeric._frombuffer"):
            read_pickle(pickle.dumps(array, protocol))
        return
    found = read_pickle(pickle.dumps([array, array], protocol))
    assert isinstance(found, list)
    assert found[0] is found[1]
    assert isinstance(found[0], Array)
    np.testing.assert_array_equal(found[0].values, array)


@pytest.mark.parametrize("index", [2**28, 2**32 - 1])
def test_a_distant_place_of_the_memo_costs_nothing(index: int) -> None:
    assert read_pickle(b"\x80\x02]r" + struct.pack("<I", index) + b".") == []


def test_lists_of_lists_of_lists_are_shared() -> None:
    laughs = b"K\x01q\x00" + b"".join(
        b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1]) for i in range(60)
    )
    value = read_pickle(b"\x80\x02" + laughs + b".")
    for _ in range(60):
        assert isinstance(value, list)
        assert len(value) == 10
        value = value[0]
    assert value == 1


@pytest.mark.parametrize(
    ("instructions", "what"),
    [
        (b"cposix\nsystem\n(S'true'\ntR.", "asks for posix.system"),
        (b"cbuiltins\neval\n(S'1'\ntR.", "asks for builtins.eval"),
        (b"\x8c\x02os\x8c\x06system\x93.", "asks for os.system"),
        (b"]]\x93.", r"asks for \?.\?"),
        (b"cnumpy.core.multiarray\nscalar\n.", "asks for numpy.core.multiarray.scalar"),
        (b"(iposix\nsystem\n.", "asks for the instruction INST"),
        (b"(cnumpy\nndarray\no.", "asks for the instruction OBJ"),
        (b"cnumpy\nndarray\n)\x81.", "asks for the instruction NEWOBJ"),
        (b"\x82\x01.", "asks for the instruction EXT1"),
        (b"Pname\n.", "asks for the instruction PERSID"),
        (b"]Q.", "asks for the instruction BINPERSID"),
        (b"\x96\0\0\0\0\x04\0\0\0.", "expected 17179869184 bytes"),
        (b"\x8f.", "asks for the instruction EMPTY_SET"),
        (b"\x97.", "asks for the instruction NEXT_BUFFER"),
    ],
)
def test_nothing_else_is_followed(instructions: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what) as caught:
        read_pickle(instructions)
    assert isinstance(caught.value, Refused) or "expected" in what


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
BYTES = b"cnumpy\ndtype\nU\x02u1\x85R"
OBJECTS = b"cnumpy\ndtype\nU\x01O\x85R"


def test_the_arrays_below_would_be_read_if_they_made_sense() -> None:
    array = read_pickle(ARRAY + b"(K\x01K\x02\x85" + BYTES + b"\x89U\x02abtb.")
    assert isinstance(array, Array)
    assert array.values.tobytes() == b"ab"


@pytest.mark.parametrize(
    ("instructions", "what"),
    [
        (b"", "pickle exhausted before seeing STOP"),
        (b"]", "pickle exhausted before seeing STOP"),
        (b".", "make no sense: IndexError"),
        (b"K\x01a.", "make no sense: IndexError"),
        (b"}K\x01a.", "it appends to what is no list"),
        (b"]K\x01K\x02s.", "it sets items of what is no dictionary of strings"),
        (b"}K\x01K\x02s.", "it sets items of what is no dictionary of strings"),
        (b"}" + b"K\x01\x85" + b"2\x86" * 60 + b"Ns.", "it sets items of what is no dictionary of strings"),
        (b"}(U\x01ae.", "it appends to what is no list"),
        (b"}(U\x01au.", "shorter"),
        (b"h\x05.", "make no sense: KeyError"),
        (b"]e.", "it goes back to a mark that is not there"),
        (b"\xff.", "opcode"),
        (b"L" + b"9" * 5000 + b"L\n.", "Exceeds the limit"),
        (b"cnumpy\nndarray\n(K\x01\x85U\x01OU\x08AAAAAAAAtR.", "it calls what makes no array"),
        (b"c_codecs\nencode\n(U\x01aU\x03hextR.", "it calls what makes no array"),
        (b"]]R.", "it calls what makes no array"),
        (b"cnumpy.core.multiarray\n_reconstruct\nN}U\x0c__defaults__Ns\x86b.", "it sets what is no array"),
        (b"]}b.", "it sets what is no array"),
        (ARRAY + b"(K\x01K\x02\x85" + OBJECTS + b"\x89U\x02abtb.", "its array has type O, not u1"),
        (ARRAY + b"(K\x01K\x02\x85N\x89U\x02abtb.", "its array has type none, not u1"),
        (ARRAY + b"(K\x01K\x02" + BYTES + b"\x89U\x02abtb.", "its array has no shape or no bytes"),
        (ARRAY + b"(K\x01K\x02\x85" + BYTES + b"\x89]tb.", "its array has no shape or no bytes"),
        (ARRAY + b"(K\x01K\x03\x85" + BYTES + b"\x89U\x02abtb.", "cannot reshape"),
        (ARRAY + b"K\x01b.", "make no sense: TypeError"),
    ],
)
def test_damage(instructions: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what) as caught:
        read_pickle(instructions)
    assert not isinstance(caught.value, Refused)
