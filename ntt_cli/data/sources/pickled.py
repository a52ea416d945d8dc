"""The values in a pickle, read without running it.

A pickle is a program for a stack machine. This module follows only the instructions that make numbers, strings, lists,
tuples, dictionaries and NumPy's arrays of bytes. They call, import and set nothing, whatever the file says, and their
values are no larger than the file. `pickle.Unpickler` with a list of allowed names would be shorter, but a few bytes
could fill the memory, because they can name place four billion of its memo.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
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
_RECONSTRUCT = (_Name("numpy.core.multiarray", "_reconstruct"), _Name("numpy._core.multiarray", "_reconstruct"))
_KNOWN = {*_RECONSTRUCT, _Name("numpy", "ndarray"), _Name("numpy", "dtype"), _Name("_codecs", "encode")}


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
            machine.follow(opcode.name, argument)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as failure:
        raise ValueError(f"its instructions make no sense: {type(failure).__name__}: {failure}") from failure
    raise ValueError("it does not end")


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            self.stack.append(argument)
        elif name in {"PUT", "BINPUT", "LONG_BINPUT"}:
            self.memo[argument] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in {"GET", "BINGET", "LONG_BINGET"}:
            self.stack.append(self.memo[argument])
        elif name in _STEPS:
            _STEPS[name](self)
        elif name == "GLOBAL":
            self.stack.append(_known(*argument.split(" ", 1)))
        elif name not in {"PROTO", "FRAME"}:
            raise Refused(f"asks for the instruction {name}")

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        at = next((i for i in reversed(range(len(self.stack))) if self.stack[i] is _MARK), None)
        if at is None:
            raise ValueError("it goes back to a mark that is not there")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def pop_few(self, n: int) -> tuple[Any, ...]:
        items = self.stack[-n:]
        del self.stack[-n:]
        return tuple(items)

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("it appends to what is no list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        # Only strings, because hashing nested tuples can take forever.
        if type(target) is not dict or not all(type(key) is str for key in items[::2]):
            raise ValueError("it sets items of what is no dictionary of strings")
        target.update(zip(items[::2], items[1::2], strict=True))

    def call(self) -> None:
        called, arguments = self.pop_few(2)
        match called, arguments:
            case _Name("_codecs", "encode"), (
                str(text),
                "latin1",
            ):  # the form in which Python 3 writes bytes for Python 2
                self.stack.append(text.encode("latin-1"))
            case _Name("numpy", "dtype"), (name, *_):
                self.stack.append(_Type(name))
            case _Name(_, "_reconstruct"), _:
                self.stack.append(Array())
            case _:
                raise ValueError("it calls what makes no array")

    def build(self) -> None:
        target, state = self.pop_few(2)
        if isinstance(target, Array):
            target.values = _array(*state)
        elif not isinstance(target, _Type):  # the byte order and the like, which do not apply to bytes
            raise ValueError("it sets what is no array")
        self.stack.append(target)


def _array(_version: object, shape: object, of: object, column_major: object, values: object) -> Bytes:
    if not isinstance(of, _Type) or of.name not in ("u1", "|u1"):
        raise ValueError(f"its array has type {getattr(of, 'name', 'none')!s:.20}, not u1")
    raw = values.encode("latin-1") if isinstance(values, str) else values  # a string if Python 2 wrote it
    if not isinstance(raw, bytes) or not isinstance(shape, tuple) or not all(type(side) is int for side in shape):
        raise ValueError("its array has no shape or no bytes")
    return np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if column_major else "C")


def _known(module: str, name: str) -> _Name:
    asked = _Name(module, name)
    if asked not in _KNOWN:
        raise Refused(f"asks for {asked}")
    return asked


def _named(machine: _Machine) -> None:
    module, name = machine.pop_few(2)
    machine.stack.append(_known(str(module) if type(module) is str else "?", name if type(name) is str else "?"))


def _dictionary(machine: _Machine) -> None:
    items = machine.pop_mark()
    machine.stack.append({})
    machine.set_items(items)


_CONSTANTS: dict[str, Callable[[], object]] = {
    "MARK": lambda: _MARK,
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}
_LITERALS = frozenset({
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
})
_STEPS: dict[str, Callable[[_Machine], object]] = {
    "POP": _Machine.pop,
    "POP_MARK": _Machine.pop_mark,
    "DUP": lambda machine: machine.stack.append(machine.stack[-1]),
    "LIST": lambda machine: machine.stack.append(machine.pop_mark()),
    "TUPLE": lambda machine: machine.stack.append(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine: machine.stack.append(machine.pop_few(1)),
    "TUPLE2": lambda machine: machine.stack.append(machine.pop_few(2)),
    "TUPLE3": lambda machine: machine.stack.append(machine.pop_few(3)),
    "DICT": _dictionary,
    "APPEND": lambda machine: machine.append([machine.pop()]),
    "APPENDS": lambda machine: machine.append(machine.pop_mark()),
    "SETITEM": lambda machine: machine.set_items(list(machine.pop_few(2))),
    "SETITEMS": lambda machine: machine.set_items(machine.pop_mark()),
    "STACK_GLOBAL": _named,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
