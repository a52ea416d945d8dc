"""Gates as a JUnit XML file, which every continuous integration shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from ntt_cli.errors import OutputError
from ntt_cli.files.atomic import check_writable, write_atomically
from ntt_cli.results import GateResult

SUFFIX = ".xml"


def check_junit(path: Path) -> None:
    """Refuse an unusable file before any work; one of an earlier run is overwritten.

    Raises:
        OutputError: if it cannot be written, or is not named `.xml`.
    """
    if path.suffix != SUFFIX:
        raise OutputError(path, "is not named .xml, which is what is written", hint=f"name it {path}{SUFFIX}")
    check_writable(path, force=True)


def write_junit(path: Path, subject: str, gates: Sequence[GateResult]) -> None:
    """Write one test case a gate.

    Raises:
        OutputError: if the file system refuses.
    """
    missed = str(sum(not gate.passed for gate in gates))
    counts = {"tests": str(len(gates)), "failures": missed, "errors": "0"}
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": _printable(f"ntt evaluate {subject}")} | counts)
    for gate in gates:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "ntt.evaluate", "name": _printable(gate.gate)})
        if gate.passed:
            ElementTree.SubElement(case, "system-out").text = _printable(gate.in_words)
        else:
            ElementTree.SubElement(case, "failure", {"message": _printable(gate.in_words), "type": "gate"})
    ElementTree.indent(suites)
    text = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    write_atomically(path, text + b"\n")


def _printable(text: str) -> str:
    """XML 1.0 has no control characters, not even escaped."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
