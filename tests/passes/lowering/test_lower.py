"""The lowering against ONNX Runtime, operator by operator where it refuses, and as a whole on the twins."""

import numpy as np
import onnx_ir as ir
import pytest

from tests import twins
from tests.mutation import mutated
from tests.passes.relax import cases
from xamc.errors import UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.kv_cache import KvCache
from xamc.passes.graph.last_position import LastPosition
from xamc.passes.graph.swiglu import SwiGlu
from xamc.passes.lowering import interpreter
from xamc.passes.lowering.lower import check_supported, lower
from xamc.verify.metrics import relative_error


@pytest.mark.parametrize("kind, stored", [("tied", "fp32"), ("windowed", "fp32"), ("tied", "fp16"), ("windowed", "w4")])
def test_the_lowered_twin_answers_like_onnx_runtime(kind: str, stored: str) -> None:
    program, calls = cases.lowered(kind, stored)
    names = ["logits"] + [f"updated_{k}.{i}" for i in range(2) for k in ("key", "value")]
    for call, outputs in zip(calls, cases.answers(kind, program, stored), strict=True):
        for name, actual in zip(names, outputs, strict=True):
            assert relative_error(actual, call.fetches[name]) <= tolerance("reassociated"), (call.name, name)


def test_no_weight_is_read() -> None:
    class Unreadable:
        dtype = "float32"

        def __init__(self, shape: tuple[int, ...]) -> None:
            self.shape = shape

        def read_rows(self, start: int, stop: int) -> np.ndarray:
            raise AssertionError("a weight was read")

    program = twins.after("tied", Cleanup(), SwiGlu(), LastPosition(), KvCache())
    program.weights = {name: Unreadable(tensor.shape) for name, tensor in program.weights.items()}
    assert set(lower(program).weights) == set(program.weights)


def test_masks_and_shapes_are_not_computed() -> None:
    script = cases.lowered("windowed")[0].module.script()
    assert "window" in script and "shape_of" not in script and "greater" not in script


def test_unsupported_operators_are_all_listed_before_work_starts() -> None:
    program = twins.after("tied", Cleanup(), KvCache())
    graph = program.model.graph
    for op, domain in (("Softplus", ""), ("Relu", "vendor")):
        value = graph.outputs[0]
        node = ir.Node(domain, op, [value], num_outputs=1)
        graph.append(node)
        node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
        graph.outputs[0] = node.outputs[0]
    with pytest.raises(UnsupportedError) as caught:
        check_supported(program)
    assert caught.value.code == "E1401" and caught.value.exit_code == 3
    # a foreign domain is not mistaken for the standard operator of the same name
    assert "ai.onnx::Softplus" in caught.value.message and "vendor::Relu" in caught.value.message


def test_growing_caches_are_refused_with_the_module() -> None:
    with pytest.raises(UnsupportedError) as caught:
        lower(twins.after("tied", Cleanup(), SwiGlu(), LastPosition()))
    assert caught.value.code == "E1402"
    assert ".self_attn" in caught.value.message and "kv_cache" in caught.value.message


@pytest.mark.parametrize(
    "old, new",
    [
        ("columns > positions - window", "columns >= positions - window"),
        ("columns <= positions\n", "columns < positions + 2\n"),
        ("a * c - b * s", "a * c + b * s"),
        ("start : start + update.shape[2]", "start + 1 : start + 1 + update.shape[2]"),
    ],
)
def test_a_wrong_definition_is_noticed(old: str, new: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's definitions are themselves held to ONNX Runtime."""
    wrong = mutated(interpreter, old, new)
    monkeypatch.setattr("xamc.passes.lowering.evaluate.register_interpreter", wrong.register_interpreter)
    program, calls = cases.lowered("windowed")
    try:
        errors = [
            relative_error(outputs[0], call.fetches["logits"])
            for call, outputs in zip(calls, cases.answers("windowed", program), strict=True)
        ]
    except ValueError:
        return  # a write beyond the cache
    assert max(errors) > tolerance("reassociated")
