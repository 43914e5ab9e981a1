"""Relax twins for tests: each form of a twin, from lowering through the CPU target's Relax passes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests import twins
from tests.golden_files import rewrite_text
from xamc.ir.relax_program import RelaxProgram
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.graph.kv_cache import KvCache
from xamc.passes.graph.last_position import LastPosition
from xamc.passes.graph.quantize_weights import QuantizeWeights
from xamc.passes.graph.swiglu import SwiGlu
from xamc.passes.graph.weight_storage import WeightStorage
from xamc.passes.lowering.evaluate import evaluate
from xamc.passes.lowering.lower import lower
from xamc.passes.relax.protocol import RelaxPass
from xamc.targets.cpu.pipeline import relax_passes
from xamc.verify.metrics import relative_error
from xamc.verify.proof import prove
from xamc.verify.scenario import Case

Array = NDArray[Any]

# how the weights of a twin are stored, by a suffix of its kind
STORED = {
    "fp32": (),
    "fp16": (WeightStorage("float16"),),
    "bf16": (WeightStorage("bfloat16"),),
    "w8": (QuantizeWeights.to_bits(8, None),),
    "w4": (QuantizeWeights.to_bits(4, 32),),
}


@functools.cache
def lowered(kind: str, stored: str = "fp32") -> tuple[RelaxProgram, Sequence[Case]]:
    """A twin lowered to Relax, with the calls it must answer as ONNX Runtime did."""
    program, cases = twins.twin(kind)
    passes = [Cleanup(), SwiGlu(), LastPosition(), KvCache(), *STORED[stored]]
    report = prove(passes, program, cases).require()
    return lower(program), report.cases


def copy(program: RelaxProgram) -> RelaxProgram:
    """An independent program; passes replace functions and weights, never edit them."""
    import tvm

    module = tvm.IRModule(dict(program.module.functions.items()))
    return RelaxProgram(module, dict(program.weights), program.config)


@functools.cache
def _until(kind: str, stored: str, name: str) -> RelaxProgram:
    program = copy(lowered(kind, stored)[0])
    for relax_pass in relax_passes("float16"):
        if relax_pass.name == name:
            return program
        relax_pass.run(program)
    return program


def before(kind: str, name: str, stored: str = "fp32") -> RelaxProgram:
    """A twin right before the pass called `name` (`end`: after all of them)."""
    return copy(_until(kind, stored, name))


def answers(kind: str, program: RelaxProgram, stored: str = "fp32") -> list[list[Array]]:
    """The program's outputs for every call of the twin's scenario."""
    return evaluate(program, [case.feeds for case in lowered(kind, stored)[1]])


def deviation(kind: str, program: RelaxProgram, expected: Sequence[Sequence[Array]], stored: str = "fp32") -> float:
    """The largest relative error of any output of any call."""
    actual = answers(kind, program, stored)
    return max(
        relative_error(np.asarray(a), np.asarray(e))
        for outputs, wanted in zip(actual, expected, strict=True)
        for a, e in zip(outputs, wanted, strict=True)
    )


def run(relax_pass: RelaxPass, kind: str, stored: str = "fp32") -> tuple[float, RelaxProgram, Any]:
    """(deviation from the program before, the program after, the pass's report)."""
    program = before(kind, relax_pass.name, stored)
    expected = answers(kind, program, stored)
    report = relax_pass.run(program)
    return deviation(kind, program, expected, stored), program, report


def rewrite(relax_pass: RelaxPass, kind: str, stored: str = "fp32") -> str:
    """What a pass changed, as a diff of TVMScript, for goldens."""
    program = before(kind, relax_pass.name, stored)
    old = str(program.module.script())
    relax_pass.run(program)
    return rewrite_text(old, str(program.module.script()))
