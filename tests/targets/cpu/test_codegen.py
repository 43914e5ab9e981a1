"""The memory plan: few blocks for many intermediate tensors, and none that is still read is given away."""

from pathlib import Path

import pytest
import tvm

from tests.passes.relax import cases
from xamc.artifact.step_program import STEP_FUNCTION
from xamc.targets.cpu import codegen
from xamc.targets.cpu.select_kernels import FUNCTIONS, select_kernels
from xamc.targets.cpu.weight_plan import plan_weights
from xamc.targets.kernels.isa import Isa


def _selected(isa: Isa) -> tvm.IRModule:
    program = cases.before("tied", "end", "w4")
    return select_kernels(program, plan_weights(program), isa, "float16", "float32").module


@pytest.fixture(scope="module")
def module() -> tvm.IRModule:
    return _selected(Isa.host())


def _count(module: tvm.IRModule, function: str, callee: str) -> int:
    return str(module[function].script()).count(callee)


def _lowered(module: tvm.IRModule) -> tvm.IRModule:
    with tvm.target.Target(Isa.host().target()):
        return codegen.memory_plan_pipeline()(module)


IN_MACHINE = [name for name in FUNCTIONS if name != STEP_FUNCTION]


@pytest.mark.parametrize("function", IN_MACHINE)
def test_intermediates_share_storage(module: tvm.IRModule, function: str) -> None:
    calls = _count(module, function, "R.call_tir")
    blocks = _count(_lowered(module), function, "alloc_storage")
    # 2 layers have about 20 kernel calls; the result, the row being made and those still to be read need a place
    assert calls > 15
    assert 1 <= blocks <= 9


def test_without_the_plan_every_tensor_is_allocated(module: tvm.IRModule, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = _count(_lowered(module), "prefill_last", "alloc_storage")
    monkeypatch.setattr(tvm.relax.transform, "StaticPlanBlockMemory", lambda: tvm.transform.Sequential([]))
    assert _count(_lowered(module), "prefill_last", "alloc_storage") > 2 * planned


def test_the_library_is_byte_identical_from_build_to_build(tmp_path: Path) -> None:
    # a function that computes symbolic shapes, and its kernels; whole artifacts, at the host's level:
    # tests/end_to_end/test_reproducible.py. Kernels of one level are built for that level, the one of the least code.
    isa = Isa.by_name("x86-64-v2")
    others = {STEP_FUNCTION, "prefill_all"}
    prefill = tvm.IRModule({v: f for v, f in _selected(isa).functions.items() if v.name_hint not in others})
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        codegen.build_library(prefill, isa, tmp_path / name / "model.so")
    assert (tmp_path / "a" / "model.so").read_bytes() == (tmp_path / "b" / "model.so").read_bytes()


def _shape_function(*stores: tuple[int, int], host: bool = True) -> tvm.tirx.PrimFunc:
    """Stores to places of a vector, each twice what another place holds."""
    places = tvm.tirx.decl_buffer((8,), "int64", "places")
    body = [
        tvm.tirx.BufferStore(places, places[read] * tvm.tirx.const(2, "int64"), [written]) for written, read in stores
    ]
    function = tvm.tirx.PrimFunc([places], tvm.tirx.SeqStmt(body))
    return function.with_attr("tirx.is_host_func", True) if host else function


def _written(function: tvm.tirx.PrimFunc) -> list[int]:
    module = codegen.order_shape_functions()(tvm.IRModule({"f": function}))
    return [int(store.indices[0].value) for store in module["f"].body.seq]


def test_stores_of_shape_functions_are_sorted() -> None:
    """TVM's order follows addresses, so it changes from process to process; any order means the same here."""
    assert _written(_shape_function((5, 0), (2, 1), (3, 0))) == [2, 3, 5]


@pytest.mark.parametrize("stores", [((5, 0), (2, 5)), ((2, 0), (1, 0), (2, 1))], ids=["reads another", "writes twice"])
def test_stores_whose_order_matters_are_left_alone(stores: tuple[tuple[int, int], ...]) -> None:
    assert _written(_shape_function(*stores)) == [written for written, _ in stores]


def test_functions_that_compute_no_shapes_are_left_alone() -> None:
    assert _written(_shape_function((5, 0), (2, 1), host=False)) == [5, 2]
