"""One token in one launch: all threads go through a program of kernels together and meet after each.

Waking the threads for a kernel and waiting for them costs microseconds, some hundred times per token; threads that are
awake meet in less than one. The program is data: row s of an int64 table has the number of a kernel and then the byte
offsets of its operands in their regions of memory (`Region`), so that layers of equal shapes share their kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

from xamc.artifact.step_program import Region
from xamc.errors import InternalError
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.decode_kernels import REGIONS, DecodeKernel, Operands, StepInputs
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.threads import OWN_LAUNCH, barrier, launch
from xamc.targets.kernels.tiles import DEFAULT_CHOICE, TileChoice


def decode_step(
    name: str,
    kernels: Sequence[DecodeKernel],
    vocabulary: int,
    rotated: int,
    isa: Isa,
    tiles: TileChoice = DEFAULT_CHOICE,
) -> E.PrimFunc:
    """The function that runs a program of kernels.

    Args:
        name: of the function.
        kernels: the kernels, which the program knows by their numbers.
        vocabulary: logits V.
        rotated: angles D/2 of a position.
        isa: the level to generate for.
        tiles: of layers that were tuned.

    Returns:
        A PrimFunc (ids int64 [1, 1], position_ids int64 [1, 1], write_index int64 [1], block_table int32 [1, M], cos
        and sin float32 [R, D/2], program int64 [S, `program_width`], the regions weights, pools and workspace uint8
        each, logits float32 [1, V]).

    Raises:
        InternalError: E1417, a kernel takes other operands than it says.
    """

    def body() -> None:
        ids = E.parameter("ids", (1, 1), "int64")
        position_ids = E.parameter("position_ids", (1, 1), "int64")
        write_index = E.parameter("write_index", (1,), "int64")
        block_table = E.parameter("block_table", (1, E.dynamic("m")), "int32")
        r = E.dynamic("r")
        cos, sin = (E.parameter(table, (r, rotated), "float32") for table in ("cos", "sin"))
        program = E.parameter("program", (E.dynamic("steps"), program_width(kernels)), "int64")
        regions: dict[Region, E.Buffer] = {
            region: E.parameter(region, (E.dynamic(f"{region}_bytes"),), "uint8") for region in REGIONS
        }
        logits = E.parameter("logits", (1, vocabulary), "float32")
        inputs = StepInputs(ids, position_ids, write_index, block_table, cos, sin, logits, tiles)
        with launch(), E.serial(program.shape[0]) as step, barrier():
            number = E.let(E.load(program, [step, 0]))

            def run(first: int) -> None:
                def emit() -> None:
                    operands = Operands(program, step, regions)
                    kernels[first].emit(operands, inputs, isa)
                    if tuple(operands.taken) != kernels[first].operands:
                        raise InternalError("E1417", f"{kernels[first].key} takes other operands than it says")

                if first == len(kernels) - 1:
                    emit()
                else:
                    E.when(number == first, emit, lambda: run(first + 1))

            run(0)

    return E.build(name, body).with_attr(OWN_LAUNCH, True)


def program_width(kernels: Sequence[DecodeKernel]) -> int:
    """Columns of a program: a kernel's number and as many operands as one takes at most."""
    return 1 + max(len(kernel.operands) for kernel in kernels)
