"""TVM's way from TensorIR to what its LLVM code generator takes, without what only GPUs and schedules need.

Our kernels come scheduled: no block to bind to threads, no pipeline to inject, no loop to partition for tensor cores.
Half of the time of TVM's default list goes into simplifying them again and again; the machine code that comes out of
this list is the same, byte for byte (tests/targets/cpu/test_tir_pipeline.py), but for scratch memory that TVM would
trim where fewer features come in than a block holds.
"""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.tirx.compilation_pipeline import register_tir_pipeline

from xamc.targets.kernels.threads import OWN_LAUNCH

NAME = "xamc_cpu"
"""What `tvm.compile` knows the pipeline by, in processes that import this module."""


def tir_passes() -> list[tvm.transform.Pass]:
    """The passes of `NAME`, in order."""
    schedule, plain = s_tir.transform, tirx.transform
    return [
        # blocks come from the few operators that TVM legalizes
        schedule.CanonicalizeLoop(),
        schedule.LowerInitBlock(),
        schedule.PlanAndUpdateBufferAllocationLocation(),
        schedule.ConvertBlocksToOpaque(),
        schedule.LowerMatchBuffer(),
        schedule.StmtSimplify(),
        schedule.LowerOpaqueBlock(),
        plain.FlattenBuffer(),
        plain.BF16ComputeLegalize(),
        plain.NarrowDataType(32),
        schedule.LoopPartition(),
        plain.VectorizeLoop(True),
        _share_storage(),
        plain.UnrollLoop(),
        plain.StmtSimplify(),
        schedule.RewriteUnsafeSelect(),
        plain.CommonSubexprElim(),
        plain.VerifyMemory(),
        plain.AnnotateEntryFunc(),
        # Before the checks of the arguments come in: the analyzer carries every condition it is under.
        plain.LowerIntrin(),
        plain.SplitHostDevice(),
        plain.MakePackedAPI(),
        plain.BF16StorageLegalize(),
    ]


def _share_storage() -> tvm.transform.Pass:
    """TVM's StorageRewrite, but for functions that launch threads by themselves.

    It takes scratch memory to the outermost loop around it, also out of the launch, where all threads would share it.
    """

    @tvm.transform.module_pass(opt_level=0, name="tirx.StorageRewrite")
    def run(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        kept = {
            var: function
            for var, function in module.functions.items()
            if isinstance(function, tirx.PrimFunc) and function.attrs.get(OWN_LAUNCH)
        }
        others = tvm.IRModule({var: f for var, f in module.functions.items() if var not in kept}, attrs=module.attrs)
        result = tirx.transform.StorageRewrite()(others)
        for var, function in kept.items():
            result.update_func(var, function)
        return result

    return run


def _pipeline() -> tuple[tvm.transform.Pass, object, object]:
    """The pipeline and the makers of the last passes for the host and for devices."""
    return (
        tvm.transform.Sequential(tir_passes(), name=NAME),
        lambda: tvm.transform.Sequential([tirx.transform.LowerTVMBuiltin()]),
        lambda: tvm.transform.Sequential([]),
    )


register_tir_pipeline(NAME, _pipeline)
