"""Parameter files are TVM's own, byte for byte, however they are cut into blocks."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given
from hypothesis import strategies as st

from tests import twins
from xamc.artifact.params_index import read_params_index
from xamc.errors import InputError, InternalError
from xamc.ir.weights.lazy import ArrayTensor
from xamc.ir.weights.quantize import QuantizedMatrix, RoundToNearest
from xamc.ir.weights.transforms import Cast
from xamc.targets.vacc import params_file as module
from xamc.targets.vacc.params_file import ParamsFile, write_params_files

DTYPES = ("float16", "float32", "int8", "int32", "int64")


def _array(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).integers(-100, 100, shape)
    return values.astype(dtype)


tensors = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=12),
    st.builds(
        _array,
        st.sampled_from(DTYPES),
        st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple),
        st.integers(0, 2**32 - 1),
    ),
    max_size=5,
)


@given(tensors)
def test_bytes_are_those_of_tvms_writer_and_its_loader_reads_them(
    tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]
) -> None:
    path = tmp_path_factory.mktemp("params") / "mod.params"
    file = ParamsFile(path, {name: ArrayTensor(array) for name, array in arrays.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TASK_BYTES", 8)
        write_params_files([file], 1)
    assert path.stat().st_size == file.nbytes
    written = {name: tvm.runtime.tensor(array) for name, array in arrays.items()}
    assert path.read_bytes() == bytes(tvm.runtime.save_param_dict(written))
    loaded = tvm.runtime.load_param_dict_from_file(str(path))
    assert {name: value.numpy().tobytes() for name, value in loaded.items()} == {
        name: array.tobytes() for name, array in arrays.items()
    }
    index = read_params_index(path)
    assert list(index) == list(arrays)
    for name, entry in index.items():
        assert (entry.dtype, entry.shape) == (arrays[name].dtype.name, arrays[name].shape)
        assert path.read_bytes()[entry.offset : entry.offset + entry.nbytes] == arrays[name].tobytes()


def test_processes_write_what_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks' files with quantized matrices, whose codes and scales come from one read of the checkpoint."""
    matrices = [
        QuantizedMatrix(ArrayTensor(twins.seeded((70, 64), i)), RoundToNearest(8, None), f"m{i}") for i in (1, 2)
    ]
    done: list[int] = []
    monkeypatch.setattr(module, "TASK_BYTES", 16 * 64 * 4)
    for workers in (1, 2):
        files = [
            ParamsFile(
                tmp_path / f"{workers}_rank{rank}",
                {
                    "norm": ArrayTensor(twins.seeded((64,), 3)),
                    "m.codes": matrix.codes,
                    "m.scales": matrix.scales,
                    "half": Cast(ArrayTensor(twins.seeded((33, 64), 4)), "float16", "half"),
                },
            )
            for rank, matrix in enumerate(matrices)
        ]
        write_params_files(files, workers, done.append)
    assert sum(done) == 2 * sum(file.parameters for file in files)
    for rank, matrix in enumerate(matrices):
        first, second = ((tmp_path / f"{workers}_rank{rank}").read_bytes() for workers in (1, 2))
        assert first == second
        loaded = tvm.runtime.load_param_dict(first)
        block = matrix.read_block(0, 70)
        np.testing.assert_array_equal(loaded["m.codes"].numpy(), block.codes)
        np.testing.assert_array_equal(loaded["m.scales"].numpy(), block.scales)


@pytest.mark.parametrize(
    ("value", "dtype", "code"), [(np.nan, "float32", "E1123"), (np.inf, "float16", "E1123"), (7e4, "float16", "E1124")]
)
def test_what_the_card_cannot_hold_is_named(value: float, dtype: str, code: str, tmp_path: Path) -> None:
    array = twins.seeded((8, 4), 5)
    array[5, 1] = value
    with pytest.raises(InputError) as caught:
        write_params_files([ParamsFile(tmp_path / "p", {"bad": Cast(ArrayTensor(array), dtype, "bad")})], 1)
    assert caught.value.code == code and "bad" in caught.value.message and "row 5" in caught.value.message


def test_types_the_card_lacks_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    tensor = Cast(ArrayTensor(twins.seeded((8, 4), 5)), "bfloat16", "w")
    with pytest.raises(InternalError, match="E1420"):
        write_params_files([ParamsFile(tmp_path / "p", {"w": tensor})], 1)
    assert not (tmp_path / "p").exists()


def test_a_full_disk_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(InputError, match="E1506"):
        write_params_files([ParamsFile(tmp_path / "p", {"w": ArrayTensor(twins.seeded((8, 4), 5))})], 1)
