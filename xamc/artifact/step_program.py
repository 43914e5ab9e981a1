"""`code/decode.json`: what runs a token of one row or of several, as a program for functions of the artifact's library:
`decode` for one row, `decode_rows` for more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xamc.artifact.manifest import ALIGNMENT
from xamc.artifact.records import RecordError, from_json, to_json
from xamc.errors import InputError

Region = Literal["weights", "pools", "workspace"]

STEP_FUNCTION = "decode"
ROWS_FUNCTION = "decode_rows"
STEP_FILE = "decode.json"
PREPARED_K = 64
"""Memory for rows that a linear layer reads is for multiples of so many elements."""
_ROWS_GRAIN = 8
"""Register tiles of rows may reach beyond the rows, up to a multiple of this."""


@dataclass(frozen=True)
class Instruction:
    """A kernel by its number, and its operands.

    An operand is the number of a buffer in the weights table, the number of a pool in the functions' KV tuple, or a
    byte offset in the workspace; which, the kernel's regions say.
    """

    kernel: int
    operands: tuple[int, ...]


@dataclass(frozen=True)
class StepProgram:
    """A decode step: instructions in order, all threads meet after each.

    Attributes:
        workspace: bytes of the memory for what lies between instructions, for one row.
        width: columns of the table that the function takes.
        kernels: names of the kernels.
        regions: for each kernel, the regions of its operands in order.
        instructions: the program.
        rows: most rows at once; with 1 the library has no `decode_rows`.
        prepared: bytes per row of the memory for what an instruction makes of its rows before it multiplies them;
            one row needs none.
        consecutive: whether rows of a step may be consecutive positions of one sequence.
    """

    workspace: int
    width: int
    kernels: tuple[str, ...]
    regions: tuple[tuple[Region, ...], ...]
    instructions: tuple[Instruction, ...]
    rows: int = 1
    prepared: int = 0
    consecutive: bool = False

    def __post_init__(self) -> None:
        if len(self.kernels) != len(self.regions):
            raise RecordError("regions", f"{len(self.regions)} for {len(self.kernels)} kernels")
        if self.rows < 1 or self.prepared < 0:
            raise RecordError("rows", f"{self.rows} with {self.prepared} bytes each")
        for number, instruction in enumerate(self.instructions):
            where = f"instructions[{number}]"
            if not 0 <= instruction.kernel < len(self.kernels):
                raise RecordError(where, f"there is no kernel {instruction.kernel}")
            regions = self.regions[instruction.kernel]
            if len(instruction.operands) != len(regions) or len(regions) >= self.width:
                raise RecordError(where, f"{len(instruction.operands)} operands for {len(regions)} regions")
            for region, operand in zip(regions, instruction.operands, strict=True):
                if operand < 0 or (region == "workspace" and (operand >= self.workspace or operand % ALIGNMENT)):
                    raise RecordError(where, f"{operand} is no place in {region}")

    def memory(self, rows: int) -> tuple[int, int]:
        """Bytes of the workspace for so many rows, and of what is prepared for them, the surplus of tiles included."""
        padded = -(-rows // _ROWS_GRAIN) * _ROWS_GRAIN if rows > 1 else 0
        return rows * self.workspace, padded * self.prepared

    def table(self, weights: Sequence[int], pools: Sequence[int], rows: int = 1) -> list[list[int]]:
        """The rows of the table that the function takes: a kernel's number, then byte offsets.

        Values of several rows lie as those of one do, each as many times as large and as far from the beginning.

        Args:
            weights: byte offset of every buffer of the weights table.
            pools: byte offset of every pool.
            rows: that the workspace is for.

        Raises:
            RecordError: an operand is the number of no buffer or pool.
        """
        lines = []
        for number, instruction in enumerate(self.instructions):
            row = [instruction.kernel]
            for region, operand in zip(self.regions[instruction.kernel], instruction.operands, strict=True):
                known = {"weights": weights, "pools": pools}.get(region)
                if known is not None and operand >= len(known):
                    raise RecordError(f"instructions[{number}]", f"{region} has no number {operand}")
                row.append(operand * rows if known is None else known[operand])
            lines.append([*row, *[0] * (self.width - len(row))])
        return lines


def dumps_step(program: StepProgram) -> str:
    """The program's text, an instruction per line."""
    fields = to_json(program)
    instructions = ",\n  ".join(json.dumps([i["kernel"], *i["operands"]]) for i in fields.pop("instructions"))
    head = json.dumps(fields, indent=1, sort_keys=True).removesuffix("\n}")
    return f'{head},\n "instructions": [\n  {instructions}\n ]\n}}\n'


def load_step(path: Path) -> StepProgram:
    """Reads and checks a program.

    Raises:
        InputError: E1502, it is missing, no JSON, or does not fit the format.
    """
    fix = "compile the model again; the file was changed or damaged"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        rows = value.get("instructions") if isinstance(value, dict) else None
        if isinstance(rows, list) and all(isinstance(row, list) and row for row in rows):
            value["instructions"] = [{"kernel": row[0], "operands": row[1:]} for row in rows]
        return from_json(StepProgram, value)
    except (OSError, ValueError) as error:
        raise InputError("E1502", f"{path}: {error}", fix=fix) from None
