"""Imports point downwards only: docs/architecture.md draws the rooms."""

from __future__ import annotations

import ast
import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ntt_cli
from tests.conftest import MATHEMATICS
from tests.processes import run

PACKAGE = Path(ntt_cli.__file__).parent
ROOT = Path(__file__).parent.parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent.name != "resources")
ROOMS = (
    "errors",
    "tensors",
    "config",
    "documents",
    "results",
    "files",
    "runtime",
    "data",
    "masks",
    "networks",
    "kernels",
    "runs",
    "tasks",
    "methods",
    "training",
    "evaluation",
    "programs",
    "timing",
    "pruning",
    "pages",
    "comparison",
    "api",
    "cli",
    "__main__",
)
"""From the lowest to the highest: a room imports itself and lower ones."""

IMPURE = {"io", "logging", "os", "pathlib", "random", "numpy", "secrets", "shutil", "sys", "tempfile", "time"}
GLOBAL_RANDOMNESS = {"manual_seed", "seed", "initial_seed", "set_rng_state", "fork_rng"}

every_module = pytest.mark.parametrize(
    "path", MODULES, ids=[str(path.relative_to(PACKAGE).with_suffix("")) for path in MODULES]
)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Dotted names, those imported for type checking or inside functions included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@every_module
def test_rooms_import_only_what_comes_before_them(path: Path) -> None:
    ours = {name.partition(".")[2].partition(".")[0] for name in imported(path) if name.split(".")[0] == "ntt_cli"}
    room = room_of(path)
    allowed = {"", *ROOMS} if room == "__init__" else {*ROOMS[: ROOMS.index(room) + 1]}
    public = {""} if room == "cli" else set()  # `import ntt_cli as ntt`: the public functions, which lie below it
    assert ours <= allowed | public | {"__version__"}


MOST_PARAMETERS = 7
"""More are a dataclass that nobody has named yet."""

LIKE_TORCH = {
    "networks/attention.py": {"forward"},
    "networks/layer_calls.py": {"_conv2d", "_embedding"},
    "networks/layer_inputs.py": {"_convolution"},
    "networks/second_order.py": {"_attention", "_batch_norm", "_instance_norm"},
}
"""Functions that stand for torch's own, and take what these take."""


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[str]:
    arguments = function.args
    named = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in named if name not in {"self", "cls"}]


@every_module
def test_functions_take_few_parameters(path: Path) -> None:
    """Not in `api/`, whose functions take every option by its name."""
    if room_of(path) == "api":
        return
    exempt = LIKE_TORCH.get(str(path.relative_to(PACKAGE)), set())
    many = {
        getattr(node, "name", "lambda"): len(parameters(node))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        and len(parameters(node)) > MOST_PARAMETERS
    }
    assert many.keys() == exempt


def test_every_room_is_looked_at() -> None:
    assert {room_of(path) for path in MODULES} - {"__init__", "resources"} == set(ROOMS)


@pytest.mark.parametrize("path", [PACKAGE / f"{name.replace('.', '/')}.py" for name in MATHEMATICS], ids=MATHEMATICS)
def test_mathematics_knows_no_files_clock_or_global_randomness(path: Path) -> None:
    assert not {name.split(".")[0] for name in imported(path)} & IMPURE
    used = {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute | ast.Name)
    }
    assert not used & (GLOBAL_RANDOMNESS | {"open", "print"})


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["-h"],
        ["--version"],
        ["-V"],
        ["prune", "-h"],
        ["help", "prune"],
        ["prune", "--help"],
        ["inspect", "--help"],
    ]
    + [["verify", "--help"], ["report", "--help"]],
    ids=" ".join,
)
def test_help_does_not_wait_for_torch(arguments: list[str]) -> None:
    code = f"""
import runpy, sys
sys.argv = ["ntt", *{arguments}]
try:
    runpy.run_module("ntt_cli", run_name="__main__")
except SystemExit as exit:
    assert not exit.code, exit.code
print(sorted({{"torch", "torchvision", "numpy"}} & sys.modules.keys()), file=sys.stderr)
"""
    result = run([sys.executable, "-c", code])
    assert result.returncode == 0, result.stderr
    assert result.stderr == "[]\n"
    assert "ntt" in result.stdout


@pytest.mark.parametrize("module", ["files.inspect", "api.report"])
def test_looking_at_files_does_not_wait_for_torch(module: str) -> None:
    code = f"import sys, ntt_cli.{module}; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("code", ["import ntt_cli", "import ntt_cli; dir(ntt_cli)", "from ntt_cli import verify, init"])
def test_importing_the_package_does_not_wait_for_torch(code: str) -> None:
    code = f"import sys; {code}; sys.exit(str({{'torch', 'torchvision', 'numpy', 'pydantic'}} & sys.modules.keys()))"
    done = run([sys.executable, "-c", code])
    found = done.stderr.strip()
    assert found in ({"set()"} if "from" not in code else {"set()", "{'pydantic'}"})


STARTERS = {"tests/processes.py", "tests/reliability/conftest.py", "tests/reliability/driver.py"}
"""Those that start a process otherwise: in reliability/ one process serves all tests, and limits its runs itself."""


def test_processes_of_tests_have_a_limit_of_time() -> None:
    starting = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("subprocess.")
    }
    assert starting == STARTERS, "tests/processes.py starts them with a limit"


MEASURE_INTERNALS = {
    "benchmarks/ablations.py": "tries SynFlow's flow as NTT's score, which no option offers",
    "benchmarks/channels.py": "times the smaller network as a module; ntt export writes it as a program",
    "benchmarks/gates.py": "learns cts-kl's gates by another loss, and gives their mask to NTT",
    "benchmarks/kernel_alternatives.py": "times the gradient of the kernel term; kernel_vector_product has no gradient",
    "benchmarks/labelled_lines.py": "places the names of lines as the pages' plots do",
    "benchmarks/steps.py": "times one step of the transfer, plain and compiled, without the run around it",
    "docs/make_api.py": "writes the page of the public names, their options and results from where these are defined",
    "docs/make_panel.py": "draws the progress panel of the command line",
    "docs/make_schemas.py": "writes the schemas of what --json prints from where these are defined",
}
"""Scripts that use more than public names, and why."""

CLI_MAY_IMPORT = {
    "documents",
    "errors",
    "files.named",
    "pages.bounds",
    "results",
    "runtime.events",
    "runtime.progress",
    "runtime.python_source",
    "runtime.signals",
}
WORDS_OF_RESULTS = {"comparison.results", "timing.results", "files.inspect", "files.metadata"}
"""What the public functions return is defined here; `cli/` puts it into words."""


def code_in(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, and those of programs that stand in strings, which a script runs in another process."""
    for node in ast.walk(tree):
        yield node
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "import ntt_cli" in node.value:
            with contextlib.suppress(SyntaxError):  # prose that names the package
                yield from ast.walk(ast.parse(node.value))


def private_names(source: str) -> set[str]:
    """What this code uses of ntt beside its public names; dotted names, without `ntt_cli.`."""
    found: set[str] = set()
    names: set[str] = set()
    attributes: list[tuple[str, str]] = []
    for node in code_in(ast.parse(source)):
        if isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.split(".")[0] == "ntt_cli"]
            found |= {alias.name.partition(".")[2] for alias in ours} - {""}
            names |= {alias.asname or "ntt_cli" for alias in ours}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ntt_cli":
            _, _, module = str(node.module).partition(".")
            found |= {module} if module else {alias.name for alias in node.names} - set(ntt_cli.__all__)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            attributes.append((node.value.id, node.attr))
    return found | {name for owner, name in attributes if owner in names and name not in ntt_cli.__all__}


SCRIPTS = sorted(path for folder in ("benchmarks", "docs") for path in (ROOT / folder).glob("*.py"))


@pytest.mark.parametrize("path", SCRIPTS, ids=[str(path.relative_to(ROOT)) for path in SCRIPTS])
def test_scripts_use_public_names(path: Path) -> None:
    private = private_names(path.read_text(encoding="utf-8"))
    if str(path.relative_to(ROOT)) in MEASURE_INTERNALS:
        assert private, "is no exception any more"
    else:
        assert not private


def test_every_exception_is_a_script() -> None:
    assert set(MEASURE_INTERNALS) <= {str(path.relative_to(ROOT)) for path in SCRIPTS}


COMMANDS = sorted((PACKAGE / "cli").glob("*.py"))


@pytest.mark.parametrize("path", COMMANDS, ids=[path.stem for path in COMMANDS])
def test_the_command_line_works_by_public_names(path: Path) -> None:
    private = private_names(path.read_text(encoding="utf-8"))
    beside = {name for name in private if name.split(".")[0] not in {"cli", "config"}}
    assert beside <= CLI_MAY_IMPORT | WORDS_OF_RESULTS


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_in_the_documents_uses_public_names(page: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    assert not set().union(*map(private_names, blocks))


@pytest.mark.parametrize(
    ("code", "private"),
    [
        ("import ntt_cli as ntt\nntt.prune; ntt.NTT", set()),
        ("import ntt_cli as ntt\nntt.masks", {"masks"}),
        ("import ntt_cli.masks.masks", {"masks.masks"}),
        ("def f():\n    from ntt_cli.config import PruneConfig", {"config"}),
        ("from ntt_cli import prune, pruning", {"pruning"}),
        ("PROGRAM = 'import ntt_cli.pruning'", {"pruning"}),
    ],
)
def test_private_names_are_found(code: str, private: set[str]) -> None:
    assert private_names(code) == private
