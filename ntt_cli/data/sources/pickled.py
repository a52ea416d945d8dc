"""The values in a pickle, read without running it.

A pickle is a program for a stack machine. This module follows only the instructions that make numbers, strings, lists,
tuples, dictionaries and NumPy's arrays of bytes. They call, import and set nothing, whatever the file says, and their
values are no larger than the file. `pickle.Unpickler` with a list of allowed names would be shorter, but a few bytes
could fill the memory, because they can name place four billion of its memo.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class Refused(ValueError):
    """The pickle asks for something that plain values do not need."""


@dataclass
class Array:
    """`numpy.ndarray`, of unsigned bytes."""

    values: Bytes = field(default_factory=lambda: np.empty(0, dtype=np.uint8))


@dataclass(frozen=True)
class _Name:
    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module:.99}.{self.name:.99}"


@dataclass(frozen=True)
class _Type:
    name: object


_MARK = object()
_KNOWN = {
    *(_Name("numpy.core.multiarray", "_reconstruct"), _Name("numpy._core.multiarray", "_reconstruct")),
    *(_Name("numpy", "ndarray"), _Name("numpy", "dtype"), _Name("_codecs", "encode")),
}


def read_pickle(data: bytes) -> object:
    """The value in a pickle, made of `Array`s, containers, numbers and strings; Python 2's strings are read as latin-1.

    Raises:
        Refused: if it needs a function or class other than those of `Array`, or an instruction that is not followed.
        ValueError: if it is damaged.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.pop()
            if opcode.name not in _STEPS:
                raise Refused(f"asks for the instruction {opcode.name}")
            _STEPS[opcode.name](machine, argument)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as failure:
        raise ValueError(f"its instructions make no sense: {type(failure).__name__}: {failure}") from failure
    raise ValueError("it does not end")


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_few(self, n: int) -> tuple[Any, ...]:
        items = self.stack[-n:]
        del self.stack[-n:]
        return tuple(items)

    def pop_mark(self) -> list[Any]:
        at = next((i for i in reversed(range(len(self.stack))) if self.stack[i] is _MARK), None)
        if at is None:
            raise ValueError("it goes back to a mark that is not there")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("it appends to what is no list")
        target.extend(items)

    def set_items(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        # Only strings, because hashing nested tuples can take forever.
        if type(target) is not dict or not all(type(key) is str for key in items[::2]):
            raise ValueError("it sets items of what is no dictionary of strings")
        target.update(zip(items[::2], items[1::2], strict=True))

    def dictionary(self) -> None:
        items = self.pop_mark()
        self.push({})
        self.set_items(items)

    def name(self, names: Sequence[object]) -> None:
        module, name = (part if isinstance(part, str) else "?" for part in names)
        asked = _Name(module, name)
        if asked not in _KNOWN:
            raise Refused(f"asks for {asked}")
        self.push(asked)

    def call(self) -> None:
        called, arguments = self.pop_few(2)
        match called, arguments:
            case _Name("_codecs", "encode"), (str(text), "latin1"):  # how Python 3 writes bytes for Python 2
                self.push(text.encode("latin-1"))
            case _Name("numpy", "dtype"), (name, *_):
                self.push(_Type(name))
            case _Name(_, "_reconstruct"), _:
                self.push(Array())
            case _:
                raise ValueError("it calls what makes no array")

    def build(self) -> None:
        target, state = self.pop_few(2)
        if isinstance(target, Array):
            target.values = _array(*state)
        elif not isinstance(target, _Type):  # the byte order and the like, which do not apply to bytes
            raise ValueError("it sets what is no array")
        self.push(target)


def _array(_version: object, shape: object, of: object, column_major: object, values: object) -> Bytes:
    if not isinstance(of, _Type) or of.name not in ("u1", "|u1"):
        raise ValueError(f"its array has type {getattr(of, 'name', 'none')!s:.20}, not u1")
    raw = values.encode("latin-1") if isinstance(values, str) else values  # a string if Python 2 wrote it
    if not isinstance(raw, bytes) or not isinstance(shape, tuple) or not all(type(side) is int for side in shape):
        raise ValueError("its array has no shape or no bytes")
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if column_major else "C")


_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
)
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    **dict.fromkeys(_LITERALS, _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "MARK": lambda machine, _: machine.push(_MARK),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda machine, index: machine.push(machine.memo[index])),
    "POP": lambda machine, _: machine.pop(),
    "POP_MARK": lambda machine, _: machine.pop_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.pop_few(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop_few(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop_few(3)),
    "DICT": lambda machine, _: machine.dictionary(),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop_few(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "GLOBAL": lambda machine, names: machine.name(names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(machine.pop_few(2)),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}
