"""A step of several rows against the same layer in NumPy, float64, and against each of its rows alone, bit for bit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from tests.targets.kernels.harness import LEVELS_HERE, SPLIT, assert_close, normal, rng
from tests.targets.kernels.pages import paged_cache, quantize, storage
from tests.targets.kernels.test_decode_step import EPS, FLOAT, Caller, Memory, attended, rms, silu
from tests.targets.kernels.test_integer_linear import rounded
from xamc.artifact.packing import WeightFormat
from xamc.errors import InternalError
from xamc.ir.tolerances import tolerance
from xamc.targets.kernels.decode_kernels import (
    AttentionKernel,
    AttentionSource,
    EmbeddingKernel,
    GateSource,
    LinearKernel,
    NormSource,
    PlainSource,
)
from xamc.targets.kernels.decode_rows import prepared_bytes
from xamc.targets.kernels.decode_step import decode_step
from xamc.targets.kernels.few_rows import MOST_ROWS
from xamc.targets.kernels.integer_dot import IntegerDot
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.kv_pages import KvDtype
from xamc.targets.kernels.linear import Activations, integers

levels = pytest.mark.parametrize("isa", [*LEVELS_HERE, SPLIT], ids=lambda isa: isa.name)
HERE = LEVELS_HERE[-1]
COUNTS = (2, 3, 5, 7, 9, 12, MOST_ROWS)
"""Rows that every height of a register tile covers, exactly and not."""
KINDS: list[tuple[WeightFormat, Activations]] = [
    (WeightFormat("float16"), "float32"),
    (WeightFormat("bfloat16"), "bfloat16"),
    (WeightFormat("uint4", 32), "int16"),
    (WeightFormat("int8"), "int16"),
    (WeightFormat("int8", 32), "int8"),
    (WeightFormat("uint4", 128), "float32"),
    (FLOAT, "float32"),
]
kinds = pytest.mark.parametrize(("fmt", "activations"), KINDS, ids=lambda v: getattr(v, "tag", v))


def check_linear(
    fmt: WeightFormat, activations: Activations, isa: Isa, source: str = "norm", counts: Sequence[int] = COUNTS
) -> None:
    """A layer behind each source, with a bias and an addition, plain and as logits; N is no whole number of panels."""
    n, g = 75, rng(11)
    k = {None: 100, 32: 96, 128: 128}[fmt.group_size]
    k -= k % fmt.k_step
    part = {"plain": PlainSource(k), "norm": NormSource(k, EPS), "gate": GateSource(k)}[source]
    kernels = [
        LinearKernel(n, part, fmt, activations, bias=True, residual=True),
        LinearKernel(n, part, fmt, activations, logits=True),
    ]
    call = Caller(kernels, n, isa, rows=True)
    integer = integers(fmt, activations)
    alone = Caller(kernels[1:], n, isa) if integer is not None and isa is HERE else None
    for rows in counts:
        x = normal(g, rows, 2 * k if source == "gate" else k)
        norm, bias, residual = normal(g, k), normal(g, n), normal(g, rows, n)
        memory = Memory()
        packed, w = memory.matrix(fmt, n, k)
        more = [memory.vector(norm)] if source == "norm" else []
        read, add, plus = memory.put("workspace", x), memory.vector(bias), memory.put("workspace", residual)
        place = memory.room(rows, n)
        steps = [[0, read, *more, *packed, add, plus, place], [1, read, *more, *packed]]
        wide = x.astype(np.float64)
        seen = wide
        if source != "plain":
            both = wide[:, :k], wide[:, -k:]
            seen = np.stack([rms(row, norm) for row in wide]) if source == "norm" else silu(both[0]) * both[1]
        scale = 4 * (np.abs(seen) @ np.abs(w).T + 1)
        if integer is not None:
            dot = IntegerDot.of(fmt, isa, integer)
            # float32 norms and gates round otherwise than float64 ones, and more values come near a tie
            seen, ties = rounded(seen, dot.group, dot.levels)
            near = np.abs(ties) @ np.abs(w).T
            step = np.abs(seen).max() / dot.levels if source != "plain" else 0
            scale = scale + (near + step * np.abs(w).sum(1)) / tolerance("kernel_sums")
        for threads in (1, 3):
            logits = call(memory, steps, threads, [0] * rows)
            assert_close(memory.read(place, rows, n), seen @ w.T + bias + residual, "kernel_sums", scale)
            assert_close(logits, seen @ w.T, "kernel_sums", scale)
        if alone is not None:
            for row in range(min(rows, 4)):
                read = memory.put("workspace", x[row])
                np.testing.assert_array_equal(alone(memory, [[0, read, *more, *packed]], 1)[0], logits[row])


@kinds
def test_linear_layers_of_rows(fmt: WeightFormat, activations: Activations) -> None:
    check_linear(fmt, activations, HERE)


@pytest.mark.parametrize("isa", [*LEVELS_HERE[:-1], SPLIT], ids=lambda isa: isa.name)
@pytest.mark.parametrize(("fmt", "activations"), KINDS[1:4], ids=lambda v: getattr(v, "tag", v))
def test_linear_layers_at_other_levels(isa: Isa, fmt: WeightFormat, activations: Activations) -> None:
    check_linear(fmt, activations, isa, counts=(2, 7))


@pytest.mark.parametrize("source", ["plain", "gate"])
@pytest.mark.parametrize(("fmt", "activations"), KINDS[:3:2], ids=lambda v: getattr(v, "tag", v))
def test_other_sources(source: str, fmt: WeightFormat, activations: Activations) -> None:
    check_linear(fmt, activations, HERE, source, (3, 12))


@levels
@pytest.mark.parametrize("activations", ["float32", "int16"])
def test_gate_and_up_are_one_instruction(isa: Isa, activations: Activations) -> None:
    k, width, rows = 64, 96, 11
    kernel = LinearKernel(2 * width, PlainSource(k), WeightFormat("int8", 32), activations, gate=True)
    memory, g = Memory(), rng(8)
    x = normal(g, rows, k)
    packed, w = memory.matrix(kernel.format, 2 * width, k)
    place = memory.room(rows, width)
    steps = [[0, memory.put("workspace", x), *packed, place]]
    Caller([kernel], 8, isa, rows=True)(memory, steps, 3, [0] * rows)
    seen = x.astype(np.float64) if activations == "float32" else rounded(x, 32, 32767)[0]
    both = seen @ w.T
    expected = silu(both[:, :width]) * both[:, width:]
    assert_close(memory.read(place, rows, width), expected, "kernel_elementwise", 64 * np.abs(expected).max())


@pytest.mark.parametrize("fmt", [fmt for fmt, _ in KINDS], ids=lambda fmt: fmt.tag)
def test_a_row_does_not_depend_on_its_neighbours(fmt: WeightFormat) -> None:
    """Bit for bit, wherever it stands, with whatever beside it, NaN included, and however many there are."""
    n, k, g = 96, 128, rng(21)
    kernel = LinearKernel(n, PlainSource(k), fmt, "int16" if fmt.quantized else "float32", logits=True)
    memory = Memory()
    packed, _ = memory.matrix(fmt, n, k)
    call = Caller([kernel], n, HERE, rows=True)
    row, seen = normal(g, k), []
    for rows in COUNTS:
        for at in {0, rows // 2, rows - 1}:
            x = normal(g, rows, k)
            x[(at + 1) % rows] = np.nan
            x[at] = row
            logits = call(memory, [[0, memory.put("workspace", x), *packed]], 3, [0] * rows)
            seen.append(logits[at].copy())
    for other in seen[1:]:
        np.testing.assert_array_equal(other, seen[0])


def check_attention(
    isa: Isa, kv_dtype: KvDtype, window: int | None, normed: bool, lengths: Sequence[int], together: bool = False
) -> None:
    """Rows of different lengths: rotation, the update of the cache, attention in parts and their merging.

    `together`: they are one sequence, so that each sees what those before it have written in the same step. The last
    comes first then, so that no thread finds keys there that it has written itself on the way.
    """
    hq, hkv, d, block, rows = 6, 2, 32, 8, len(lengths)
    g, memory = rng(rows), Memory()
    attention = AttentionKernel(hq, hkv, d, kv_dtype, 0.25, window, block, EPS if normed else None)
    merge = LinearKernel(hq * d, AttentionSource(hq, hkv, d, window), FLOAT, "float32", logits=True)
    most = max(lengths)
    qkv, norms = normal(g, rows, hq + 2 * hkv, d), [normal(g, d), normal(g, d)]
    sequences, order = (1, slice(None, None, -1)) if together else (rows, slice(None))
    cache, pools, table = paged_cache(g, [normal(g, sequences, hkv, most + 1, d) for _ in range(2)], kv_dtype, block)
    table = table.repeat(rows // sequences, 0)
    grown = [c[0, :, : lengths[0]].astype(np.float64) for c in cache]
    angle = g.uniform(0, 6, (most + 1, d // 2))
    angles = [np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)]
    packed, w = memory.matrix(FLOAT, hq * d, hq * d)
    parts = memory.room(rows * attention.output[0], *attention.output[1:])
    places = [memory.put("pools", p) for p in pools]
    steps = [
        [0, memory.put("workspace", qkv[order]), *(memory.vector(n) for n in norms if normed), *places, parts],
        [1, parts, *packed],
    ]
    call = Caller([attention, merge], hq * d, isa, d // 2, rows=True)
    out = []
    for i, cached in enumerate(lengths):

        def rotated(heads: np.ndarray, norm: np.ndarray, cached: int = cached) -> np.ndarray:
            if normed:
                heads = np.stack([rms(head, norm) for head in heads])
            low, high, (cos, sin) = heads[:, : d // 2], heads[:, d // 2 :], (table[cached] for table in angles)
            return np.concatenate((low * cos - high * sin, high * cos + low * sin), 1)

        wide = qkv[i].astype(np.float64)
        new = [rotated(wide[hq : hq + hkv], norms[1]), wide[hq + hkv :]]
        if kv_dtype == "int8":
            new = [c * s[..., None] for c, s in (quantize(part.astype(np.float32)) for part in new)]
        elif kv_dtype != "float32":
            new = [part.astype(np.float32).astype(storage(kv_dtype)).astype(np.float64) for part in new]
        before = grown if together else [c[i, :, :cached].astype(np.float64) for c in cache]
        k, v = grown = [np.concatenate((c, part[:, None]), 1) for c, part in zip(before, new, strict=True)]
        out.append(attended(rotated(wide[:hq], norms[0]), k, v, window).reshape(-1))
    slack = {"float32": 1, "float16": 60, "bfloat16": 500, "int8": 1000}[kv_dtype]
    expected = np.stack(out)
    scale = (np.abs(expected) @ np.abs(w).T + 1) * 4 * slack
    positions = list(lengths)[order]
    results = [call(memory, steps, threads, [0] * rows, positions, table, angles) for threads in (1, 3)]
    np.testing.assert_array_equal(*results)
    assert_close(results[0][order], expected @ w.T, "kernel_sums", scale)


@pytest.mark.parametrize(
    ("kv_dtype", "window", "normed"),
    [("float32", None, True), ("float16", 70, False), ("int8", None, False), ("bfloat16", None, False)],
)
def test_attention_of_rows_of_different_lengths(kv_dtype: KvDtype, window: int | None, normed: bool) -> None:
    check_attention(HERE, kv_dtype, window, normed, (131, 0, 64, 200, 5))


@pytest.mark.parametrize("isa", [*LEVELS_HERE[:-1], SPLIT], ids=lambda isa: isa.name)
def test_attention_at_other_levels(isa: Isa) -> None:
    check_attention(isa, "float16", 70, False, (131, 0, 64))


@pytest.mark.parametrize(("kv_dtype", "window"), [("float16", None), ("int8", None), ("float32", 5)])
@pytest.mark.parametrize("cached", [0, 58])
def test_neighbours_in_a_sequence(kv_dtype: KvDtype, window: int | None, cached: int) -> None:
    """Nine positions in one step, across the end of blocks and of a tile."""
    check_attention(HERE, kv_dtype, window, False, range(cached, cached + 9), together=True)


def test_a_long_row_among_short_ones() -> None:
    """More tiles than parts, and threads that have no part at all."""
    check_attention(HERE, "float32", None, False, (2300, 0, 3))
    check_attention(HERE, "float32", None, False, (0, 0))


@levels
def test_an_embedding_is_the_first_instruction(isa: Isa) -> None:
    kernel = EmbeddingKernel(70, 96, WeightFormat("uint4", 32))
    memory, tokens = Memory(), [69, 0, 31, 69, 32]
    packed, w = memory.matrix(kernel.format, 70, 96)
    place = memory.room(5, 96)
    Caller([kernel], 8, isa, rows=True)(memory, [[0, *packed, place]], 3, tokens)
    np.testing.assert_array_equal(memory.read(place, 5, 96), w[tokens].astype(np.float32))


def test_what_is_prepared_is_read_only_when_all_have_met() -> None:
    """Many instructions in a row, whose threads are apart in time, on the same memory."""
    n = k = 512
    rows = 9
    kernel = LinearKernel(n, NormSource(k, EPS), WeightFormat("uint4", 32), "int8")
    memory, g = Memory(), rng(9)
    packed, _ = memory.matrix(kernel.format, n, k)
    norm = memory.vector(np.ones(k))
    places = [memory.put("workspace", normal(g, rows, k)), *(memory.room(rows, n) for _ in range(60))]
    steps = [[0, a, norm, *packed, b] for a, b in itertools.pairwise(places)]
    call = Caller([kernel], 8, HERE, rows=True)
    call(memory, steps, 1, [0] * rows)
    alone = memory.read(places[-1], rows, n)
    for _ in range(5):
        call(memory, steps, 3, [0] * rows)
        np.testing.assert_array_equal(memory.read(places[-1], rows, n), alone)


def test_what_rows_need_does_not_depend_on_the_level() -> None:
    assert prepared_bytes(LinearKernel(32, PlainSource(65), FLOAT, "float32")) == (128 + 4) * 4
    assert prepared_bytes(EmbeddingKernel(70, 96, FLOAT)) == 0


def test_a_kernel_without_a_form_for_rows_is_refused() -> None:
    class Other:
        key, operands, output = "other", (), (1, 1)

    with pytest.raises(InternalError) as caught:
        decode_step("step", [Other()], 8, 16, HERE, rows=True)  # type: ignore[list-item]
    assert caught.value.code == "E1417"
