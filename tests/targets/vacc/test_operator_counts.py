"""The planned numbers of operators are those of the graphs that the passes make."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tests.twins import family, family_answers
from xamc.ir.onnx_graph import constant_array
from xamc.ir.program import Program
from xamc.ir.weights.quantize import RoundToNearest
from xamc.model.bucket import Bucket
from xamc.targets.vacc.operator_counts import operator_counts
from xamc.targets.vacc.passes import passes as vacc_passes
from xamc.targets.vacc.request import VaccRequest
from xamc.verify.driver import copy_program
from xamc.verify.kv_calibration import scales_of_cases

FAMILIES = ("llama", "internlm", "internlm2", "internlm3", "qwen2", "qwen3", "mistral")
PREFILL, DECODE = Bucket("prefill", 9), Bucket("decode", 12)


def counted(program: Program) -> dict[str, int]:
    """Operators of a graph that compute something."""
    counts = Counter[str]()
    for node in program.model.graph:
        if node.op_type != "Cast" and constant_array(node.outputs[0]) is None:
            counts[f"{node.domain}::{node.op_type}" if node.domain else node.op_type] += 1
    return dict(counts)


def check(name: str, request: VaccRequest) -> None:
    twin = family(name)
    passes = vacc_passes(request)
    weights = twin.weights if request.unbiased_keys else None
    scales = scales_of_cases(twin.config, family_answers(name), weights) if request.kv_dtype == "int8" else None
    program = copy_program(twin)
    for graph_pass in passes.common:
        graph_pass.run(program)
    for bucket in request.buckets:
        graph = copy_program(program)
        for graph_pass in passes.of_bucket(bucket, 12, scales):
            graph_pass.run(graph)
        rank = passes.split.split(graph)[-1]
        assert dict(operator_counts(twin.config, request, bucket)) == counted(rank), bucket.name


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str) -> None:
    check(name, VaccRequest("float16", None, "float16", buckets=(PREFILL, DECODE)))


def test_ranks_int8_weights_and_int8_cache() -> None:
    check("llama", VaccRequest("float16", None, "float16", buckets=(PREFILL, DECODE), tp=2))
    check("qwen3", VaccRequest("float16", RoundToNearest(8, None), "float16", buckets=(PREFILL, DECODE)))
    check("qwen2", VaccRequest("float16", None, "int8", buckets=(PREFILL, DECODE)))
    apart = VaccRequest("float16", None, "int8", buckets=(PREFILL, DECODE), unbiased_keys=True)
    check("qwen2", apart)
    check("qwen2", replace(apart, tp=2))
    check("qwen3", apart)
    check("qwen3", VaccRequest("float16", None, "float16", buckets=(PREFILL,)))
