"""`ntt_cli.register_method`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import TypeVar

from torch import Tensor

from ntt_cli.api.words import told_in_python
from ntt_cli.config import method_class
from ntt_cli.config import register_method as register
from ntt_cli.errors import DivergedError, UsageError
from ntt_cli.methods.base import Method, MethodContext
from ntt_cli.tensors import Masks

M = TypeVar("M", bound=type[Method])
Scores = Callable[[Method, MethodContext, Masks], Mapping[str, Tensor]]

SCORES = "return a dict of tensors, one of the weight's shape for each name in context.names"


def register_method(name: str) -> Callable[[M], M]:
    """Make a method of pruning known under a name: put `@ntt.register_method("mine")` before the class.

    `prune` and `compare` take it by that name, or its class; `prune` one made with arguments of its own, too. The name
    may be registered again, as a notebook does when its cell is run twice; the last class counts. What `scores` returns
    is checked before it is used.

    Args:
        name: small letters, digits and dashes.

    Returns:
        what registers a subclass of `Method`, and returns it.

    Raises:
        ValueError: if the name has other characters, or is a built-in method's.
        TypeError: if the class is no subclass of `Method`.

    Example:
        >>> import torch, ntt_cli as ntt
        >>> @ntt.register_method("largest-rows")
        ... class LargestRows(ntt.Method):
        ...     needs = "nothing"  # of the data
        ...
        ...     def scores(self, context, masks):
        ...         weights = context.weights.items()
        ...         return {name: w.abs() * w.norm(dim=1, keepdim=True) for name, w in weights}
        >>> ntt.prune(torch.nn.Linear(4, 8), sparsity=0.5, method="largest-rows").report.kept
        16
    """
    known = register(name)

    def take(kind: M) -> M:
        if not (isinstance(kind, type) and issubclass(kind, Method)):
            raise TypeError(f"{kind!r} is no subclass of ntt_cli.Method")
        if "scores" in vars(kind):
            kind.scores = _checked(kind.scores)  # type: ignore[assignment, method-assign]  # the same, but checked
        return known(kind)

    return take


@told_in_python()
def name_of(kind: type[Method]) -> str:
    """The name that a class is registered under."""
    where = f"method={kind.__name__}"
    if not kind.name or "name" not in vars(kind):
        raise UsageError(where, "is not registered", hint='put @ntt_cli.register_method("name") before the class')
    if method_class(kind.name) is not kind:
        what = f"is no longer registered: another class has taken the name {kind.name}"
        raise UsageError(where, what, hint="give that class, or register this one under another name")
    return kind.name


def _checked(scores: Scores) -> Scores:
    @wraps(scores)
    def check(self: Method, context: MethodContext, masks: Masks) -> Mapping[str, Tensor]:
        found = scores(self, context, masks)
        where = f"scores() of method {self.name}"
        if not isinstance(found, Mapping):
            raise UsageError(where, f"returns a value of type {type(found).__name__}", hint=SCORES)
        for what, names in (
            ("lacks", [name for name in context.names if name not in found]),
            ("gives scores of what is not pruned:", [name for name in found if name not in context.names]),
        ):
            if names:
                raise UsageError(where, f"{what} {', '.join(map(str, names))}", hint=SCORES)
        for name, weight in context.weights.items():
            _check(where, name, found[name], weight)
        return {name: found[name].detach() for name in context.names}

    return check


def _check(where: str, name: str, values: object, weight: Tensor) -> None:
    what = f"gives for {name}"
    if not isinstance(values, Tensor):
        raise UsageError(where, f"{what} a value of type {type(values).__name__}", hint=SCORES)
    if values.shape != weight.shape:
        raise UsageError(where, f"{what} the shape {list(values.shape)}, not {list(weight.shape)}", hint=SCORES)
    if values.is_complex() or values.dtype.itemsize == 1:
        kind = str(values.dtype).removeprefix("torch.")
        raise UsageError(where, f"{what} values of type {kind}", hint="return numbers, such as values.float()")
    if not values.isfinite().all():
        raise DivergedError(where, f"{what} values that are not finite", hint="look for a division by zero in it")
