"""Every error code has an explanation, every explanation a code, and unknown codes are answered."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections import Counter
from pathlib import Path

import pytest

import xamc
from xamc.errors import MisuseError
from xamc.errors import explain as catalogue_package
from xamc.errors.explain import catalogue, explain

SOURCE = Path(xamc.__file__).parent
RANGES = {
    "spec": ("E10",),
    "weights": ("E11",),
    "export": ("E12",),
    "passes": ("E13",),
    "targets": ("E14",),
    "handoff": ("E14",),
    "artifact": ("E15",),
    "runtime": ("E16",),
    "cli": ("E17",),
}


def codes_in_source() -> dict[str, str]:
    """Code → a file that uses it, the catalogue itself left out."""
    codes = {}
    for file in sorted(SOURCE.rglob("*.py")):
        if file.parent.name != "explain":
            for code in re.findall(r"[\"'](E\d{4})[\"']", file.read_text(encoding="utf-8")):
                codes[code] = str(file.relative_to(SOURCE))
    codes["E1070"] = "xamc/errors/explain/__init__.py"
    return codes


def areas() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(catalogue_package.__path__)]


def test_every_code_is_explained() -> None:
    missing = {code: file for code, file in codes_in_source().items() if code not in catalogue()}
    assert not missing


def test_every_explanation_has_a_code() -> None:
    assert not set(catalogue()) - set(codes_in_source())


@pytest.mark.parametrize("area", areas())
def test_areas(area: str) -> None:
    codes = importlib.import_module(f"xamc.errors.explain.{area}").CODES
    assert codes
    assert all(code.startswith(RANGES[area]) for code in codes)
    assert all(len(text) > 80 and text.strip() == text for text in codes.values())


def test_no_code_is_explained_twice() -> None:
    counts = Counter(code for area in areas() for code in importlib.import_module(f"xamc.errors.explain.{area}").CODES)
    assert not [code for code, count in counts.items() if count > 1]


@pytest.mark.parametrize("written", ["E1042", "e1042", "1042", " E1042 "])
def test_explains(written: str) -> None:
    assert "backend.dtype" in explain(written)


def test_unknown_code() -> None:
    with pytest.raises(MisuseError) as caught:
        explain("E1044")
    assert caught.value.code == "E1070"
    assert "E1043" in caught.value.fix
    with pytest.raises(MisuseError) as caught:
        explain("what")
    assert "E1042" in caught.value.fix
