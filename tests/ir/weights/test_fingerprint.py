"""Fingerprints change with everything that changes content, and with nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from xamc.errors import InputError
from xamc.ir.weights.files import FileTensor
from xamc.ir.weights.fingerprint import fingerprint
from xamc.ir.weights.lazy import ArrayTensor, ConcatRows, RowRanges
from xamc.ir.weights.quantize import QuantizedMatrix, RoundToNearest
from xamc.ir.weights.transforms import Cast, ColumnSlice, Pad, Zeros


def test_expressions_differ_and_repeat(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(bytes(4096))
    a, b = FileTensor(path, 0, (4, 64), "float32"), FileTensor(path, 1024, (4, 64), "float32")
    tensors = [
        a,
        b,
        FileTensor(path, 0, (64, 4), "float32"),
        FileTensor(path, 0, (4, 64), "float16"),
        RowRanges(a, ((0, 2),)),
        RowRanges(a, ((2, 4),)),
        ConcatRows((a, b)),
        ConcatRows((b, a)),
        ColumnSlice(a, 0, 2),
        Pad(a, 5),
        Pad(a, 5, 65),
        Cast(a, "float16", "w"),
        Zeros((4, 64), "float32"),
        ArrayTensor(np.zeros((4, 64), np.float32)),
        ArrayTensor(np.zeros((64, 4), np.float32)),
        QuantizedMatrix(a, RoundToNearest(4, 32), "w").codes,
        QuantizedMatrix(a, RoundToNearest(4, 32), "w").scales,
        QuantizedMatrix(a, RoundToNearest(4, 64), "w").codes,
        QuantizedMatrix(a, RoundToNearest(8, None), "w").codes,
    ]
    marks = [fingerprint(t) for t in tensors]
    assert len(set(marks)) == len(marks) and all(len(m) == 64 for m in marks)
    assert fingerprint(FileTensor(path, 0, (4, 64), "float32")) == marks[0]


def test_files_and_arrays_that_change(tmp_path: Path) -> None:
    path = tmp_path / "w"
    path.write_bytes(bytes(64))
    tensor = FileTensor(path, 0, (4, 4), "float32")
    first = fingerprint(tensor)
    os.utime(path, ns=(1, 1))
    second = fingerprint(tensor)
    path.write_bytes(bytes(65))
    os.utime(path, ns=(1, 1))
    assert len({first, second, fingerprint(tensor)}) == 3
    one, two = ArrayTensor(np.array([1.0], np.float32)), ArrayTensor(np.array([2.0], np.float32))
    assert fingerprint(one) != fingerprint(two)
    path.unlink()
    with pytest.raises(InputError, match="E1111"):
        fingerprint(tensor)
