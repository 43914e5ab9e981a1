"""Import of an ONNX model: file → static graph, weights as they are stored, and ONNX Runtime's answers.

It runs in a child process: a file that makes a parser crash, loop or eat memory ends in an error of ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xamc.artifact.digests import sha256_of
from xamc.artifact.manifest import InputDigest
from xamc.artifact.onnx_manifest import GraphTensor
from xamc.artifact.records import from_json, to_json
from xamc.artifact.staging import temporary_folder
from xamc.compiler.frontends.onnx.file import model_files
from xamc.compiler.stages.job import Job
from xamc.jobs.cache import stage_key
from xamc.jobs.child import Limits, run_child

GRAPH, PARAMS, FACTS = "graph.onnx", "weights.params", "facts.json"
CASE, LEAST_CASE, VARIED_CASE = "case.safetensors", "case_least.safetensors", "case_varied.safetensors"
LIMITS = Limits(seconds=1800, memory_bytes=16 * 2**30)
_CHILD = "xamc.compiler.stages.onnx_import:run"


@dataclass(frozen=True)
class GraphFacts:
    """What the import found out.

    Attributes:
        inputs, outputs: of the graph, weights left out.
        parameters: names of the stored weights, in order.
        count: scalars of all weights.
        nbytes: bytes of the parameters as they are stored.
        activations: bytes of all values that live at once besides the parameters, at most.
        operators: operator type → number of nodes.
        quantized: how many weights are int8.
        kept: weight → why it keeps float32 where 16 bits were asked for.
        simplified: deviation of the simplified graph from the original, both fp32 in ONNX Runtime.
        half_dtype: the 16-bit float that the file computes in, or empty.
        widened: output → deviation of the original in float32 from the file as it is, in 16-bit floats.
        stored: output → deviation of the graph with stored weights from the original.
    """

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    parameters: tuple[str, ...]
    count: int
    nbytes: int
    activations: int
    operators: Mapping[str, int]
    quantized: int
    kept: Mapping[str, str]
    simplified: float
    half_dtype: str
    widened: Mapping[str, float]
    stored: Mapping[str, float]


@dataclass(frozen=True)
class ImportedGraph:
    """The folder with graph, parameters and the seeded case, the facts, and digests of the files read."""

    folder: Path
    facts: GraphFacts
    inputs: tuple[InputDigest, ...]

    @property
    def cases(self) -> tuple[Path, ...]:
        """Files with ``input.NAME``, ``original.NAME`` (fp32 answers) and ``stored.NAME`` (with stored weights).

        One with the largest dimensions, another with the smallest where they vary, and one with integers of all kinds
        where there are integer inputs and the model takes them.
        """
        return tuple(path for name in (CASE, LEAST_CASE, VARIED_CASE) if (path := self.folder / name).exists())

    @property
    def graph(self) -> Path:
        """The ONNX graph whose weights are inputs."""
        return self.folder / GRAPH

    @property
    def params(self) -> Path:
        """The parameters in TVM's container."""
        return self.folder / PARAMS


def import_graph(job: Job, path: Path, shapes: Mapping[str, Any], storage: str) -> ImportedGraph:
    """Imports `path` for the shapes, or takes the result from the cache.

    Args:
        job: the compile.
        path: the .onnx file.
        shapes: `frontend.shape`.
        storage: float32, float16 or int8.

    Raises:
        InputError, UnsupportedError: of `frontends.onnx.model.open_onnx`.
        InternalError: E1474 simplification changed what the graph computes.
        ToolchainError: E152x the child failed.
    """
    inputs = tuple(InputDigest(file.name, file.stat().st_size, sha256_of(file)) for file in model_files(path))
    request = {"files": to_json(inputs), "shapes": to_json(shapes), "storage": storage}
    key = stage_key("import", __name__, (_CHILD,), request)

    def build(out: Path) -> None:
        _in_child({"path": str(path), "shapes": to_json(shapes), "storage": storage, "out": str(out)}, job.cache.folder)

    folder = job.cache.get(key) or job.cache.publish(key, build)
    facts = from_json(GraphFacts, json.loads((folder / FACTS).read_text(encoding="utf-8")))
    return ImportedGraph(folder, facts, inputs)


def look_at_graph(path: Path, shapes: Mapping[str, Any], storage: str, reproducers: Path) -> GraphFacts:
    """The facts alone, for a plan: no answer is computed and nothing is kept."""
    with temporary_folder("plan") as folder:
        call = {"path": str(path), "shapes": to_json(shapes), "storage": storage, "out": str(folder), "plan": True}
        _in_child(call, reproducers)
        return from_json(GraphFacts, json.loads((folder / FACTS).read_text(encoding="utf-8")))


def _in_child(call: Mapping[str, Any], cache: Path) -> None:
    with temporary_folder("import") as folder:
        run_child(
            _CHILD,
            call,
            folder=folder,
            limits=LIMITS,
            reproducers=cache / "reproducers",
        )


def run(request: Mapping[str, Any]) -> None:
    """The child's side: writes graph, parameters, case and facts into ``out``; with ``plan`` the facts alone."""
    import onnx_ir as ir
    import safetensors.numpy

    from xamc.compiler.frontends.onnx.liveness import peak_activation_bytes
    from xamc.compiler.frontends.onnx.model import open_onnx
    from xamc.compiler.frontends.onnx.shapes import at_bound
    from xamc.compiler.frontends.onnx.weights import lift_weights, store_weights
    from xamc.ir.weights.lazy import ArrayTensor
    from xamc.passes.lowering.index_bounds import bound_indices
    from xamc.runtime.seeded_feeds import seeded_feeds
    from xamc.targets.vacc.params_file import ParamsFile, write_params_files
    from xamc.verify.onnx_model_oracle import (
        FROM_HALF_PRECISION,
        MOST_IR_VERSION,
        answers,
        deviations,
        require_close,
        require_same_nan,
        varied_case,
        widened_deviations,
    )

    out, plan, path = Path(request["out"]), request.get("plan", False), Path(request["path"])
    shapes = request["shapes"]
    opened = open_onnx(path, shapes)
    model = opened.model
    largest = least = model
    if opened.symbols:
        largest, least = (open_onnx(path, at_bound(shapes, which)).model for which in (-1, 0))
    activations = peak_activation_bytes(largest)
    limits = bound_indices(model, opened.symbols)
    inputs = _tensors(model.graph.inputs, largest.graph.inputs, least.graph.inputs, limits)
    outputs = _tensors(model.graph.outputs, largest.graph.outputs, least.graph.outputs, {})
    weights = lift_weights(model)
    widened: dict[str, float] = {}
    simplified, stored_by, cases = 0.0, {}, {}
    if not plan:
        original, not_widened = opened.original, opened.not_widened
        names = (CASE, LEAST_CASE) if opened.symbols else (CASE,)
        feeds_of = {name: seeded_feeds(inputs, least=name == LEAST_CASE) for name in names}
        in_half_precision = {}
        if not_widened is not None:  # first, and then let go: it has weights of its own
            own = lift_weights(not_widened)
            in_half_precision = {name: answers(not_widened, own, feeds) for name, feeds in feeds_of.items()}
            del own
        lifted = lift_weights(original)
        for name, feeds in feeds_of.items():
            reference = answers(original, lifted, feeds)
            simple = answers(model, weights, feeds)
            found = deviations(simple, reference)
            simplified = max(simplified, require_close("the simplified graph and the original", found, reference))
            cases[name] = (feeds, reference)
            require_same_nan("the simplified graph and the original", simple, reference)
            if name in in_half_precision:
                found = widened_deviations(reference, in_half_precision[name])
                sides = f"the graph in float32 and the file in {opened.half_dtype}"
                require_close(sides, found, in_half_precision[name], FROM_HALF_PRECISION[opened.half_dtype])
                widened = {output: max(value, widened.get(output, 0.0)) for output, value in found.items()}
        varied = varied_case(inputs, lambda feeds: answers(original, lifted, feeds), cases[CASE][1])
        if varied is not None:
            cases[VARIED_CASE] = varied
            simple = answers(model, weights, varied[0])
            what, found = "the simplified graph and the original", deviations(simple, varied[1])
            simplified = max(simplified, require_close(what, found, varied[1]))
            require_same_nan(what, simple, varied[1])
    stored = store_weights(model, weights, request["storage"])
    file = ParamsFile(out / PARAMS, {name: ArrayTensor(array) for name, array in stored.tensors.items()})
    if not plan:
        for name, (feeds, reference) in reversed(cases.items()):
            expected = answers(model, stored.tensors, feeds)
            stored_by = deviations(expected, reference)
            case = {f"input.{key}": array for key, array in feeds.items()}
            case |= {f"original.{key}": array for key, array in reference.items()}
            case |= {f"stored.{key}": array for key, array in expected.items()}
            safetensors.numpy.save_file(case, out / name)
        model.ir_version = min(model.ir_version, MOST_IR_VERSION)
        (out / GRAPH).write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
        write_params_files([file], workers=1)
    facts = GraphFacts(
        inputs=inputs,
        outputs=outputs,
        parameters=tuple(stored.tensors),
        count=sum(array.size for array in weights.values()),
        nbytes=file.nbytes,
        activations=activations,
        operators=opened.operators,
        quantized=len(stored.quantized),
        kept=stored.kept,
        simplified=simplified,
        half_dtype=opened.half_dtype,
        widened=widened,
        stored=stored_by,
    )
    (out / FACTS).write_text(json.dumps(to_json(facts)), encoding="utf-8")


def _tensors(
    values: Sequence[Any], largest: Sequence[Any], least: Sequence[Any], limits: Mapping[str, int]
) -> tuple[GraphTensor, ...]:
    """Inputs or outputs, with the dimensions they have where inputs are largest and where they are smallest."""
    made = []
    for value, high, low in zip(values, largest, least):
        name, dtype = str(value.name), value.dtype.numpy().name
        most, fewest = (tuple(int(dim) for dim in other.shape) for other in (high, low))
        varies = most != fewest
        symbols = (
            tuple("" if isinstance(dim, int) else str(dim) for dim in value.shape) if value.is_graph_input() else ()
        )
        made.append(
            GraphTensor(name, dtype, most, limits.get(name), fewest if varies else (), symbols if varies else ())
        )
    return tuple(made)
