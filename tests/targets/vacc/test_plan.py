"""The planned bytes of every rank are those of the tensors that the passes leave for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.twins import family, family_answers
from xamc.ir.weights.quantize import RoundToNearest
from xamc.model.bucket import Bucket
from xamc.model.dtypes import DTYPE_BYTES
from xamc.targets.vacc.passes import passes as vacc_passes
from xamc.targets.vacc.plan import static_plan
from xamc.targets.vacc.request import VaccRequest
from xamc.verify.driver import copy_program
from xamc.verify.kv_calibration import scales_of_cases

PREFILL, DECODE = Bucket("prefill", 9), Bucket("decode", 12)
PLAIN = VaccRequest("float16", None, "float16", buckets=(PREFILL, DECODE))


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("llama", PLAIN),
        ("llama", replace(PLAIN, tp=2)),
        ("internlm", replace(PLAIN, tp=2)),
        ("qwen3", replace(PLAIN, quantize=RoundToNearest(8, None), tp=4)),
        ("qwen2", replace(PLAIN, kv_dtype="int8", tp=2)),
        ("internlm3", replace(PLAIN, merge_params=True)),
        ("internlm2", replace(PLAIN, merge_params=True)),
        ("qwen3", replace(PLAIN, buckets=(PREFILL,))),
    ],
)
def test_bytes_of_a_rank(name: str, request_: VaccRequest) -> None:
    twin = family(name)
    plan = static_plan(twin.config, request_)
    passes = vacc_passes(request_)
    scales = scales_of_cases(twin.config, family_answers(name)) if request_.kv_dtype == "int8" else None
    for graph_pass in passes.common:
        graph_pass.run(twin)
    for planned in plan.graphs:
        graph = copy_program(twin)
        rows = DECODE.length if request_.merge_params else planned.bucket.length
        for graph_pass in passes.of_bucket(planned.bucket, rows, scales):
            graph_pass.run(graph)
        for rank in passes.split.split(graph):
            nbytes = sum(int(DTYPE_BYTES[t.dtype] * np.prod(t.shape)) for t in rank.weights.values())
            assert planned.parameters == nbytes


def test_merged_files_are_counted_once() -> None:
    """Unless dynamic NTK scaling gives graphs beyond the trained length tables, and so files, of their own."""
    merged = replace(PLAIN, merge_params=True, buckets=(PREFILL, DECODE, Bucket("decode", 9)))
    config = replace(family("internlm2").config, max_position_embeddings=DECODE.length)
    assert config.rope.kind == "dynamic"
    one = static_plan(config, merged)
    assert [graph.shares for graph in one.graphs] == [PREFILL] * 3
    assert one.rank_bytes == max(graph.parameters for graph in one.graphs)
    two = static_plan(replace(config, max_position_embeddings=DECODE.length - 1), merged)
    assert [graph.shares for graph in two.graphs] == [PREFILL, DECODE, PREFILL]
    assert two.rank_bytes == two.graphs[0].parameters + two.graphs[1].parameters
    apart = static_plan(config, replace(merged, merge_params=False))
    assert apart.rank_bytes == sum(graph.parameters for graph in apart.graphs)
