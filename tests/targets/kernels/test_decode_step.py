"""A program of kernels for one token against the same layer in NumPy, float64, on one thread and on several."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import tvm
import tvm_ffi

from tests.artifact.test_packing import weights
from tests.targets.kernels.emulated import emulated_kernel, runs_here
from tests.targets.kernels.harness import LEVELS_HERE, SPLIT, assert_close, module, normal, rng
from tests.targets.kernels.pages import paged_cache, quantize, storage
from xamc.artifact.packing import WeightFormat, pack_rows, packed_layout
from xamc.errors import InternalError
from xamc.runtime.memory import aligned_zeros
from xamc.runtime.threads import configure_tvm_threads
from xamc.targets.kernels.decode_kernels import (
    AttentionKernel,
    AttentionSource,
    DecodeKernel,
    EmbeddingKernel,
    GateSource,
    LinearKernel,
    NormSource,
    Operands,
    PlainSource,
    StepInputs,
)
from xamc.targets.kernels.decode_rows import prepared_bytes
from xamc.targets.kernels.decode_step import decode_step, program_width
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.kv_pages import KvDtype

EPS, FLOAT = 1e-5, WeightFormat("float32")
levels = pytest.mark.parametrize("isa", [*LEVELS_HERE, SPLIT], ids=lambda isa: isa.name)


class Memory:
    """The three regions, filled from the front."""

    def __init__(self) -> None:
        self.bytes = {region: aligned_zeros((1 << 23,), np.uint8) for region in ("weights", "pools", "workspace")}
        self.end = dict.fromkeys(self.bytes, 64)

    def put(self, region: str, array: np.ndarray) -> int:
        offset = self.end[region]
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.bytes[region][offset : offset + flat.size] = flat
        self.end[region] = -(-(offset + flat.size) // 64) * 64
        return offset

    def room(self, *shape: int) -> int:
        return self.put("workspace", np.full(shape, np.nan, np.float32))

    def matrix(self, fmt: WeightFormat, n: int, k: int) -> tuple[list[int], np.ndarray]:
        stored, extra, w = weights(fmt, n, k)
        packed = pack_rows(stored, fmt, **extra)
        return [self.put("weights", packed[b.name]) for b in packed_layout(n, k, fmt).buffers], w.astype(np.float64)

    def vector(self, values: np.ndarray) -> int:
        return self.put("weights", values.astype(np.float32))

    def read(self, offset: int, *shape: int) -> np.ndarray:
        count = int(np.prod(shape))
        return self.bytes["workspace"][offset : offset + 4 * count].view(np.float32).reshape(shape).copy()


class Caller:
    """A compiled step, called with one program and the other inputs."""

    def __init__(
        self, kernels: Sequence[DecodeKernel], vocabulary: int, isa: Isa, half: int = 16, *, rows: bool = False
    ) -> None:
        self.kernels, self.half, self.vocabulary, self.rows = kernels, half, vocabulary, rows
        step = decode_step("step", kernels, vocabulary, half, isa, rows=rows)
        self.emulated = None if runs_here(isa) else emulated_kernel(step, isa)
        self.function = module(step, isa)["step"] if runs_here(isa) else None

    def __call__(
        self,
        memory: Memory,
        steps: Sequence[Sequence[int]],
        threads: int,
        token: int | Sequence[int] = 0,
        position: int | Sequence[int] = 0,
        table: np.ndarray | None = None,
        angles: Sequence[np.ndarray] = (),
    ) -> np.ndarray:
        """Token and position are numbers, or as many as there are rows; what is prepared of rows begins as NaN."""
        tokens, positions = (np.array(v, np.int64).reshape(-1) for v in (token, position))
        positions = np.broadcast_to(positions, tokens.shape).copy()
        logits = aligned_zeros((len(tokens), self.vocabulary), np.float32)
        program = np.zeros((len(steps), program_width(self.kernels)), np.int64)
        for row, step in zip(program, steps, strict=True):
            row[: len(step)] = step
        cos, sin = angles or [np.zeros((1, self.half), np.float32)] * 2
        arrays = [
            tokens[:, None],
            positions[:, None],
            positions,
            np.zeros((len(tokens), 1), np.int32) if table is None else table,
            cos,
            sin,
            program,
        ]
        prepared = aligned_zeros((max(map(prepared_bytes, self.kernels)) * 32 + 64,), np.uint8)
        prepared[...] = 255
        behind = [*([prepared] if self.rows else []), logits]
        if self.emulated is not None:
            filled = [memory.bytes[region][:end] for region, end in memory.end.items()]
            self.emulated(*arrays, *filled, *behind)
            return logits
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        shared = [tvm.runtime.from_dlpack(a) for a in (*memory.bytes.values(), *behind)]
        failures: list[BaseException] = []

        def call() -> None:
            try:
                assert configure_tvm_threads(tvm_ffi, threads) == threads
                self.function(*tensors, *shared)
            except BaseException as error:
                failures.append(error)

        # TVM's pool belongs to the calling thread and can't grow
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        assert not failures, failures
        return logits


def rms(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean() + EPS) * w


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@levels
@pytest.mark.parametrize("source", ["plain", "norm", "gate"])
def test_linear_layers_take_along_what_is_around_them(isa: Isa, source: str) -> None:
    n, k, g = 75, 64, rng(7)
    x = normal(g, 1, 2 * k if source == "gate" else k)
    norm, bias, residual = normal(g, k), normal(g, n), normal(g, 1, n)
    part = {"plain": PlainSource(k), "norm": NormSource(k, EPS), "gate": GateSource(k)}[source]
    for fmt in (FLOAT, WeightFormat("uint4", 32)):
        kernels = [
            LinearKernel(n, part, fmt, "float32"),
            LinearKernel(n, part, fmt, "float32", bias=True, residual=True),
            LinearKernel(n, part, fmt, "float32", bias=True, logits=True),
        ]
        memory = Memory()
        packed, w = memory.matrix(fmt, n, k)
        read = [memory.put("workspace", x), *([memory.vector(norm)] if source == "norm" else [])]
        add, plus = memory.vector(bias), memory.put("workspace", residual)
        places = [memory.room(1, n), memory.room(1, n)]
        steps = [
            [0, *read, *packed, places[0]],
            [1, *read, *packed, add, plus, places[1]],
            [2, *read, *packed, add],
        ]
        call = Caller(kernels, n, isa)
        wide = x.astype(np.float64)
        seen = wide
        if source != "plain":
            seen = rms(wide, norm) if source == "norm" else silu(wide[:, :k]) * wide[:, -k:]
        scale = 4 * (np.abs(seen) @ np.abs(w).T + 1)
        for threads in (1, 3):
            logits = call(memory, steps, threads)
            assert_close(memory.read(places[0], 1, n), seen @ w.T, "kernel_sums", scale)
            assert_close(memory.read(places[1], 1, n), seen @ w.T + bias + residual, "kernel_sums", scale)
            assert_close(logits, seen @ w.T + bias, "kernel_sums", scale)


@levels
def test_gate_and_up_are_one_launch(isa: Isa) -> None:
    k, width = 64, 96
    kernel = LinearKernel(2 * width, NormSource(k, EPS), WeightFormat("int8", 32), "float32", gate=True)
    assert LinearKernel.can_gate(2 * width) and not LinearKernel.can_gate(2 * 40)
    memory, g = Memory(), rng(8)
    x, norm = normal(g, 1, k), normal(g, k)
    packed, w = memory.matrix(kernel.format, 2 * width, k)
    place = memory.room(1, width)
    steps = [[0, memory.put("workspace", x), memory.vector(norm), *packed, place]]
    Caller([kernel], 8, isa)(memory, steps, 2)
    both = rms(x.astype(np.float64), norm) @ w.T
    expected = silu(both[:, :width]) * both[:, width:]
    assert_close(memory.read(place, 1, width), expected, "kernel_elementwise", 8 * np.abs(expected).max())


def attended(q: np.ndarray, k: np.ndarray, v: np.ndarray, window: int | None) -> np.ndarray:
    """[Hq, D] of queries at the last of T positions; k, v [Hkv, T, D]."""
    group = len(q) // len(k)
    seen = slice(0 if window is None else max(0, k.shape[1] - window), None)
    rows = []
    for head, query in enumerate(q):
        scores = k[head // group, seen] @ query * 0.25
        p = np.exp(scores - scores.max())
        rows.append(p / p.sum() @ v[head // group, seen])
    return np.stack(rows)


@levels
@pytest.mark.parametrize(
    ("kv_dtype", "window", "cached", "normed"),
    [("float32", None, 0, False), ("float32", None, 200, True), ("float16", 70, 131, False), ("int8", None, 70, False),
     ("bfloat16", None, 64, False)],
)  # fmt: skip
def test_attention_rotates_writes_and_reads_the_cache(
    isa: Isa, kv_dtype: KvDtype, window: int | None, cached: int, normed: bool
) -> None:
    hq, hkv, d, block = 6, 2, 32, 8
    g, memory = rng(cached), Memory()
    attention = AttentionKernel(hq, hkv, d, kv_dtype, 0.25, window, block, EPS if normed else None)
    merge = LinearKernel(hq * d, AttentionSource(hq, hkv, d, window), FLOAT, "float32")
    qkv, norms = normal(g, hq + 2 * hkv, d), [normal(g, d), normal(g, d)]
    # the step writes over the last position
    cache, pools, table = paged_cache(g, [normal(g, 1, hkv, cached + 1, d) for _ in range(2)], kv_dtype, block)
    angle = g.uniform(0, 6, (cached + 1, d // 2))
    angles = [np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)]
    packed, w = memory.matrix(FLOAT, hq * d, hq * d)
    parts, place = memory.room(*attention.output), memory.room(1, hq * d)
    steps = [
        [0, memory.put("workspace", qkv), *(memory.vector(n) for n in norms if normed),
         *(memory.put("pools", p) for p in pools), parts],
        [1, parts, *packed, place],
    ]  # fmt: skip
    call = Caller([attention, merge], 8, isa, d // 2)

    def rotated(heads: np.ndarray, norm: np.ndarray) -> np.ndarray:
        if normed:
            heads = np.stack([rms(head, norm) for head in heads])
        low, high, (cos, sin) = heads[:, : d // 2], heads[:, d // 2 :], (table[cached] for table in angles)
        return np.concatenate((low * cos - high * sin, high * cos + low * sin), 1)

    wide = qkv.astype(np.float64)
    new = [rotated(wide[hq : hq + hkv], norms[1]), wide[hq + hkv :]]
    if kv_dtype == "int8":
        new = [c * s[..., None] for c, s in (quantize(part.astype(np.float32)) for part in new)]
    elif kv_dtype != "float32":
        new = [part.astype(np.float32).astype(storage(kv_dtype)).astype(np.float64) for part in new]
    k, v = (
        np.concatenate((c[0, :, :cached].astype(np.float64), part[:, None]), 1)
        for c, part in zip(cache, new, strict=True)
    )
    out = attended(rotated(wide[:hq], norms[0]), k, v, window).reshape(1, -1)
    # a rounding that falls the other way moves one key or value by a unit in the last place
    slack = {"float32": 1, "float16": 60, "bfloat16": 500, "int8": 1000}[kv_dtype]
    scale = (np.abs(out) @ np.abs(w).T + 1) * 4 * slack
    for threads in (1, 3):
        call(memory, steps, threads, 0, cached, table, angles)
        assert_close(memory.read(place, 1, hq * d), out @ w.T, "kernel_sums", scale)


@levels
def test_an_embedding_is_the_first_instruction(isa: Isa) -> None:
    kernel = EmbeddingKernel(70, 96, WeightFormat("uint4", 32))
    memory = Memory()
    packed, w = memory.matrix(kernel.format, 70, 96)
    place = memory.room(1, 96)
    Caller([kernel], 8, isa)(memory, [[0, *packed, place]], 3, token=69)
    np.testing.assert_array_equal(memory.read(place, 1, 96), w[69:70].astype(np.float32))


def test_what_every_thread_prepares_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many steps in a row, whose threads are apart in time: shared scratch memory would mix them up."""
    n = k = 512
    kernel = LinearKernel(n, NormSource(k, EPS), WeightFormat("uint4", 32), "int8")
    memory, g = Memory(), rng(9)
    packed, _ = memory.matrix(kernel.format, n, k)
    norm = memory.vector(np.ones(k))
    places = [memory.put("workspace", normal(g, 1, k)), *(memory.room(1, n) for _ in range(60))]
    steps = [[0, a, norm, *packed, b] for a, b in itertools.pairwise(places)]
    call = Caller([kernel], 8, LEVELS_HERE[-1])
    call(memory, steps, 1)
    alone = memory.read(places[-1], 1, n)
    for _ in range(5):
        call(memory, steps, 3)
        np.testing.assert_array_equal(memory.read(places[-1], 1, n), alone)


def test_a_kernel_that_takes_other_operands_than_it_says_is_refused() -> None:
    class Greedy(LinearKernel):
        def emit(self, operands: Operands, inputs: StepInputs, isa: Isa) -> None:
            operands.take("pools", (1,))

    with pytest.raises(InternalError) as caught:
        decode_step("step", [Greedy(32, PlainSource(32), FLOAT, "float32")], 8, 16, replace(LEVELS_HERE[0]))
    assert caught.value.code == "E1417"
