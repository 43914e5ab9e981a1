"""Attention kernels against NumPy in float64: grouped queries, ragged lengths, windows, narrow caches, pages."""

from dataclasses import dataclass

import numpy as np
import pytest

from tests.targets.kernels.harness import LEVELS_HERE, SPLIT, WIDE, assembly, assert_close, kernel, normal, rng
from tests.targets.kernels.pages import block_table, keys_turned, quantize, scatter, storage
from xamc.model.kv_cache import KV_BLOCK
from xamc.targets.kernels.attention import attention
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.kv_pages import KvDtype


@dataclass(frozen=True)
class Case:
    hq: int
    hkv: int
    d: int
    dtype: KvDtype
    window: int | None = None
    block: int = KV_BLOCK
    key_bias: bool = False

    def __str__(self) -> str:
        return f"{self.hq}-{self.hkv}x{self.d}-{self.dtype}-{self.window}-{self.block}" + "-key_bias" * self.key_bias


CASES = [
    Case(9, 3, 64, "float32"),
    Case(8, 1, 128, "float16", 50, block=8),
    Case(4, 4, 18, "bfloat16", block=16),  # a head no vector divides
    Case(2, 2, 40, "float32", 5),  # a window shorter than a block
    Case(4, 1, 64, "int8"),
    Case(3, 3, 20, "int8", 70, block=8),
    Case(6, 2, 64, "int8", key_bias=True),
    Case(4, 1, 20, "int8", 70, block=8, key_bias=True),
]
SCALE = 0.2


def reference(case: Case, q: np.ndarray, k: np.ndarray, v: np.ndarray, index: np.ndarray) -> np.ndarray:
    b, s, _ = q.shape
    heads = q.reshape(b, s, case.hkv, -1, case.d).astype(np.float64)
    k, v = (np.nan_to_num(x.astype(np.float64)) for x in (k, v))
    scores = np.einsum("bshgd,bhtd->bhgst", heads, k) * SCALE
    distance = (index[:, None] + np.arange(s))[:, :, None] - np.arange(k.shape[2])  # [B, S, C]
    visible = (distance >= 0) & (distance < (case.window or np.inf))
    scores = np.where(visible[:, None, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("bhgst,bhtd->bshgd", weights, v).reshape(b, s, -1)


def rope_rows(d: int, used: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin [R, D/2]; rows of positions that nothing is at yet are not filled."""
    angles = np.arange(used + 5)[:, None] / 100.0 ** (np.arange(d // 2) / (d // 2))
    angles[used:] = np.nan
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotated_bias(case: Case, cos: np.ndarray, sin: np.ndarray, bias: np.ndarray, capacity: int) -> np.ndarray:
    """The keys' biases [Hkv, C, D], turned as complex numbers by each position's angles."""
    low, high = np.split(bias.astype(np.float64).reshape(-1, 1, case.d)[case.hq : case.hq + case.hkv], 2, axis=-1)
    turned = (low + 1j * high) * (cos + 1j * sin)
    result = np.full((case.hkv, max(capacity, len(cos)), case.d), np.nan)
    result[:, : len(cos)] = np.concatenate((turned.real, turned.imag), -1)
    return result[:, :capacity]


def check(case: Case, isa: Isa, m: str, shapes: list[tuple[int, tuple[int, ...], int]]) -> None:
    """Shapes are (S, write_index, C)."""
    run = kernel(
        attention(
            case.hq,
            case.hkv,
            case.d,
            case.dtype,
            isa,
            scale=SCALE,
            m=m,  # type: ignore[arg-type]
            window=case.window,
            block=case.block,
            key_bias=case.key_bias,
        ),
        isa,
    )
    for s, index, capacity in shapes:
        b = len(index)
        g = rng(s, b)
        q = normal(g, b, s, case.hq * case.d) * 2
        exact = normal(g, 2, b, case.hkv, capacity, case.d)
        for i, first in enumerate(index):  # what lies beyond must not matter
            exact[:, i, :, first + s :] = np.nan
        table, entries = block_table(g, b, capacity, case.block)
        if case.dtype == "int8":
            codes, scales = quantize(np.nan_to_num(exact))
            stored = codes * scales[..., None]
            scales[np.isnan(exact).all(-1)] = np.nan
            pools = keys_turned([scatter(x, table, entries, case.block, 0) for x in codes])
            pools += [scatter(x, table, entries, case.block) for x in scales]
        else:
            stored = exact.astype(storage(case.dtype))
            pools = keys_turned([scatter(x, table, entries, case.block) for x in stored])
        added: list[np.ndarray] = []
        if case.key_bias:
            added = [*rope_rows(case.d, max(index) + s), normal(g, (case.hq + 2 * case.hkv) * case.d)]
            stored = np.stack([stored[0] + rotated_bias(case, *added, capacity), stored[1]])
        y = np.full(q.shape, np.nan, np.float32)
        run(q, table, np.array(index), *added, *pools, y)
        assert_close(y, reference(case, q, stored[0], stored[1], np.array(index)), "kernel_attention")


@pytest.mark.parametrize(
    "case, isa",
    [(case, LEVELS_HERE[-1]) for case in CASES]
    + [(CASES[2], LEVELS_HERE[0]), (CASES[4], LEVELS_HERE[0]), (CASES[0], SPLIT), (CASES[4], SPLIT)],
    ids=lambda value: value.name if isinstance(value, Isa) else str(value),
)
def test_decode(case: Case, isa: Isa) -> None:
    """First token, a full split, a token more, many splits, and ragged lengths in one batch."""
    check(case, isa, "one", [(1, (0,), 8), (1, (63,), 64), (1, (64,), 70), (1, (299,), 300), (1, (5, 130, 0), 131)])


def test_decode_in_more_tiles_than_parts() -> None:
    """A part is several tiles, of unequal number; beside it sequences with fewer tiles than parts."""
    case = Case(6, 2, 16, "float16", block=16)
    check(case, LEVELS_HERE[-1], "one", [(1, (45 * 64,), 45 * 64 + 1), (1, (33 * 64 - 1, 7, 900), 33 * 64)])


@pytest.mark.parametrize("isa", LEVELS_HERE[-1:], ids=lambda isa: isa.name)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_number_of_queries(case: Case, isa: Isa) -> None:
    """Prefill from nothing, over several blocks of queries and keys, onto a filled cache, ragged; and batch decode."""
    check(case, isa, "any", [(33, (0,), 40), (130, (0, 20), 160), (3, (100, 7), 110), (1, (9, 80), 90)])


def test_prefill_on_the_lowest_level() -> None:
    check(CASES[0], LEVELS_HERE[0], "any", [(70, (0, 3), 80)])


def test_prefill_with_wide_vectors() -> None:
    check(CASES[0], SPLIT, "any", [(70, (0, 3), 80)])


def test_wide_level_compiles_to_512_bits() -> None:
    text = assembly(attention(4, 2, 64, "float16", WIDE[0], scale=SCALE, m="one"), WIDE[0])
    assert sum("vfmadd" in line and "%zmm" in line for line in text.splitlines()) > 16


@pytest.mark.parametrize("isa", LEVELS_HERE, ids=lambda isa: isa.name)
def test_what_is_not_a_number_reaches_the_result(isa: Isa) -> None:
    """A query of NaN among others of a prompt: its row, and no other."""
    g, s, d = rng(5), 20, 64
    run = kernel(attention(2, 1, d, "float32", isa, scale=SCALE, m="any"), isa)
    q, exact = normal(g, 1, s, 2 * d), normal(g, 2, 1, 1, s, d)
    q[0, 7, :d] = np.nan
    table, entries = block_table(g, 1, s, KV_BLOCK)
    y = np.zeros(q.shape, np.float32)
    run(q, table, np.array([0]), *keys_turned([scatter(x, table, entries, KV_BLOCK) for x in exact]), y)
    expected = np.zeros(y.shape, bool)
    expected[0, 7, :d] = True
    np.testing.assert_array_equal(np.isnan(y), expected)
