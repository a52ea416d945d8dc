from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ntt_cli.config import EvaluateConfig
from ntt_cli.errors import OutputError, UsageError
from ntt_cli.evaluation.gates import BYTES, DROP, FLOPS, SPARSITY, gates_of, judged
from ntt_cli.files.junit import check_junit, write_junit
from ntt_cli.results import GateResult

OTHERS = {BYTES: 60_000.0, FLOPS: 2_380.0, SPARSITY: 0.9, DROP: 0.01}


def gates(**options: object) -> list[GateResult]:
    config = EvaluateConfig.model_validate({"model": "m.py", "checkpoint": "x.safetensors"} | options)
    return judged(gates_of(config), {"accuracy": 0.9, "mse": 0.25}, OTHERS)


@pytest.mark.parametrize(
    ("options", "passed", "words"),
    [
        ({"min_accuracy": 0.9}, True, "accuracy 0.9000 keeps --min-accuracy 0.9"),
        ({"min_accuracy": 0.91}, False, "accuracy 0.9000 is below --min-accuracy 0.91"),
        ({"min": ("mse=0.25",)}, True, "mse 0.2500 keeps --min mse=0.25"),
        ({"max": ("mse=0.2",)}, False, "mse 0.2500 is above --max mse=0.2"),
        ({"max_bytes": 60_000}, True, "bytes 60,000 keeps --max-bytes 60000"),
        ({"max_bytes": 59_999}, False, "bytes 60,000 is above --max-bytes 59999"),
        ({"max_flops": 2_380}, True, "flops 2,380 keeps --max-flops 2380"),
        ({"max_flops": 2_379}, False, "flops 2,380 is above --max-flops 2379"),
        ({"min_sparsity": 0.9}, True, "sparsity 0.9000 keeps --min-sparsity 0.9"),
        ({"min_sparsity": 0.95}, False, "sparsity 0.9000 is below --min-sparsity 0.95"),
        ({"max_drop": 0.01, "baseline": "d"}, True, "drop 0.0100 keeps --max-drop 0.01"),
        ({"max_drop": 0.005, "baseline": "d"}, False, "drop 0.0100 is above --max-drop 0.005"),
    ],
)
def test_limits_are_kept_where_they_are_reached(options: dict[str, object], passed: bool, words: str) -> None:
    (gate,) = gates(**options)
    assert (gate.passed, gate.in_words) == (passed, words)


def test_all_gates_are_looked_at() -> None:
    found = gates(min_accuracy=0.99, max=("mse=1", "mse=0.1"), max_bytes=1, min_sparsity=0.5)
    assert [gate.passed for gate in found] == [False, True, False, False, True]


def test_what_is_no_number_keeps_no_limit() -> None:
    config = EvaluateConfig(model="m.py", checkpoint="x", min=("f1=0.1",), max=("f1=0.9",))
    assert [gate.passed for gate in judged(gates_of(config), {"f1": math.nan}, {})] == [False, False]


@pytest.mark.parametrize(
    ("options", "where"), [({"min": ("f1=0.5",)}, "--min f1=0.5"), ({"max_bytes": 5}, "--max-bytes 5")]
)
def test_what_is_not_measured(options: dict[str, object], where: str) -> None:
    config = EvaluateConfig.model_validate({"model": "m.py", "checkpoint": "x"} | options)
    with pytest.raises(UsageError, match="is not measured here") as caught:
        judged(gates_of(config), {"accuracy": 0.9}, {BYTES: None})
    assert caught.value.where == where


def test_junit(tmp_path: Path) -> None:
    path = tmp_path / "gates.xml"
    found = gates(min_accuracy=0.99, max_bytes=60_000)
    write_junit(path, "a<b>&\x1b.safetensors", found)
    suites = ElementTree.parse(path).getroot()
    assert (suites.tag, suites.attrib) == ("testsuites", {"tests": "2", "failures": "1", "errors": "0"})
    (suite,) = suites
    assert suite.attrib == {"name": "ntt evaluate a<b>&\ufffd.safetensors"} | suites.attrib
    missed, kept = suite
    assert missed.attrib == {"classname": "ntt.evaluate", "name": "--min-accuracy 0.99"}
    assert missed[0].attrib == {"message": "accuracy 0.9000 is below --min-accuracy 0.99", "type": "gate"}
    assert (kept.attrib["name"], kept[0].tag) == ("--max-bytes 60000", "system-out")
    assert kept[0].text == "bytes 60,000 keeps --max-bytes 60000"


def test_a_junit_file_in_the_way(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"is not named \.xml"):
        check_junit(tmp_path / "sparse.safetensors")
    with pytest.raises(OutputError, match="its folder does not exist"):
        check_junit(tmp_path / "missing/gates.xml")
    (tmp_path / "gates.xml").write_text("of an earlier run")
    check_junit(tmp_path / "gates.xml")
