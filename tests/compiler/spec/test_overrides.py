"""Tests of `--set`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xamc.compiler.spec import SET_PATH, SpecErrors, load_spec
from xamc.errors import XamcError

SPEC = """\
name: m
frontend:
  checkpoint: /m
  quantize: null
backend:
  type: tvm_cpu
  dtype: fp16
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "build.yaml"
    file.write_text(SPEC)
    return file


def error_of(file: Path, *overrides: str) -> XamcError:
    with pytest.raises(SpecErrors) as caught:
        load_spec(file, overrides)
    [error] = caught.value.errors
    return error


def test_values_are_yaml(file: Path) -> None:
    spec = load_spec(
        file,
        [
            "frontend.shape.input_ids=[[256], [1000]]",
            "frontend.quantize.type=w4a16_rtn",
            "frontend.quantize={type: w8a16_rtn, group_size: 64}",
            "backend.dtype=int8",
            "verify.final=true",
            "verify.passes=off",
            "passes.expect.rope=60",
            "workspace.pyenv.transformers=4.40",
            'frontend.shape."input.1"=[1, 3]',
            "name=a=b",
        ],
    ).spec
    assert (spec.prefill_chunk, spec.context_limit) == (256, 1000)
    assert spec.frontend.quantize is not None
    assert (spec.frontend.quantize.type, spec.frontend.quantize.group_size) == ("w8a16_rtn", 64)
    assert (spec.verify.final, spec.verify.passes) == (True, "off")
    assert spec.passes.expect == {"rope": 60}
    assert spec.workspace.pyenv == {"transformers": "4.40"}
    assert spec.frontend.shape["input.1"] == [1, 3]
    assert spec.name == "a=b"


def test_places_of_replaced_values_are_forgotten(file: Path) -> None:
    file.write_text(SPEC.replace("quantize: null", "quantize: {type: w4a16_rtn, group_size: 64}"))
    loaded = load_spec(file, ["frontend.quantize={type: w8a16_rtn}", "backend.dtype=int8"])
    assert loaded.at("frontend.quantize.type")[0].path == SET_PATH
    assert loaded.at("frontend.quantize.group_size") == ()


def test_null_and_nothing_bring_the_default_back(file: Path) -> None:
    assert load_spec(file, ["backend.type=null"]).spec.backend.type == "tvm_vacc"
    assert load_spec(file, ["backend.type="]).spec.backend.type == "tvm_vacc"


def test_the_file_is_overruled_before_it_is_judged(file: Path) -> None:
    file.write_text(SPEC.replace("fp16", "float16"))
    assert error_of(file).code == "E1023"
    assert load_spec(file, ["backend.dtype=bf16"]).spec.backend.dtype == "bf16"


@pytest.mark.parametrize(
    ("override", "code", "column", "length", "fix"),
    [
        ("backend.typ=tvm_cpu", "E1061", 1, 11, "did you mean backend.type?"),
        ("backend.quantize.stream_mode=true", "E1061", 1, 28, "did you mean backend.compile.stream_mode?"),
        ("a" + ".b" * 50_000 + "=1", "E1061", 1, 100_001, "see docs/spec.md for the keys"),
        ("tp=2", "E1061", 1, 2, "did you mean frontend.model_kwargs.tp?"),
        ("nonsense=2", "E1061", 1, 8, "see docs/spec.md for the keys"),
        ("verify.prompts.first=2", "E1061", 1, 20, None),
        ("backend.type", "E1060", 1, 12, None),
        ("=1", "E1060", 1, 2, None),
        ("", "E1060", 1, 1, None),
        ("a b=1", "E1060", 1, 5, None),
        ("verify.prompts=[a", "E1063", 18, 1, None),
        ("runtime.max_batch=!x 4", "E1005", 19, 2, None),
        ("runtime.max_batch=four", "E1022", 19, 4, None),
        ("runtime.kv_dtype=fp23", "E1023", 18, 4, "did you mean fp32?"),
        ("runtime={max_batch: 4, kv: fp16}", "E1020", 24, 2, None),
    ],
)
def test_mistakes_point_into_the_argument(
    file: Path, override: str, code: str, column: int, length: int, fix: str | None
) -> None:
    error = error_of(file, "name=x", override)
    place = error.locations[0]
    assert (error.code, place.path, place.line, place.column) == (code, SET_PATH, 2, column)
    assert place.length == length
    assert error.fix
    assert fix is None or error.fix == fix


def test_a_disagreement_points_at_file_and_argument(file: Path) -> None:
    error = error_of(file, "frontend.quantize.type=w4a16_rtn")
    assert error.code == "E1042"
    assert [(place.path, place.line) for place in error.locations] == [(SET_PATH, 1), (file, 7)]


def test_a_section_that_is_no_mapping(file: Path) -> None:
    file.write_text(SPEC + "workspace: [a]\n")
    with pytest.raises(SpecErrors) as caught:
        load_spec(file, ["workspace.path=x"])
    assert [error.code for error in caught.value.errors] == ["E1022", "E1062"]


def test_python_data_are_not_changed() -> None:
    data = {"frontend": {"checkpoint": "/m"}, "backend": {"dtype": "fp16"}}
    assert load_spec(data, ["backend.dtype=bf16"]).spec.backend.dtype == "bf16"
    assert data["backend"] == {"dtype": "fp16"}


@given(st.text("abk.=[]{}\"': ,1\n!*&", max_size=20) | st.text(max_size=10))
def test_any_argument(override: str) -> None:
    spec = {"frontend": {"checkpoint": "/m"}}
    for argument in (override, f"backend.compile.mcpu={override}", f"frontend.shape.{override}"):
        try:
            load_spec(spec, [argument])
        except SpecErrors as error:
            assert all(place.path == SET_PATH for each in error.errors for place in each.locations)
