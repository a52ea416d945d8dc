from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import MODEL, Ntt, content

pytestmark = pytest.mark.usefixtures("checkpoints")

BENCH = ("bench", "sparse.safetensors", "sparse.packed.safetensors", "--model", MODEL)
QUICK = ("--seconds", "1e-9", "--batch-size", "3")


def test_for_people_scripts_and_pipes(ntt: Ntt) -> None:
    assert ntt("export", "sparse.safetensors", "--to", "packed").code == 0
    before = content()
    human = ntt(*BENCH, *QUICK)
    assert human.code == 0
    assert human.out.isascii()
    head, _, *lines = human.out.splitlines()
    assert head.startswith(f"sparse.safetensors of {MODEL}, on this machine: CPU, ")
    found = ["  ".join(line.split()[:3]) for line in lines]
    sizes = [f"{Path(name).stat().st_size:,}" for name in ("sparse.safetensors", "sparse.packed.safetensors")]
    assert found[0] == "48,240  bytes  dense"
    assert found[1] == f"sparse.safetensors  {sizes[0]}  {Path('sparse.safetensors').stat().st_size / 48240:.2f}"
    assert found[2] == f"sparse.safetensors,  packed  {sizes[1]}"
    assert lines[3].startswith("  sparse.safetensors, packed as float16 ")
    assert found[4].startswith(f"sparse.packed.safetensors  {sizes[1]}  1/")
    assert lines[6].startswith("FLOPs a sample, counted, not measured ")
    assert found[7:9] == ["dense  23,800", "without  products  with"]
    assert lines[8].split() == ["without", "products", "with", "zeros", "2,380", "10.0%"]
    latency, throughput = (lines.index(line) for line in lines if line.startswith(("latency, ", "throughput, ")))
    for at, unit in ((latency, "ms"), (throughput, "samples/s")):
        assert lines[at].split("  ")[0] in {"latency, one sample", "throughput, batches of 3"}
        assert f" {unit} " in lines[at]
        assert lines[at + 1].startswith("dense in PyTorch ")
        for row, name in ((2, "sparse.safetensors"), (3, "sparse.packed.safetensors")):
            assert lines[at + row].split()[0] == name
            assert any(f" {verdict}: " in lines[at + row] for verdict in ("faster", "not faster", "slower"))
    assert lines[-1].split() == ["sparse.packed.safetensors", "0.0e+00"]
    assert all(len(line.rstrip()) <= 80 for line in lines)
    report = ntt(*BENCH, *QUICK, "--json").document
    assert [each["file"] for each in report["files"]] == ["sparse.safetensors", "sparse.packed.safetensors"]
    assert [(each["samples"], len(each["pass_seconds"])) for each in report["comparisons"]] == [
        (1, 6),
        (1, 6),
        (3, 6),
        (3, 6),
    ]
    quiet = ntt(*BENCH, *QUICK, "-q")
    assert len([float(line) for line in quiet.out.splitlines()]) == 4
    assert content() == before


def test_two_files_of_one_name_have_their_folders(ntt: Ntt) -> None:
    Path("other").mkdir()
    shutil.copy("tuned.safetensors", "other/sparse.safetensors")
    result = ntt("bench", "sparse.safetensors", "other/sparse.safetensors", "--model", MODEL, *QUICK)
    assert result.code == 0
    assert sum(line.startswith("  other/sparse.safetensors ") for line in result.out.splitlines()) == 4
    assert "warning: other/sparse.safetensors: an output differs from the checkpoint's by " in result.err


def test_the_file_of_options_may_name_all(ntt: Ntt) -> None:
    own = "checkpoint = 'sparse.safetensors'\nexported = ['tuned.safetensors']\nthreads = 1\n"
    Path("ntt.toml").write_text(f"model = '{MODEL}'\n[bench]\n{own}")
    report = ntt("bench", "--config", "ntt.toml", *QUICK, "--json").document
    assert (report["threads"], [each["file"] for each in report["files"]]) == (
        1,
        ["sparse.safetensors", "tuned.safetensors"],
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sparse.safetensors"], "error: --model: is required\nhint: "),
        (["--model", MODEL], "error: CHECKPOINT: is required\nhint: "),
        (
            [MODEL, "--model", MODEL],
            f"error: {MODEL}: is a Python file, not a safetensors file\nhint: name ",
        ),
        (["missing.safetensors", "--model", MODEL], "error: missing.safetensors: does not exist\n"),
        (["sparse.safetensors", "x.pt2", "--model", MODEL], "error: x.pt2: does not exist\n"),
        (["factory", "--model", MODEL], "error: factory: is no file of weights\nhint: "),
        (["sparse.report.safetensors", "--model", MODEL], "is a report, not a checkpoint\n"),
        (["sparse.safetensors", "--model", MODEL, "--seconds", "0"], "error: --seconds 0: should be greater than 0\n"),
        (["sparse.safetensors", "--model", MODEL, "--threads", "0"], "error: --threads 0: should be greater than or"),
    ],
)
def test_refused(ntt: Ntt, arguments: list[str], message: str) -> None:
    result = ntt("bench", *arguments)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
