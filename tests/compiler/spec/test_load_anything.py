"""Whatever a build file holds, nothing but `SpecErrors` comes out of the loader."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.compiler.spec.specs import BUILD_CONFIGS, VENDOR
from xamc.cli.render import render
from xamc.compiler.spec import SpecErrors, load_spec
from xamc.compiler.spec.registry import registry

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(
    ["off", "w4a16_rtn", "int8", "tvm_cpu", "package:a/b", "fp16", "m.gguf"]
)  # fmt: skip
trees = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Specs with known keys and any values, right ones among them."""
    spec: dict[str, Any] = {"frontend": {"checkpoint": draw(st.just("/m") | scalars)}}
    for path in draw(st.lists(st.sampled_from(sorted(registry())), max_size=6)):
        *parents, name = path.split(".")
        section = spec
        for parent in parents:
            inner = section.setdefault(parent, {})
            if not isinstance(inner, dict):
                break
            section = inner
        else:
            section[name] = draw(trees | scalars)
    return spec


def judge(source: Any, overrides: tuple[str, ...] = ()) -> None:
    try:
        loaded = load_spec(source, overrides)
    except SpecErrors as error:
        assert error.errors
        assert all(each.code and each.message for each in error.errors)
        assert render(error).plain
    else:
        assert render(loaded.warnings).plain or not loaded.warnings
        assert loaded.spec.prefill_chunk > 0


@given(specs())
def test_any_python_data(spec: dict[str, Any]) -> None:
    judge(spec)


@given(specs())
def test_any_yaml(tmp_path_factory: pytest.TempPathFactory, spec: dict[str, Any]) -> None:
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(yaml.safe_dump(spec, allow_unicode=True), encoding="utf-8", errors="replace")
    judge(file)


@given(st.binary(max_size=200))
def test_any_bytes(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes.yaml"
    file.write_bytes(data)
    judge(file)


@given(st.data())
def test_any_mutation_of_a_real_file(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(VENDOR + BUILD_CONFIGS)).read_text(encoding="utf-8")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(st.text("ab0:- []{},&*!|>'\"#%\n\t~<?.\\x", max_size=5)) + text[at + cut :]
    file = tmp_path_factory.getbasetemp() / "mutation.yaml"
    file.write_text(text, encoding="utf-8")
    judge(file)
