"""From a Relax module of kernel calls to a shared library."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import tvm
from tvm import relax
from tvm.support import cc

from xamc.errors import ToolchainError
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
            order_shape_functions(),
            passes.AttachGlobalSymbol(),
        ],
        name="memory_plan",
    )


def order_shape_functions() -> tvm.transform.Pass:
    """Sorts the stores of the functions that compute symbolic shapes by the place they write.

    TVM collects them in a table keyed by addresses, so that their order, and with it the library's bytes, changes from
    one process to the next. Each writes a place of its own and reads only what the caller has written, so that any
    order means the same; a function where that is not so is left alone.
    """

    @tvm.tirx.transform.prim_func_pass(opt_level=0)
    def ordered(function: tvm.tirx.PrimFunc, module: tvm.IRModule, context: object) -> tvm.tirx.PrimFunc:
        if not function.attrs.get("tirx.is_host_func") or not isinstance(function.body, tvm.tirx.SeqStmt):
            return function
        stores = list(function.body.seq)
        by_place = {place: store for store in stores if (place := _constant_place(store)) is not None}
        if len(by_place) != len(stores):
            return function
        read = set().union(*(_places_read(statement.value) for statement in stores))
        if None in read or read & by_place.keys():
            return function
        return function.with_body(tvm.tirx.SeqStmt([by_place[place] for place in sorted(by_place)]))

    return ordered


def _constant_place(statement: tvm.tirx.Stmt) -> int | None:
    """The index a store writes, or None for anything but a store to a constant index of a vector."""
    if not isinstance(statement, tvm.tirx.BufferStore) or len(statement.indices) != 1:
        return None
    index = statement.indices[0]
    return int(index.value) if isinstance(index, tvm.tirx.IntImm) else None


def _places_read(value: tvm.ir.Expr) -> set[int | None]:
    """Constant indices that an arithmetic expression loads from; None stands for anything else."""
    if isinstance(value, tvm.tirx.IntImm):
        return set()
    if isinstance(value, tvm.ir.TensorLoad):
        (index,) = value.indices
        return {int(index.value) if isinstance(index, tvm.tirx.IntImm) else None}
    if hasattr(value, "a") and hasattr(value, "b"):
        return _places_read(value.a) | _places_read(value.b)
    return {None}
