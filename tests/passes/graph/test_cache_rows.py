"""The KV cache of rows: what a call reads and writes, in every phase, with symbolic and with fixed sizes."""

from __future__ import annotations

import numpy as np
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, TWIN_CACHE, golden_of
from xamc.errors import InternalError
from xamc.ir.onnx_graph import constant_array, dims, static_dims
from xamc.ir.tolerances import tolerance
from xamc.passes.graph import cache_rows
from xamc.passes.graph.cache_rows import CacheRows
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.last_position import LastPosition
from xamc.verify.metrics import relative_error
from xamc.verify.oracle import Oracle, materialize
from xamc.verify.proof import prove

SIZES = {"symbolic": (None, None), "batch": (3, None), "fixed": (3, {"prefill": 9, "decode": 12})}


def test_golden() -> None:
    check_golden("passes/cache_rows.txt", golden_of("cache_rows", cache_rows))


def _passes(kind: str, sizes: str) -> list[object]:
    batch, lengths = SIZES[sizes]
    length = lengths[kind] if isinstance(lengths, dict) else None
    return [Cleanup(), *([LastPosition()] if kind == "prefill" else []), CacheRows(kind, *TWIN_CACHE, batch, length)]


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@pytest.mark.parametrize(("kind", "sizes"), [("tied", "symbolic"), *(("windowed", sizes) for sizes in SIZES)])
def test_proven(kind: str, phase: str, sizes: str) -> None:
    """Two rows of one length as a batch, and three ragged ones, always on shuffled rows of the cache."""
    program, cases = twins.twin(kind)
    report = prove(_passes(phase, sizes), program, cases).require()  # type: ignore[arg-type]
    assert len(report.cases) == (2 if phase == "prefill" else 6)
    values = [value for node in program.model.graph for value in node.outputs]
    if sizes == "fixed":
        assert all(static_dims(value) is not None for value in values)
        sizes_of = [constant_array(node.inputs[1]) for node in twins.nodes(program, "Reshape")]
        assert all(array is not None and (array > 0).all() for array in sizes_of)
        assert "zactivate_len" not in {value.name for value in program.data_inputs()}
    else:
        free = {dim for value in program.data_inputs() for dim in dims(value) or () if isinstance(dim, str)}
        assert free <= {"batch", "seq", "active"}, "every symbol is the size of an input"


def _decode_graph() -> tuple[Oracle, Oracle, int]:
    program = twins.after("windowed", Cleanup())
    before = Oracle(program.model.clone(), materialize(program.weights))
    CacheRows("decode", *TWIN_CACHE).run(program)
    return before, Oracle(program.model, materialize(program.weights)), program.config.num_layers


@pytest.mark.parametrize("index", [[2, 0, 3], [0, 1, 2], [3, 2, 1]])
@pytest.mark.parametrize("active", [7, 8, 12])
def test_any_rows_and_any_number_of_active_slots(index: list[int], active: int) -> None:
    """Against the exported graph, one sequence at a time; other rows, and slots behind, hold noise and stay as they
    are."""
    before, after, layers = _decode_graph()
    random = np.random.default_rng(3)
    valid = np.array([6, 0, 3])
    caches = {
        f"cache_{part}.{layer}": 9 * random.standard_normal((4, 12, 2, 16)).astype(np.float32)
        for layer in range(layers)
        for part in ("key", "value")
    }
    tables = {name: random.uniform(-1, 1, (12, 8)).astype(np.float32) for name in ("rope_cos", "rope_sin")}
    tokens = random.integers(0, 100, (3, 1))
    call = {"tokens": tokens, "batch_index": np.array(index), "batch_valid_length": valid}
    found = after.run({**call, "zactivate_len": np.zeros(active, np.int64), **tables, **caches})
    for row, (at, past) in enumerate(zip(index, valid)):
        pasts = {
            name.replace("cache", "past"): cache[at : at + 1, :past].transpose(0, 2, 1, 3)
            for name, cache in caches.items()
        }
        alone = {"input_ids": tokens[row : row + 1], "position_ids": np.array([[past]]), **tables, **pasts}
        expected = before.run(alone)
        assert relative_error(found["logits"][row : row + 1], expected["logits"]) <= tolerance("reassociated")
        for name, cache in caches.items():
            updated = found[name.replace("cache", "updated")]
            new = expected[name.replace("cache", "present")][0, :, past]
            assert relative_error(updated[at, past], new) <= tolerance("reassociated")
            cache[at, past] = updated[at, past]
    for name, cache in caches.items():
        np.testing.assert_array_equal(found[name.replace("cache", "updated")], cache)


def test_a_prefill_needs_the_last_position_and_a_decode_must_not_have_it() -> None:
    with pytest.raises(InternalError, match="E1326"):
        CacheRows("prefill", 12, 4).run(twins.after("tied", Cleanup()))
    with pytest.raises(InternalError, match="E1326"):
        CacheRows("decode", 12, 4).run(twins.after("tied", Cleanup(), LastPosition()))
    program = twins.after("tied", Cleanup())
    CacheRows("decode", 12, 4).run(program)
    with pytest.raises(InternalError, match="E1326"):
        CacheRows("decode", 12, 4).run(program)


def test_calls_that_do_not_fit_are_not_accepted() -> None:
    _, cases = twins.twin("tied")
    feeds = {case.name: case.feeds for case in cases}
    prefill, decode = CacheRows("prefill", 12, 4, 1, 5), CacheRows("decode", 12, 4, 2, 6)
    assert [name for name in feeds if prefill.accepts(feeds[name])] == ["row0, prefill", "row2, prefill"]
    accepted = [name for name in feeds if decode.accepts(feeds[name])]
    assert accepted == ["row0, decode 1", "row2, decode 1", "row2, decode 2", "row2, decode 3"]
    assert PASSES["cache_rows"].also is not None
