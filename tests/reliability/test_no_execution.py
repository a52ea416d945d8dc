"""Nothing found in or beside a file is run: canaries everywhere, and an audit hook that sees whatever Python starts.

A canary leaves a trace when it is run, imported or unpickled. They lie in the working folder under the names of modules
that ntt imports, and in everything that is read; the record of the checkpoint names them as its model and data.
"""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save

from ntt_cli.config import PruneConfig
from ntt_cli.files.metadata import NO_HASH, put_file_hash
from ntt_cli.pruning import prune
from tests.data.sources.layouts import random_images, write_cifar10, write_pickle
from tests.processes import run
from tests.small_networks import write_network

ROOT = Path(__file__).parent.parent.parent
MODULES = [
    "model",
    "data",
    "json",
    "typer",
    "rich",
    "numpy",
    "torch",
    "safetensors",
    "pydantic",
    "PIL",
    "sitecustomize",
]
WATCH = """
import os, sys
HOSTILE, LOG = sys.argv.pop(1), open(sys.argv.pop(1), "a")
STARTS = ("subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.startfile", "pty.spawn")

def watch(event, arguments):
    if event == "import":
        suspicious = arguments[0] in ("model", "data") or HOSTILE in str(arguments[1])
    elif event == "compile":
        suspicious = HOSTILE in str(arguments[1]) or "CANARY" in str(arguments[0])
    elif event == "exec":
        suspicious = HOSTILE in getattr(arguments[0], "co_filename", "")
    else:
        suspicious = event == "pickle.find_class" or event.startswith(STARTS)
    if suspicious:
        LOG.write(f"{event} {arguments!r:.300}\\n")
        LOG.flush()

def run(line):
    sys.argv = ["ntt", *line]
    try:
        main()
    except SystemExit as exit:
        print("exit code", exit.code, file=sys.stderr)

"""


class Planted:
    """Unpickled, it leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.mkdir, (self.trace,)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of a run, and the model that they came from."""
    folder = tmp_path_factory.mktemp("run")
    config = PruneConfig(
        model=write_network("plain", folder),
        sparsity=0.9,
        steps=4,
        limit=40,
        device="cpu",
        output=str(folder / "sparse.safetensors"),
    )
    prune.run(config, lambda _: None)
    return folder


@pytest.fixture
def hostile(checkpoint: Path, tmp_path: Path) -> Path:
    """The folder of somebody else."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    planted, canary = Planted(tmp_path / "unpickled"), f'"CANARY"\nopen({str(tmp_path / "imported")!r}, "w")\n'
    for name in MODULES:
        (folder / f"{name}.py").write_text(canary)
    shutil.copy(checkpoint / "sparse.report.safetensors", folder)
    with safe_open(checkpoint / "sparse.safetensors", framework="pt") as file:
        record: dict[str, Any] = json.loads(file.metadata()["ntt"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    record |= {"file_sha256": NO_HASH, "model": {"source": "model.py", "sha256": None}}
    record["config"] |= {
        "model": "model.py",
        "data": "data.py:build_data",
        "weights": "dense.pt",
        "teacher": "dense.pt",
    }
    (folder / "typed.toml").write_text('checkpoint = "dense.pt"\n')
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    (folder / "sparse.safetensors").write_bytes(put_file_hash(save(tensors, {"ntt": text})))
    torch.save(planted, folder / "dense.pt")
    shutil.copy(folder / "dense.pt", folder / "renamed.safetensors")
    (folder / "hub").mkdir()
    shutil.copy(folder / "dense.pt", folder / "hub" / "pytorch_model.bin")
    array = np.array([[planted]], dtype=object)
    np.savez(folder / "x.npz", x=array, y=array)
    np.save(folder / "x.npy", array, allow_pickle=True)
    (folder / "ntt.toml").write_text('device = "cpu"\nlimit = 20\n# __import__("os").system("CANARY")\n')
    for i in range(2):
        for label in "01":
            (folder / "images" / label).mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), i).save(folder / "images" / label / f"{i}.png")
    shutil.copy(folder / "model.py", folder / "images" / "0" / "model.py")
    shutil.copy(folder / "dense.pt", folder / "images" / "0" / "x.pt")
    write_cifar10(folder, random_images(12, 3, 32, 32), [0] * 12)
    write_pickle(folder / "cifar-10-batches-py" / "test_batch", planted)
    return folder


def watched(hostile: Path, body: str) -> tuple[str, str]:
    """What the hook saw and what was printed on stderr while this ran in the hostile folder."""
    log = hostile.parent / "log"
    log.write_text("")
    code = f"{WATCH}\nsys.path.insert(0, {str(ROOT)!r})\n{body}"
    command = [sys.executable, "-P", "-c", code, str(hostile), str(log)]
    done = run(command, cwd=hostile)
    return log.read_text(), done.stderr


def ntt(hostile: Path, lines: Sequence[Sequence[str]]) -> tuple[str, list[str]]:
    """What the hook saw while these commands ran, and their exit codes."""
    body = "sys.addaudithook(watch)\nfrom ntt_cli.cli.app import main\n" + "".join(f"run({line!r})\n" for line in lines)
    seen, told = watched(hostile, body)
    codes = [line.removeprefix("exit code ") for line in told.splitlines() if line.startswith("exit code ")]
    assert len(codes) == len(lines), told
    return seen, codes


def traces(hostile: Path) -> list[str]:
    return [name for name in ("imported", "unpickled") if (hostile.parent / name).exists()]


@pytest.mark.parametrize(
    ("act", "event"),
    [
        ("sys.path.insert(0, HOSTILE); import model", "import"),
        ("sys.path.insert(0, HOSTILE); import model", "exec"),
        ("eval(compile('1 # CANARY', '?', 'eval'))", "compile"),
        ("import pickle; pickle.loads(b'cos\\nsystem\\n.')", "pickle.find_class"),
        ("import numpy; numpy.load('x.npz', allow_pickle=True)['x']", "pickle.find_class"),
        ("import torch; torch.load('dense.pt', weights_only=False)", "pickle.find_class"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen"),
        ("os.system('true')", "os.system"),
    ],
)
def test_the_hook_sees_it(hostile: Path, act: str, event: str) -> None:
    seen, told = watched(hostile, f"sys.addaudithook(watch)\n{act}\n")
    assert event in [line.split()[0] for line in seen.splitlines()], told


def test_inspect_and_verify_run_nothing(hostile: Path) -> None:
    good = ["sparse.safetensors", "sparse.report.safetensors"]
    bad = ["renamed.safetensors", "dense.pt", "x.npz", "x.npy", "ntt.toml", "model.py", "images", "."]
    lines = [[command, name] for command in ("inspect", "verify") for name in good + bad]
    lines += [["inspect", name, "--json"] for name in good]
    seen, codes = ntt(hostile, lines)
    assert seen == ""
    assert codes == ["0", "0", *["2"] * len(bad)] * 2 + ["0", "0"]
    assert traces(hostile) == []


def test_evaluate_runs_the_model_that_was_named_and_nothing_else(hostile: Path, checkpoint: Path) -> None:
    common = ["evaluate", str(next(checkpoint.glob("*.py"))), "--config", "ntt.toml", "--checkpoint"]
    loaded = [*common, "sparse.safetensors", "--data"]
    cases = {
        (*loaded, "digits"): "0",
        (*loaded, "images"): "0",
        (*loaded, "x.npz"): "2",
        (*loaded, "x.npy"): "2",
        (*loaded, "dense.pt"): "2",
        (*loaded, "ntt.toml"): "2",
        (*loaded, "sparse.safetensors"): "2",
        (*loaded, "cifar10", "--data-root", "."): "2",
        (*loaded, "digits", "--teacher", "dense.pt"): "2",
        (*common, "dense.pt", "--data", "digits"): "2",
        (*common, "renamed.safetensors", "--data", "digits"): "2",
        (*common, "hub", "--data", "digits"): "2",
        (*common[:2], "--config", "typed.toml", "--data", "digits"): "2",
    }
    # What torch itself starts when it is imported is not a matter of these files.
    body = "import torch, torchvision, scipy.io\nsys.addaudithook(watch)\nfrom ntt_cli.cli.app import main\n"
    seen, told = watched(hostile, body + "".join(f"run({list(line)!r})\n" for line in cases))
    assert seen == ""
    assert [line for line in told.splitlines() if line.startswith("exit code")] == [
        f"exit code {code}" for code in cases.values()
    ], told
    assert traces(hostile) == []


def test_modules_in_the_working_folder_are_not_imported(hostile: Path) -> None:
    for name in ("inspect", "verify"):
        command = [sys.executable, "-m", "ntt_cli", name, "sparse.safetensors"]
        done = run(command, cwd=hostile, env={"PYTHONPATH": str(ROOT)})
        assert done.returncode == 0, done.stderr
        assert traces(hostile) == []


def test_the_canaries_sing(hostile: Path) -> None:
    pickle.loads((hostile / "cifar-10-batches-py" / "test_batch").read_bytes())
    assert run([sys.executable, "model.py"], cwd=hostile).returncode == 0
    assert traces(hostile) == ["imported", "unpickled"]
