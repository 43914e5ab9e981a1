"""`manifest.json` of an artifact that is an ONNX model, and no language model.

``"kind": "graph"`` tells it from a language model's manifest, which has no such key. Layout of the folder::

    manifest.json           this
    report.json             times, memory, deviations from ONNX Runtime
    mod.so                  the Relax VM's function ``main``
    mod.json                the graph: inputs, outputs, nodes, parameters
    mod.params              parameters in TVM's container
    golden/                 seeded inputs and the artifact's outputs, re-checked by `xamc verify`

Targets other than VACC keep the first and second file as ``code/model.so`` (or ``code/model.onnx``) and
``code/graph.json``, and the third as ``weights.params``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from xamc.artifact.manifest import (
    FORMAT_VERSION,
    HOST_SIMULATOR,
    Cpu,
    FileDigest,
    InputDigest,
    Quantization,
    check_relative,
)
from xamc.artifact.records import RecordError
from xamc.model.dtypes import DTYPE_BYTES


@dataclass(frozen=True)
class GraphTensor:
    """An input or output of a graph.

    Attributes:
        name: in the graph.
        dtype: of its elements.
        shape: its dimensions, the largest where they vary.
        limit: bounds an input that indexes a table: its elements lie in [-limit, limit), those below 0 from its end.
        least: its smallest dimensions; empty when none varies.
        symbols: of an input whose dimensions vary: a name per axis, empty for a fixed one. Equal names are equal sizes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    limit: int | None = None
    least: tuple[int, ...] = ()
    symbols: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(part and len(part) != len(self.shape) for part in (self.least, self.symbols)):
            raise RecordError("least", f"{self.name}: another rank than {list(self.shape)}")
        if any(low > high or low < 0 for low, high in zip(self.least, self.shape)):
            raise RecordError("least", f"{self.name}: {list(self.least)} is beyond {list(self.shape)}")
        if self.dtype not in DTYPE_BYTES and self.dtype not in ("float64", "uint32", "uint64", "int16"):
            raise RecordError("dtype", f"{self.name}: unknown dtype {self.dtype!r}")
        if any(dim < 0 for dim in self.shape):
            raise RecordError("shape", f"{self.name}: negative dimension in {list(self.shape)}")

    @property
    def shape_text(self) -> str:
        """The shape as a person reads it; a dimension that varies as ``1..8``."""
        parts = [str(a) if a == b else f"{a}..{b}" for a, b in zip(self.least or self.shape, self.shape)]
        return f"[{', '.join(parts)}]"


@dataclass(frozen=True)
class OnnxManifest:
    """Everything a runtime must know to run a static graph, and everything a person needs to trace it.

    Attributes:
        name: the model's name in the spec.
        target: the backend type.
        spec: the spec as resolved, without absolute paths.
        graph_inputs, graph_outputs: what a call takes and gives, in the function's order.
        parameters: names of the parameters, in the order of the function's tuple of weights.
        code_file: the library, or the ONNX graph of the reference target.
        graph_file: the graph as JSON.
        params_file: the parameters.
        weight_dtype: how the weights of large operators are stored.
        compute_dtype: what the functional module computes in.
        cpu: what the code needs.
        quantization: what the spec asked for and what was used.
        executes_on: what runs the artifact; `host-simulator` marks one whose results are simulated.
        golden: folder of the artifact with inputs and outputs, or None.
        inputs: digests of the files it was made from.
        files: digests of every file of the artifact but the manifest and the report.
        tools: versions of the tools that made it.
    """

    name: str
    target: str
    xamc_version: str
    spec: Mapping[str, Any]
    graph_inputs: tuple[GraphTensor, ...]
    graph_outputs: tuple[GraphTensor, ...]
    parameters: tuple[str, ...]
    code_file: str
    graph_file: str
    params_file: str
    weight_dtype: str
    cpu: Cpu
    quantization: Quantization
    executes_on: str
    compute_dtype: str = "float32"
    golden: str | None = None
    inputs: tuple[InputDigest, ...] = ()
    files: tuple[FileDigest, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["graph"] = "graph"
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        for key in ("code_file", "graph_file", "params_file", "golden"):
            if getattr(self, key) is not None:
                check_relative(key, getattr(self, key))
        for key in ("graph_inputs", "graph_outputs"):
            names = [tensor.name for tensor in getattr(self, key)]
            if len(set(names)) != len(names):
                raise RecordError(key, "two of them have the same name")
        if not self.graph_outputs:
            raise RecordError("graph_outputs", "a graph has at least one")

    @property
    def varies(self) -> bool:
        """Whether inputs have dimensions that a call chooses."""
        return any(tensor.least for tensor in self.graph_inputs)

    @property
    def simulated(self) -> bool:
        """Whether results come from a simulation of the target, not from the target."""
        return self.executes_on == HOST_SIMULATOR

    def needed_files(self) -> set[str]:
        """Paths of the files without which nothing runs."""
        return {self.code_file, self.graph_file, self.params_file}
