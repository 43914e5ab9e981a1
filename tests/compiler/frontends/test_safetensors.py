"""safetensors headers: right ones are read, wrong ones are named, hostile ones do no harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from xamc.compiler.frontends.safetensors import MAX_HEADER_BYTES, read_header, require_float
from xamc.errors import InputError, XamcError


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_values_are_those_of_the_safetensors_library(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    arrays = {
        "a": generator.standard_normal((5, 3)).astype(np.float32),
        "b": generator.standard_normal(7).astype(np.float16),
        "c": generator.standard_normal((2, 3, 4)).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(3, np.float32),
    }
    save_file(arrays, tmp_path / "m.safetensors")
    header = read_header(tmp_path / "m.safetensors")
    assert set(header) == set(arrays)
    for name, array in arrays.items():
        stored, tensor = header[name]
        assert (tensor.shape, tensor.dtype) == (array.shape, array.dtype.name)
        require_float(tensor.path, name, stored)
        if array.ndim:
            rows = np.concatenate([tensor.read_rows(i, i + 1) for i in range(len(array))] or [tensor.read_rows(0, 0)])
            assert np.array_equal(rows, array)


BAD: dict[str, tuple[str, Any, bytes, str]] = {
    "not JSON": ("E1110", b"{]", b"", "not JSON"),
    "not UTF-8": ("E1110", b'{"\xff": 1}', b"", "not JSON"),
    "an array": ("E1110", [], b"", "not a JSON object"),
    "deep nesting": ("E1110", b"[" * 200_000, b"", "not JSON"),
    "entry is no object": ("E1110", {"w": 3}, b"", "w"),
    "unknown dtype": ("E1110", {"w": entry("F12", [1], 0, 4)}, b"0000", "F12"),
    "dtype is a list": ("E1110", {"w": entry(["F32"], [1], 0, 4)}, b"0000", "F32"),  # type: ignore[arg-type]
    "negative size": ("E1110", {"w": entry("F32", [-1], 0, 4)}, b"0000", "shape"),
    "boolean size": ("E1110", {"w": entry("F32", [True], 0, 4)}, b"0000", "shape"),  # type: ignore[list-item]
    "huge size": ("E1110", {"w": entry("F32", [2**60, 2**60], 0, 4)}, b"0000", "shape"),
    "reversed span": ("E1110", {"w": entry("F32", [1], 4, 0)}, b"0000", "data_offsets"),
    "one offset": ("E1110", {"w": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, b"0000", "data_offsets"),
    "bytes contradict shape": ("E1110", {"w": entry("F32", [2], 0, 4)}, b"0000", "needs 8 bytes and has 4"),
    "overlap": (
        "E1110",
        {"w": entry("F32", [2], 0, 8), "x": entry("F32", [1], 4, 8)},
        b"0" * 8,
        "tensor x overlaps",
    ),
    "hole": ("E1110", {"w": entry("F32", [1], 4, 8)}, b"0" * 8, "4 bytes before tensor w"),
    "truncated data": ("E1111", {"w": entry("F32", [2], 0, 8)}, b"0" * 7, "truncated: tensor w"),
    "trailing data": ("E1111", {"w": entry("F32", [2], 0, 8)}, b"0" * 9, "1 bytes after"),
    "repeated name": ("E1115", b'{"w": {}, "w": {}}', b"", "names the tensor w twice"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_headers_are_named(case: str, tmp_path: Path) -> None:
    code, header, data, words = BAD[case]
    path = write(tmp_path / "model.safetensors", header, data)
    with pytest.raises(InputError) as caught:
        read_header(path)
    assert caught.value.code == code
    assert words in caught.value.message and str(path) in caught.value.message and caught.value.fix


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "E1110"),
        (b"\x10\0\0", "E1110"),
        ((2**63).to_bytes(8, "little") + b"{}", "E1110"),
        ((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}", "E1110"),
        ((100).to_bytes(8, "little") + b"{}", "E1111"),
    ],
)
def test_header_lengths_are_bounded(content: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_header(path)
    assert caught.value.code == code


def test_quantized_types_are_unsupported_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "m.safetensors", {"w": entry("F8_E4M3", [4], 0, 4)}, b"0000")
    stored, tensor = read_header(path)["w"]
    with pytest.raises(InputError, match=r"E1112.*tensor w is stored as F8_E4M3"):
        require_float(tensor.path, "w", stored)


def test_a_file_that_shrinks_after_its_header_was_read_is_noticed(tmp_path: Path) -> None:
    save_file({"w": np.ones((64, 8), np.float32)}, tmp_path / "m.safetensors")
    _, tensor = read_header(tmp_path / "m.safetensors")["w"]
    with (tmp_path / "m.safetensors").open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(InputError, match="E1111"):
        tensor.read_rows(0, 64)
    (tmp_path / "m.safetensors").unlink()
    with pytest.raises(InputError, match="E1111"):
        tensor.read_rows(0, 1)


GOOD = json.dumps({"w": entry("F32", [2, 3], 0, 24), "b": entry("BF16", [2], 24, 28)}).encode()
GOOD_FILE = len(GOOD).to_bytes(8, "little") + GOOD + bytes(28)


@given(
    st.lists(st.tuples(st.integers(0, len(GOOD_FILE) - 1), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 40),
)
def test_damaged_bytes_raise_our_errors_only(tmp_path_factory: Any, edits: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(GOOD_FILE)
    for at, value in edits:
        data[at] = value
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    path.write_bytes(bytes(data[: len(data) - cut]))
    try:
        header = read_header(path)
    except XamcError:
        return
    for _, tensor in header.values():
        assert tensor.read_rows(0, tensor.shape[0] if tensor.shape else 0) is not None
