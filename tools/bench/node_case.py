"""One of the ONNX project's backend node tests through the generic route: the functions of a compile, in one process.

A node test feeds every operand of an operator at run time, also those that say how large the result is (the shape of a
Reshape, the axes of a reduction). Models hold these as constants, and a graph whose shapes depend on data is not
compiled: what fails as it is is tried again with such operands, and only these, as initializers.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from xamc.errors import XamcError
from xamc.ir.tolerances import tolerance
from xamc.verify.metrics import relative_error

PASSED, AS_CONSTANTS, REFUSED, WRONG, FAILED = "passed", "passed, constants", "refused", "wrong", "failed"
STATES = (PASSED, AS_CONSTANTS, REFUSED, WRONG, FAILED)

#: Operands, by their names in the operators' definitions, that say how large a result is, or how it is laid out.
_SIZES = """
shape axes axis repeats pads sizes scales roi k split starts ends steps depth size start limit delta dft_length
target_shape ratio training_mode output_shape input_shape image_shape block_shape max_output_boxes_per_class
frame_length frame_step constant_value
"""
SIZES = frozenset(_SIZES.split())
#: Operators whose first operand is a shape, but not by its name.
_OF_A_SHAPE = ("ConstantOfShape",)


@dataclass(frozen=True)
class Outcome:
    """What became of a case.

    Attributes:
        state: one of `STATES`.
        reason: the error's code and message, or how far the result is off; empty when it passed.
    """

    state: str
    reason: str = ""


def run_case(case: Any, compile: Callable[[Path, Mapping[str, Any]], Callable[..., list[NDArray[Any]]]]) -> Outcome:
    """Runs a case as it is, and again with its size operands as constants if that fails.

    Args:
        case: onnx's TestCase.
        compile: .onnx file and shapes → a function of the inputs' arrays, in the graph's order.
    """
    first = _attempt(case, compile, ())
    names = _size_operands(case.model)
    if first.state == PASSED or not names:
        return first
    second = _attempt(case, compile, names)
    return Outcome(AS_CONSTANTS) if second.state == PASSED else second


def _attempt(case: Any, compile: Any, constants: tuple[str, ...]) -> Outcome:
    for inputs, outputs in case.data_sets:
        if not all(isinstance(array, np.ndarray | np.generic | onnx.TensorProto) for array in (*inputs, *outputs)):
            return Outcome(REFUSED, "its inputs or outputs are sequences, optionals or absent, not tensors")
        feeds = {value.name: _array(array) for value, array in zip(case.model.graph.input, inputs)}
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        _make_constant(model, feeds, constants)
        # NumPy has no bfloat16: inputs and outputs of that type are float32 for callers
        left = {name: _widened(array) for name, array in feeds.items() if name not in constants}
        shapes = {name: list(array.shape) for name, array in left.items()}
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.onnx"
                path.write_bytes(model.SerializeToString())
                actual = compile(path, shapes)(*left.values())
        except XamcError as error:
            return Outcome(REFUSED, f"{error.code} {error.message.replace(str(path), 'the model')}")
        reason = _difference(case, actual, outputs)
        if reason:
            return Outcome(WRONG, reason)
    return Outcome(PASSED)


def _array(given: Any) -> NDArray[Any]:
    """As an array: onnx has values of types that NumPy lacks as protos."""
    return np.asarray(onnx.numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else given)


def _widened(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _difference(case: Any, actual: list[NDArray[Any]], outputs: Any) -> str:
    if len(actual) != len(outputs):
        return f"{len(actual)} outputs, not {len(outputs)}"
    for index, (ours, theirs) in enumerate(zip(actual, map(_array, outputs))):
        where = f"output {index}"
        if theirs.dtype.name == "bfloat16" and ours.dtype == np.float32:
            ours = ours.astype(theirs.dtype)
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return f"{where} is {ours.dtype}{list(ours.shape)}, not {theirs.dtype}{list(theirs.shape)}"
        try:
            np.testing.assert_allclose(_widened(ours), _widened(theirs), rtol=case.rtol, atol=case.atol)
        except (AssertionError, TypeError):
            # the expected output was rounded after every operator, ours at the end
            if theirs.dtype.name == "bfloat16" and relative_error(ours, theirs) <= tolerance("node_bfloat16"):
                continue
            different = np.mean(~np.isclose(ours.astype("f8"), theirs.astype("f8"), case.rtol, case.atol, True))
            return f"{where}: {different:.0%} of the elements differ"
    return ""


def _size_operands(model: Any) -> tuple[str, ...]:
    """Inputs that some operator takes for a size, and those of that name: the operator may have been written out."""
    inputs = {value.name for value in model.graph.input}
    versions = {entry.domain: entry.version for entry in model.opset_import}
    found = [name for name in inputs if name.lower() in SIZES]
    for node in model.graph.node:
        with contextlib.suppress(onnx.defs.SchemaError):
            schema = onnx.defs.get_schema(node.op_type, versions.get(node.domain, 1), node.domain)
            names = [formal.name.lower() for formal in schema.inputs]
            names += [names[-1]] * max(0, len(node.input) - len(names)) if names else []
            names[:1] = ["shape"] if node.op_type in _OF_A_SHAPE else names[:1]
            found += [given for given, name in zip(node.input, names) if name in SIZES and given in inputs]
    return tuple(dict.fromkeys(found))


def _make_constant(model: Any, feeds: Mapping[str, NDArray[Any]], names: tuple[str, ...]) -> None:
    kept = [value for value in model.graph.input if value.name not in names]
    model.graph.initializer.extend(onnx.numpy_helper.from_array(feeds[name], name) for name in names)
    del model.graph.input[:]
    model.graph.input.extend(kept)


def compile_here(path: Path, shapes: Mapping[str, Any]) -> Callable[..., list[NDArray[Any]]]:
    """Compiles a file with the functions of `xamc compile`, without its child processes, for x86-64-v3.

    Raises:
        XamcError: what a compile would raise.
    """
    import onnx_ir as ir
    import tvm
    from tvm import relax

    from xamc.compiler.frontends.onnx.model import open_onnx
    from xamc.compiler.frontends.onnx.weights import lift_weights
    from xamc.passes.lowering.index_bounds import bound_indices
    from xamc.targets.onnx.build import build
    from xamc.targets.onnx.names import FUNCTION, LIBRARY, PREPARE

    opened = open_onnx(path, shapes)
    model = opened.model
    bound_indices(model, opened.symbols)
    count, weights = len(model.graph.inputs), lift_weights(model)
    onnx.save(ir.to_proto(model), path)
    with contextlib.redirect_stdout(io.StringIO()):
        request = {"graph": str(path), "data_inputs": count, "isa": "x86-64-v3", "dump": None}
        build(request | {"out": str(path.parent)})
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(path.parent / LIBRARY)), tvm.cpu())

    prepared = (
        machine[PREPARE]([tvm.runtime.tensor(np.asarray(array)) for array in weights.values()]) if weights else None
    )

    def run(*arrays: NDArray[Any]) -> list[NDArray[Any]]:
        given: list[Any] = [tvm.runtime.tensor(np.asarray(array, order="C")) for array in arrays]
        if prepared is not None:
            given.append(prepared)
        result = machine[FUNCTION](*given)
        outputs = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        return [output.numpy() for output in outputs]

    return run


def in_fork(work: Callable[[], Outcome], seconds: float) -> Outcome:
    """Runs `work` in a fork of this process, which may crash or hang."""
    import select
    import signal
    import time

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            silent = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silent, 1)
            os.dup2(silent, 2)
            outcome = work()
            os.write(writing, f"{outcome.state}\n{outcome.reason}"[:4000].encode())
            status = 0
        except BaseException as error:  # the parent says what it was
            os.write(writing, f"{FAILED}\n{type(error).__name__}: {error}"[:1000].encode())
        finally:
            os._exit(status)
    os.close(writing)
    deadline, text = time.monotonic() + seconds, b""
    with open(reading, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            block = pipe.read(4096)
            if not block:
                break
            text += block
        else:
            os.kill(child, signal.SIGKILL)
            text = f"{FAILED}\nmore than {seconds:.0f} s".encode()
    _, status = os.waitpid(child, 0)
    if not text:
        return Outcome(FAILED, f"the process ended by signal {os.WTERMSIG(status)}" if status & 127 else "no answer")
    state, _, reason = text.decode(errors="replace").partition("\n")
    return Outcome(state, reason)
