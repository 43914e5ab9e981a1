"""Misspelled keys are named with their line and what was meant, in every section; a few of them are errors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.checkpoints import write_tiny
from xamc.cli import main as cli
from xamc.compiler.pipeline import compile_spec
from xamc.compiler.spec import SpecErrors, load_spec
from xamc.compiler.spec.keys import SECTIONS
from xamc.compiler.spec.registry import registry
from xamc.errors import XamcError

BASE = "name: tiny\nfrontend:\n  checkpoint: tiny\nbackend:\n  type: tvm_cpu\n"

Plan = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Plan:
    """`xamc plan` of a text, with a tiny checkpoint beside it."""
    write_tiny(tmp_path / "tiny", "llama")

    def run(text: str, *options: str) -> tuple[int, str, str]:
        (tmp_path / "build.yaml").write_text(text)
        status = cli.run(["plan", str(tmp_path / "build.yaml"), *options])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("line", "key", "meant"),
    [
        ("  dytpe: fp32", "backend.dytpe", "backend.dtype"),
        ("  compile: {mpcu: native}", "backend.compile.mpcu", "backend.compile.mcpu"),
        ("  quantize: {weight_scael: max}", "backend.quantize.weight_scael", "backend.quantize.weight_scale"),
        ("dataset: {nsmaples: 3}", "dataset.nsmaples", "dataset.nsamples"),
        ("workspace: {paht: x}", "workspace.paht", "workspace.path"),
        ("graph: {extra_ops: {tpye: softmax}}", "graph.extra_ops.tpye", "graph.extra_ops.type"),
        ("worksapce: {path: x}", "worksapce", "workspace"),
        ("verfiy: {final: true}", "verfiy", "verify"),
        ("dytpe: fp32", "dytpe", "backend.dtype"),
    ],
)
def test_every_section_says_line_and_suggestion(plan: Plan, line: str, key: str, meant: str) -> None:
    text = BASE + line + "\n"
    number = len(text.splitlines())
    status, out, err = plan(text)
    assert status == 0
    assert f"build.yaml:{number}:" in err and f"unknown key {key} is ignored" in err and f"did you mean {meant}?" in err
    assert f"did you mean {meant}?" in next(row for row in out.splitlines() if row.startswith(key))
    status, out, err = plan(text, "--json")
    (warning,) = json.loads(out)["warnings"]
    assert (warning["code"], warning["fix"]) == ("E1021", f"did you mean {meant}?")
    assert (warning["locations"][0]["line"], err) == (number, "")


@pytest.mark.parametrize("section", [section for section in SECTIONS if section not in ("passes", "verify", "runtime")])
def test_no_section_is_left_out(section: str) -> None:
    """A key with two letters exchanged is recognized wherever its section is one of keys, and refused by --set."""
    names = [path.rpartition(".")[2] for path in registry() if path.rpartition(".")[0] == section]
    name = max((name for name in names if len(name) > 4 and name[2] != name[3]), key=len, default=None)
    if name is None:
        pytest.skip("no name is long enough")
    wrong = name[:2] + name[3] + name[2] + name[4:]
    values: dict[str, Any] = {wrong: 1}
    for part in reversed(section.split(".")):
        values = {part: values}
    values.setdefault("frontend", {})["checkpoint"] = "/m"
    if section == "frontend.shape":
        values["frontend"]["shape"] = {wrong: [[16], [32]]}
    warnings = load_spec(values).warnings
    assert [warning.meant for warning in warnings if warning.code == "E1021"] == [f"{section}.{name}"]
    if section != "frontend.shape":
        with pytest.raises(SpecErrors, match=f"E1061.*did you mean {section}.{name}"):
            load_spec({"frontend": {"checkpoint": "/m"}}, [f"{section}.{wrong}=1"])


@pytest.mark.parametrize(
    ("text", "line", "key", "meant"),
    [
        ("backend: {tpye: tvm_cpu, dtype: fp32}", 1, "backend.tpye", "backend.type"),
        ("backend: {dtype: fp32}\ntype: tvm_cpu", 2, "type", "backend.type"),
        ("bakcend: {type: tvm_cpu}", 1, "bakcend.type", "backend.type"),
        ("frontend: {checkpoint: tiny, tpye: gguf}", 1, "frontend.tpye", "frontend.type"),
        (
            "frontend: {checkpoint: tiny, quantize: {tyep: w4a16_rtn}}\nbackend: {type: tvm_cpu, dtype: int4}",
            1,
            "frontend.quantize.tyep",
            "frontend.quantize.type",
        ),
    ],
)
@pytest.mark.parametrize("command", ["plan", "compile"])
def test_what_chooses_the_road_is_the_cause(
    text: str,
    line: int,
    key: str,
    meant: str,
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "build.yaml"
    file.write_text(text + ("" if "frontend" in text else "\nfrontend: {checkpoint: tiny}"))
    assert cli.run([command, str(file)]) == 1
    err = capsys.readouterr().err
    assert f"build.yaml:{line}:" in err and "E1029" in err
    assert f"{meant} is missing; {key} is not a key" in err and f"did you mean {meant}?" in err
    assert "E1410" not in err and "E1041" not in err and "is ignored" not in err


def test_a_default_is_no_error() -> None:
    loaded = load_spec({"frontend": {"checkpoint": "/m", "tpye": "huggingface"}, "backend": {"tpye": "tvm_vacc"}})
    assert [warning.code for warning in loaded.warnings] == ["E1021", "E1021"]


def test_an_error_about_a_missing_key_shows_where_it_is_misspelled(tmp_path: Path) -> None:
    write_tiny(tmp_path / "tiny", "llama")
    file = tmp_path / "build.yaml"
    file.write_text("frontend:\n  checkpoint: tiny\n  type: huggingface\n  shpae: {input_ids: [[16], [32]]}\n")
    with pytest.raises(XamcError) as caught:
        compile_spec(file)
    assert caught.value.code == "E1413"
    (place,) = caught.value.locations
    assert (place.line, place.note) == (4, "did you mean frontend.shape?")
    assert [warning.meant for warning in caught.value.warnings] == ["frontend.shape"]


def test_the_warnings_come_before_another_error(plan: Plan) -> None:
    text = BASE.replace("tvm_cpu", "tvm_vacc") + "  dytpe: fp16\n  dtype: fp32\n"
    status, _, err = plan(text)
    assert status == 3 and err.index("backend.dytpe") < err.index("E1410")
    status, out, _ = plan(text, "--json")
    answer = json.loads(out)
    assert [warning["fix"] for warning in answer["warnings"]] == ["did you mean backend.dtype?"]
    assert [error["code"] for error in answer["errors"]] == ["E1410"]


def test_a_compile_says_line_and_suggestion_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = BASE.replace("checkpoint: tiny", "checkpoint: absent") + "  dytpe: fp16\n"
    (tmp_path / "build.yaml").write_text(text)
    assert cli.run(["compile", str(tmp_path / "build.yaml"), "-o", str(tmp_path / "out/a")]) == 1
    assert "build.yaml:6:3 unknown key backend.dytpe is ignored; did you mean backend.dtype?" in capsys.readouterr().out


NAMES = [
    ("passes: {disable: [cleanup, claenup]}", "passes.disable", "'claenup'", "cleanup"),
    ("passes: {expect: {attnetion: 2}}", "passes.expect", "'attnetion'", "attention"),
]


@pytest.mark.parametrize(("text", "key", "name", "meant"), NAMES)
@pytest.mark.parametrize("target", ["cpu", "reference", "vacc", "ascend"])
@pytest.mark.parametrize("command", ["plan", "compile", "export-vamc"])
def test_passes_take_names_of_passes(
    text: str,
    key: str,
    name: str,
    meant: str,
    target: str,
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if command == "export-vamc" and target != "vacc":
        pytest.skip("a hand-off is VACC's")
    write_tiny(tmp_path / "tiny", "llama")
    file = tmp_path / "build.yaml"
    file.write_text(f"frontend: {{checkpoint: tiny, shape: {{input_ids: [[16], [32]]}}}}\n{text}\n")
    options = ["-o", str(tmp_path / "out/x")] if command != "plan" else []
    assert cli.run([command, str(file), "--target", target, *options]) == 1
    captured = capsys.readouterr()
    assert "build.yaml:2:" in captured.err and "E1306" in captured.err
    assert f"{key}: no pass is called {name}" in captured.err and f"did you mean {meant}?" in captured.err
    assert " export " not in captured.out, "nothing was done before"
    over = yaml.safe_load(text)["passes"]
    file.write_text("frontend: {checkpoint: tiny, shape: {input_ids: [[16], [32]]}}\n")
    (option, value), *_ = over.items()
    assert (
        cli.run([command, str(file), "--target", target, "--set", f"passes.{option}={json.dumps(value)}", *options])
        == 1
    )
    assert "--set:1:" in (err := capsys.readouterr().err) and f"did you mean {meant}?" in err


def test_a_required_pass_is_refused_by_the_plan(plan: Plan) -> None:
    status, _, err = plan(BASE + "passes: {disable: [kv_cache]}\n")
    assert status == 1 and "E1314" in err and "build.yaml:6:" in err


def test_an_input_of_a_language_model_is_not_any_name(plan: Plan) -> None:
    text = BASE.replace("  checkpoint: tiny", "  checkpoint: tiny\n  shape: {inputs_ids: [[16], [32]]}")
    status, _, err = plan(text)
    assert status == 0 and "build.yaml:4:" in err and "did you mean frontend.shape.input_ids?" in err
    _, _, err = plan(BASE, "--set", "frontend.shape.inputs_ids=[[16],[32]]")
    assert "--set:1:1" in err and "did you mean frontend.shape.input_ids?" in err
