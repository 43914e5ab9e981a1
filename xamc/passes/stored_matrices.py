"""What passes that store weights in fewer bits share: which weights, their inputs, and the check of their codes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.names import WEIGHT_ROLE
from xamc.ir.program import Program
from xamc.ir.tolerances import tolerance
from xamc.passes.protocol import Arrays, NonMatch, PassReport, Tensors


def float_matrices(program: Program, report: PassReport, vectors: bool = False) -> list[ir.Value]:
    """The weights that a storage pass may store in fewer bits: float32 of rank 2, with `vectors` of rank 1 as well; why
    not the others is noted."""
    matrices = []
    for value in program.weight_inputs():
        assert value.name is not None and value.shape is not None
        wanted = len(value.shape) == 2 or (vectors and len(value.shape) == 1)
        if wanted and value.dtype == ir.DataType.FLOAT:
            matrices.append(value)
            continue
        why = "a norm weight or a bias" if value.dtype == ir.DataType.FLOAT else f"stored as {value.dtype}"
        report.skipped.append(NonMatch(value.name, why))
    return matrices


def weight_input(name: str, dtype: ir.DataType, role: str, shape: Sequence[int | str | None]) -> ir.Value:
    """A graph input for a part of a weight; `role` is its dtype as `LazyTensor` calls it."""
    value = ir.val(name, dtype=dtype, shape=shape)
    value.metadata_props[WEIGHT_ROLE] = role
    return value


def decode_codes(asking: str, before: Tensors, after: Tensors) -> Arrays:
    """(code - zero) * scale for every quantized weight, after a check that each is within half a step of its original.

    Args:
        asking: the pass, for messages.
        before: weights by name.
        after: the same, or `name.codes` [rows, columns], `name.scales` [rows, groups] or [rows], and for some
            `name.zeros` of the scales' shape.

    Raises:
        InternalError: E1308 a weight is further away than rounding to nearest explains.
    """
    decoded: Arrays = {}
    for name, original in before.items():
        if name in after:
            decoded[name] = np.asarray(after[name])
            continue
        codes = after[f"{name}.codes"]
        scales = after[f"{name}.scales"].astype(np.float32).reshape(codes.shape[0], -1)
        levels = codes.astype(np.float32).reshape(*scales.shape, -1)
        if f"{name}.zeros" in after:
            levels = levels - after[f"{name}.zeros"].astype(np.float32)[:, :, None]
        steps = np.abs(original.reshape(levels.shape).astype(np.float32) / scales[:, :, None] - levels)
        if not np.all(steps <= tolerance("quantization_step")):
            row, group, _ = np.unravel_index(int(np.argmax(steps)), steps.shape)
            raise InternalError(
                "E1308",
                f"{asking}: {name} row {row}, group {group} is {float(steps.max()):.3g} quantization steps from its "
                "original, more than rounding to nearest explains",
                fix="this is a defect of the weight's storage transform; report it",
            )
        decoded[name] = (levels * scales[:, :, None]).reshape(codes.shape)
    return decoded
