"""Make neural networks sparse without labels, by Neural Tangent Transfer.

Everything that the command line does is a function of the same name here. Names are imported when they are first used:
`import ntt_cli` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_WHERE = {
    "BenchReport": "timing.results",
    "EvaluateReport": "results",
    "FinetuneResult": "api.network",
    "Method": "methods.base",
    "MethodContext": "methods.base",
    "NTT": "methods.ntt.method",
    "NttError": "errors",
    "PruneResult": "api.network",
    "Saliency": "methods.ntt.score",
    "SparseNetwork": "api.network",
    "Task": "tasks.base",
    "bench": "api.bench",
    "compare": "api.compare",
    "empirical_ntk": "api.kernels",
    "evaluate": "api.evaluate",
    "export": "api.export",
    "finetune": "api.finetune",
    "init": "api.files",
    "inspect": "api.files",
    "kernel_vector_product": "api.kernels",
    "load": "api.load",
    "prune": "api.prune",
    "register_method": "api.methods",
    "report": "api.report",
    "verify": "api.files",
}
"""The public names, by the module that has them."""

__all__ = sorted([*_WHERE, "__version__"])

if TYPE_CHECKING:
    from ntt_cli.api.bench import bench as bench
    from ntt_cli.api.compare import compare as compare
    from ntt_cli.api.evaluate import evaluate as evaluate
    from ntt_cli.api.export import export as export
    from ntt_cli.api.files import init as init
    from ntt_cli.api.files import inspect as inspect
    from ntt_cli.api.files import verify as verify
    from ntt_cli.api.finetune import finetune as finetune
    from ntt_cli.api.kernels import empirical_ntk as empirical_ntk
    from ntt_cli.api.kernels import kernel_vector_product as kernel_vector_product
    from ntt_cli.api.load import load as load
    from ntt_cli.api.methods import register_method as register_method
    from ntt_cli.api.network import FinetuneResult as FinetuneResult
    from ntt_cli.api.network import PruneResult as PruneResult
    from ntt_cli.api.network import SparseNetwork as SparseNetwork
    from ntt_cli.api.prune import prune as prune
    from ntt_cli.api.report import report as report
    from ntt_cli.errors import NttError as NttError
    from ntt_cli.methods.base import Method as Method
    from ntt_cli.methods.base import MethodContext as MethodContext
    from ntt_cli.methods.ntt.method import NTT as NTT
    from ntt_cli.methods.ntt.score import Saliency as Saliency
    from ntt_cli.results import EvaluateReport as EvaluateReport
    from ntt_cli.tasks.base import Task as Task
    from ntt_cli.timing.results import BenchReport as BenchReport


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Kept, so that a submodule of the same name, imported later, does not take its place.
    globals()[name] = found = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    return found


def __dir__() -> list[str]:
    return list(__all__)
