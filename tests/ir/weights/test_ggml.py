"""llama.cpp's block formats against the gguf package."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.compiler.frontends.gguf_files import random_blocks
from xamc.errors import InternalError
from xamc.ir.weights import ggml
from xamc.ir.weights.ggml import BLOCK_FORMATS, BlockTensor


@pytest.mark.parametrize("name", BLOCK_FORMATS)
def test_any_bytes_dequantize_as_in_the_gguf_package(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ggml, "_PIECE", 1024)
    layout, kind = BLOCK_FORMATS[name], gguf.GGMLQuantizationType[name]
    assert gguf.GGML_QUANT_SIZES[kind] == (layout.weights, layout.bytes)
    raw = random_blocks(name, 6, 3)
    (tmp_path / "w").write_bytes(b"12345" + raw.tobytes())
    expected = gguf.quants.dequantize(raw, kind)
    columns = 3 * layout.weights
    tensor = BlockTensor(tmp_path / "w", 5, (6, columns), name)
    assert tensor.dtype == "float32" and np.isfinite(expected).all()
    assert np.array_equal(tensor.read_rows(0, 6), expected)
    assert np.array_equal(tensor.read_rows(2, 5), expected[2:5])
    flat = BlockTensor(tmp_path / "w", 5, (6 * columns,), name)
    assert np.array_equal(flat.read_rows(0, 6 * columns), expected.reshape(-1))
    assert np.array_equal(flat.read_rows(33, 500), expected.reshape(-1)[33:500])


def test_rows_that_blocks_dont_divide(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match="E1190"):
        BlockTensor(tmp_path, 0, (4, 33), "Q4_0")
    with pytest.raises(InternalError, match="E1190"):
        BlockTensor(tmp_path, 0, (4, 32), "Q9_9")
