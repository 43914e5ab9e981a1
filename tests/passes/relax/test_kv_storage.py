import pytest

from tests.golden_files import check_golden
from tests.mutation import mutated
from tests.passes.relax import cases
from xamc.compiler.verify.tolerances import tolerance
from xamc.passes.relax import kv_storage
from xamc.passes.relax.kv_storage import KvStorage


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_stays_within_its_bound_and_happens(dtype: str) -> None:
    deviation, program, report = cases.run(KvStorage(dtype), "tied")
    assert 0 < deviation <= tolerance(f"kv_{dtype}")
    assert report.matched == {"layer": 2}
    caches = [p for p in program.module["main"].params if p.name.startswith("cache_")]
    assert {str(p.ty.dtype) for p in caches} == {dtype}


def test_float32_changes_nothing() -> None:
    deviation, _, report = cases.run(KvStorage("float32"), "tied")
    assert (deviation, report.total, KvStorage("float32").tolerance) == (0.0, 0, "exact")


def test_caches_of_unfused_layers_keep_their_dtype_and_the_reason_is_reported() -> None:
    program = cases.before("tied", "rope_cache")
    report = KvStorage("float16").run(program)
    assert report.total == 0 and "fused cache updates" in report.skipped[0].reason


def test_golden() -> None:
    check_golden("passes/relax_kv_storage.txt", cases.rewrite(KvStorage("float16"), "tied"))


def test_a_narrower_type_than_said_is_noticed() -> None:
    """The bound of float16 is tight enough to tell a cache that is in truth bfloat16."""
    wrong = mutated(
        kv_storage,
        'if self.dtype == "float32":\n            return report',
        "object.__setattr__(self, 'dtype', 'bfloat16')",
    )
    deviation, _, _ = cases.run(wrong.KvStorage("float16"), "tied")
    assert deviation > tolerance("kv_float16")
