"""How matrices are stored by targets with one weights file, and what that takes."""

from __future__ import annotations

from collections.abc import Mapping

from xamc.artifact.manifest import plan_layout
from xamc.artifact.packing import WeightFormat, packed_layout
from xamc.model.layer import EMBEDDING_WEIGHT, HEAD_WEIGHT
from xamc.targets.request import Request

WEIGHTS_FILE = "weights.bin"


def stored_format(name: str, request: Request) -> WeightFormat:
    """How a matrix is stored: 4-bit models keep the embedding and the head in 8 bits, see `QuantizeWeights`."""
    policy = request.quantize
    if policy is None:
        return WeightFormat(request.weight_dtype)  # type: ignore[arg-type]
    wide = policy.bits == 8 or name in (EMBEDDING_WEIGHT, HEAD_WEIGHT)
    return WeightFormat("int8" if wide else "uint4", policy.group_size)


def weights_bytes(shapes: Mapping[str, tuple[int, ...]], request: Request, packed: bool) -> int:
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
