from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xamc.artifact.manifest import ALIGNMENT, Manifest, Weights, plan_layout, tensor_nbytes
from xamc.artifact.manifest_file import digest, dumps, loads
from xamc.artifact.records import RecordError
from xamc.errors import InputError, UnsupportedError
from xamc.model.dtypes import DTYPE_BYTES

PATH = Path("x/manifest.json")


def test_round_trip_keeps_every_field_and_the_bytes(manifest: Manifest) -> None:
    read = loads(dumps(manifest), PATH)
    assert read == manifest
    assert dumps(read) == dumps(manifest)
    assert digest(read) == digest(manifest)


def test_key_order_of_mappings_does_not_change_the_bytes(manifest: Manifest) -> None:
    swapped = replace(manifest, tools={"b": "2", "a": "1"}), replace(manifest, tools={"a": "1", "b": "2"})
    assert dumps(swapped[0]) == dumps(swapped[1])


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        item: Any = document
        for key in parents:
            item = item[int(key) if key.isdigit() else key]
        item[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.pop("kv"), "kv: missing key"),
        (_set("surprise", 1), "surprise: unknown key"),
        (_set("context_limit", "64"), "context_limit: expected int, found str"),
        (_set("context_limit", True), "context_limit: expected int, found bool"),
        (_set("prefill_chunk", 65), "prefill_chunk"),
        (_set("max_batch", 0), "max_batch"),
        (_set("code_file", "../evil.so"), "code_file"),
        (_set("tokenizer", "/etc"), "tokenizer"),
        (_set("kv/layout", "BSHD"), "kv.layout"),
        (_set("model/rope/kind", "yarn"), "model.rope.kind"),
        (_set("model/sliding_windows/0", "x"), "model.sliding_windows"),
        (_set("inputs/0/sha256", "00"), "inputs[0].sha256"),
        (_set("inputs/0/name", "home/me/model"), "inputs[0].name"),
        (_set("weights/tensors/1/offset", 1), "weights.tensors[1].offset"),
        (_set("weights/tensors/1/offset", 64), "overlaps"),
        (_set("weights/tensors/1/nbytes", 9), "weights.tensors[1].nbytes"),
        (_set("weights/tensors/1/dtype", "float7"), "weights.tensors[1].dtype"),
        (_set("weights/nbytes", 10), "weights.nbytes"),
        (_set("phases/0/functions", ["train"]), "phases"),
    ],
)
def test_what_does_not_fit_is_named(manifest: Manifest, change: Callable[[dict[str, Any]], None], named: str) -> None:
    document = json.loads(dumps(manifest))
    if "sliding_windows" in named:
        document["model"]["sliding_windows"][0] = "x"
    else:
        change(document)
    with pytest.raises(InputError) as caught:
        loads(json.dumps(document), PATH)
    assert caught.value.code == "E1502"
    assert named in caught.value.message


def test_other_format_version_is_unsupported_whatever_else_changed(manifest: Manifest) -> None:
    document = {**json.loads(dumps(manifest)), "format_version": 2, "new_key": 1}
    with pytest.raises(UnsupportedError, match="E1503"):
        loads(json.dumps(document), PATH)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format_version": 1}'])
def test_damaged_text_is_an_input_error(text: str) -> None:
    with pytest.raises(InputError, match="E1502"):
        loads(text, PATH)


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(DTYPE_BYTES)), st.lists(st.integers(0, 9), max_size=3)),
        max_size=8,
    )
)
def test_layout_is_aligned_dense_and_without_overlap(tensors: list[tuple[str, list[int]]]) -> None:
    entries, nbytes = plan_layout((f"t{i}", dtype, tuple(shape)) for i, (dtype, shape) in enumerate(tensors))
    assert Weights("w.bin", nbytes, entries).tensors == entries
    assert nbytes % ALIGNMENT == 0
    end = 0
    for entry in entries:
        assert entry.offset % ALIGNMENT == 0
        assert 0 <= entry.offset - end < ALIGNMENT
        end = entry.offset + entry.nbytes
    assert 0 <= nbytes - end < ALIGNMENT


def test_nbytes_agree_with_numpy() -> None:
    for dtype in ("float32", "float16", "int64", "int8", "uint8", "bool"):
        assert tensor_nbytes(dtype, (3, 5)) == np.empty((3, 5), dtype).nbytes
    assert tensor_nbytes("uint4", (3, 5)) == 8


def test_two_tensors_of_one_name_are_refused() -> None:
    entries, nbytes = plan_layout([("a", "int8", (4,)), ("a", "int8", (4,))])
    with pytest.raises(RecordError, match="same name"):
        Weights("w.bin", nbytes, entries)
