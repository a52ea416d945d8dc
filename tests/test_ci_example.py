"""The workflow of docs/ci.md, its `run` steps as a shell script."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import textwrap
from pathlib import Path
from subprocess import CompletedProcess
from xml.etree import ElementTree

import pytest

import ntt_cli
from tests.cli.conftest import Ntt, ntt  # noqa: F401
from tests.processes import run

ROOT = Path(__file__).parent.parent


def steps() -> list[str]:
    """The commands of the workflow but for the installation."""
    (workflow,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/ci.md").read_text(), re.DOTALL)
    found = re.findall(r"^ +(?:- )?run: (?:\|\n((?: {10}.*\n)+)|(.*)\n)", workflow, re.MULTILINE)
    commands = [textwrap.dedent(block) or line for block, line in found]
    assert commands[0] == "pip install ntt-cli"
    assert len(commands) == 4
    return commands[1:]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(ROOT / "sample_models/digits_mlp.py", folder / "model.py")
    model = str(folder / "model.py")
    dense = ntt_cli.finetune(model, "digits", epochs=3, output=folder / "dense.safetensors")
    assert dense.report.accuracy is not None
    weights = str(folder / "dense.safetensors")
    ntt_cli.prune(
        model, "digits", weights=weights, sparsity=0.9, steps=300, output=folder / "sparse.safetensors", seed=1
    )
    return folder


def shell(script: str, folder: Path) -> CompletedProcess[str]:
    (folder / "bin").mkdir(exist_ok=True)
    command = folder / "bin/ntt"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ntt_cli "$@"\n')
    command.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    return run(["bash", "-e", "-c", script], cwd=folder, env=environment)  # as GitHub runs a step


@pytest.mark.skipif(shutil.which("jq") is None, reason="there is no jq")
def test_the_examples_of_jq_run(project: Path) -> None:
    """Beside the same figures by Python's own JSON reader."""
    gate, failing = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/ci.md").read_text(), re.DOTALL)
    done = shell(gate, project)
    assert done.returncode == 0, done.stderr
    layers = json.loads(shell("ntt inspect sparse.safetensors --json", project).stdout)["layers"]
    few = [f"{one['name']} keeps {one['kept']} of {one['size']}" for one in layers if one["kept"] < 0.1 * one["size"]]
    assert done.stdout.splitlines() == ["true", *few]
    assert few
    stricter = gate.replace("> 0.5", "> 1")
    assert stricter != gate
    assert shell(stricter, project).returncode == 1
    assert shell(failing, project).stdout == "2: missing.safetensors does not exist\n"


def test_the_steps_run(project: Path, ntt: Ntt, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    verify, pack, gates = steps()
    for step in (verify, pack):
        done = shell(step, project)
        assert done.returncode == 0, done.stderr
    done = shell(gates, project)
    cases = list(ElementTree.parse(project / "gates.xml").iter("testcase"))
    assert len(cases) == 4
    missed = [case.attrib["name"] for case in cases if case.find("failure") is not None]
    assert (done.returncode, missed) == (0, []), done.stderr
    tight = gates.replace("--max-bytes 20000", "--max-bytes 200")
    assert tight != gates
    monkeypatch.chdir(project)  # once in a shell is enough: these runs are in this process, where torch is loaded
    assert ntt(*shlex.split(tight.replace("\\\n", ""))[1:]).code == 1
    Path("packed.safetensors").write_bytes(Path("packed.safetensors").read_bytes()[:-1])
    assert ntt(*shlex.split(gates.replace("\\\n", ""))[1:]).code == 2
