from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path

import pytest
import torch

from ntt_cli.config import ModelOptions
from ntt_cli.errors import CheckpointError, DataError, ModelError
from ntt_cli.networks.loading.models import load_model
from ntt_cli.runtime.python_source import load_python, local_modules, user_code


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_is_executed_anew_by_every_load(tmp_path: Path) -> None:
    path = write(tmp_path / "model.py", "answer = 41\n")
    assert load_python(path, ModelError).answer == 41
    write(path, "answer = 42\n")  # of the same length and within the second: a .pyc would be taken for current
    assert load_python(path, ModelError).answer == 42
    assert not (tmp_path / "__pycache__").exists()


def test_it_imports_its_neighbours_and_leaves_the_search_path_alone(tmp_path: Path) -> None:
    write(tmp_path / "ntt_test_neighbour.py", "word = 'near'\n")
    path = write(tmp_path / "model.py", "import ntt_test_neighbour\nword = ntt_test_neighbour.word\n")
    before = list(sys.path)
    assert load_python(path, ModelError).word == "near"
    assert sys.path == before


@pytest.mark.parametrize("layout", ["{}.py", "{}/__init__.py"])
def test_neighbours_of_the_same_name_in_two_folders_are_not_confused(tmp_path: Path, layout: str) -> None:
    for folder in ("a", "b"):
        write(tmp_path / folder / layout.format("ntt_test_utils"), f"word = '{folder}'\n")
        write(tmp_path / folder / "model.py", "import ntt_test_utils\nword = ntt_test_utils.word\n")
    words = [load_python(tmp_path / folder / "model.py", ModelError).word for folder in ("a", "b", "a")]
    assert words == ["a", "b", "a"]


def test_a_neighbour_named_like_an_installed_module_does_not_replace_it(tmp_path: Path) -> None:
    write(tmp_path / "torch.py", "raise AssertionError('shadowed')\n")
    path = write(tmp_path / "model.py", "import torch\nversion = torch.__version__\n")
    assert load_python(path, ModelError).version == sys.modules["torch"].__version__


def sha256(*paths: Path) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def test_local_modules_are_those_that_its_code_imports_and_somebody_may_edit(tmp_path: Path) -> None:
    package = write(tmp_path / "ntt_test_local" / "__init__.py", "from . import blocks\n")
    blocks = write(tmp_path / "ntt_test_local" / "blocks.py", "size = 1\n")
    late = write(tmp_path / "lib" / "ntt_test_late.py", "size = 2\n")
    text = "import wave\nimport ntt_test_local\nimport ntt_cli.files.lock\ndef f():\n    import ntt_test_late\n"
    path = write(tmp_path / "model.py", text)
    module = load_python(path, ModelError)
    assert list(local_modules(path)) == ["ntt_test_local", "ntt_test_local.blocks"]
    with user_code(path, ModelError):
        sys.path.insert(0, str(tmp_path / "lib"))
        module.f()
    sys.path.remove(str(tmp_path / "lib"))
    assert list(local_modules(path)) == ["ntt_test_late", "ntt_test_local", "ntt_test_local.blocks"]
    assert list(local_modules(path).values()) == sha256(late, package, blocks)
    load_python(path, ModelError)  # which imports nothing for the first time
    assert len(local_modules(path)) == 3
    assert local_modules(tmp_path / "other.py") == {}


def test_a_module_that_was_edited_is_imported_anew(tmp_path: Path) -> None:
    helper = write(tmp_path / "ntt_test_helper.py", "size = 1\n")
    path = write(tmp_path / "model.py", "import ntt_test_helper\nsize = ntt_test_helper.size\n")
    assert load_python(path, ModelError).size == 1
    kept = sys.modules["ntt_test_helper"]
    load_python(path, ModelError)
    assert sys.modules["ntt_test_helper"] is kept
    write(helper, "size = 1 + 1\n")
    assert load_python(path, ModelError).size == 2
    assert list(local_modules(path).values()) == sha256(helper)


def test_dataclasses_find_their_module(tmp_path: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass Size:\n    h: int\n"
    )
    assert load_python(write(tmp_path / "model.py", text), ModelError).Size(3).h == 3


def test_what_it_prints_goes_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_python(write(tmp_path / "model.py", "print('loading')\n"), ModelError)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "loading\n")


def null_bytes_error() -> str:
    """What Python raises for them: a SyntaxError, and before some 3.11 a ValueError."""
    with pytest.raises((SyntaxError, ValueError)) as caught:
        compile("\0", "model.py", "exec")
    return type(caught.value).__name__


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("a = 1\nb = a / 0\n", "raised ZeroDivisionError: division by zero (line 2)", "--debug"),
        ("def f():\n    raise KeyError\n\nf()\n", "raised KeyError (line 2)", "--debug"),
        ("a = 1\nb = = 2\n", "raised SyntaxError: invalid syntax (line 2)", "correct the file"),
        ("import sys\nsys.exit('bye')\n", "called sys.exit('bye') (line 2)", "instead of exiting"),
        ("import ntt_absent.part\n", "raised ModuleNotFoundError: No module named 'ntt_absent'", "install ntt_absent"),
        ("import torchvison\n", "raised ModuleNotFoundError", "did you mean torchvision? If not, install torchvison"),
        ("import torch.absent\n", "raised ModuleNotFoundError", "correct the import; torch is installed"),
        (
            "x = '\0'\n",
            f"raised {null_bytes_error()}: source code string cannot contain null bytes",
            "correct the file",
        ),
    ],
)
def test_failures_name_the_type_the_message_and_the_line(tmp_path: Path, text: str, what: str, hint: str) -> None:
    path = write(tmp_path / "model.py", text)
    names = set(sys.modules)
    with pytest.raises(ModelError) as caught:
        load_python(path, ModelError)
    assert str(caught.value).startswith(f"{path}: {what}")
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2
    assert not {name for name in set(sys.modules) - names if name.startswith("model_")}


def test_another_package_is_no_typo(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_python(write(tmp_path / "model.py", "import torchcrep\n"), ModelError)
    assert caught.value.hint.startswith("install torchcrep for ")


def test_a_failure_in_a_neighbour_is_placed_at_the_import(tmp_path: Path) -> None:
    write(tmp_path / "ntt_test_broken.py", "\n\n\nraise ValueError('deep')\n")
    path = write(tmp_path / "data.py", "x = 1\nimport ntt_test_broken\n")
    with pytest.raises(DataError, match=r"raised ValueError: deep \(line 2\)"):
        load_python(path, DataError)


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is no such file"):
        load_python(tmp_path / f"{'a' * 300}.py", ModelError)


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    write(tmp_path / "model.py", "")
    with pytest.raises(ModelError, match="there is no such file") as caught:
        load_python(tmp_path / "modle.py", ModelError)
    assert caught.value.hint == f"did you mean {tmp_path / 'model.py'}?"
    with pytest.raises(ModelError) as caught:
        load_python(tmp_path / "train_everything.py", ModelError)
    assert caught.value.hint == "Python files there: model.py"
    with pytest.raises(ModelError, match="there is no folder"):
        load_python(tmp_path / "absent" / "model.py", ModelError)
    with pytest.raises(ModelError, match="is a folder, not a Python file"):
        load_python(tmp_path, ModelError)


def test_an_empty_folder_offers_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    with pytest.raises(ModelError, match="there is no such file") as caught:
        load_model(ModelOptions(model=str(path)), seed=0)
    assert caught.value.hint == f"ntt init {path} writes one"
    with pytest.raises(DataError, match="there is no such file") as caught_data:
        load_python(path, DataError)
    assert caught_data.value.hint == "check the path"


def test_errors_with_a_remedy_and_interrupts_pass_unchanged(tmp_path: Path) -> None:
    original = CheckpointError("a.safetensors", "is broken", hint="make another")
    with pytest.raises(CheckpointError) as caught, user_code(tmp_path / "model.py", ModelError):
        raise original
    assert caught.value is original
    with pytest.raises(KeyboardInterrupt), user_code(tmp_path / "model.py", ModelError):
        raise KeyboardInterrupt


def test_a_file_in_a_package_imports_its_neighbours_relatively(tmp_path: Path) -> None:
    for top in ("a", "b"):
        write(tmp_path / top / "ntt_test_relative" / "__init__.py", "")
        write(tmp_path / top / "ntt_test_relative" / "layers.py", f"word = {top!r}\n")
        write(tmp_path / top / "ntt_test_relative" / "small" / "__init__.py", "from ..layers import word\n")
        write(
            tmp_path / top / "ntt_test_relative" / "small" / "model.py",
            "from . import word\nfrom ..layers import word\n",
        )
    paths = [tmp_path / top / "ntt_test_relative" / "small" / "model.py" for top in ("a", "b", "a")]
    before = list(sys.path)
    assert [load_python(path, ModelError).word for path in paths] == ["a", "b", "a"]
    assert sys.path == before
    layers = tmp_path / "a" / "ntt_test_relative" / "layers.py"
    assert local_modules(paths[0])["ntt_test_relative.layers"] == sha256(layers)[0]


def test_what_code_sets_for_the_whole_process_is_undone(tmp_path: Path) -> None:
    text = """
import os, sys, torch, warnings
os.chdir("/")
warnings.simplefilter("error")
sys.setrecursionlimit(77)
torch.set_grad_enabled(False)
"""
    path = write(tmp_path / "model.py", text)
    before = Path.cwd(), sys.getrecursionlimit(), list(warnings.filters)
    load_python(path, ModelError)
    assert (Path.cwd(), sys.getrecursionlimit(), list(warnings.filters)) == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(("call", "what"), [("dtype(torch.float64)", "torch.float64"), ("device('meta')", "meta")])
def test_a_default_that_ntt_would_compute_in_is_refused_and_undone(tmp_path: Path, call: str, what: str) -> None:
    path = write(tmp_path / "model.py", f"import torch\ntorch.set_default_{call}\n")
    with pytest.raises(ModelError, match=f"sets torch's default to {what}"):
        load_python(path, ModelError)
    assert torch.empty(0).dtype == torch.float32
    assert torch.empty(0).device.type == "cpu"


def test_a_base_exception_of_its_own_is_an_error_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "model.py", "class Stop(BaseException): pass\nraise Stop('enough')\n")
    with pytest.raises(ModelError, match=r"raised Stop: enough \(line 2\)"):
        load_python(path, ModelError)


def test_a_message_that_cannot_be_made_is_left_out(tmp_path: Path) -> None:
    text = "class Bad(Exception):\n    def __str__(self):\n        raise SystemExit\n\nraise Bad\n"
    with pytest.raises(ModelError, match=r"raised Bad \(line 5\)$"):
        load_python(write(tmp_path / "model.py", text), ModelError)


@pytest.mark.parametrize("text", ["raise ValueError(LONG)", "import sys; sys.exit(LONG)", "raise SyntaxError(LONG)"])
def test_a_long_message_is_shortened(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "model.py", f"LONG = 'a' + 'x' * 1_000_000 + 'z'\n{text}\n")
    with pytest.raises(ModelError) as caught:
        load_python(path, ModelError)
    assert len(caught.value.what) < 1100
    assert "ax" in caught.value.what
    assert "xz" in caught.value.what
