"""From a Relax module of kernel calls to a shared library."""

from __future__ import annotations

from pathlib import Path

import tvm
from tvm import relax

from xamc.targets.cpu import tir_pipeline
from xamc.targets.kernels.isa import Isa


def build_library(module: tvm.IRModule, isa: Isa, path: Path) -> None:
    """Compiles `module` for `isa` and writes the shared library to `path`.

    Nothing is fused here: what belongs together is one kernel already, and where every operator rounds its result
    (static graphs in float16) none may be. What no kernel covers (reshapes, slices) is legalized by TVM. Every
    intermediate tensor gets its place in statically planned storage, so that a call allocates a few blocks and not one
    per operator.
    """
    target = tvm.target.Target(isa.target())
    with target:
        lowered = memory_plan_pipeline()(module)
    executable = tvm.compile(lowered, target=target, relax_pipeline=None, tir_pipeline=tir_pipeline.NAME)
    executable.export_library(str(path))


def memory_plan_pipeline() -> tvm.transform.Pass:
    """TVM's passes from legalization to the virtual machine, in order."""
    passes = relax.transform
    return tvm.transform.Sequential(
        [
            # a reshape is a view: the memory plan and the virtual machine know it as such; what else is legalized
            # stands between kernels, so that nothing is left to fuse
            passes.LegalizeOps(skip_ops=["relax.reshape"]),
            passes.ToNonDataflow(),
            passes.RemovePurityChecking(),
            passes.CallTIRRewrite(),
            passes.StaticPlanBlockMemory(),
            passes.LowerAllocTensor(),
            passes.KillAfterLastUse(),
            passes.LowerRuntimeBuiltin(),
            passes.ComputePrimValue(),
            passes.VMShapeLower(),
            passes.AttachGlobalSymbol(),
        ],
        name="memory_plan",
    )
