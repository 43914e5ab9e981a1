"""Scales of an int8 KV cache: their formula, their file, and what a wrong file says."""

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import twins
from xamc.errors import InputError, InternalError
from xamc.ir.weights.kv_scales import (
    KvScales,
    dequantize_kv,
    past_names,
    quantize_kv,
    read_kv_scales,
    scales_name,
    zeros_name,
)

CONFIG = replace(twins.config("tied"), num_layers=1, num_kv_heads=1, head_dim=1)
# magnitudes from 0.001 to 2^40: keys of families with a bias reach some hundred
ENDS = st.integers(-(2**24), 2**24).map(float) | st.floats(-(2.0**40), 2.0**40).map(
    lambda x: float(np.float32(round(x, 3)))
)


def _scales(low: float, high: float) -> KvScales:
    pair = np.full((1, 1), low, np.float32), np.full((1, 1), high, np.float32)
    return KvScales.from_ranges(CONFIG, dict.fromkeys(past_names(CONFIG), pair))


@given(ENDS, ENDS, st.floats(0, 1))
def test_a_value_in_the_range_comes_back_within_half_a_step(a: float, b: float, share: float) -> None:
    low, high = min(a, b), max(a, b)
    tensors = _scales(low, high).tensors
    scale, zero = tensors["past_key.0.scales"], tensors["past_key.0.zeros"]
    x = np.array([low, high, low + (high - low) * share], np.float32)[None, None, :, None]
    codes = quantize_kv(x, scale, zero)
    found = dequantize_kv(codes, scale, zero)
    # beyond half a step: the float32 roundings of the scale, of the zero point and of both operations
    bound = 0.5 * float(scale[0, 0]) + 3e-5 * float(scale[0, 0]) + 4 * 2.0**-24 * max(abs(low), abs(high))
    assert np.all(np.abs(found.astype(np.float64) - x) <= bound)
    assert codes[0, 0, 0, 0] <= codes[0, 0, 2, 0] <= codes[0, 0, 1, 0]
    if float(scale[0, 0]) > 1e-5 * max(abs(low), abs(high)) and low < high:
        assert codes[0, 0, 0, 0] == -127 and codes[0, 0, 1, 0] == 127


def test_scales_are_pytorchs_affine_quantization() -> None:
    """torch's fake quantization with the same step: its integer zero point is ours where that is a whole step."""
    x = np.linspace(-3.0, 3.0, 301, dtype=np.float32)
    tensors = _scales(-3.0, 3.0).tensors
    scale, zero = tensors["past_value.0.scales"], tensors["past_value.0.zeros"]
    assert float(zero[0, 0]) == 0 and float(scale[0, 0]) == np.float32(6 / 254)
    expected = torch.fake_quantize_per_tensor_affine(torch.from_numpy(x), float(scale[0, 0]), 0, -127, 127).numpy()
    found = dequantize_kv(quantize_kv(x[None, None, :, None], scale, zero), scale, zero)
    np.testing.assert_array_equal(found.ravel(), expected)


def test_a_channel_that_never_changes_keeps_its_value() -> None:
    tensors = _scales(7.25, 7.25).tensors
    scale, zero = tensors["past_key.0.scales"], tensors["past_key.0.zeros"]
    codes = quantize_kv(np.full((1, 1, 1, 1), 7.25, np.float32), scale, zero)
    assert scale[0, 0] == 1 and codes[0, 0, 0, 0] == 0 and dequantize_kv(codes, scale, zero)[0, 0, 0, 0] == 7.25


def test_what_lies_outside_the_range_is_clamped() -> None:
    tensors = _scales(0.0, 1.0).tensors
    x = np.array([-5.0, 0.0, 1.0, 9.0], np.float32)[None, None, :, None]
    codes = quantize_kv(x, tensors["past_key.0.scales"], tensors["past_key.0.zeros"])
    assert codes.ravel().tolist() == [-127, -127, 127, 127]


def _file(path: Path, **changes: np.ndarray) -> Path:
    config = twins.config("tied")
    names = [name(past) for past in past_names(config) for name in (scales_name, zeros_name)]
    tensors = {name: np.full((2, 16), 0.5, np.float32) for name in names}
    tensors.update({name.replace("__", "."): array for name, array in changes.items()})
    safetensors.numpy.save_file({name: array for name, array in tensors.items() if array.size}, path)
    return path


def test_a_file_is_read_whatever_its_float(tmp_path: Path) -> None:
    config = twins.config("tied")
    half = np.full((2, 16), 0.375, ml_dtypes.bfloat16)
    scales = read_kv_scales(_file(tmp_path / "kv.safetensors", past_key__1__zeros=half), config)
    assert scales.tensors["past_key.1.zeros"].dtype == np.float32
    assert scales.tensors["past_key.1.zeros"][1, 15] == 0.375 and scales.tensors["past_value.0.scales"][0, 0] == 0.5
    scales.save(tmp_path / "again.safetensors")
    again = read_kv_scales(tmp_path / "again.safetensors", config)
    assert all(np.array_equal(again.tensors[name], array) for name, array in scales.tensors.items())


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("past_key.1.scales", np.empty(0, np.float32), "lacks past_key.1.scales"),
        ("past_value.0.zeros", np.zeros((4, 16), np.float32), "[4, 16]"),
        ("past_value.1.scales", np.zeros((2, 16), np.float32), "is 0 for head 0, channel 0"),
        ("past_value.1.scales", np.eye(2, 16, 3, dtype=np.float32) * -1 + 0.5, "is -0.5 for head 0, channel 3"),
        ("past_key.0.zeros", np.where(np.eye(2, 16, 5), np.nan, 0).astype(np.float32), "is nan for head 0, channel 5"),
    ],
)
def test_a_wrong_tensor_is_named(name: str, array: np.ndarray, words: str, tmp_path: Path) -> None:
    path = _file(tmp_path / "kv.safetensors", **{name.replace(".", "__"): array})
    with pytest.raises(InputError) as error:
        read_kv_scales(path, twins.config("tied"))
    assert error.value.code == "E1162" and words in error.value.message and name in error.value.message


def test_a_pickle_is_refused_and_never_opened(tmp_path: Path) -> None:
    path = tmp_path / "kv_cache.pth"
    path.write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(InputError) as error:
        read_kv_scales(path, twins.config("tied"))
    assert error.value.code == "E1161" and "pickled" in error.value.message and "safetensors" in error.value.fix


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 not safetensors"])
def test_another_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "kv.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_kv_scales(path, twins.config("tied"))
    assert error.value.code == "E1161"


def test_scales_fit_their_config() -> None:
    with pytest.raises(InternalError) as error:
        KvScales(twins.config("tied"), {})
    assert error.value.code == "E1160"
