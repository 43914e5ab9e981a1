"""The ATC route's graphs of every family: each pass proven against transformers, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir as ir
import pytest

from tests import twins
from tests.checkpoints import FAMILIES
from tests.golden_files import check_golden, first_layer
from xamc.errors import UnsupportedError
from xamc.ir.onnx_graph import dims, static_dims
from xamc.ir.text import program_text
from xamc.ir.tolerances import tolerance
from xamc.model.bucket import Bucket
from xamc.passes.graph.cache_rows import CacheRows
from xamc.passes.graph.half_precision import HalfPrecision
from xamc.passes.graph.last_position import LastPosition
from xamc.passes.protocol import GraphPass, Tensors
from xamc.passes.runner import run_passes
from xamc.targets.ascend.passes import passes as ascend_passes
from xamc.targets.ascend.request import AscendRequest
from xamc.targets.registry import target
from xamc.targets.request import TargetOptions
from xamc.verify.metrics import output_error
from xamc.verify.oracle import Oracle, materialize
from xamc.verify.proof import prove
from xamc.verify.scenario import TWIN_DECODE_LENGTH, TWIN_PREFILL_LENGTH, Case

STATIC = AscendRequest(
    "float16",
    None,
    "float16",
    buckets=(Bucket("prefill", 16), Bucket("decode", 32)),
    rows=2,
)
GEARS = replace(
    STATIC,
    buckets=(Bucket("prefill", 8), Bucket("prefill", 16), Bucket("decode", 32)),
    gears=((1, 16), (3, 16), (3, 32)),
    rows=3,
)
LENGTHS = {"prefill": TWIN_PREFILL_LENGTH, "decode": TWIN_DECODE_LENGTH}


def _twin_passes(request: AscendRequest, kind: str) -> list[GraphPass]:
    passes = ascend_passes(request)
    assert passes.of_twin is not None
    return [*passes.common, *passes.of_twin(Bucket(kind, LENGTHS[kind]), TWIN_DECODE_LENGTH, None)]  # type: ignore[arg-type]


def _calls(rows: CacheRows, cases: Sequence[Case]) -> list[tuple[Tensors, Tensors]]:
    """The calls that the graph serves: two rows of one length, then at every step three ragged ones; shuffled rows."""
    served = []
    for case in cases:
        if rows.accepts(case.feeds):
            pair: tuple[Tensors, Tensors] = (case.feeds, case.fetches)
            served.append((case.run, case.step, *(LastPosition().adapt(*pair) if rows.kind == "prefill" else pair)))
    calls = [rows.adapt(feeds, fetches) for run, _, feeds, fetches in served if run == "batch"]
    for step in sorted({step for _, step, _, _ in served}):
        calls.append(rows.merge_rows([(f, e) for run, s, f, e in served if s == step and run != "batch"]))
    return calls


@pytest.mark.parametrize("kind", ["prefill", "decode"])
@pytest.mark.parametrize("name", (*FAMILIES, "qwen2_window"))
def test_graphs_of_every_family_say_what_transformers_does(name: str, kind: str) -> None:
    """A prefill or three decode steps, of a batch and of ragged sequences, through the finished float16 graph."""
    passes, program = _twin_passes(GEARS, kind), twins.family(name)
    run_passes(program, passes)
    assert {node.domain for node in program.model.graph} == {""} and not program.model.functions
    assert program.model.graph.opset_imports == {"": 14}
    free = {dim for value in program.data_inputs() for dim in dims(value) or () if isinstance(dim, str)}
    assert free == ({"seq"} if kind == "prefill" else {"batch", "active"})
    rows = next(graph_pass for graph_pass in passes if isinstance(graph_pass, CacheRows))
    oracle, inputs = Oracle(program.model, materialize(program.weights)), {v.name for v in program.data_inputs()}
    calls = _calls(rows, twins.family_answers(name))
    assert len(calls) == (2 if kind == "prefill" else 6)
    for call in calls:
        feeds, expected = HalfPrecision().adapt(*call)
        found = oracle.run({name: array for name, array in feeds.items() if name in inputs})
        assert max(output_error(found[key], array) for key, array in expected.items()) <= tolerance("gears_float16")


@pytest.mark.parametrize("kind", ["prefill", "decode"])
@pytest.mark.parametrize("name", ["internlm3", "qwen2_window"])
def test_every_pass_is_proven(name: str, kind: str) -> None:
    report = prove(_twin_passes(GEARS, kind), twins.family(name), twins.family_answers(name)).require()
    assert {case.run for case in report.cases} == {"batch", "ragged"}


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_static_graphs_are_proven_too(kind: str) -> None:
    program = twins.family("llama")
    prove(_twin_passes(STATIC, kind), program, twins.family_answers("llama")).require()
    values = [*program.model.graph.inputs, *(v for node in program.model.graph for v in node.outputs)]
    assert all(static_dims(value) is not None for value in values)


@pytest.mark.parametrize("form", ["static", "gears"])
@pytest.mark.parametrize("name", ["llama", "qwen2_window"])
def test_golden_graphs(name: str, form: str) -> None:
    """What ATC gets for the real lengths, the first layer of it."""
    passes = ascend_passes(STATIC if form == "static" else GEARS)
    for bucket in passes.buckets:
        program = twins.family(name)
        run_passes(program, [*passes.common, *passes.of_bucket(bucket, 32, None)])
        check_golden(f"targets/ascend/{name}_{form}_{bucket.kind}.txt", first_layer(program_text(program)))


def test_weights_are_float16_and_nothing_else() -> None:
    passes, program = ascend_passes(GEARS), twins.family("qwen2")
    run_passes(program, [*passes.common, *passes.of_bucket(passes.buckets[0], 32, None)])
    assert {value.dtype for value in program.weight_inputs()} == {ir.DataType.FLOAT16}
    assert {tensor.dtype for tensor in program.weights.values()} == {"float16"}


def test_an_embedding_model_is_refused_with_a_remedy() -> None:
    with pytest.raises(UnsupportedError, match="E1416") as caught:
        target("tvm_ascend").request(TargetOptions("float16", None, "float16", prefill_lengths=(16,)))
    assert "tvm_vacc" in caught.value.fix
