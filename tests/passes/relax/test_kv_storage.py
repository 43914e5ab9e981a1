import pytest

from tests.golden_files import check_golden
from tests.mutation import mutated
from tests.passes.relax import cases
from tests.twins import ROUNDING
from xamc.errors import InternalError
from xamc.ir.tolerances import tolerance
from xamc.passes.relax import kv_storage
from xamc.passes.relax.kv_storage import KvStorage
from xamc.passes.relax.protocol import RelaxPass
from xamc.targets.cpu import twin_proof
from xamc.targets.cpu.twin_proof import Proven, TwinProof


def proven(relax_pass: RelaxPass, kind: str, stored: str = "fp32") -> Proven:
    """What the CPU target's proof says of the pass, right before which the twin is."""
    program = cases.before(kind, "kv_storage", stored)
    names = [f"output{number}" for number in range(len(cases.answers(kind, program, stored)[0]))]
    before = [dict(zip(names, outputs, strict=True)) for outputs in cases.answers(kind, program, stored)]
    return TwinProof(program, names, cases.lowered(kind, stored)[1], before).prove(relax_pass)


@pytest.mark.parametrize("kind, stored", [("tied", "fp32"), ("windowed", "fp32"), (ROUNDING, "bf16")])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounding_stays_within_what_noise_of_its_size_does_to_the_twin_and_happens(
    dtype: str, kind: str, stored: str
) -> None:
    found = proven(KvStorage(dtype), kind, stored)
    assert found.bound.name == "rounding_noise"
    assert tolerance("reassociated") < found.deviation <= found.bound.value < 0.1


def test_every_layer_is_stored() -> None:
    _, program, report = cases.run(KvStorage("float16"), "tied")
    assert report.matched == {"layer": 2}
    caches = [p for p in program.module["main"].params if p.name.startswith("cache_")]
    assert {str(p.ty.dtype) for p in caches} == {"float16"}


def test_float32_changes_nothing() -> None:
    deviation, _, report = cases.run(KvStorage("float32"), "tied")
    assert (deviation, report.total, KvStorage("float32").tolerance) == (0.0, 0, "exact")


def test_caches_of_unfused_layers_keep_their_dtype_and_the_reason_is_reported() -> None:
    program = cases.before("tied", "rope_cache")
    report = KvStorage("float16").run(program)
    assert report.total == 0 and "fused cache updates" in report.skipped[0].reason


def test_golden() -> None:
    check_golden("passes/relax_kv_storage.txt", cases.rewrite(KvStorage("float16"), "tied"))


@pytest.mark.parametrize("kind", ["tied", "windowed"])
def test_a_narrower_type_than_said_is_noticed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound of float16 is tight enough to tell a cache that is in truth bfloat16."""
    wrong = mutated(
        kv_storage,
        'if self.dtype == "float32":\n            return report',
        'object.__setattr__(self, "dtype", "bfloat16")',
    )
    monkeypatch.setattr(twin_proof, "KvStorage", wrong.KvStorage)
    with pytest.raises(InternalError) as caught:
        proven(wrong.KvStorage("float16"), kind)
    assert caught.value.code == "E1406" and "rounding_noise" in caught.value.message
