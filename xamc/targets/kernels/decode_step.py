"""One token of a row, or of each of 2 to 32 rows, in one launch: all threads go through a program of kernels together
and meet after each.

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
from xamc.targets.kernels.decode_rows import Rows, emit_rows
from xamc.targets.kernels.few_rows import Heights
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
    *,
    rows: bool = False,
) -> E.PrimFunc:
    """The function that runs a program of kernels.

    Args:
        name: of the function.
        kernels: the kernels, which the program knows by their numbers.
        vocabulary: logits V.
        rotated: angles D/2 of a position.
        isa: the level to generate for.
        tiles: of layers that were tuned.
        rows: for B sequences, 2 to `MOST_ROWS`, instead of one. What lies at a byte of the workspace for one row lies
            at B times that byte or beyond, as the program says.

    Returns:
        A PrimFunc (ids int64 [B, 1], position_ids int64 [B, 1], write_index int64 [B], block_table int32 [B, M], cos
        and sin float32 [R, D/2], program int64 [S, `program_width`], the regions weights, pools and workspace uint8
        each, logits float32 [B, V]), B = 1; with `rows` prepared uint8 [P] (see `decode_rows`) before the logits.

    Raises:
        InternalError: E1417, a kernel takes other operands than it says.
    """

    def body() -> None:
        b = E.dynamic("b") if rows else 1
        ids = E.parameter("ids", (b, 1), "int64")
        position_ids = E.parameter("position_ids", (b, 1), "int64")
        write_index = E.parameter("write_index", (b,), "int64")
        block_table = E.parameter("block_table", (b, E.dynamic("m")), "int32")
        r = E.dynamic("r")
        cos, sin = (E.parameter(table, (r, rotated), "float32") for table in ("cos", "sin"))
        program = E.parameter("program", (E.dynamic("steps"), program_width(kernels)), "int64")
        regions: dict[Region, E.Buffer] = {
            region: E.parameter(region, (E.dynamic(f"{region}_bytes"),), "uint8") for region in REGIONS
        }
        prepared = E.parameter("prepared", (E.dynamic("prepared_bytes"),), "uint8") if rows else None
        logits = E.parameter("logits", (b, vocabulary), "float32")
        inputs = StepInputs(ids, position_ids, write_index, block_table, cos, sin, logits, tiles, b)

        def steps(many: Rows | None) -> None:
            with E.serial(program.shape[0]) as step, barrier():
                number = E.let(E.load(program, [step, 0]))
                branch(number, step, many)

        def branch(number: E.Expr, step: E.Expr, many: Rows | None) -> None:
            def run(first: int) -> None:
                def emit() -> None:
                    operands = Operands(program, step, regions)
                    if many is None:
                        kernels[first].emit(operands, inputs, isa)
                    else:
                        emit_rows(kernels[first], operands, inputs, many, isa)
                    if tuple(operands.taken) != kernels[first].operands:
                        raise InternalError("E1417", f"{kernels[first].key} takes other operands than it says")

                if first == len(kernels) - 1:
                    emit()
                else:
                    E.when(number == first, emit, lambda: run(first + 1))

            run(0)

        with launch():
            steps(Rows(b, Heights(isa, b), prepared) if rows else None)

    return E.build(name, body).with_attr(OWN_LAUNCH, True)


def program_width(kernels: Sequence[DecodeKernel]) -> int:
    """Columns of a program: a kernel's number and as many operands as one takes at most."""
    return 1 + max(len(kernel.operands) for kernel in kernels)
