"""Tests of the JSON Schema and of the reference page: both say what the loader does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from xamc.compiler.spec import SpecErrors, load_spec
from xamc.compiler.spec.registry import registry
from xamc.compiler.spec.schema import SCHEMA_FILE, json_schema, reference, schema_text
from xamc.targets.spec_keys import Key

ROOT = Path(__file__).parents[3]
FILES = [*sorted((ROOT / "build_configs").glob("*/*.yaml")), *sorted((Path(__file__).parent / "vendor").glob("*.yaml"))]
VALIDATOR = Draft202012Validator(json_schema())

#: Errors about one value by itself, which the schema can state too.
SINGLE_VALUE = {"E1020", "E1022", "E1023", "E1024", "E1025", "E1026"}


def test_schema_is_valid_and_written() -> None:
    Draft202012Validator.check_schema(json_schema())
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text(), "run python tools/update_spec_reference.py"


def test_reference_page_is_current() -> None:
    page = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
    assert page.endswith(reference()), "run python tools/update_spec_reference.py"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_files_conform(file: Path) -> None:
    assert not list(VALIDATOR.iter_errors(yaml.safe_load(file.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"frontend": {}},
        {"frontend": {"checkpoint": "/m"}, "verify": {"fnal": True}},
        {"frontend": {"checkpoint": "/m"}, "runtime": {"max_batch": 0}},
        {"frontend": {"checkpoint": "/m"}, "backend": {"dtype": "float16"}},
        {"frontend": {"checkpoint": "/m", "shape": {"x": ["a"]}}},
    ],
)
def test_wrong_specs_do_not_conform(spec: dict[str, Any]) -> None:
    assert list(VALIDATOR.iter_errors(spec))


STRICT = [key for key in registry().values() if key.strict]
WORDS = ["each", "off", "int8", "w4a16_rtn", "x", "auto", "fp16", "gguf", "tvm_cpu", "yes", "4"]
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 5000)
    | st.floats(-2, 2).map(lambda value: round(value, 2))
    | st.sampled_from(WORDS)
    | st.lists(st.integers(1, 9) | st.sampled_from(WORDS) | st.lists(st.integers(1, 9), max_size=2), max_size=2)
    | st.dictionaries(st.sampled_from(["a", "type", "max_batch"]), st.integers(-1, 9) | st.none(), max_size=2)
)


@settings(max_examples=300)
@given(st.sampled_from(STRICT), VALUES)
def test_the_schema_says_what_the_loader_says(tmp_path_factory: pytest.TempPathFactory, key: Key, value: Any) -> None:
    spec: dict[str, Any] = {"frontend": {"checkpoint": "/m"}}
    *parents, name = key.path.split(".")
    section = spec
    for parent in parents:
        section = section.setdefault(parent, {})
    section[name] = value
    file = tmp_path_factory.getbasetemp() / "schema.yaml"
    file.write_text(json.dumps(spec), encoding="utf-8")  # JSON is YAML 1.2
    try:
        load_spec(file)
        codes = set()
    except SpecErrors as error:
        codes = {each.code for each in error.errors} & SINGLE_VALUE
    assert bool(codes) == bool(list(VALIDATOR.iter_errors(spec))), (key.path, value, codes)


def test_unknown_keys_pass_in_vamcs_sections() -> None:
    spec = {"frontend": {"checkpoint": "/m", "x": 1}, "backend": {"quantize": {"alibrate_mode": "max"}}, "y": 2}
    assert not list(VALIDATOR.iter_errors(spec))
