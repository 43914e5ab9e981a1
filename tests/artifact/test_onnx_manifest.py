"""Manifests of graphs, and what tells their artifacts from those of language models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xamc.artifact import Cpu, OnnxArtifact, Quantization, read_any, read_artifact, read_onnx_artifact
from xamc.artifact.manifest_file import dumps, loads
from xamc.artifact.onnx_manifest import GraphTensor, OnnxManifest
from xamc.artifact.publish import ArtifactWriter, check_replaceable
from xamc.artifact.records import RecordError
from xamc.errors import InputError

MANIFEST = OnnxManifest(
    name="net",
    target="tvm_vacc",
    xamc_version="0",
    spec={},
    graph_inputs=(GraphTensor("x", "float32", (1, 3)), GraphTensor("ids", "int64", (1, 3), 7)),
    graph_outputs=(GraphTensor("y", "float32", (1, 2)),),
    parameters=("w",),
    code_file="mod.so",
    graph_file="mod.json",
    params_file="mod.params",
    weight_dtype="float16",
    cpu=Cpu("x86-64-v3", ("avx2",)),
    quantization=Quantization(),
    executes_on="host-simulator",
)


def publish(folder: Path) -> OnnxManifest:
    with ArtifactWriter(folder) as writer:
        for name in ("mod.so", "mod.json", "mod.params"):
            writer.add_bytes(name, name.encode())
        return writer.publish(MANIFEST, {})


def test_round_trip() -> None:
    assert loads(dumps(MANIFEST), Path("m")) == MANIFEST
    assert json.loads(dumps(MANIFEST))["kind"] == "graph"
    assert MANIFEST.simulated and not replace(MANIFEST, executes_on="cpu").simulated


def test_an_artifact_of_a_graph(tmp_path: Path) -> None:
    manifest = publish(tmp_path / "net")
    artifact = read_any(tmp_path / "net")
    assert isinstance(artifact, OnnxArtifact) and artifact.manifest == manifest
    assert read_onnx_artifact(tmp_path / "net").manifest == manifest
    with pytest.raises(InputError, match="it takes x, ids, no prompt") as caught:
        read_artifact(tmp_path / "net")
    assert caught.value.code == "E1640"


def test_it_can_be_replaced_unless_it_holds_foreign_files(tmp_path: Path) -> None:
    publish(tmp_path / "net")
    check_replaceable(tmp_path / "net")
    publish(tmp_path / "net")
    (tmp_path / "net" / "mine.txt").write_text("mine")
    with pytest.raises(InputError) as caught:
        check_replaceable(tmp_path / "net")
    assert caught.value.code == "E1501" and caught.value.details == ("mine.txt",)


def test_a_vendors_folder_is_never_replaced(tmp_path: Path) -> None:
    """It has the same three names and no manifest of ours."""
    for name in ("mod.so", "mod.json", "mod.params"):
        (tmp_path / name).write_bytes(b"vendor")
    with pytest.raises(InputError) as caught:
        ArtifactWriter(tmp_path)
    assert caught.value.code == "E1501" and (tmp_path / "mod.so").read_bytes() == b"vendor"


@pytest.mark.parametrize(
    "change",
    [
        {"code_file": "../mod.so"},
        {"params_file": "/mod.params"},
        {"graph_outputs": ()},
        {"graph_inputs": (GraphTensor("x", "float32", (1,)),) * 2},
    ],
    ids=str,
)
def test_contradictions(change: dict[str, Any]) -> None:
    with pytest.raises(RecordError):
        replace(MANIFEST, **change)


def test_tensors_are_checked() -> None:
    for dtype, shape in (("text", (1,)), ("float32", (-1,))):
        with pytest.raises(RecordError):
            GraphTensor("x", dtype, shape)


def test_damage_is_an_error_of_ours(tmp_path: Path) -> None:
    publish(tmp_path / "net")
    text = (tmp_path / "net" / "manifest.json").read_text()
    value = json.loads(text)
    value["surprise"] = 1
    with pytest.raises(InputError) as caught:
        loads(json.dumps(value), tmp_path)
    assert caught.value.code == "E1502"
