"""What only a process of its own can show: pipes, signals, closed streams and terminals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import MODEL, Ntt, content
from tests.processes import run, started
from tests.small_networks import write_network

NTT = [sys.executable, "-m", "ntt_cli"]


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in which `ntt` is the program under test."""
    text = f'set -o pipefail; ntt() {{ {shlex.join(NTT)} "$@"; }}; {command}'
    return run(["bash", "-c", text], env=os.environ | environment)


@pytest.mark.usefixtures("checkpoints")
def test_json_in_a_pipe() -> None:
    python = shlex.quote(sys.executable)
    result = shell(f"ntt inspect sparse.safetensors --json | {python} -m json.tool")
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout)["record"]["kind"] == "prune"


LOUD = """
import ctypes
import os
import subprocess

print("by print")
os.write(1, b"by os.write\\n")
subprocess.run(["echo", "by a program"])
ctypes.CDLL(None).puts(b"by C")
"""


def test_what_a_model_writes_to_descriptor_1_goes_to_stderr(folder: Path) -> None:
    Path("loud.py").write_text(Path(MODEL).read_text() + LOUD)
    result = shell("ntt prune loud.py --sparsity 0.5 --method random --json")
    assert (result.returncode, json.loads(result.stdout)["sparsity"]) == (0, 0.5)
    assert all(f"by {what}" in result.stderr for what in ("print", "os.write", "a program", "C"))


@pytest.mark.usefixtures("checkpoints")
def test_inspecting_loads_no_torch() -> None:
    code = """
import sys
from ntt_cli.cli.app import main
try:
    main(["inspect", "sparse.safetensors"])
finally:
    assert "torch" not in sys.modules
"""
    result = run([sys.executable, "-c", code])
    assert (result.returncode, result.stderr) == (0, "")
    assert "90.00% sparse" in result.stdout


@pytest.mark.usefixtures("folder")
def test_the_process_writes_what_a_call_writes(ntt: Ntt) -> None:
    arguments = ["prune", MODEL, "--sparsity", "0.9", "--steps", "12", "--limit", "8", "--device", "cpu"]
    result = shell(shlex.join(["ntt", *arguments, "-q"]), OMP_NUM_THREADS="1", PYTHONHASHSEED="1")
    assert (result.returncode, result.stdout, result.stderr) == (0, "sparse.safetensors\n", "")
    assert ntt(*arguments, "-q", "-o", "b.safetensors").code == 0
    assert Path("b.safetensors").read_bytes() == Path("sparse.safetensors").read_bytes()


@pytest.mark.usefixtures("folder")
def test_outputs_that_are_no_tensor(ntt: Ntt) -> None:
    result = ntt("prune", write_network("classes"), "--sparsity", "0.9", "--steps", "2")
    assert result.code == 0
    what = "the network returns int64 of shape [2], which has no derivative; compared is what its layer fc2 returns"
    assert f"outputs: {what}" in result.err.splitlines()
    assert Path("sparse.safetensors").exists()


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
@pytest.mark.usefixtures("folder")
def test_signals(number: signal.Signals, code: int, word: str) -> None:
    Path("sparse.safetensors").write_text("mine")
    model = write_network("talkative")
    before = content()
    with started(
        [*NTT, "prune", model, "--sparsity", "0.9", "--steps", "300000", "--force", "-q"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts background jobs with the interrupt ignored, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stderr is not None
        runs = 0
        while runs < 300:  # the checks and the first mask are behind it by then
            line = process.stderr.readline()
            assert line, "it ended by itself"
            runs += line == "running\n"
        process.send_signal(number)
        out, err = process.communicate()
    assert (process.returncode, out) == (code, "")
    told, hint = err.splitlines()[-2:]
    assert re.fullmatch(rf"warning: {word}; sparse.resume.safetensors holds step [\d,]+", told)
    command = f"ntt prune {model} --sparsity 0.9 --steps 300000 --force -q --resume"
    assert hint == f"hint: go on with: {command}"
    assert "Traceback" not in err
    assert {path: data for path, data in content().items() if "resume" not in path.name} == before
    verified = shell("ntt verify sparse.resume.safetensors")
    assert "whole" in verified.stdout, verified.stderr


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("more", "hints"), [([], ["hint: go on with: ntt prune slow.py -s 0.9 --resume"]), (["--dry-run"], [])]
)
def test_a_signal_before_the_first_step(more: list[str], hints: list[str]) -> None:
    Path("slow.py").write_text("import sys, time\nprint('building', file=sys.stderr, flush=True)\ntime.sleep(60)\n")
    with started([*NTT, "prune", "slow.py", "-s", "0.9", *more], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert process.stderr.readline() == "building\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate()
    assert process.returncode == 143
    assert err.splitlines() == ["warning: terminated; no file is half-written", *hints]
    assert {path.name for path in content()} == {MODEL, "slow.py"}


@pytest.mark.usefixtures("checkpoints")
def test_closed_streams() -> None:
    for arguments in ("inspect sparse.safetensors", "inspect sparse.safetensors --json"):
        result = shell(f"ntt {arguments} >&-")
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    result = shell("ntt inspect missing.safetensors 2>&-")
    assert (result.returncode, result.stdout) == (2, "")
    result = shell("ntt inspect missing.safetensors >&- 2>&-")
    assert (result.returncode, result.stdout, result.stderr) == (2, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("mode", ["", "--json"])
@pytest.mark.usefixtures("checkpoints")
def test_a_full_device(mode: str) -> None:
    result = shell(f"ntt inspect sparse.safetensors {mode} > /dev/full")
    assert result.returncode == 2
    assert result.stderr.startswith("error: stdout: cannot be written to: No space left on device\nhint: ")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("mode", ["", "--json"])
@pytest.mark.usefixtures("checkpoints")
def test_a_reader_who_went_away(mode: str) -> None:
    result = shell(f"(sleep 0.1; ntt inspect sparse.safetensors {mode}) | true")
    assert (result.returncode, result.stdout, result.stderr) == (141, "", "")


@pytest.mark.parametrize("arguments", ["--help", "prune --help", "--version"])
def test_nobody_need_read_the_help_to_its_end(arguments: str) -> None:
    result = shell(f"(sleep 0.1; ntt {arguments}) | true")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a terminal is sent on stdout."""
    ours, theirs = pty.openpty()
    env = {name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "FORCE_COLOR"}}
    env |= {"TERM": "xterm-256color", "COLUMNS": "100"} | environment
    parts = []
    with started([*NTT, *arguments], stdout=theirs, env=env) as process:
        os.close(theirs)
        with contextlib.suppress(OSError):  # as Linux says that the other side is closed
            while part := os.read(ours, 65536):
                parts.append(part)
        os.close(ours)
        assert process.wait() == 0
    return b"".join(parts).decode()


@pytest.mark.usefixtures("checkpoints")
def test_styles_are_for_terminals() -> None:
    plain = "sparse.safetensors: "
    assert plain not in on_a_terminal("inspect", "sparse.safetensors")
    assert "\x1b[1msparse.safetensors\x1b[0m: " in on_a_terminal("inspect", "sparse.safetensors")
    assert plain in shell("ntt inspect sparse.safetensors", TERM="xterm-256color").stdout


@pytest.mark.usefixtures("checkpoints")
def test_no_color_is_honoured() -> None:
    colours = {"\x1b[3" + digit for digit in "1234567"}
    with_colour = on_a_terminal("inspect", "sparse.report.safetensors")
    assert any(colour in with_colour for colour in colours) or "\x1b[1;3" in with_colour
    without = on_a_terminal("inspect", "sparse.report.safetensors", NO_COLOR="1")
    assert not any(colour in without for colour in colours)
    assert "\x1b[1;3" not in without


@pytest.mark.usefixtures("checkpoints")
def test_the_installed_command_is_the_same() -> None:
    script = Path(sys.executable).with_name("ntt")
    if not script.exists():
        pytest.skip("the package is not installed here")  # as where a checkout runs on another's environment
    result = run([script, "inspect", "sparse.safetensors"])
    assert result.stdout == shell("ntt inspect sparse.safetensors").stdout
    assert result.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="torch has libgomp on Linux alone")
@pytest.mark.parametrize(
    ("given", "count"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "30000000000")],
    ids=["ntt's", "the user's", "the user's policy"],
)
@pytest.mark.usefixtures("folder")
def test_threads_do_not_wait_long_for_each_other(
    given: dict[str, str], count: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    # Torch is loaded before it is noticed that the weights are none; more takes twice as long.
    result = shell(f"ntt evaluate {MODEL} -c {MODEL} -q", OMP_DISPLAY_ENV="verbose", **given)
    assert result.returncode == 2, result.stderr
    assert f"GOMP_SPINCOUNT = '{count}'" in result.stderr
