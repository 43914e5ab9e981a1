"""ONNX files that lie: nothing outside of the model's folder is touched, and every refusal is an error of ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.onnx_models import bert, resnet, write
from xamc.compiler.frontends.onnx.file import model_files, read_onnx
from xamc.errors import InputError, UnsupportedError, XamcError


def external_model(path: Path, **entries: str) -> Path:
    """y = x + w, with 16 floats of w in another file, described by `entries`."""
    weight = numpy_helper.from_array(np.arange(16, dtype=np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [16]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", shapes[:1], shapes[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(np.arange(20, dtype=np.float32).tobytes())
    (tmp_path / "secret").write_bytes(bytes(64))
    return folder


@pytest.mark.parametrize(
    "entries",
    [{"location": "w.bin"}, {"location": "w.bin", "offset": "16"}, {"location": "./w.bin", "length": "64"}],
    ids=str,
)
def test_external_data_beside_the_model(folder: Path, entries: dict[str, str]) -> None:
    path = external_model(folder / "m.onnx", **entries)
    files = model_files(path)
    assert [file.name for file in files] == ["m.onnx", "w.bin"]
    assert read_onnx(path).opset == 17


def test_links_as_in_a_hub_cache(tmp_path: Path, folder: Path) -> None:
    """The snapshot's folder holds links to files of one folder of blobs."""
    external_model(folder / "m.onnx", location="w.bin")
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for name in ("m.onnx", "w.bin"):
        (folder / name).rename(blobs / f"{name}-1")
        (snapshot / name).symlink_to(blobs / f"{name}-1")
    assert len(read_onnx(snapshot / "m.onnx").files) == 2


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({}, "not a file beside"),
        ({"location": "/etc/passwd"}, "not a file beside"),
        ({"location": "../secret"}, "not a file beside"),
        ({"location": "a/../../secret"}, "not a file beside"),
        ({"location": "..\\secret"}, "not a file beside"),
        ({"location": "link"}, "a link that leads out"),
        ({"location": "linked/secret"}, "a link that leads out"),
        ({"location": "no.bin"}, "does not exist"),
        ({"location": "."}, "no file"),
        ({"location": "hard"}, "2 names"),
        ({"location": "w.bin", "offset": "32"}, "but it has 80"),
        ({"location": "w.bin", "offset": "-4"}, "but it has 80"),
        ({"location": "w.bin", "length": "1000000000000"}, "but it has 80"),
        ({"location": "w.bin", "length": "60"}, "take 64"),
        ({"location": "w.bin", "offset": "x"}, "no number"),
    ],
)
def test_external_data_elsewhere(
    folder: Path, monkeypatch: pytest.MonkeyPatch, entries: dict[str, str], words: str
) -> None:
    (folder / "link").symlink_to(folder.parent / "secret")
    (folder / "linked").symlink_to(folder.parent)
    (folder / "hard").hardlink_to(folder.parent / "secret")
    path = external_model(folder / "m.onnx", **entries)
    opened: list[str] = []
    original = os.open

    def noted(name: Any, *rest: Any, **more: Any) -> int:
        opened.append(str(name))
        return original(name, *rest, **more)

    monkeypatch.setattr(os, "open", noted)
    with pytest.raises(InputError, match=words) as caught:
        read_onnx(path)
    assert caught.value.code == "E1153" and "w" in caught.value.message
    assert not [name for name in opened if any(word in name for word in ("secret", "passwd", "hard"))]


def test_cut_off_anywhere(tmp_path: Path) -> None:
    whole = write("resnet", tmp_path / "m.onnx").read_bytes()
    for length in (0, 1, 10, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.onnx").write_bytes(whole[:length])
        with pytest.raises(InputError) as caught:
            read_onnx(tmp_path / "cut.onnx")
        assert caught.value.code == "E1152" and "cut.onnx" in caught.value.message and caught.value.fix


WHOLE = resnet().SerializeToString()


@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=8))
def test_changed_bytes_are_read_or_refused(tmp_path_factory: Any, changes: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE)
    for place, value in changes:
        content[place] = value
    path = tmp_path_factory.mktemp("fuzz") / "m.onnx"
    path.write_bytes(content)
    try:
        read_onnx(path)
    except XamcError as error:
        assert error.code in ("E1152", "E1153", "E1154") and error.fix


def test_shapes_that_do_not_fit_their_bytes(tmp_path: Path) -> None:
    model = resnet()
    model.graph.initializer[0].dims[0] += 1
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"weight.1 has \d+ bytes") as caught:
        read_onnx(tmp_path / "m.onnx")
    assert caught.value.code == "E1152"


def test_the_checkers_words(tmp_path: Path) -> None:
    model = bert()
    model.graph.node[3].input[0] = "nowhere"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match="no valid ONNX model"):
        read_onnx(tmp_path / "m.onnx")


@pytest.mark.parametrize("opset", [6, 99])
def test_operator_sets(tmp_path: Path, opset: int) -> None:
    model = resnet()
    model.opset_import[0].version = opset
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UnsupportedError, match=f"operator set {opset}"):
        read_onnx(tmp_path / "m.onnx")


def test_no_file(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere.onnx"):
        with pytest.raises(InputError) as caught:
            read_onnx(path)
        assert caught.value.code == "E1152"
