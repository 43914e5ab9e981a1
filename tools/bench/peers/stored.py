"""How many bytes an engine's file spends on the model's matrices, and how many of them one decoded token has to read.

Only what is stored counts: an engine that computes in another type keeps more in memory. An embedding that is not the
output head gives one row per token, so a token does not read it; a tied one is read as a whole.
"""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.make_checkpoint import tensor_layout


@dataclass(frozen=True)
class Stored:
    """Bytes: `matrices` of all of them with scales and zero points, `token` of those that a decoded token reads."""

    matrices: int
    token: int


def weights_count(checkpoint: Path) -> int:
    """Numbers in the matrices of a Hugging Face folder, embedding and output head included, a tied one once."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return sum(math.prod(shape) for shape in tensor_layout(config).values() if len(shape) > 1)


def layers_count(checkpoint: Path) -> int:
    """Like `weights_count`, without embedding and output head."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    return sum(math.prod(s) for name, s in tensor_layout(config).items() if len(s) > 1 and ".layers." in name)


def of_gguf(file: Path) -> Stored:
    """Of a GGUF file."""
    import gguf

    sizes = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(file).tensors if len(tensor.shape) > 1}
    total = sum(sizes.values())
    return Stored(total, total - (sizes["token_embd.weight"] if "output.weight" in sizes else 0))


def of_artifact(folder: Path) -> Stored:
    """Of an artifact of xamc."""
    from xamc.artifact.read import read_artifact

    manifest = read_artifact(folder).manifest
    assert manifest.weights is not None
    # Vectors are norms; scales and zero points have two axes, like the matrices they belong to.
    sizes = {entry.name: entry.nbytes for entry in manifest.weights.tensors if "norm" not in entry.name}
    total = sum(sizes.values())
    embedding = sum(size for name, size in sizes.items() if "embed_tokens" in name)
    return Stored(total, total if manifest.model.tie_word_embeddings else total - embedding)


def of_checkpoint(checkpoint: Path, bytes_per_weight: int) -> Stored:
    """Of a Hugging Face folder that an engine holds in a type of that size."""
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    sizes = {name: math.prod(s) * bytes_per_weight for name, s in tensor_layout(config).items() if len(s) > 1}
    total, tied = sum(sizes.values()), config["tie_word_embeddings"]
    return Stored(total, total if tied else total - sizes["model.embed_tokens.weight"])


_SMALL = 4096  # bytes of a constant that is no part of a matrix: shapes, epsilons, tables of norms


def of_openvino(folder: Path) -> Stored:
    """Of an OpenVINO model: its constants, those that only lead to a Gather being an embedding."""
    net = ElementTree.parse(folder / "openvino_model.xml").getroot()
    layers = {layer.attrib["id"]: layer for layer in net.iter("layer")}
    followers: dict[str, list[str]] = defaultdict(list)
    for edge in net.iter("edge"):
        followers[edge.attrib["from-layer"]].append(edge.attrib["to-layer"])

    def uses(layer: str) -> set[str]:
        """What a constant ends up in, through its own dequantization."""
        found = set()
        for after in followers[layer]:
            kind = layers[after].attrib["type"]
            found |= uses(after) if kind in {"Convert", "Subtract", "Multiply", "Reshape"} else {kind}
        return found

    total = embedding = 0
    for name, layer in layers.items():
        data = layer.find("data")
        if layer.attrib["type"] != "Const" or data is None or int(data.attrib["size"]) <= _SMALL:
            continue
        used = uses(name)
        if "MatMul" in used or "Gather" in used:
            total += int(data.attrib["size"])
            embedding += int(data.attrib["size"]) if "MatMul" not in used else 0
    return Stored(total, total - embedding)


def of_onnx(folder: Path) -> Stored:
    """Of a model of ONNX Runtime GenAI: what its MatMuls and Gathers read, tables of rotary angles left out."""
    import onnx

    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    sizes = {item.name: _nbytes(item) for item in graph.initializer}
    sizes = {
        name: size for name, size in sizes.items() if size > _SMALL and not name.endswith(("cos_cache", "sin_cache"))
    }
    product: set[str] = set()
    gathered: set[str] = set()
    unused: set[str] = set()
    for node in graph.node:
        target = product if "MatMul" in node.op_type else gathered if "Gather" in node.op_type else unused
        target.update(name for name in node.input if name in sizes)
    total = sum(sizes[name] for name in product | gathered)
    return Stored(total, total - sum(sizes[name] for name in gathered - product))


def _nbytes(initializer: Any) -> int:
    external = {entry.key: entry.value for entry in initializer.external_data}
    return int(external["length"]) if "length" in external else int(initializer.ByteSize())
