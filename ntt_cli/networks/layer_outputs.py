"""What layers inside a network return, for networks whose own outputs have no derivative: detectors, decoders."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from ntt_cli.networks.outputs import NoSuchOutput, heads_in, tensors_in

Hook = Callable[[str, Any], None]
"""Is given a layer's name and what the layer returned."""


class _Done(BaseException):
    """Ends a pass once all layers have returned; no `except Exception` in the network's code catches it."""


@dataclass(frozen=True)
class LayerOutputs:
    """Layers by name, and how often a pass calls each."""

    calls: Mapping[str, int]

    def __call__(self, module: nn.Module, run: Callable[[], Any]) -> dict[str, Any]:
        """What the layers return while `run` is one pass through the module, by the names of the layers.

        Of a layer that is called several times it is a list. The pass ends with the last of the layers: what follows,
        such as the choice of boxes, costs time and has no derivative.
        """
        found: dict[str, list[Any]] = {name: [] for name in self.calls}

        def note(name: str, returned: Any) -> None:
            found[name].append(returned)
            if all(len(found[layer]) >= count for layer, count in self.calls.items()):
                raise _Done

        with hooks(module, self.calls, note):
            try:
                run()
            except _Done:
                pass
        return _whole(found)


def named_layers(module: nn.Module, names: tuple[str, ...], run: Callable[[], Any]) -> LayerOutputs:
    """The layers of these outputs: each output is named by its layer, or by its layer and its place, `head.boxes`.

    Raises:
        NoSuchOutput: if no layer that `run`, one pass, calls returns such an output.
    """
    layers = [part for name in names for part in _prefixes(name) if part in dict(module.named_modules())]
    returned = _returned(module, layers, run)
    chosen = {}
    for name in names:
        outside = [part for part in reversed(list(_prefixes(name))) if part in returned]
        holder = next((part for part in outside if _under(name, _whole({part: returned[part]}))), None)
        if holder is None:
            known = [*dict(module.named_modules()), *tensors_in(_whole(returned))]
            near = next(iter(get_close_matches(name, known, n=1)), None)
            raise NoSuchOutput(f"has no output and no layer {name}", near=near)
        chosen[holder] = len(returned[holder])
    return LayerOutputs(chosen)


def last_layers(module: nn.Module, samples: int | None, run: Callable[[], Any]) -> LayerOutputs | None:
    """The outermost layers whose outputs have a derivative, without those whose outputs another of them reads.

    Of a detector they are its heads: a backbone is read by these, and what chooses boxes has no derivative. `run` is
    one pass with a graph. `None` if there are no such layers.
    """
    returned = _returned(module, [name for name, layer in module.named_modules() if layer is not module], run)
    usable = {
        name: tensors
        for name, values in returned.items()
        if (tensors := [x for value in values for x in heads_in(value, samples).values() if x.requires_grad])
    }
    outermost = [name for name in usable if not any(part in usable for part in _prefixes(name) if part != name)]
    read = {
        name for name in outermost for other in outermost if other != name and _depends(usable[other], on=usable[name])
    }
    calls = {name: len(returned[name]) for name in outermost if name not in read}
    return LayerOutputs(calls) if calls else None


def named_tensors(captured: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of what layers returned whose names are these, or begin with them.

    Raises:
        NoSuchOutput: if a name has none.
    """
    chosen: dict[str, Tensor] = {}
    for name in names:
        if not (own := _under(name, captured)):
            raise NoSuchOutput(f"has no output {name}")
        chosen |= own
    return chosen


def _whole(found: Mapping[str, list[Any]]) -> dict[str, Any]:
    """What each layer returned: of one call, that alone."""
    return {name: values[0] if len(values) == 1 else values for name, values in found.items() if values}


def _under(name: str, captured: Mapping[str, Any]) -> dict[str, Tensor]:
    found = tensors_in(captured)
    return {key: value for key, value in found.items() if key == name or key.startswith(f"{name}.")}


def _depends(tensors: list[Tensor], *, on: list[Tensor]) -> bool:
    gradients = torch.autograd.grad([x.sum() for x in tensors], on, allow_unused=True, retain_graph=True)
    return any(gradient is not None for gradient in gradients)


def _prefixes(name: str) -> Iterator[str]:
    """The name, and those of the layers that hold it, from the inside to the outside."""
    parts = name.split(".")
    return (".".join(parts[:n]) for n in range(len(parts), 0, -1))


def _returned(module: nn.Module, names: list[str], run: Callable[[], Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    with hooks(module, names, lambda name, value: found.setdefault(name, []).append(value)):
        run()
    return found


@contextmanager
def hooks(module: nn.Module, names: Mapping[str, int] | list[str], note: Hook) -> Generator[None]:
    def noting(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda layer, inputs, returned: note(name, returned)

    with ExitStack() as stack:
        for name in names:
            handle = module.get_submodule(name).register_forward_hook(noting(name))
            stack.callback(handle.remove)
        yield
