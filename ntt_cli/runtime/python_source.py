"""Load and call local Python files that the user named, and turn their failures into errors one can act on.

Naming a file is consent to run it. Only this module starts a user's code.
"""

from __future__ import annotations

import difflib
import hashlib
import linecache
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Generator
from contextlib import contextmanager, redirect_stdout
from importlib.machinery import SourceFileLoader
from importlib.metadata import packages_distributions
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from traceback import walk_tb
from types import ModuleType

import torch
from torch import nn

from ntt_cli.errors import ModelError, NttError
from ntt_cli.files.atomic import file_sha256
from ntt_cli.files.named import require_python_file

_INSTALLED = [Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")]
_OWN = Path(__file__).resolve().parents[1]

MOST_LETTERS = 1000
"""The most characters of an exception's message that are shown."""

_BROUGHT: dict[Path, dict[str, str]] = {}
"""Local modules with the SHA-256 of their files when imported, by the file whose code imported them first."""


def load_python(path: Path, error: type[NttError], *, otherwise: str = "check the path") -> ModuleType:
    """The module that the file defines; each call executes the file again.

    The module can import files beside it. It is registered under a name of its own, so that it shadows no other module
    and two files `model.py` in different folders stay apart. Raises `error` if there is no such file or if executing it
    fails. If its folder has no Python files, the hint is `otherwise`.
    """
    require_python_file(path, error, otherwise=otherwise)
    _forget_edited()
    name = ".".join([*_package_of(path)[1], _own_name(path)])  # `from .layers import Block` needs this name
    loader = SourceFileLoader(name, str(path))
    spec = spec_from_loader(name, loader)
    assert spec is not None  # a loader of source files always gives one
    module = module_from_spec(spec)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and torch.compile look a class's module up there
    try:
        with user_code(path, error):
            # From the source, never from a .pyc, which cannot distinguish two edits within a second.
            exec(loader.source_to_code(path.read_bytes(), str(path)), module.__dict__)
    except BaseException:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise
    return module


def local_modules(path: Path) -> dict[str, str]:
    """The modules that the code of this file has imported so far, with the SHA-256 of their files.

    Only modules that a user may edit: not Python's, installed ones or ntt's own.
    """
    return dict(sorted(_BROUGHT.get(path.resolve(), {}).items()))


def local_files(path: Path) -> dict[str, Path]:
    """The files of these modules."""
    files = {name: _local_file(name) for name in local_modules(path) if name in sys.modules}
    return {name: file for name, file in files.items() if file is not None}


@contextmanager
def user_code(path: Path, error: type[NttError]) -> Generator[None]:
    """A context that runs code of this file: it can import files beside it, and its output goes to stderr.

    Raises:
        NttError: as `error`, for anything that the code raises, `sys.exit` included. An NttError stays unchanged.
        KeyboardInterrupt: unchanged.
    """
    folder, (top, package) = path.resolve().parent, _package_of(path)
    searched = [folder, top] if package else [folder]
    for place in searched:
        _forget_namesakes(place)
    before = set(sys.modules)
    sys.path[:0] = map(str, searched)
    try:
        # stdout is only for the result.
        with _settings_kept(path, error), redirect_stdout(sys.stderr):
            yield
    except (NttError, KeyboardInterrupt):
        raise
    except BaseException as failure:  # also SystemExit, and exceptions that the code defines
        what, hint = _why_failed(path, failure)
        raise error(path, what, hint=hint) from failure
    finally:
        for entry in map(str, searched):
            if entry in sys.path:  # the code may have removed the entry itself
                sys.path.remove(entry)
        brought = _BROUGHT.setdefault(path.resolve(), {})
        for name in sys.modules.keys() - before:
            if (file := _local_file(name)) is not None and name.rpartition(".")[2] != _own_name(path):
                brought[name] = file_sha256(file)


@contextmanager
def _settings_kept(path: Path, error: type[NttError]) -> Generator[None]:
    """Undo what code changed for the whole process; refuse a change of torch's default type or device."""
    folder, depth, gradients = Path.cwd(), sys.getrecursionlimit(), torch.is_grad_enabled()
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.chdir(folder)
        sys.setrecursionlimit(depth)
        torch.set_grad_enabled(gradients)
        now = (torch.get_default_dtype(), torch.get_default_device())
        changed = [str(new) for new in now if new not in {dtype, device}]
        if changed:
            torch.set_default_dtype(dtype)
            torch.set_default_device(device)
    if changed:
        hint = "leave it as it is, and convert the network alone, like network.double() or network.to(device)"
        raise error(path, f"sets torch's default to {' and '.join(changed)}", hint=hint)


def _package_of(path: Path) -> tuple[Path, list[str]]:
    """The folder that a file's package is imported from, and the parts of the package's name, if it has one."""
    top, package = path.resolve().parent, list[str]()
    while (top / "__init__.py").is_file() and top.name.isidentifier():
        package.insert(0, top.name)
        top = top.parent
    return top, package


def _own_name(path: Path) -> str:
    digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]
    return re.sub(r"\W", "_", path.stem) + "_" + digest


def _local_file(name: str) -> Path | None:
    """The file of a module that is neither Python's, nor installed, nor ntt's own; `None` for other modules."""
    origin = getattr(sys.modules[name], "__file__", None)
    if not isinstance(origin, str) or not os.path.isfile(origin):
        return None
    file = Path(origin).resolve()
    installed = {"site-packages", "dist-packages"} & {*file.parts}
    return None if installed or any(file.is_relative_to(folder) for folder in (*_INSTALLED, _OWN)) else file


def _forget_edited() -> None:
    """Forget the local modules of a file if one was edited: if a file runs again, so must the modules it imports."""
    for brought in _BROUGHT.values():
        files = {name: _local_file(name) for name in brought if name in sys.modules}
        if any(file is None or file_sha256(file) != brought[name] for name, file in files.items()):
            for name in files:
                del sys.modules[name]
            brought.clear()


def _forget_namesakes(folder: Path) -> None:
    """Forget modules from other folders that have the name of a file in this folder.

    Otherwise `import utils` in this folder would silently find the `utils.py` that another file imported earlier.
    """
    neighbours = {entry.stem for entry in folder.iterdir() if entry.suffix == ".py" or entry.is_dir()}
    searched = {Path(entry).resolve() for entry in sys.path}
    for name in neighbours & sys.modules.keys():
        origin = getattr(sys.modules[name], "__file__", None)
        if origin is None:
            continue
        home = Path(origin).resolve().parent
        if Path(origin).stem == "__init__":
            home = home.parent
        if home != folder and home not in searched:
            for stale in [key for key in sys.modules if key == name or key.startswith(f"{name}.")]:
                del sys.modules[stale]


def blame(failure: BaseException) -> ModelError | None:
    """The error to report if the user's code failed; `None` if ntt's own code failed.

    An exception in an installed package counts for its caller. An exception in a network's operation counts for the
    network, although ntt may compute the operation with its own formulas. A network of installed layers has no file.
    """
    if isinstance(failure, RuntimeError) and isinstance(failure.__cause__, StopIteration):
        failure = failure.__cause__  # a generator turned it into a RuntimeError
    inside = False
    brought = {_local_file(name) for names in _BROUGHT.values() for name in names if name in sys.modules}
    found: tuple[Path, int] | None = None
    for frame, line in walk_tb(failure.__traceback__):
        file = Path(frame.f_code.co_filename).resolve()
        if file in _BROUGHT or file in brought:
            found = Path(frame.f_code.co_filename), line
        elif file.is_relative_to(_OWN) and not inside:
            found = None
        inside |= frame.f_code is nn.Module._call_impl.__code__
    if found is None and not inside:
        return None
    raised, hint = _what_raised(failure, "\n".join(said_by(failure).splitlines()[:1]))
    if found is None:
        return ModelError("the network", f"{raised} in its forward pass", hint=hint)
    return ModelError(found[0], f"{raised} (line {found[1]})", hint=hint)


def last_line_of(failure: BaseException) -> str:
    """The last line that failed in a network's code, in parentheses; empty if all was torch's, Python's or ours."""
    found = ""
    for frame, line in walk_tb(failure.__traceback__):
        file = Path(frame.f_code.co_filename)
        package = str(frame.f_globals.get("__name__")).partition(".")[0]
        if file.is_file() and package not in {"ntt_cli", "sympy", "torch", *sys.stdlib_module_names}:
            found = f" ({file.name}, line {line}: {linecache.getline(str(file), line).strip():.80})"
    return found


def said_by(failure: BaseException) -> str:
    """The message of an exception from any code, shortened; empty if `str` fails."""
    try:
        return shortened(str(failure))
    except (Exception, SystemExit):  # the exception's class may be the user's
        return ""


def shortened(text: str) -> str:
    """The text, or its beginning and its end if it is long."""
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS // 2]}…{text[-MOST_LETTERS // 2 :]}"


def _why_failed(path: Path, failure: BaseException) -> tuple[str, str]:
    lines = [line for frame, line in walk_tb(failure.__traceback__) if frame.f_code.co_filename == str(path)]
    line, message = lines[-1] if lines else None, said_by(failure)
    if isinstance(failure, SyntaxError) and failure.filename == str(path):
        line, message = failure.lineno, shortened(failure.msg)
    raised, hint = _what_raised(failure, message)
    return f"{raised}{'' if line is None else f' (line {line})'}", hint


def _what_raised(failure: BaseException, message: str) -> tuple[str, str]:
    """What the user's code did, in words, and a hint for its author."""
    if isinstance(failure, SystemExit):
        code = failure.code if isinstance(failure.code, int | None) else said_by(failure)
        return f"called sys.exit({code!r})", "let the file return or raise instead of exiting"
    hint = "correct the file; --debug shows the traceback"
    if isinstance(failure, ModuleNotFoundError) and failure.name is not None:
        hint = _what_is_missing(failure.name.partition(".")[0])
    return f"raised {type(failure).__name__}{f': {message}' if message else ''}", hint


def _what_is_missing(name: str) -> str:
    installed = packages_distributions()
    if name in installed:  # so that a part of it is missing
        return f"correct the import; {name} is installed, and has no such module in this version"
    near = difflib.get_close_matches(name, installed, n=1, cutoff=0.8)  # torchcrepe is no typo of torch
    otherwise = f"install {name} for {sys.executable}, or correct the import"
    return f"did you mean {near[0]}? If not, {otherwise}" if near else otherwise
