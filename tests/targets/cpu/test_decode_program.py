"""Which calls of a token become one instruction, where values lie between them, and what is no program."""

import math
from typing import Any

import pytest

from tests.passes.relax import cases
from xamc.artifact.step_program import PREPARED_K, StepProgram
from xamc.errors import InternalError
from xamc.ir.relax_program import RelaxProgram
from xamc.runtime.executors.step_runner import StepRunner
from xamc.targets.cpu import select_kernels
from xamc.targets.cpu.decode_program import DecodeProgram, NotOneProgram, plan_decode
from xamc.targets.cpu.pipeline import relax_passes
from xamc.targets.cpu.select_kernels import one_token
from xamc.targets.cpu.twin_proof import TwinProof
from xamc.targets.cpu.weight_plan import plan_weights
from xamc.targets.kernels.decode_kernels import LinearKernel
from xamc.targets.kernels.few_rows import MOST_ROWS
from xamc.targets.kernels.isa import Isa


def _program(kind: str, stored: str = "w4", without: str = "") -> RelaxProgram:
    program = cases.copy(cases.lowered(kind, stored)[0])
    for relax_pass in relax_passes("float32"):
        if relax_pass.name != without:
            relax_pass.run(program)
    return program


def _planned(program: RelaxProgram) -> DecodeProgram:
    return plan_decode(program, one_token(program), plan_weights(program), "float32", "float32", 64)


def _names(program: StepProgram) -> list[str]:
    """The kernels in order of execution, without shapes."""
    names = [program.kernels[instruction.kernel] for instruction in program.instructions]
    kinds = ("embedding", "attention", "merge", "norm", "plain", "gate")
    return [next(k for k in kinds if n.startswith(k)) + "".join(f" {e}" for e in ("bias", "residual", "logits", "gate")
            if n.endswith(e) or f"_{e}_" in n) for n in names]  # fmt: skip


def test_a_layer_is_five_instructions() -> None:
    layer = ["norm", "attention", "merge residual", "norm gate", "plain residual"]
    assert _names(_planned(_program("tied")).program) == ["embedding", *layer, *layer, "norm logits"]


def test_biases_and_norms_of_heads_are_operands() -> None:
    """The other twin has a bias on its projections or norms on its heads, and a window."""
    program = _planned(_program("windowed")).program
    assert len(program.instructions) == 1 + 5 * 2 + 1
    attention = next(r for k, r in zip(program.kernels, program.regions, strict=True) if k.startswith("attention"))
    assert attention[0] == attention[-1] == "workspace" and attention.count("pools") == 2


@pytest.mark.parametrize("kind", ["tied", "windowed"])
def test_nothing_lies_on_what_is_still_read(kind: str) -> None:
    """Every instruction finds what the last writer of its operands put there: simulated with bytes' owners."""
    planned = _planned(_program(kind))
    program = planned.program
    owner: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for number, instruction in enumerate(program.instructions):
        regions = program.regions[instruction.kernel]
        places = [p for r, p in zip(regions, instruction.operands, strict=True) if r == "workspace"]
        kernel = planned.kernels[instruction.kernel]
        writes = "logits" not in kernel.key.split("_")
        reads = places[:-1] if writes else places
        for place in reads:
            assert place in sizes, "read before anything was written"
            written = {owner[byte] for byte in range(place, place + sizes[place], 4)}
            assert len(written) == 1, "part of an operand was written over"
        if writes:
            size = 4 * math.prod(kernel.output)
            assert places[-1] + size <= program.workspace
            for place in reads:
                assert places[-1] + size <= place or place + sizes[place] <= places[-1], "result on an operand"
            sizes[places[-1]] = size
            owner.update(dict.fromkeys(range(places[-1], places[-1] + size, 4), number))


def test_the_workspace_is_used_again() -> None:
    planned = _planned(_program("tied"))
    kernels = [planned.kernels[instruction.kernel] for instruction in planned.program.instructions]
    everything = sum(4 * math.prod(kernel.output) for kernel in kernels)
    assert planned.program.workspace < everything


def test_several_rows_run_the_same_program() -> None:
    program = _planned(_program("tied")).program
    assert program.rows == MOST_ROWS
    widest = max(
        kernel.source.width for kernel in _planned(_program("tied")).kernels if isinstance(kernel, LinearKernel)
    )
    assert widest * 4 <= program.prepared < (widest + PREPARED_K) * 4


def test_a_step_of_rows_that_goes_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row at the position of the first one."""
    right = StepRunner.run_rows

    def wrong(runner: StepRunner, ids: Any, cached: Any, angles: Any, cos: Any, sin: Any) -> Any:
        return right(runner, ids, cached, angles * 0 + angles[0], cos, sin)

    monkeypatch.setattr(StepRunner, "run_rows", wrong)
    program = _program("tied")
    proof = TwinProof(program, [], cases.lowered("tied", "w4")[1], [])
    with pytest.raises(InternalError, match="rows, decode 1 by"):
        proof.prove_kernels(Isa.host(), "float32", "int16")


def test_a_call_that_has_no_place_is_named() -> None:
    with pytest.raises(NotOneProgram, match="is not part of it"):
        _planned(_program("tied", without="norm_residual"))


def test_what_is_no_program_stays_with_the_virtual_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> DecodeProgram:
        raise NotOneProgram("sort (x) is not part of it")

    monkeypatch.setattr(select_kernels, "plan_decode", refuse)
    program = _program("tied")
    selected = select_kernels.select_kernels(program, plan_weights(program), Isa.host(), "float32", "float32")
    assert selected.step is None and selected.reason == "sort (x) is not part of it"
    assert "R.func" in selected.module["decode"].script()
    proof = TwinProof(program, [], cases.lowered("tied", "w4")[1], [])
    assert proof.prove_kernels(Isa.host(), "float32", "float32")["executed"]
