"""JUnit XML, which CI services show beside a build."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# what XML 1.0 can't hold
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class TestCase:
    """One test: `failure` is what a person should read, empty when it passed."""

    name: str
    seconds: float
    failure: str = ""


def write_junit(path: Path, suite: str, cases: Sequence[TestCase]) -> None:
    """Writes one test suite."""
    failures = sum(bool(case.failure) for case in cases)
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "skipped": "0"}
    root = ET.Element("testsuites")
    seconds = sum(case.seconds for case in cases)
    parent = ET.SubElement(root, "testsuite", {"name": _clean(suite), "time": f"{seconds:.3f}", **counts})
    for case in cases:
        element = ET.SubElement(
            parent, "testcase", classname=_clean(suite), name=_clean(case.name), time=f"{case.seconds:.3f}"
        )
        if case.failure:
            first = case.failure.splitlines()[0]
            ET.SubElement(element, "failure", message=_clean(first)).text = _clean(case.failure)
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)


def _clean(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
