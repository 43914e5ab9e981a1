"""From a Relax module of kernel calls to a shared library."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import tvm
from tvm import relax
from tvm.support import cc

from xamc.compiler.errors import ToolchainError
from xamc.targets.cpu import tir_pipeline
from xamc.targets.kernels.isa import Isa

CROSS_LINKER = "aarch64-linux-gnu-gcc"


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
    if isa.is_arm and platform.machine() != "aarch64":
        executable.export_library(str(path), fcompile=cc.cross_compiler(_cross_linker()))
    else:
        executable.export_library(str(path))


def _cross_linker() -> str:
    """The compiler driver that links code for aarch64 on another machine.

    Raises:
        ToolchainError: E1480, it is not installed.
    """
    linker = shutil.which(CROSS_LINKER)
    if linker is None:
        raise ToolchainError(
            "E1480",
            f"{CROSS_LINKER} was not found, which links code for aarch64 on this machine",
            fix="install Debian's gcc-aarch64-linux-gnu and libc6-dev-arm64-cross, or compile on an aarch64 machine",
        )
    return linker


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
