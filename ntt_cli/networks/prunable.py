"""Which parameters may be pruned."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from ntt_cli.networks.functional import FunctionalModel

_NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
_EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
LAYERS = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.RNNCellBase, nn.Bilinear, nn.MultiheadAttention)


def prunable_names(
    model: FunctionalModel,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    *,
    multiplied: Collection[str] = (),
) -> tuple[str, ...]:
    """Names of the weights that may be pruned, in the model's order.

    They are trainable and have two or more dimensions. They belong to layers that multiply by them, or to other modules
    and are in `multiplied`, the parameters that inputs are multiplied by. See `others` for the remaining ones. Names
    that match a shell pattern (`*`, `?`, `[…]`) of `exclude` stay dense; those of `include` are pruned in any case.
    """
    left_alone = others(model, multiplied=multiplied)
    return tuple(
        name
        for name, p in model.params.items()
        if (_is_matrix(name, p) and name not in left_alone or (_may_be_pruned(p) and _matches(name, include)))
        and not _matches(name, exclude)
    )


def others(model: FunctionalModel, *, multiplied: Collection[str] = ()) -> dict[str, str]:
    """Matrices that are not pruned unless the user names them, with their roles.

    An embedding is left out because rows of tokens that the data lack would lose all entries; this also holds for an
    embedding tied to the output layer. Tables that are looked up or added multiply no inputs.
    """
    roles: dict[str, set[str]] = {name: set() for name, p in model.params.items() if _is_matrix(name, p)}
    names = {id(p): name for name, p in model.module.named_parameters()}
    for prefix, module in model.module.named_modules(remove_duplicate=False):
        for leaf, p in module.named_parameters(recurse=False):
            if names[id(p)] in roles:
                roles[names[id(p)]].add(_role(model.module, prefix, module, leaf))
    left_alone: dict[str, str] = {}
    for name, found in roles.items():
        for role in ("embedding", "normalisation"):
            if role in found:
                left_alone[name] = role
        if found == {"table"} and name not in multiplied:
            left_alone[name] = "table"
    return left_alone


def vectors(model: FunctionalModel) -> list[str]:
    """Parameters that could be pruned and are no matrices."""
    return [name for name, p in model.params.items() if _may_be_pruned(p) and not _is_matrix(name, p)]


def _role(whole: nn.Module, prefix: str, module: nn.Module, leaf: str) -> str:
    """The role of a module's parameter: layer, embedding, normalisation or table."""
    module, leaf = owner_of(whole, prefix, module, leaf)
    if isinstance(module, _NORMALISATION):
        return "normalisation"
    if "weight" in leaf and isinstance(module, _EMBEDDINGS):
        return "embedding"
    return "layer" if "weight" in leaf and isinstance(module, LAYERS) else "table"


def owner_of(whole: nn.Module, prefix: str, module: nn.Module, leaf: str) -> tuple[nn.Module, str]:
    """The layer that uses a module's parameter, also through a parametrisation, and the weight's name there."""
    if not isinstance(module, ParametrizationList):
        return module, leaf
    owner, _, name = prefix.rpartition("parametrizations.")
    return whole.get_submodule(owner.rstrip(".")), name


def _is_matrix(name: str, p: Tensor) -> bool:
    """Whether it is a matrix; a vector with extra axes of size 1 is not, such as a class token `[1, 1, d]`."""
    return _may_be_pruned(p) and (sum(size > 1 for size in p.shape) >= 2 or name.rsplit(".", 1)[-1] == "weight")


def _may_be_pruned(p: Tensor) -> bool:
    return p.ndim >= 2 and p.numel() > 0 and p.is_floating_point()


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
