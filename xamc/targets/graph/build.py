"""What runs in the child process that has tvm: an ONNX graph whose weights are inputs becomes a library."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from xamc.compiler.errors import UnsupportedError
from xamc.targets.graph.names import FUNCTION, LIBRARY
from xamc.targets.kernels.isa import Isa


def build(request: Mapping[str, Any]) -> None:
    """Imports and compiles.

    Args:
        request: ``graph`` (ONNX file; its inputs are first the data, then the weights), ``data_inputs`` (how many),
            ``isa``, ``dump`` (folder or None), ``out`` (an existing folder for the library).

    Raises:
        UnsupportedError: E1473 TVM's importer or code generator refuses an operator's use.
    """
    proto = onnx.load(request["graph"])
    count, weights = request["data_inputs"], len(proto.graph.input) - request["data_inputs"]
    module = _import(proto)
    # the importer would count weights as inputs; those behind the data become one tuple
    module[FUNCTION] = module[FUNCTION].with_attr("num_input", count)
    if weights:
        module = relax.transform.BundleModelParams()(module)
    if request["dump"]:
        (Path(request["dump"]) / "20-lowered.relax.py").write_text(module.script())
    target = tvm.target.Target(Isa.by_name(request["isa"]).target())
    try:
        executable = tvm.compile(module, target=target)
    except Exception as error:  # whatever a pass of TVM met
        raise _refused("TVM can't compile the graph", error) from error
    executable.export_library(str(Path(request["out"]) / LIBRARY))


def _import(proto: Any) -> tvm.IRModule:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names that TVM changes; ours are by position
            return from_onnx(proto, keep_params_in_input=False, sanitize_input_names=False)
    except Exception as error:
        # the importer prints which operator it was at, and raises whatever its converter met
        found = re.search(r"Error converting operator (\w+)", printed.getvalue())
        where = f"its {found.group(1)}" if found else "the graph"
        raise _refused(f"TVM's importer can't lower {where}", error) from error


def _refused(what: str, error: Exception) -> UnsupportedError:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return UnsupportedError(
        "E1473",
        what,
        fix="export the model with other operators or attributes, or compile for backend.type: reference",
        details=tuple(lines[-6:]),
    )
