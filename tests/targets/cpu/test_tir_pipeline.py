"""The short way through TVM gives the machine code of the long one."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import tvm
from tvm import s_tir, tirx

from xamc.artifact.packing import WeightFormat
from xamc.targets.cpu import tir_pipeline
from xamc.targets.kernels.attention import attention
from xamc.targets.kernels.decode_kernels import LinearKernel, NormSource
from xamc.targets.kernels.decode_step import decode_step
from xamc.targets.kernels.gather_position import gather_position
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.linear import linear

ISA = Isa.by_name("x86-64-v3")
KERNELS: dict[str, Callable[[], Any]] = {
    "gemm": lambda: linear(40, 288, WeightFormat("uint4", 32), ISA, m="any"),
    "gemv": lambda: linear(40, 64, WeightFormat("int8", 32), ISA, m="one"),
    "prefill": lambda: attention(3, 1, 32, "float16", ISA, scale=0.125, m="any", window=None),
    "bfloat16 cache": lambda: attention(2, 2, 16, "bfloat16", ISA, scale=0.25, m="one", window=64),
    "gather": lambda: gather_position(64),
}


def _assembly(function: Any, pipeline: str) -> str:
    """Everything but the sections for debuggers, where a variable may live on by another name."""
    library = tvm.tirx.build(function, target=tvm.target.Target(ISA.target()), pipeline=pipeline)
    first, *sections = re.split(r"(?m)^(?=\t\.section\t)", library.inspect_source("asm"))
    return first + "".join(section for section in sections if not section.startswith("\t.section\t.debug_"))


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_machine_code_is_that_of_tvms_default_pipeline(kernel: str) -> None:
    function = KERNELS[kernel]()
    assert _assembly(function, tir_pipeline.NAME) == _assembly(function, "default")


def test_another_pipeline_gives_other_code(monkeypatch: pytest.MonkeyPatch) -> None:
    # so that the comparison above can fail
    passes = [p for p in tir_pipeline.tir_passes() if "CommonSubexprElim" not in p.info.name]
    monkeypatch.setattr(tir_pipeline, "tir_passes", lambda: passes)
    function = KERNELS["gemm"]()
    assert _assembly(function, tir_pipeline.NAME) != _assembly(function, "default")


def test_what_is_left_out_is_known() -> None:
    """A new TVM that adds a pass to its list is noticed here."""
    names: list[str] = []

    def record(passes: list[Any], *_: Any, **__: Any) -> Any:
        names.extend(p.info.name.partition(".")[2] for p in passes)
        return sequential(passes)

    sequential = tvm.ir.transform.Sequential
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tvm.ir.transform, "Sequential", record)
        pipeline, _, _ = s_tir.pipeline.default_s_tir_pipeline()
        pipeline(tvm.IRModule({}))
    ours = {p.info.name.partition(".")[2] for p in tir_pipeline.tir_passes()} - {"LowerIntrin"}
    assert ours < set(names)
    assert set(names) - ours == {
        "AnnotateIrregularLoop",
        "CompactBufferAllocation",
        "FP8ComputeLegalize",
        "FP8StorageLegalize",
        "HoistIfThenElse",
        "InferFragment",
        "InjectDoubleBuffer",
        "InjectPermutedLayout",
        "InjectSoftwarePipeline",
        "InjectVirtualThread",
        "LiftThreadBinding",
        "LowerAutoCopy",
        "LowerCrossThreadReduction",
        "LowerThreadAllreduce",
        "LowerVtcmAlloc",
        "ManifestSharedMemoryLocalStage",
        "MergeSharedMemoryAllocations",
        "RemoveNoOp",
        "RenormalizeSplitPattern",
        "ThreadSync",
        "TransformMmaBufferLayout",
        "UnifyThreadBinding",
        "VerifyVTCMLimit",
    }
    assert tirx.compilation_pipeline.PIPELINE_MAP[tir_pipeline.NAME] is tir_pipeline._pipeline


@pytest.mark.parametrize("passes", ["ours", "TVM's"])
def test_scratch_memory_of_a_launch_stays_in_it(passes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of it all threads would share it."""
    if passes == "TVM's":
        monkeypatch.setattr(tir_pipeline, "_share_storage", tvm.tirx.transform.StorageRewrite)
    layer = LinearKernel(64, NormSource(512, 1e-5), WeightFormat("uint4", 32), "int8")
    step = decode_step("step", [layer], 64, 16, ISA).with_attr("target", tvm.target.Target(ISA.target()))
    shared = [p.info.name for p in tir_pipeline.tir_passes()].index("tirx.StorageRewrite")
    lowered = tvm.transform.Sequential(tir_pipeline.tir_passes()[: shared + 1])(tvm.IRModule({"step": step}))
    before, _, inside = lowered["step"].script().partition("pragma_parallel_launch_point")
    assert "alloc_buffer" in (inside if passes == "ours" else before)
    assert ("alloc_buffer" in before) == (passes == "TVM's")
