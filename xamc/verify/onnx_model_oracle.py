"""ONNX Runtime's answers to inputs of a static graph, and how far other answers are from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from xamc.artifact.onnx_manifest import GraphTensor
from xamc.errors import InternalError, UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.runtime.seeded_feeds import Integers, seeded_feeds
from xamc.verify.metrics import relative_error
from xamc.verify.oracle import Oracle

Array = NDArray[np.generic]
# the newest that ONNX Runtime reads is higher; nothing here needs more
MOST_IR_VERSION = 10
_KINDS: tuple[Integers, ...] = ("signed", "positive")
#: 16-bit float of a file → the bound of what the file computes in it against float32.
FROM_HALF_PRECISION = {"float16": "graph_from_float16", "bfloat16": "graph_from_bfloat16"}


def answers(model: ir.Model, weights: Mapping[str, Array], feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The graph's outputs; `weights` are inputs of the graph.

    Raises:
        UnsupportedError: E1475 ONNX Runtime can't run the graph, so nothing can be compared with it.
    """
    model.ir_version = min(model.ir_version, MOST_IR_VERSION)
    try:
        return Oracle(model, weights).run(feeds)
    except InternalError as error:
        lines = tuple(line for detail in error.details for line in detail.splitlines()[:6])
        raise UnsupportedError(
            "E1475",
            "ONNX Runtime, which every compiled graph is compared with, can't run this one",
            fix="run the file in ONNX Runtime with arrays of these shapes; export it again where it fails",
            details=lines,
        ) from error


def deviations(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, float]:
    """Output → how far it is off: relative to its largest value, or for integers the share of differing elements."""
    result = {}
    for name, reference in expected.items():
        array = np.asarray(actual[name])
        if reference.dtype.kind == "f" or array.shape != reference.shape:
            result[name] = relative_error(array, reference)
        else:
            result[name] = float(np.mean(array != reference)) if reference.size else 0.0
    return result


def require_same_nan(what: str, actual: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    """Compares where outputs are NaN, which `deviations` leaves out.

    Raises:
        InternalError: E1474 an output is a number where the reference has none, or the other way round.
    """
    for name, reference in expected.items():
        if reference.dtype.kind == "f" and not np.array_equal(np.isnan(actual[name]), np.isnan(reference)):
            raise InternalError(
                "E1474",
                f"{what} are not NaN in the same places of the output {name}",
                fix="report the model; --set backend.type=reference runs it in ONNX Runtime meanwhile",
            )


def varied_case(
    inputs: Sequence[GraphTensor], answer: Callable[[dict[str, Array]], dict[str, Array]], usual: Mapping[str, Array]
) -> tuple[dict[str, Array], dict[str, Array]] | None:
    """Inputs with integers of all kinds, and the answers: a mask of zeros and ones would prove little of a sum.

    Args:
        inputs: of the graph.
        answer: ONNX Runtime.
        usual: outputs for the usual inputs.

    Returns:
        None without integer inputs, and for a model that takes none but masks: one that fails or overflows otherwise.
    """
    if all(np.dtype(tensor.dtype).kind == "f" for tensor in inputs):
        return None
    for integers in _KINDS:
        feeds = seeded_feeds(inputs, seed=1, integers=integers)
        try:
            outputs = answer(feeds)
        except UnsupportedError:  # an index outside of its table
            continue
        if all(_finite(outputs[name]) >= _finite(array) for name, array in usual.items()):
            return feeds, outputs
    return None


def _finite(array: Array) -> float:
    """The share of numbers."""
    return float(np.mean(np.isfinite(array))) if array.dtype.kind == "f" and array.size else 1.0


def widened_deviations(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, float]:
    """Output → how far a graph in float32 is off from ONNX Runtime in 16-bit floats, where that is finite.

    Of floats only: an ArgMax of scores that were rounded between its operators may be any of the near ones.
    """
    floats = {name: array for name, array in expected.items() if array.dtype.kind == "f"}
    return deviations(actual, {name: np.where(np.isfinite(array), array, np.nan) for name, array in floats.items()})


def require_close(what: str, found: Mapping[str, float], outputs: Mapping[str, Array], floats: str = "") -> float:
    """The largest deviation.

    Args:
        what: the two sides, for the message.
        found: output → deviation.
        outputs: the reference's outputs, whose element types choose the bounds.
        floats: the bound of floats, instead.

    Raises:
        InternalError: E1474 an output is further off than its bound.
    """
    for name, value in sorted(found.items(), key=lambda item: -item[1]):
        bound = _bound(outputs[name], floats)
        if not value <= tolerance(bound):
            raise InternalError(
                "E1474",
                f"{what} differ by {value:.2g} at the output {name}, allowed is {tolerance(bound):.2g} ({bound})",
                fix="report the model; --set backend.type=reference runs it in ONNX Runtime meanwhile",
                details=tuple(f"{other}: {deviation:.3g}" for other, deviation in found.items()),
            )
    return max(found.values(), default=0.0)


def _bound(array: Array, floats: str) -> str:
    if array.dtype.kind != "f":
        return "graph_integers"
    return floats or ("graph_float16_outputs" if array.dtype == np.float16 else "graph_fp32")
