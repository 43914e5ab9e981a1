"""The kind of model that each of vamc's files is for, from the file alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xamc.compiler.spec import load_spec
from xamc.compiler.spec.model_kind import model_kind, require_supported
from xamc.errors import UnsupportedError

VENDOR = Path(__file__).parent / "vendor"

KINDS = {
    "bert_model_key": ("TensorFlow graph", "E1100"),
    "cnn_int8": ("ONNX graph", None),
    "cnn_misspelt": ("PyTorch graph", "E1100"),
    "detector_nms": ("Darknet graph", "E1100"),
    "embedding": ("embedding model", None),
    "llm_calibrated": ("language model", None),
    "llm_fp16": ("language model", None),
    "llm_int8": ("language model", None),
    "llm_kv8": ("language model", None),
    "vlm_language": ("language model of a vision-language model", None),
    "vlm_visual": ("visual tower", "E1411"),
}


@pytest.mark.parametrize("file", sorted(VENDOR.glob("*.yaml")), ids=lambda file: file.stem)
def test_vendor_files(file: Path) -> None:
    name, code = KINDS[file.stem]
    spec = load_spec(file).spec
    kind = model_kind(spec)
    assert kind.name == name and kind.why
    if code is None:
        require_supported(spec)
        return
    with pytest.raises(UnsupportedError) as caught:
        require_supported(spec)
    assert caught.value.code == code and "ONNX" in caught.value.fix


@pytest.mark.parametrize(
    ("frontend", "name"),
    [
        ({"checkpoint": "net.onnx"}, "ONNX graph"),
        ({"checkpoint": "net.h5"}, "Keras graph"),
        ({"checkpoint": "siglip", "shape": {"pixel_values": [1, 3, 384, 384]}}, "visual tower"),
        ({"checkpoint": "clip.onnx", "shape": {"image": [1, 3, 224, 224]}}, "ONNX graph"),
        ({"checkpoint": "m.gguf"}, "language model"),
    ],
)
def test_other_hints(frontend: dict[str, Any], name: str) -> None:
    assert model_kind(load_spec({"frontend": frontend}).spec).name == name
