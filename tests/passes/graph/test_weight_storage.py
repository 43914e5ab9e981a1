import ml_dtypes
import numpy as np
import pytest

from tests import twins
from tests.golden_files import check_golden
from tests.passes.graph.cases import PASSES, golden_text
from xamc.errors import InternalError
from xamc.ir.weights.lazy import ArrayTensor
from xamc.ir.weights.transforms import Cast
from xamc.passes.graph import weight_storage
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.verify.oracle import materialize
from xamc.verify.proof import prove


def test_golden() -> None:
    check_golden(
        "passes/weight_storage.txt", golden_text("weight_storage", PASSES["weight_storage"].make(weight_storage))
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_matrices_are_rounded_and_vectors_kept(dtype: str) -> None:
    program, cases = twins.twin("windowed")
    before = materialize(program.weights)
    report = prove([WeightStorage(dtype)], program, cases).require()  # type: ignore[arg-type]
    after = materialize(program.weights)
    numpy_type = np.float16 if dtype == "float16" else ml_dtypes.bfloat16
    for name, array in before.items():
        if array.ndim == 2:
            np.testing.assert_array_equal(after[name], array.astype(numpy_type))
        else:
            assert after[name].dtype == np.float32
    assert report.passes[-1].report.matched == {"weight": 16}
    assert {miss.reason for miss in report.passes[-1].report.skipped} == {"a norm weight or a bias"}
    # rounding to 16 bits moves the logits, and the proof says by how much without calling it a defect
    assert 1e-5 < report.passes[-1].cost < 5e-2


def test_a_tied_embedding_is_cast_once() -> None:
    program = twins.after("tied", WeightStorage("float16"))
    casts = [n for n in twins.nodes(program, "Cast") if n.inputs[0].name == "model.embed_tokens.weight"]
    assert len(casts) == 1
    assert {node.op_type for node, _ in casts[0].outputs[0].uses()} == {"Gather", "Transpose"}


def test_sixteen_bit_sources_are_taken_as_they_are() -> None:
    program, _ = twins.twin("tied")
    name = "model.layers.0.mlp.up_proj.weight"
    source = ArrayTensor(program.weights[name].read_rows(0, 160).astype(np.float16))
    for dtype, expected in (("float16", source), ("bfloat16", None)):
        program, _ = twins.twin("tied")
        program.weights[name] = Cast(source, "float32", name)
        WeightStorage(dtype).run(program)  # type: ignore[arg-type]
        stored = program.weights[name]
        assert stored.dtype == dtype and (expected is None or stored is expected)


def test_a_weight_that_moved_too_far_is_named() -> None:
    before = {"model.x.weight": np.array([[1.0, 3.0]], np.float32)}
    after = {"model.x.weight": np.array([[1.0, 3.1]], np.float16)}
    with pytest.raises(InternalError) as error:
        WeightStorage("float16").decoded_weights(before, after)
    assert error.value.code == "E1308" and "model.x.weight" in error.value.message
