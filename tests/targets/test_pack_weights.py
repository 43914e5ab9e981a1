"""Packing by blocks and processes gives the bytes of packing at once."""

from pathlib import Path

import numpy as np
import pytest

from tests import twins
from xamc.artifact.packing import WeightFormat, pack_rows, packed_layout
from xamc.errors import InputError
from xamc.ir.weights.lazy import ArrayTensor, ConcatRows
from xamc.ir.weights.quantize import QuantizedMatrix, RoundToNearest
from xamc.targets import pack_weights as module
from xamc.targets.pack_weights import PackedWeight, pack_weights


def _quantized(rows: int, columns: int, seed: int) -> tuple[QuantizedMatrix, np.ndarray]:
    array = twins.seeded((rows, columns), seed)
    return QuantizedMatrix(ArrayTensor(array), RoundToNearest(4, 32), f"w{seed}"), array


def _case() -> tuple[list[PackedWeight], int, bytes]:
    """A merged 4-bit projection of 2 sources, a float16 matrix with an odd number of rows, and a vector."""
    first, second = _quantized(96, 64, 1)[0], _quantized(70, 64, 2)[0]
    fmt = WeightFormat("uint4", 32)
    layout = packed_layout(166, 64, fmt)
    parts = [ConcatRows((getattr(first, p), getattr(second, p))) for p in ("codes", "scales", "zeros")]
    half = twins.seeded((45, 64), 3)
    half_layout = packed_layout(45, 64, WeightFormat("float16"))
    vector = twins.seeded((64,), 4)
    sizes = [*(b.nbytes for b in layout.buffers), half_layout.nbytes, vector.nbytes]
    offsets = [0]
    for nbytes in sizes:
        offsets.append(-(-(offsets[-1] + nbytes) // 64) * 64)
    weights = [
        PackedWeight((("merged.codes", parts[0]), ("s", parts[1]), ("z", parts[2])), layout, tuple(offsets[:3])),
        PackedWeight((("half", ArrayTensor(half)),), half_layout, (offsets[3],)),
        PackedWeight((("norm", ArrayTensor(vector)),), None, (offsets[4],)),
    ]
    blocks = [m.read_block(0, m.source.shape[0]) for m in (first, second)]
    whole = pack_rows(
        np.concatenate([b.codes for b in blocks]).astype(np.uint8),
        fmt,
        scale=np.concatenate([b.scales for b in blocks]),
        zero=np.concatenate([b.zeros for b in blocks]),
    )
    expected = bytearray(offsets[-1])
    arrays = [*whole.values(), pack_rows(half, WeightFormat("float16"))["weight"], vector]
    for array, offset in zip(arrays, offsets, strict=False):
        expected[offset : offset + array.nbytes] = array.tobytes()
    return weights, offsets[-1], bytes(expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_blocks_give_the_bytes_of_the_whole(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, nbytes, expected = _case()
    monkeypatch.setattr(module, "TASK_BYTES", 32 * 64 * 4)  # one panel a task
    done: list[int] = []
    pack_weights(weights, nbytes, tmp_path / "w", workers, done.append)
    assert (tmp_path / "w").read_bytes() == expected
    assert sum(done) == 166 * 64 + 45 * 64 + 64 and len(done) > 8


@pytest.mark.parametrize("position", [0, 1, 2])
def test_nan_is_named(position: int, tmp_path: Path) -> None:
    array = twins.seeded((40, 64), 5)
    array[33, 7] = np.nan
    matrix = QuantizedMatrix(ArrayTensor(array), RoundToNearest(8, None), "bad")
    weight = [
        PackedWeight(
            (("bad", matrix.codes), ("s", matrix.scales)),
            packed_layout(40, 64, WeightFormat("int8")),
            (0, 4096),
        ),
        PackedWeight((("bad", ArrayTensor(array)),), packed_layout(40, 64, WeightFormat("float32")), (0,)),
        PackedWeight((("bad", ArrayTensor(array[33])),), None, (0,)),
    ][position]
    with pytest.raises(InputError) as caught:
        pack_weights([weight], 65536, tmp_path / "w", 1)
    assert caught.value.code == "E1123" and "bad" in caught.value.message
