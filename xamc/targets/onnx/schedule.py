"""What no kernel of ours covers, operators that TVM writes as loops: inlined, reordered, shared among threads."""

from __future__ import annotations

import contextlib
from math import prod
from typing import Any

import tvm
from tvm import relax, s_tir, tirx
from tvm.relax.backend.cpu_generic.pipeline import finalize_passes, library_dispatch_passes
from tvm.s_tir.schedule import ScheduleError
from tvm.tirx.compilation_pipeline import register_tir_pipeline

from xamc.targets.cpu.codegen import order_shape_functions
from xamc.targets.cpu.tir_pipeline import tir_passes
from xamc.targets.onnx.legalize import legalizations
from xamc.targets.onnx.parameter_order import order_size_parameters

TIR_PIPELINE = "xamc_graph"
"""What `tvm.compile` knows the last passes by: those of our kernels, and those that 8-bit floats need."""

_PARALLEL = 16384
"""Below this many elements, waking the other threads costs more than they save."""
_CHUNK = 4096
"""Elements of a task of a tensor with one dimension."""


def _tir_pipeline() -> tuple[tvm.transform.Pass, object, object]:
    passes, plain = tir_passes(), tirx.transform
    names = [one.info.name for one in passes]
    passes.insert(len(passes) - 1, plain.FP8StorageLegalize())
    passes.insert(names.index("tirx.VerifyMemory"), plain.FP8ComputeLegalize())
    return (
        tvm.transform.Sequential(passes, name=TIR_PIPELINE),
        lambda: tvm.transform.Sequential([plain.LowerTVMBuiltin(), plain.LowerIntrin()]),
        lambda: tvm.transform.Sequential([]),
    )


register_tir_pipeline(TIR_PIPELINE, _tir_pipeline)


def relax_pipeline(target: tvm.target.Target) -> tvm.transform.Pass:
    """TVM's passes for a CPU, in order, but that a reshape stays a view and that loops are scheduled once fused."""
    passes = relax.transform
    final = list(finalize_passes(target))
    after = [one.info.name for one in final].index("VMShapeLower") + 1
    final.insert(after, order_shape_functions())  # or the same model gives other bytes in another process

    @tvm.transform.module_pass(opt_level=0, name="xamc.Graph")
    def run(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
        with target:
            return tvm.transform.Sequential(
                [
                    *library_dispatch_passes(target),
                    passes.LegalizeOps(legalizations(), skip_ops=["relax.reshape"]),
                    order_size_parameters,
                    passes.AnnotateTIROpPattern(),
                    passes.FoldConstant(),
                    passes.FuseOps(),
                    passes.FuseTIR(),
                    schedule_loops,
                    passes.ToNonDataflow(),
                    passes.RemovePurityChecking(),
                    passes.CallTIRRewrite(),
                    *final,
                ],
                name="graph",
            )(module)

    return run


@tvm.transform.module_pass(opt_level=0, name="xamc.ScheduleLoops")
def schedule_loops(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    """Schedules every function of blocks; kernels, which have none, stay as they are."""
    updated = tvm.IRModule(dict(module.functions_items()), attrs=module.attrs)
    for var, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc) and _has_blocks(function):
            updated.update_func(var, _scheduled(function))
    return updated


def _has_blocks(function: Any) -> bool:
    return isinstance(function.body, s_tir.SBlockRealize) and not function.attrs.get("tirx.is_scheduled")


def _scheduled(function: Any) -> Any:
    schedule = s_tir.Schedule(function, error_render_level="none")
    try:
        root = schedule.get_sblock("root")
        for block in schedule.get_child_blocks(root)[:-1]:
            with contextlib.suppress(ScheduleError):  # a reduction, or read by something else than one loop nest
                schedule.compute_inline(block)
        for block in schedule.get_child_blocks(root):
            _share(schedule, block)
    except ScheduleError:
        return function  # its loops are right as they are
    return schedule.mod["main"].with_attrs(dict(function.attrs.items())) if function.attrs else schedule.mod["main"]


def _share(schedule: Any, block: Any) -> None:
    """Outer loops over outputs in parallel; the innermost one, where there is one left, is LLVM's to vectorize."""
    kinds = [str(var.iter_type) for var in schedule.get(block).iter_vars]
    loops = schedule.get_loops(block)
    if len(kinds) != len(loops):
        return
    spatial = [loop for loop, kind in zip(loops, kinds) if kind == "0"]
    reduced = [loop for loop, kind in zip(loops, kinds) if kind != "0"]
    extents = [getattr(schedule.get(loop).extent, "value", 64) for loop in loops]
    if not spatial or prod(extents) < _PARALLEL or loops[: len(spatial)] != spatial:
        return
    if reduced:
        schedule.parallel(schedule.fuse(*spatial))
        return
    if len(spatial) == 1:
        outer, _ = schedule.split(spatial[0], [None, _CHUNK])
        schedule.parallel(outer)
    else:
        schedule.parallel(schedule.fuse(*spatial[:-1]))
