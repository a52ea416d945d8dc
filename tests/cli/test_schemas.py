"""Every document of every command is as its schema in docs/schemas says, and the same key is the same everywhere."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ntt_cli
from ntt_cli.cli.app import COMMANDS
from ntt_cli.pruning import prune
from tests.cli.conftest import MODEL, Ntt
from tests.json_schema import misfits
from tests.processes import run

ROOT = Path(__file__).parents[2]
SCHEMAS = {path.stem: json.loads(path.read_text()) for path in sorted((ROOT / "docs/schemas").glob("*.json"))}

MAGNITUDE = ("prune", MODEL, "-s", "0.9", "--method", "magnitude", "--force")
COMPARE = ("compare", MODEL, "--methods", "dense,random", "--sparsities", "0.9", "--seeds", "1", "--limit", "60")
TESTED = ("evaluate", MODEL, "-c", "tuned.safetensors")
RUNS: list[tuple[str, ...]] = [
    ("prune", *MAGNITUDE),
    ("prune", "prune", MODEL, "--pattern", "2:4", "--method", "magnitude", "--force"),
    ("prune", *MAGNITUDE, "--structure", "channels"),
    ("prune-dry-run", *MAGNITUDE, "--dry-run"),
    ("prune-dry-run", "prune", MODEL, "-s", "0.9", "--steps", "5", "--limit", "20", "--dry-run"),
    ("finetune", "finetune", MODEL, "-c", "sparse.safetensors", "--epochs", "1", "--force"),
    ("evaluate", *TESTED),
    ("evaluate", *TESTED, "--teacher", "dense.safetensors", "--min-accuracy", "0.1", "--max-bytes", "99999"),
    ("compare", *COMPARE, "--epochs", "1"),
    ("compare-plan", *COMPARE, "--plan"),
    ("report", "report", "sparse.safetensors"),
    ("inspect", "inspect", "sparse.safetensors"),
    ("inspect", "inspect", "sparse.report.safetensors"),
    ("verify", "verify", "sparse.safetensors"),
    ("export", "export", "sparse.safetensors", "--to", "packed"),
    ("export-program", "export", "sparse.safetensors", "--to", "pt2", "--model", MODEL),
    ("export-package", "export", "sparse.safetensors", "--to", "coreml", "--model", MODEL),
    ("export-hub", "export", "sparse.safetensors", "--to", "hub-folder", "--model", MODEL, "--license", "mit"),
    ("bench", "bench", "sparse.safetensors", "--model", MODEL, "--seconds", "0.001", "--batch-size", "2"),
    ("init", "init"),
]


def checked(out: str, name: str) -> Any:
    """The one document on stdout, which is as the schema of this name says."""
    document = json.loads(out)
    assert misfits(document, SCHEMAS[name]) == []
    assert (document["schema_version"], document["document"]) == (1, name)
    assert document["ntt_version"] == ntt_cli.__version__
    assert 0 <= document["seconds"] < 600
    return document


@pytest.mark.parametrize(("name", "arguments"), [(name, words) for name, *words in RUNS], ids=str)
@pytest.mark.usefixtures("checkpoints")
def test_documents_are_as_their_schemas_say(ntt: Ntt, name: str, arguments: list[str]) -> None:
    done = ntt(*arguments, "--json")
    assert done.code == 0, done.err
    checked(done.out, name)


def test_every_schema_and_every_command_has_a_run() -> None:
    assert {name for name, *_ in RUNS} | {"error"} == SCHEMAS.keys()
    assert {words[0] for _, *words in RUNS} == COMMANDS.keys()


@pytest.mark.usefixtures("checkpoints")
def test_packed_files_are_inspected_as_the_schema_says(ntt: Ntt) -> None:
    assert ntt("export", "sparse.safetensors", "--to", "packed").code == 0
    document = checked(ntt("inspect", "sparse.packed.safetensors", "--json").out, "inspect")
    whole = checked(ntt("inspect", "sparse.safetensors", "--json").out, "inspect")
    assert document["layers"] == whole["layers"]
    assert {layer["name"]: layer["kept"] for layer in document["layers"]} == {
        name: layer["kept"] for name, layer in document["record"]["layers"].items()
    }


@pytest.mark.usefixtures("folder")
def test_a_dry_run_has_the_key_that_the_run_records(ntt: Ntt) -> None:
    plan = ntt(*MAGNITUDE, "--dry-run", "--json").document
    assert ntt(*MAGNITUDE).code == 0
    assert ntt("inspect", "sparse.safetensors", "--json").document["record"]["run_sha256"] == plan["run_sha256"]
    other = ntt(*MAGNITUDE, "--limit", "50", "--dry-run", "--json").document
    assert other["run_sha256"] != plan["run_sha256"]


ERRORS: list[tuple[int, str, list[str]]] = [
    (2, "--stepps", ["prune", MODEL, "--stepps", "3"]),
    (2, "--sparsity 2", ["prune", MODEL, "--sparsity", "2"]),
    (2, "missing.safetensors", ["verify", "missing.safetensors"]),
    (2, "prun", ["prun", MODEL]),
    (2, "FILE", ["inspect"]),
    (2, MODEL, ["init", MODEL]),
    (70, "ntt", list(MAGNITUDE)),
]


@pytest.mark.parametrize(("code", "where", "arguments"), ERRORS, ids=str)
@pytest.mark.usefixtures("folder")
def test_errors_have_a_document(
    ntt: Ntt, monkeypatch: pytest.MonkeyPatch, code: int, where: str, arguments: list[str]
) -> None:
    if code == 70:
        monkeypatch.setattr(prune, "prepare", lambda *_: {}["missing"])
    plain, done = ntt(*arguments), ntt(*arguments, "--json")
    assert (plain.code, plain.out) == (done.code, "") == (code, "")
    assert done.err == plain.err
    error = checked(done.out, "error")["error"]
    assert (error["where"], error["exit_code"]) == (where, code)
    said = "" if code == 70 else f"error: {where}: "
    assert done.err.endswith(f"{said}{error['what']}\nhint: {error['hint']}\n")


@pytest.mark.usefixtures("checkpoints")
def test_a_missed_gate_is_no_error(ntt: Ntt) -> None:
    done = ntt(*TESTED, "--min-accuracy", "1", "--json")
    assert done.code == 1
    assert checked(done.out, "evaluate")["passed"] is False


def properties(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a document's objects, with its schema; those within a file's record are the file's."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {}).items()
        for key, inner in schema.items():
            if key != "$defs" or "record" not in schema["properties"]:
                yield from properties(inner)
    for inner in schema if isinstance(schema, list) else []:
        yield from properties(inner)


def kind_of(schema: Any) -> str:
    """What a value is, whether or not it may be null."""
    kinds = {each.get("$ref") or each["type"] for each in schema.get("anyOf", [schema])}
    return " or ".join(sorted(kinds - {"null"}))


OTHERWISE = {
    "channels": "of verify all that are gone; of one group of layers how many there are; of a structure these groups",
    "outputs": "of kernels how many; of a program their types and shapes",
}


def test_a_key_is_of_one_kind_everywhere() -> None:
    kinds: dict[str, dict[str, str]] = defaultdict(dict)
    for name, schema in SCHEMAS.items():
        for key, own in properties(schema):
            kinds[key][kind_of(own)] = name
    differing = {key: found for key, found in kinds.items() if len(found) > 1}
    assert differing.keys() == OTHERWISE.keys(), differing


def test_the_schemas_are_those_of_the_classes() -> None:
    done = run([sys.executable, "docs/make_schemas.py", "--check"], cwd=ROOT)
    assert done.returncode == 0, done.stderr
