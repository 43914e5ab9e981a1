"""Everything of xamc that writes files, as commands on one small model: what disks are filled with, what is made twice.

The checkpoint is tools.make_checkpoint's; `prepare` writes it, its pickled form, an ONNX graph and the build files.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools.make_checkpoint import write_checkpoint
from tools.reliability.kill import CONFIG, Place

_TIMES = {"report.json"}  # outside of an artifact's digests
_TO_PICKLE = """
import sys, torch
from pathlib import Path
from safetensors.torch import load_file
file = next(Path(sys.argv[1]).glob("*.safetensors"))
torch.save(load_file(file), file.with_name("pytorch_model.bin"))
file.unlink()
"""


@dataclass(frozen=True)
class Route:
    """A command that writes files.

    Attributes:
        arguments: the command line; given the folder of `prepare` and the place to work in.
        output: below the place, what the command makes.
        slow: stages whose results are taken from an earlier run where a trial is to take seconds.
    """

    arguments: Callable[[Path, Place], list[str]]
    output: str = "out/tiny"
    slow: tuple[str, ...] = ()


def _compile(name: str, *options: str) -> Callable[[Path, Place], list[str]]:
    return lambda models, place: ["compile", str(models / f"{name}.yaml"), "-o", str(place.artifact), *options]


ROUTES: Mapping[str, Route] = {
    "CPU": Route(_compile("cpu"), slow=("export", "codegen")),
    "VACC": Route(_compile("vacc"), slow=("export", "codegen")),
    "Ascend": Route(_compile("ascend"), slow=("export",)),
    "ONNX graph": Route(_compile("graph"), slow=("import", "codegen")),
    "pickles": Route(_compile("pickled", "--allow-pickle"), slow=("export", "codegen")),
    "convert-weights": Route(lambda models, place: ["convert-weights", str(models / "model"), str(place.artifact)]),
    "golden record": Route(
        lambda models, place: [
            "golden", "record", str(models / "artifact"), "-o", str(place.out / "tiny.json"),
            *["--prompt", "a b c d"] * 20,
        ],
        output="out/tiny.json",
    ),
    "export-vamc": Route(
        lambda models, place: ["export-vamc", str(models / "vacc.yaml"), "-o", str(place.artifact)],
        slow=("export", "codegen"),
    ),
}  # fmt: skip


def prepare(root: Path) -> None:
    """Writes checkpoint, graph and build files below `root`."""
    root.mkdir()
    for name in ("model", "pickled"):
        write_checkpoint(root / name, CONFIG, dtype="float32", seed=0, shard_bytes=10**12)
    subprocess.run([sys.executable, "-c", _TO_PICKLE, str(root / "pickled")], check=True)  # torch: not in this process
    _write_graph(root / "graph.onnx")
    shape = {"input_ids": [[16], [64]]}
    language: dict[str, Any] = {"type": "huggingface", "shape": shape}
    cpu = {"type": "tvm_cpu", "dtype": "fp32"}
    in_ranks = {"model_kwargs": {"tp": 2, "model_arch": "vacc"}}
    documents: dict[str, dict[str, Any]] = {
        "cpu": {"frontend": {"checkpoint": str(root / "model"), **language}, "backend": cpu},
        "pickled": {"frontend": {"checkpoint": str(root / "pickled"), **language}, "backend": cpu},
        "vacc": {
            "frontend": {"checkpoint": str(root / "model"), **language, **in_ranks},
            "backend": {"type": "tvm_vacc", "dtype": "fp16"},
        },
        "ascend": {
            "frontend": {"checkpoint": str(root / "model"), **language},
            "backend": {"type": "tvm_ascend", "dtype": "fp16", "compile": {"gears": [[1, 16], [1, 64]]}},
        },
        "graph": {
            "frontend": {"checkpoint": str(root / "graph.onnx"), "type": "onnx", "shape": {"x": [2, 8]}},
            "backend": cpu,
        },
    }
    for name, document in documents.items():
        content = {"name": "tiny", **document, "verify": {"passes": "off"}}
        (root / f"{name}.yaml").write_text(yaml.safe_dump(content))


def _write_graph(path: Path) -> None:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    draw = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(draw.standard_normal((8, 3000)).astype(np.float32), "up"),
        numpy_helper.from_array(draw.standard_normal((3000, 4)).astype(np.float32), "down"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "up"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "down"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "main",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


def state(output: Path) -> str:
    """``absent``, or a digest of everything in a file or folder, names and bytes, but for times."""
    if not output.exists():
        return "absent"
    digest = hashlib.sha256()
    files = [output] if output.is_file() else sorted(path for path in output.rglob("*") if path.is_file())
    for path in files:
        if path.name not in _TIMES:
            digest.update(f"{os.path.relpath(path, output)}\0{path.stat().st_size}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
