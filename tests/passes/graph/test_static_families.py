"""Static prefill and decode graphs of every family, proven pass by pass against transformers, and their structure."""

from __future__ import annotations

import pytest

from tests import twins
from tests.checkpoints import FAMILIES
from tests.golden_files import check_golden, first_layer
from tests.passes.graph.cases import DECODE, PREFILL
from tests.passes.graph.static_graphs import static_passes, structure_problems
from xamc.errors import InternalError
from xamc.ir.text import program_text
from xamc.model.bucket import Bucket
from xamc.model.config import RopeConfig
from xamc.passes.runner import run_passes
from xamc.verify.proof import prove

NAMES = (*FAMILIES, "qwen2_window")
BUCKETS = (PREFILL, DECODE)
LINEAR = RopeConfig("linear", 10000.0, factor=4.0)
LLAMA3 = RopeConfig("llama3", 500000.0, 8.0, 1.0, 4.0, original_max_position_embeddings=16)
DYNAMIC = RopeConfig("dynamic", 10000.0, factor=2.0)


@pytest.mark.parametrize("bucket", BUCKETS, ids=lambda bucket: bucket.name)
@pytest.mark.parametrize("name", NAMES)
def test_every_pass_keeps_what_transformers_computes(name: str, bucket: Bucket) -> None:
    program = twins.family(name)
    report = prove(static_passes(bucket), program, twins.family_answers(name)).require()
    assert len(report.cases) == (3 if bucket.kind == "prefill" else 9)
    assert structure_problems(program) == []


@pytest.mark.parametrize("bucket", BUCKETS, ids=lambda bucket: bucket.name)
@pytest.mark.parametrize("name", NAMES)
def test_golden_static(name: str, bucket: Bucket) -> None:
    program = twins.family(name)
    run_passes(program, static_passes(bucket))
    check_golden(f"passes/static/{name}_{bucket.kind}.txt", first_layer(program_text(program)))


@pytest.mark.parametrize("bucket", BUCKETS, ids=lambda bucket: bucket.name)
@pytest.mark.parametrize("rope", [LINEAR, LLAMA3, DYNAMIC], ids=lambda rope: rope.kind)
def test_rope_scalings(rope: RopeConfig, bucket: Bucket) -> None:
    prove(static_passes(bucket), twins.family("llama", rope), twins.family_answers("llama", rope)).require()


@pytest.mark.parametrize(
    ("bucket", "calls"), [(PREFILL, ["row1, prefill"]), (DECODE, ["row1, decode 3"])], ids=["prefill", "decode"]
)
def test_a_dynamic_base_beyond_the_trained_length_is_that_of_the_full_sequence(
    bucket: Bucket, calls: list[str]
) -> None:
    program, cases = twins.family("llama", DYNAMIC, 8), twins.family_answers("llama", DYNAMIC, 8)
    report = prove(static_passes(bucket), program, cases).require()
    assert [case.name for case in report.cases] == calls


def test_a_bucket_that_no_call_fits_is_no_proof() -> None:
    program, cases = twins.twin("tied")
    with pytest.raises(InternalError) as error:
        prove(static_passes(Bucket("decode", 2)), program, cases)
    assert error.value.code == "E1325" and "phase" in error.value.message
    with pytest.raises(InternalError, match="rope_table accepts none"):
        prove(
            static_passes(Bucket("prefill", 10)),
            twins.family("llama", DYNAMIC, 8),
            twins.family_answers("llama", DYNAMIC, 8),
        )
