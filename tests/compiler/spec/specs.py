"""Specs for tests of the loader: the vendor's files, ours, and the smallest one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from xamc.compiler.spec import LoadedSpec, SpecErrors, load_spec
from xamc.errors import XamcError

VENDOR = sorted((Path(__file__).parent / "vendor").glob("*.yaml"))
BUILD_CONFIGS = sorted((Path(__file__).parents[3] / "build_configs").glob("*/*.yaml"))

MINIMAL: Mapping[str, Any] = {"frontend": {"checkpoint": "/m"}, "backend": {"type": "tvm_cpu"}}


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "build.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def errors_of(source: Any, overrides: tuple[str, ...] = ()) -> list[XamcError]:
    with pytest.raises(SpecErrors) as caught:
        load_spec(source, overrides)
    return list(caught.value.errors)


def with_(**sections: Any) -> dict[str, Any]:
    """The minimal spec with keys merged into its sections."""
    merged = {name: dict(section) for name, section in MINIMAL.items()}
    for name, section in sections.items():
        merged[name] = merged.get(name, {}) | section if isinstance(section, dict) else section
    return merged


def codes(loaded: LoadedSpec) -> list[str]:
    return [warning.code for warning in loaded.warnings]
