"""Check the ONNX files of this folder with the installed onnx, onnxsim and onnxruntime: python check_onnx.py

Every file is loaded with its weights, checked, simplified and run; the simplified file must answer as the original.
It fails where an operator, an opset or an IR version is too new for the installed releases. Files with more than 1.5 GB
of weights are loaded, checked and run, but not simplified: onnxsim 0.4 crashes beyond protobuf's 2 GB.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import onnxsim

# A model of at most this size fits into protobuf's 2 GB together with what onnxsim folds.
SIMPLIFIED_BYTES = 1_500_000_000


def feeds_of(session: Any, vocab_size: int) -> dict[str, Any]:
    """Random feeds of the session's static inputs: token ids, a mask with some slots unused, a small past."""
    random = np.random.default_rng(0)
    feeds = {}
    for value in session.get_inputs():
        if value.type == "tensor(float)":
            feeds[value.name] = random.standard_normal(value.shape).astype(np.float32) * 0.1
        elif value.name == "attention_mask":
            feeds[value.name] = np.ones(value.shape, np.int64)
            feeds[value.name][:, value.shape[1] // 2 : -1] = 0
        elif value.name == "position_ids":
            feeds[value.name] = np.full(value.shape, 1, np.int64)
        else:
            feeds[value.name] = random.integers(0, vocab_size, value.shape, dtype=np.int64)
    return feeds


def outputs_of(path: Path, vocab_size: int) -> dict[str, Any]:
    """What the file answers, by output name."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds_of(session, vocab_size))))


def check(path: Path, vocab_size: int) -> dict[str, Any]:
    """One file; returns what was found."""
    onnx.checker.check_model(str(path))
    model = onnx.load(str(path))
    operators = sorted({(node.domain or "ai.onnx") + "::" + node.op_type for node in model.graph.node})
    before = outputs_of(path, vocab_size)
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    facts = {
        "file": path.name,
        "ir_version": model.ir_version,
        "opset": {entry.domain: entry.version for entry in model.opset_import},
        "nodes": len(model.graph.node),
        "operators": operators,
        "weight_bytes": weights,
    }
    if weights > SIMPLIFIED_BYTES:
        return facts
    with tempfile.TemporaryDirectory() as folder:
        simple, same = onnxsim.simplify(model)
        target = Path(folder) / path.name
        onnx.save(simple, str(target))
        after = outputs_of(target, vocab_size)
    if not same:
        raise SystemExit(f"{path.name}: onnxsim's own check failed")
    worst = max(
        float(np.abs(after[name] - value).max() / max(np.abs(value).max(), 1e-30)) for name, value in before.items()
    )
    facts.update(simplified_nodes=len(simple.graph.node), deviation=worst)
    if not worst <= 1e-4:
        raise SystemExit(f"{path.name}: the simplified graph answers differently, relative deviation {worst:.2g}")
    return facts


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Load, check, simplify and run the ONNX files of this folder.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    versions = {module.__name__: module.__version__ for module in (onnx, onnxsim, ort, np)}
    vocab_size = json.loads((options.folder / "model.json").read_text(encoding="utf-8"))["vocab_size"]
    results = [check(path, vocab_size) for path in sorted(options.folder.glob("*.onnx"))]
    if options.json:
        sys.stdout.write(json.dumps({"versions": versions, "files": results}, indent=1) + "\n")
        return
    sys.stdout.write(", ".join(f"{name} {version}" for name, version in versions.items()) + "\n")
    for facts in results:
        simplified = "loaded, checked and run; too large for onnxsim"
        if "deviation" in facts:
            simplified = "{simplified_nodes} simplified, deviation {deviation:.1e}".format(**facts)
        sys.stdout.write("{file}: IR {ir_version}, {nodes} nodes; ".format(**facts) + simplified + "\n")


if __name__ == "__main__":
    main()
