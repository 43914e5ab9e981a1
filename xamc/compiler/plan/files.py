"""The files that a compile would write, and their sizes: exact for weights, estimated for code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xamc.artifact.manifest import plan_layout
from xamc.compiler.frontends import Checkpoint
from xamc.compiler.plan.ranks import StaticPlan, static_plan
from xamc.compiler.spec import Spec
from xamc.compiler.stages.golden import DEFAULT_PROMPTS, PROMPT_TOKENS
from xamc.compiler.stages.small_weights import SMALL_WEIGHTS
from xamc.model.config import ModelConfig
from xamc.model.layer import EMBEDDING_WEIGHT, HEAD_WEIGHT
from xamc.targets.base import TargetCaps
from xamc.targets.kernels.packing import WeightFormat, packed_layout
from xamc.targets.request import TargetRequest

if TYPE_CHECKING:
    from xamc.compiler.plan.gears import GearPlan

_SIMULATOR_BYTES = 700_000  # a bucket's code besides its calls
_JSON_BYTES_PER_NODE = 600


@dataclass(frozen=True)
class PlannedFile:
    """One file of the artifact (of one rank, when there are several)."""

    path: str
    nbytes: int
    holds: str


@dataclass(frozen=True)
class PlannedFiles:
    """All files of an artifact.

    Attributes:
        files: of every rank.
        weights: bytes of all weights, which the stage cache shares with the artifact.
        code: bytes of the generated code that the stage cache keeps as well.
        static, gears: what they were counted from, for targets of static graphs.
    """

    files: tuple[PlannedFile, ...]
    weights: int
    code: int = 0
    static: StaticPlan | None = None
    gears: GearPlan | None = None

    @property
    def nbytes(self) -> int:
        """Size of the artifact."""
        return sum(file.nbytes for file in self.files)


def planned_files(checkpoint: Checkpoint, spec: Spec, request: TargetRequest | None, caps: TargetCaps) -> PlannedFiles:
    """The files that a compile would write.

    Args:
        checkpoint: the model.
        spec: the build file.
        request: what it asks of the target; None for a target that isn't available.
        caps: the target.

    Raises:
        InputError: E1331, heads that can't be divided among the ranks.
    """
    if request is not None and request.atc is not None:
        from xamc.compiler.plan.gears import gear_plan  # it knows the graphs, and with them onnx

        gears = gear_plan(checkpoint.config, request)
        return PlannedFiles(tuple(gear_files(checkpoint, spec, gears)), gears.weights, gears=gears)
    if request is not None and not caps.dynamic_shapes:
        static = static_plan(checkpoint.config, request)
        files = tuple(static_files(checkpoint, static))
        return PlannedFiles(files, static.ranks * static.rank_bytes, static=static)
    code, files = files_of(checkpoint, spec, request, caps)
    return PlannedFiles(files, next(file.nbytes for file in files if file.path == "weights.bin"), code)


def gear_files(checkpoint: Checkpoint, spec: Spec, gears: GearPlan) -> Iterator[PlannedFile]:
    """ONNX files, the weights they share, and the text files."""
    for graph in gears.graphs:
        listed = ", ".join(f"{batch}x{length}" for batch, length in graph.gears)
        yield PlannedFile(f"{graph.name}.onnx", graph.onnx, f"gears {listed}" if len(graph.gears) > 1 else listed)
    yield PlannedFile("weights.bin", gears.weights, "float16 weights and RoPE tables of all graphs")
    yield PlannedFile("atc.sh, *.ini, gears.json", 8_000 * len(gears.graphs), "for CANN, and how to drive the graphs")
    yield _tokenizer_file(checkpoint)
    if gears.weights <= SMALL_WEIGHTS or spec.verify.final:
        yield _golden_file(spec, checkpoint.config)


def static_files(checkpoint: Checkpoint, static: StaticPlan) -> Iterator[PlannedFile]:
    """The three files of every bucket and rank; a shared parameter file is counted once."""
    nodes = {graph.bucket: sum(graph.operators.values()) for graph in static.graphs}
    for graph in static.graphs:
        for rank in range(static.ranks):
            folder = f"{graph.bucket.name}_rank{rank}"
            shared = graph.shares != graph.bucket
            holds = f"the file of {graph.shares.name}_rank{rank}" if shared else "weights and RoPE tables"
            yield PlannedFile(f"{folder}/mod.params", 0 if shared else static.rank_bytes_of(graph), holds)
            count = nodes[graph.bucket]
            yield PlannedFile(f"{folder}/mod.json", count * _JSON_BYTES_PER_NODE, f"{count} operators")
        code = _SIMULATOR_BYTES + 900 * nodes[graph.bucket]
        yield PlannedFile(f"{graph.bucket.name}_rank*/mod.so", code, "simulator code, one file for all ranks")
    yield _tokenizer_file(checkpoint)


def weights_bytes(shapes: Mapping[str, tuple[int, ...]], request: TargetRequest, packed: bool) -> int:
    """Size of the weights file: matrices as they are stored, vectors in float32, each buffer aligned.

    Args:
        shapes: parameter name → shape.
        request: how matrices are stored.
        packed: in the CPU kernels' panels, where concatenated projections take as much as their parts; otherwise in
            rows, with 4-bit codes one per byte as ONNX Runtime needs them.
    """
    buffers: list[tuple[str, str, tuple[int, ...]]] = []
    for name, shape in shapes.items():
        if len(shape) != 2:
            buffers.append((name, "float32", shape))
            continue
        storage = stored_format(name, request)
        if packed:
            layout = packed_layout(shape[0], shape[1], storage)
            buffers.extend((f"{name}.{buffer.name}", buffer.dtype, buffer.shape) for buffer in layout.buffers)
        elif not storage.quantized:
            buffers.append((name, storage.kind, shape))
        else:
            groups = (shape[0], shape[1] // (storage.group_size or shape[1]))
            buffers += [(f"{name}.codes", "uint8", shape), (f"{name}.scales", "float16", groups)]
            if storage.kind == "uint4":
                buffers.append((f"{name}.zeros", "float16", groups))
    return plan_layout(buffers)[1]


def stored_format(name: str, request: TargetRequest) -> WeightFormat:
    """How a matrix is stored: 4-bit models keep the embedding and the head in 8 bits, see `QuantizeWeights`."""
    policy = request.quantize
    if policy is None:
        return WeightFormat(request.weight_dtype)  # type: ignore[arg-type]
    wide = policy.bits == 8 or name in (EMBEDDING_WEIGHT, HEAD_WEIGHT)
    return WeightFormat("int8" if wide else "uint4", policy.group_size)


def files_of(
    checkpoint: Checkpoint, spec: Spec, request: TargetRequest | None, caps: TargetCaps
) -> tuple[int, tuple[PlannedFile, ...]]:
    """The code's size (estimated), and all files of the artifact."""
    config = checkpoint.config
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    if request is not None:
        weights = weights_bytes(shapes, request, caps.kv_layout == "in_place")
        holds = f"{len(shapes)} tensors" + (f", {spec.frontend.quantize.type}" if spec.frontend.quantize else "")
    else:
        bits = spec.frontend.quantize.weight_bits if spec.frontend.quantize else 16
        weights = sum(element_count(shape) * bits // 8 for shape in shapes.values()) // spec.tp
        holds = f"{len(shapes)} tensors, per rank ({spec.tp} ranks)"
    code = 900_000 + 12_000 * config.num_layers if caps.kv_layout == "in_place" else 12_500 * config.num_layers
    code *= len(spec.backend.cpu_levels) if caps.kv_layout == "in_place" else 1
    files = [
        PlannedFile("weights.bin", weights, holds),
        _tokenizer_file(checkpoint),
    ]
    if caps.available:
        what = "kernels and host program" if caps.kv_layout == "in_place" else "graph"
        files.append(PlannedFile("code", code, what))
    if caps.available and (weights <= SMALL_WEIGHTS or spec.verify.final):
        files.append(_golden_file(spec, config))
    return code, tuple(files)


def _tokenizer_file(checkpoint: Checkpoint) -> PlannedFile:
    nbytes = sum(
        len(content) if isinstance(content, bytes) else Path(content).stat().st_size
        for content in checkpoint.tokenizer.values()
    )
    holds = ", ".join(sorted(checkpoint.tokenizer)) or "nothing: token ids alone are taken and given"
    return PlannedFile("tokenizer", nbytes, holds)


def _golden_file(spec: Spec, config: ModelConfig) -> PlannedFile:
    prompts = len(spec.verify.prompts or DEFAULT_PROMPTS)
    nbytes = prompts * PROMPT_TOKENS * config.vocab_size * 4 * (2 if spec.verify.final else 1)
    return PlannedFile("golden", nbytes, f"logits of {prompts} x {PROMPT_TOKENS} positions")


def parameter_count(checkpoint: Checkpoint) -> int:
    """Scalars of all weights."""
    return sum(element_count(tensor.shape) for tensor in checkpoint.tensors.values())


def element_count(shape: tuple[int, ...]) -> int:
    product = 1
    for dim in shape:
        product *= dim
    return product
