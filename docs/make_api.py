"""Write `docs/api.md`: every public name with its signature and docstring. `--check` only compares."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import Any, get_overloads

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

import ntt_cli as ntt
from ntt_cli import results
from ntt_cli.api.words import in_python
from ntt_cli.comparison.results import ComparePlan, CompareReport, CompareRow, PlannedTrial, TrialFailure, TrialResult
from ntt_cli.config import COMMANDS, ModelOptions
from ntt_cli.files.inspect import Inspection, Verification
from ntt_cli.timing.results import BenchComparison, BenchFile, BenchReport

WIDTH = 100
"""Of a signature in one line."""

PAGE = Path(__file__).parent / "api.md"
HEAD = """# Python reference

Written by `make docs`; tests compare it with the docstrings, and run their examples.

```python
import ntt_cli as ntt
```

Everything that `ntt` does on the command line is a function of the same name. What you hand over is left as it is: the
network, the data, random states, torch's settings. Nothing is printed unless `progress=True`. Every error that you can
act on is an `NttError`; its `hint` says what to do, and stands below the traceback. Warnings go to the logger `ntt_cli`
and to the result's `warnings`. What code of yours raises, such as a method's or a Dataset's, is raised as it is.

In the signatures `Model` is `str | PathLike[str] | nn.Module | SparseNetwork`: a name as on the command line, a
network, or what a function here returned. `Progress` is `bool | Callable[[Event], None]`. `Masks` and `Params` are
tensors by name.
"""
FUNCTIONS = (
    "prune",
    "finetune",
    "evaluate",
    "compare",
    "load",
    "inspect",
    "verify",
    "report",
    "export",
    "bench",
    "init",
)
KERNELS = ("empirical_ntk", "kernel_vector_product")
CLASSES = ("SparseNetwork", "PruneResult", "FinetuneResult", "NttError")
METHODS = ("register_method", "Method", "MethodContext", "NTT")
REPORTS: tuple[type[BaseModel], ...] = (
    results.PruneReport,
    results.LayerSummary,
    results.Agreement,
    results.KernelSummary,
    results.PrunePlan,
    results.FinetuneReport,
    results.EpochSummary,
    results.EvaluateReport,
    results.GateResult,
    BenchReport,
    BenchFile,
    BenchComparison,
    CompareReport,
    CompareRow,
    TrialResult,
    TrialFailure,
    ComparePlan,
    PlannedTrial,
    Inspection,
    Verification,
    results.PageReport,
    results.ExportReport,
    results.ProgramReport,
    results.PackageReport,
    results.HubReport,
    results.Sizes,
    results.ModelFile,
)
OPTIONS = {**COMMANDS, "load": ModelOptions}
INTERNAL = {"checkpoint"}
"""Members that other rooms use."""

LIST = {"Args", "Attributes", "Raises"}


def page() -> str:
    """The whole page."""
    parts = [HEAD, "## Functions\n", *(_function(name) for name in FUNCTIONS)]
    parts += ["## Networks and errors\n", *(_class(name) for name in CLASSES)]
    parts += ["## Methods of your own\n", *(_function(n) if n == METHODS[0] else _class(n) for n in METHODS)]
    parts += [_class(name) for name in ntt.__all__ if name not in public() and name != "__version__"]
    parts += ["## Kernels\n", *(_function(name) for name in KERNELS)]
    parts += [
        "## Reports\n",
        'Frozen pydantic models: `.model_dump(mode="json")` is what `--json` prints behind its first four keys'
        " ([In continuous integration](ci.md#json)).\n",
        *map(_fields, REPORTS),
    ]
    return "\n".join(parts)


def public() -> set[str]:
    """The names that have their place on the page; others that are public stand behind the methods."""
    return {*FUNCTIONS, *KERNELS, *CLASSES, *METHODS, *(kind.__name__ for kind in REPORTS)}


def _function(name: str) -> str:
    function = getattr(ntt, name)
    return f"### `{name}`\n\n{_code(_signature(name, function))}\n{_text(function)}{_options(name, function)}"


def _class(name: str) -> str:
    kind = getattr(ntt, name)
    parts = [f"### `{name}`\n", _text(kind)]
    for member, value in _members(kind):
        signature = (
            f".{member}" if isinstance(value, property) or not callable(value) else _signature(f".{member}", value)
        )
        parts += [f"#### `{name}.{member}`\n", _code(signature), _text(value)]
    return "\n".join(parts)


def _members(kind: type) -> list[tuple[str, Any]]:
    """Methods and properties that have a docstring, those of a base that is on the page left out."""
    others = [base for base in kind.__mro__[1:] if base.__name__ in {*CLASSES, *METHODS}]
    bases = [base for base in kind.__mro__ if base.__module__.startswith("ntt_cli") and base not in others]
    return [
        (name, value)
        for base in reversed(bases)
        for name, value in vars(base).items()
        if not name.startswith("_") and name not in INTERNAL and _is_described(value)
    ]


def _is_described(value: object) -> bool:
    return (inspect.isfunction(value) or type(value).__name__ in {"property", "cached_property"}) and bool(
        value.__doc__
    )


def _fields(kind: type[BaseModel]) -> str:
    (written,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(written, ast.ClassDef)
    fields = [line for line in written.body if isinstance(line, ast.AnnAssign)]
    listed = "\n".join(f"{ast.unparse(line.target)}: {ast.unparse(line.annotation)}" for line in fields)
    return f"### `{kind.__name__}`\n\n{_text(kind)}\n{_code(listed)}"


def _signature(name: str, function: Any) -> str:
    """The signature as it is written; where overloads ask for a parameter, it has no default."""
    (written,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(written, ast.FunctionDef)
    required = {
        parameter.name
        for overload in get_overloads(function)[:1]
        for parameter in inspect.signature(overload).parameters.values()
        if parameter.default is parameter.empty
    }
    arguments, lines = written.args, []
    positional = [a for a in arguments.args if a.arg != "self"]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    lines += [_parameter(a, d) for a, d in zip(positional, defaults, strict=True)]
    lines += ["*"] * bool(arguments.kwonlyargs)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if argument.arg in required and default is not None:
            argument.annotation = ast.parse(get_overloads(function)[0].__annotations__[argument.arg], mode="eval").body
            default = None
        lines.append(_parameter(argument, default))
    lines += [f"**{_parameter(arguments.kwarg, None)}"] if arguments.kwarg else []
    assert written.returns
    returned = ast.unparse(written.returns)
    short = f"{name}({', '.join(lines)}) -> {returned}"
    if len(short) <= WIDTH:
        return short
    return f"{name}(\n" + "".join(f"    {line},\n" for line in lines) + f") -> {returned}"


def _parameter(argument: ast.arg, default: ast.expr | None) -> str:
    annotation = f": {ast.unparse(argument.annotation)}" if argument.annotation else ""
    return f"{argument.arg}{annotation}" + (f" = {ast.unparse(default)}" if default is not None else "")


def _text(documented: Any) -> str:
    """A docstring as Markdown."""
    text, *sections = re.split(
        r"^(Args|Attributes|Returns|Yields|Raises|Example):$", _docstring(documented), flags=re.M
    )
    parts = [text.strip()]
    for head, body in zip(sections[::2], sections[1::2], strict=True):
        body = textwrap.dedent(body.strip("\n"))
        if head == "Example":
            parts.append(f"```pycon\n{body.strip()}\n```")
        elif head in LIST:
            parts.append(f"**{head}**\n\n" + "\n".join(_item(entry) for entry in re.split(r"\n(?=\S)", body)))
        else:
            parts.append(f"**{head}** {' '.join(body.split())}")
    return "\n\n".join(parts) + "\n"


def _docstring(documented: Any) -> str:
    found = inspect.getdoc(documented)
    assert found, documented
    return found


def _item(entry: str) -> str:
    name, _, what = " ".join(entry.split()).partition(": ")
    return f"- `{name}`: {what}"


def _options(name: str, function: Any) -> str:
    """The options that `**options` takes, with what they are by default."""
    if name not in OPTIONS:
        return ""
    own = inspect.signature(function).parameters
    rows = [
        f"| `{option}` | {_default(field.default)} | {in_python(field.description or '').replace('|', chr(92) + '|')} |"
        for option, field in OPTIONS[name].model_fields.items()
        if option not in own
    ]
    return "\n".join(["", "| option | default | what |", "|---|---|---|", *rows, ""])


def _default(value: object) -> str:
    return "" if value is None or value is PydanticUndefined else f"`{value!r}`"


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit("docs/api.md is out of date: make docs" if PAGE.read_text() != page() else 0)
    PAGE.write_text(page())
