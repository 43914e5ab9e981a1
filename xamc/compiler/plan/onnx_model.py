"""What compiling a graph would do: found by reading the .onnx file in a child process, without running it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xamc.artifact.onnx_manifest import GraphTensor
from xamc.compiler.frontends.checkpoint import resolve_checkpoint
from xamc.compiler.spec import KeyUse, LoadedSpec, SpecWarning, key_uses
from xamc.compiler.spec.model_kind import model_kind
from xamc.compiler.spec.problems import to_json
from xamc.compiler.stages.onnx_import import look_at_graph
from xamc.compiler.stages.onnx_request import onnx_request
from xamc.errors import InputError, MisuseError
from xamc.jobs.cache import default_cache_folder
from xamc.jobs.progress import size
from xamc.targets.registry import CAPS


@dataclass(frozen=True)
class OnnxPlan:
    """What `make_onnx_plan` finds.

    Attributes:
        storage: how the weights of large operators are stored.
        quantized: how many weights are int8.
        halves: the 16-bit float of the file, float16 or bfloat16, which is computed in float32; or empty.
        params_bytes: size of the parameter file.
        packed_bytes: of the weights as a CPU's kernels have them in memory, at most: float32.
        notes: what of the spec a graph's compile records only.
        activations: bytes of all values that live at once besides the parameters, at most, as they are computed here.
        operators: operator type → number of nodes after simplification.
        executes_on: what will run the artifact.
        has_dies: whether it must fit into a die's memory.
    """

    name: str
    kind: str
    target: str
    keys: tuple[KeyUse, ...]
    warnings: tuple[SpecWarning, ...]
    notes: tuple[str, ...]
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    parameters: int
    storage: str
    quantized: int
    halves: str
    params_file: str
    params_bytes: int
    packed_bytes: int
    activations: int
    operators: Mapping[str, int]
    executes_on: str
    has_dies: bool

    @property
    def nbytes(self) -> int:
        """What must be in memory while the graph runs."""
        return (self.packed_bytes or self.params_bytes) + self.activations

    def require_die(self, die_memory: int) -> None:
        """Refuse a graph that a die's memory can't hold.

        Args:
            die_memory: bytes of memory that the die has.

        Raises:
            InputError: E1712; MisuseError: E1713 for a target without dies.
        """
        if not self.has_dies:
            raise MisuseError(
                "E1713", f"{self.target} has no dies", fix="leave --die-memory out, or plan for backend.type: tvm_vacc"
            )
        if self.nbytes > die_memory:
            raise InputError(
                "E1712",
                f"a die of {size(die_memory)} can't hold {self.name}: {size(self.params_bytes)} of parameters and "
                f"{size(self.activations)} of values between operators",
                fix="lower the shapes in frontend.shape, or store weights in fewer bits with backend.dtype",
            )

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain data for JSON."""
        keys = [{**dataclasses.asdict(use), "value": str(use.value)} for use in self.keys]
        warnings = to_json(self.warnings)["warnings"]
        fields = dataclasses.asdict(self)
        del fields["has_dies"]
        return fields | {"keys": keys, "warnings": warnings, "nbytes": self.nbytes}


def make_onnx_plan(loaded: LoadedSpec, allow_rtn: bool) -> OnnxPlan:
    """Works out the plan of a build file whose model is an ONNX graph.

    Raises:
        XamcError: what a compile would raise for the spec and the file.
    """
    spec = loaded.spec
    request = onnx_request(loaded, allow_rtn)
    path = resolve_checkpoint(spec.frontend.checkpoint)
    facts = look_at_graph(path, spec.frontend.shape, request.storage, default_cache_folder())
    target = request.target
    return OnnxPlan(
        name=spec.name,
        kind=model_kind(spec).name,
        target=spec.backend.type,
        keys=key_uses(loaded, spec.backend.type),
        warnings=loaded.warnings,
        notes=request.warnings,
        inputs=facts.inputs,
        outputs=facts.outputs,
        parameters=facts.count,
        storage=request.storage,
        quantized=facts.quantized,
        halves=facts.half_dtype,
        params_file=target.params_file,
        params_bytes=facts.nbytes,
        packed_bytes=4 * facts.count if target.widens else 0,
        activations=facts.activations,
        operators=facts.operators,
        executes_on=CAPS[spec.backend.type].executes_on,
        has_dies=target.has_dies,
    )
