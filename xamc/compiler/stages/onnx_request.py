"""What a build file asks of an ONNX model's weights, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass

from xamc.artifact.manifest import Quantization
from xamc.compiler.spec.model import LoadedSpec, Spec
from xamc.errors import UnsupportedError
from xamc.passes.graph import GRAPH_PASSES
from xamc.passes.relax import RELAX_PASSES
from xamc.passes.runner import require_known_names
from xamc.targets.onnx_target import OnnxTarget
from xamc.targets.registry import CAPS
from xamc.targets.registry import target as target_named

RTN = "w8a16_rtn"
CALIBRATED = "int8 weights and activations (backend.quantize)"
_STORAGE = {"fp32": "float32", "fp16": "float16", "int8": "int8"}


@dataclass(frozen=True)
class OnnxRequest:
    """What takes the graph, how its weights are stored, and the quantization requested and used."""

    target: OnnxTarget
    storage: str
    quantization: Quantization
    warnings: tuple[str, ...]


def onnx_request(loaded: LoadedSpec, allow_rtn: bool) -> OnnxRequest:
    """Reads a build file whose model is an ONNX graph.

    Raises:
        UnsupportedError: E1476 a target that takes no graphs; E1470 to E1472 a storage or quantization that graphs
            don't have; E1483 several CPU levels.
    """
    spec = loaded.spec
    require_any_pass(spec)
    backend, asked = spec.backend, spec.frontend.quantize
    target = target_named(backend.type).onnx
    if target is None:
        able = (name for name in CAPS if target_named(name).onnx is not None)
        raise UnsupportedError(
            "E1476",
            f"{backend.type} takes no graphs of frontend.type onnx",
            fix=f"set backend.type to one of {', '.join(able)}",
            locations=loaded.at("backend.type"),
        )
    if backend.dtype not in _STORAGE:
        raise UnsupportedError(
            "E1471",
            f"weights of graphs are not stored in backend.dtype {backend.dtype}",
            fix=f"use one of {', '.join(_STORAGE)}",
            locations=loaded.at("backend.dtype"),
        )
    target.check(backend.compile)
    warnings = []
    extra = spec.graph.get("extra_ops")
    if isinstance(extra, dict) and extra.get("type"):
        warnings.append(
            f"graph.extra_ops ({extra['type']}) is recorded only: the artifact ends at the graph's own outputs"
        )
    if backend.quantize and backend.dtype != "int8":
        warnings.append(f"backend.quantize is recorded only: backend.dtype is {backend.dtype}")
    quantization = _quantization(loaded, allow_rtn) if backend.dtype == "int8" or asked else Quantization()
    return OnnxRequest(target, _STORAGE[backend.dtype], quantization, tuple(warnings))


def require_any_pass(spec: Spec) -> None:
    """Refuses names in the spec's `passes`, which has no effect on graphs, that no pass of any target has.

    Raises:
        InputError: E1306.
    """
    known = [*GRAPH_PASSES, "shard", *RELAX_PASSES]
    require_known_names(spec.passes.disable, spec.passes.expect, known, ())


def _quantization(loaded: LoadedSpec, allow_rtn: bool) -> Quantization:
    asked = loaded.spec.frontend.quantize
    if asked is None:
        if not allow_rtn:
            raise UnsupportedError(
                "E1472",
                "backend.quantize asks for activations in int8, calibrated with the dataset; xamc has no such "
                "calibration",
                fix="compile with --allow-rtn to round the weights to int8 and leave activations in floating point "
                "(the manifest will say so), or set backend.dtype: fp16",
                locations=loaded.at("backend.quantize") + loaded.at("backend.dtype", "asks for int8"),
            )
        return Quantization(CALIBRATED, RTN)
    if asked.rtn_type != RTN or asked.group_size is not None:
        raise UnsupportedError(
            "E1470",
            f"frontend.quantize {asked.type}{f' in groups of {asked.group_size}' if asked.group_size else ''} is for "
            "language models; weights of graphs are quantized with 8 bits, one scale per output channel",
            fix=f"set frontend.quantize: {{type: {RTN}}}, or backend.dtype: fp16",
            locations=loaded.at("frontend.quantize.type"),
        )
    if asked.is_calibrated and not allow_rtn:
        raise UnsupportedError(
            "E1470",
            f"frontend.quantize.type {asked.type} needs a calibration that xamc doesn't have for graphs",
            fix=f"compile with --allow-rtn to round to nearest instead ({RTN}); the manifest will say so",
            locations=loaded.at("frontend.quantize.type"),
        )
    return Quantization(asked.type, RTN)
