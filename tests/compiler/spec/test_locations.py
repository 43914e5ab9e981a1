"""Errors raised after the spec was read point to the key in the build file that they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import write_tiny
from xamc.cli import main as cli
from xamc.cli.render import render
from xamc.compiler.pipeline import compile_spec
from xamc.compiler.plan.plan import make_plan
from xamc.compiler.spec import load_spec
from xamc.compiler.spec.locations import LocatedErrors
from xamc.errors import InputError, XamcError

SPEC = """\
name: tiny
frontend:
  checkpoint: {checkpoint}
  type: huggingface
backend:
  type: tvm_cpu
  dtype: fp16
  compile: {{mcpu: native}}
workspace: {{path: out}}
"""

# what is changed in the text → code, line and text that is underlined
CASES = {
    "checkpoint: {checkpoint}": [("checkpoint: nowhere", "E1101", 3, "nowhere")],
    "  type: huggingface": [
        ("  type: gguf", "E1101", 3, "tiny"),
        ("  type: caffe", "E1100", 4, "caffe"),
        ("  quantize: {{type: w16kv8}}", "E1408", 4, "w16kv8"),
        ("  model_kwargs: {{build_visual: true}}", "E1411", 4, "true"),
    ],
    "checkpoint: {checkpoint}\n  type: huggingface": [
        ("checkpoint: package:xamc_no_such/model.gguf", "E1102", 3, "package:xamc_no_such/model.gguf"),
        ("checkpoint: model.pth", "E1100", 3, "model.pth"),
    ],
    "  dtype: fp16": [("  dtype: bf16", "E1410", 7, "bf16")],
    "mcpu: native": [("mcpu: k6", "E1461", 8, "k6"), ("route: kernels", "E1415", 8, "kernels")],
    "workspace:": [
        ("runtime: {{kv_dtype: fp16}}\nworkspace:", "E1410", 9, "fp16"),
    ],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("places") / "tiny", "internlm")


@pytest.mark.parametrize(
    ("old", "new", "code", "line", "underlined"),
    [pytest.param(old, *case, id=f"{case[1]}-{case[3]}") for old, cases in CASES.items() for case in cases],
)
def test_the_key_is_underlined(
    old: str, new: str, code: str, line: int, underlined: str, checkpoint: Path, tmp_path: Path
) -> None:
    assert SPEC.count(old) == 1
    text = SPEC.replace(old, new).format(checkpoint=checkpoint)
    file = tmp_path / "build.yaml"
    file.write_text(text)
    # not all targets have as many types as the spec knows, or the same options
    targets = {"fp16": "reference", "bf16": "tvm_ascend", "kernels": "tvm_ascend"}
    overrides = [f"backend.type={targets[underlined]}"] if underlined in targets else []
    if code == "E1415":
        overrides.append("frontend.shape.input_ids=[[16], [32]]")
    with pytest.raises(XamcError) as caught:
        compile_spec(file, overrides)
    error = caught.value
    assert error.code == code
    (place,) = error.locations
    assert (place.path, place.line) == (file, line)
    shown = text.splitlines()[line - 1][place.column - 1 :][: place.length]
    assert shown == underlined or shown.endswith(f"/{underlined}")
    with pytest.raises(XamcError) as planned:
        make_plan(file, overrides)
    assert (planned.value.code, planned.value.locations) == (code, (place,))


def test_the_screen_has_a_caret_and_the_exit_code_stays(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "build.yaml"
    text = SPEC.replace("type: huggingface", "quantize: {{type: w8a16_gptq}}").replace("fp16", "int8")
    file.write_text(text.format(checkpoint=checkpoint))
    assert cli.run(["compile", str(file)]) == 3
    shown = capsys.readouterr().err
    assert "build.yaml:4:20  E1408" in shown and "\n   4 |   quantize: {type: w8a16_gptq}" in shown
    assert "^" * len("w8a16_gptq") in shown


def test_a_place_in_an_override(checkpoint: Path, tmp_path: Path) -> None:
    file = tmp_path / "build.yaml"
    file.write_text(SPEC.format(checkpoint=checkpoint))
    with pytest.raises(InputError) as caught:
        compile_spec(file, ["name=x", "frontend.checkpoint=/no/such/place"])
    plain = render(caught.value).plain
    assert plain.startswith("--set:2:") and "frontend.checkpoint=/no/such/place" in plain


def test_a_spec_given_as_data_has_no_places(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        compile_spec({"frontend": {"checkpoint": str(tmp_path / "x")}, "backend": {"type": "tvm_cpu"}})
    assert caught.value.code == "E1101" and caught.value.locations == ()


@pytest.fixture
def placed(tmp_path: Path) -> Callable[..., XamcError]:
    """Raises an error while a spec is in use."""
    text = SPEC.format(checkpoint="x") + "passes: {disable: [swiglu, no_pass]}\n"
    (tmp_path / "build.yaml").write_text(text)

    def place(error: XamcError) -> XamcError:
        with pytest.raises(XamcError) as caught, LocatedErrors(load_spec(tmp_path / "build.yaml")):
            raise error
        assert caught.value is error
        return error

    return place


def test_the_first_key_that_is_written_counts(placed: Callable[..., XamcError]) -> None:
    error = placed(InputError("E1101", "x", keys=("runtime.kv_dtype", "backend.dtype", "name")))
    assert [place.line for place in error.locations] == [7]
    error = placed(InputError("E1306", "x", keys=("passes.disable.1", "passes.disable")))
    assert [(place.line, place.column) for place in error.locations] == [(10, 28)]
    assert placed(InputError("E1101", "x", keys=("runtime.kv_dtype",))).locations == ()
    assert placed(InputError("E1101", "x")).locations == ()


def test_an_error_with_a_place_keeps_it(placed: Callable[..., XamcError]) -> None:
    first = placed(InputError("E1101", "x", keys=("name",)))
    again = placed(InputError("E1101", "x", locations=first.locations, keys=("backend.dtype",)))
    assert again.locations == first.locations and again.locations[0].line == 1
