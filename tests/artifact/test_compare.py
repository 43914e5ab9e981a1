"""`xamc diff`: what differs, in which stage, and which of them began it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xamc.artifact import Manifest, read_artifact
from xamc.artifact.compare import compare
from xamc.artifact.publish import ArtifactWriter
from xamc.cli import main as cli

MADE: dict[str, Any] = {
    "export": {"parts": {"tool torch": "2.13.0"}, "outputs": {"model.onnx": "a"}},
    "codegen": {"parts": {"input graph": "g", "source xamc.targets.cpu": "s"}, "outputs": {"model.so": "a"}},
}


def build(folder: Path, manifest: Manifest, code: bytes = b"a", weights: bytes = b"\0", **made: Any) -> Path:
    assert manifest.weights is not None
    with ArtifactWriter(folder) as writer:
        writer.add_bytes("code/model.so", code * 10)
        writer.add_bytes("weights.bin", weights * manifest.weights.nbytes)
        writer.add_bytes("tokenizer/tokenizer.json", b"{}")
        writer.publish(manifest, {"made": {name: {**MADE[name], **made.get(name, {})} for name in MADE}})
    return folder


def found(first: Path, second: Path) -> dict[str, tuple[bool, str]]:
    stages = compare(read_artifact(first), read_artifact(second))
    return {stage.stage: (stage.cause, "\n".join(stage.details)) for stage in stages if stage.details}


@pytest.fixture
def first(tmp_path: Path, manifest: Manifest) -> Path:
    return build(tmp_path / "a", manifest)


def test_equal_artifacts(tmp_path: Path, manifest: Manifest, first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    second = build(tmp_path / "b", manifest)
    assert found(first, second) == {}
    assert cli.run(["diff", str(first), str(second)]) == 0
    assert "equal" in capsys.readouterr().out


def test_the_spec_is_the_cause_and_the_weights_follow(
    tmp_path: Path, manifest: Manifest, first: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = replace(manifest, spec={"name": "tiny", "frontend": {"checkpoint": "other"}})
    second = build(tmp_path / "b", changed, weights=b"\1")
    differences = found(first, second)
    assert differences["spec"] == (True, "spec.frontend.checkpoint: tiny → other")
    cause, details = differences["weights"]
    assert not cause and "weights.bin" in details and "tensor embed: other values" in details
    assert cli.run(["diff", str(first), str(second), "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert (shown["equal"], shown["first_cause"]) == (False, "spec")


def test_a_stage_that_is_not_reproducible_is_named(tmp_path: Path, manifest: Manifest, first: Path) -> None:
    second = build(tmp_path / "b", manifest, code=b"b", codegen={"outputs": {"model.so": "b"}})
    cause, details = found(first, second)["codegen"]
    assert cause and "not reproducible" in details and "code/model.so" in details


def test_a_tool_of_an_earlier_stage_is_named(tmp_path: Path, manifest: Manifest, first: Path) -> None:
    made = {
        "export": {"parts": {"tool torch": "2.14.0"}, "outputs": {"model.onnx": "b"}},
        "codegen": {**MADE["codegen"], "parts": {**MADE["codegen"]["parts"], "input graph": "h"}},
    }
    made["codegen"]["outputs"] = {"model.so": "b"}
    differences = found(first, build(tmp_path / "b", manifest, code=b"b", **made))
    assert differences["export"][0] and "tool torch: 2.13.0 → 2.14.0" in differences["export"][1]
    assert not differences["codegen"][0] and "passes" not in differences


def test_a_pass_is_named_when_the_export_is_the_same(tmp_path: Path, manifest: Manifest, first: Path) -> None:
    made = {"outputs": {"model.so": "b"}, "parts": {**MADE["codegen"]["parts"], "input graph": "h"}}
    differences = found(first, build(tmp_path / "b", manifest, code=b"b", codegen=made))
    assert differences["passes"][0] and not differences["codegen"][0]


def _publish(folder: Path, manifest: Manifest, made: Any) -> Path:
    assert manifest.weights is not None
    with ArtifactWriter(folder) as writer:
        writer.add_bytes("code/model.so", b"a")
        writer.add_bytes("weights.bin", folder.name[:1].encode() * manifest.weights.nbytes)
        writer.add_bytes("tokenizer/tokenizer.json", b"{}")
        writer.publish(manifest, {"made": made})
    return folder


def _stage(output: str, **parts: str) -> dict[str, Any]:
    return {"parts": {f"input {name}": value for name, value in parts.items()}, "outputs": {"file": output}}


def test_results_are_compared_with_their_likes_in_whatever_order_they_got_ready(
    tmp_path: Path, manifest: Manifest
) -> None:
    """As in an artifact of several graphs: only a weight differs, in the user's file and in one graph's weights."""
    prefill, decode = _stage("p.so", graph="p"), _stage("d.so", graph="d")
    mine = {"export": _stage("e"), "codegen": prefill, "codegen 2": decode}
    other = {"export": _stage("e"), "codegen": decode, "codegen 2": prefill}
    mine |= {"weights": _stage("w0", tensors="0"), "weights 2": _stage("w1", tensors="1")}
    other |= {"weights": _stage("w2", tensors="2"), "weights 2": _stage("w0", tensors="0")}
    inputs = [tuple(replace(entry, sha256=str(i) * 64) for entry in manifest.inputs) for i in range(2)]
    assert inputs[0]
    folders = [
        _publish(tmp_path / name, replace(manifest, inputs=files), made)
        for name, files, made in (("a", inputs[0], mine), ("b", inputs[1], other))
    ]
    differences = found(*folders)
    assert {stage: cause for stage, (cause, _) in differences.items()} == {"frontend": True, "weights": False}
    assert "sha256: 000000000000 → 111111111111" in differences["frontend"][1]


def test_another_file_is_a_cause_also_where_the_spec_names_it_otherwise(tmp_path: Path, manifest: Manifest) -> None:
    spec = {"name": "tiny", "frontend": {"checkpoint": "other"}}
    files = tuple(replace(entry, sha256="1" * 64) for entry in manifest.inputs)
    folders = [
        _publish(tmp_path / "a", manifest, MADE),
        _publish(tmp_path / "b", replace(manifest, spec=spec, inputs=files), MADE),
    ]
    assert {stage: cause for stage, (cause, _) in found(*folders).items()} == {
        "spec": True,
        "frontend": True,
        "weights": False,
    }


@pytest.mark.parametrize("imported", ["same", "other"])
def test_passes_are_a_cause_only_where_the_imported_graph_is_the_same(
    tmp_path: Path, manifest: Manifest, imported: str
) -> None:
    made = [
        {"import": _stage("same", shapes="2"), "codegen": _stage("c", graph="g")},
        {"import": _stage(imported, shapes="4"), "codegen": _stage("d", graph="h")},
    ]
    folders = [_publish(tmp_path / name, manifest, part) for name, part in zip("ab", made)]
    passes = found(*folders).get("passes")
    expected = (True, "codegen: the imported graph is the same, the rewritten graph is not")
    assert passes == (expected if imported == "same" else None)


def test_a_file_that_was_edited_afterwards_is_told_apart(tmp_path: Path, manifest: Manifest, first: Path) -> None:
    second = build(tmp_path / "b", manifest)
    code = second / "code/model.so"
    code.chmod(0o644)
    code.write_bytes(b"z" * 10)
    (cause, details) = found(first, second)["files"]
    assert cause and details.startswith("B was changed after it was published: code/model.so")


@pytest.mark.parametrize("report", ["", "[]", '{"made": [1]}', '{"made": {"export": 1}}'])
def test_a_report_of_another_form_is_not_needed(tmp_path: Path, manifest: Manifest, first: Path, report: str) -> None:
    second = build(tmp_path / "b", manifest, code=b"b")
    (second / "report.json").write_text(report)
    assert found(first, second)["codegen"][0]
