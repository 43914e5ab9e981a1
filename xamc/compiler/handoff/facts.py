"""What a hand-off's README tells, as data, so that both languages tell the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import xamc
from xamc.compiler.handoff.assumptions import Stated

# What the vendor's documents pin for its own exports.
VENDOR_PINS = ("onnx==1.14.0", "onnxsim==0.4.35", "onnxruntime==1.13.1", "protobuf==3.20.3", "'numpy<1.24'")


@dataclass(frozen=True)
class LlamaRoute:
    """The checkpoint: `build` is the build file, `transformers` the oldest release that computes the model."""

    build: str
    tp: int
    dtype: str
    parameters: int
    transformers: str
    family: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class OnnxRoute:
    """The graphs: file name without suffix → shape of every input, in order; `has_loop`: run_onnx.py is there."""

    graphs: Mapping[str, Mapping[str, tuple[int, ...]]]
    dtype: str
    has_loop: bool


@dataclass(frozen=True)
class HandoffFacts:
    """Everything; a route that was not written is None.

    `asked`: what the build file asks for and the graphs don't have, such as ``tp: 4``; vamc does it in the other route.
    """

    name: str
    workspace: str
    prefill_lengths: tuple[int, ...]
    total_lengths: tuple[int, ...]
    llama: LlamaRoute | None
    onnx: OnnxRoute | None
    asked: tuple[str, ...]
    assumptions: tuple[Stated, ...]

    @property
    def version(self) -> str:
        """Of xamc."""
        return xamc.__version__

    @property
    def is_embedding(self) -> bool:
        """Whether there is no decode phase."""
        return not self.total_lengths

    @property
    def devices(self) -> str:
        """For `vastgenx serve`: one die per rank."""
        return "[" + ",".join(str(rank) for rank in range(self.llama.tp if self.llama else 1)) + "]"


def inputs_text(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """For example ``input_ids [1, 1], past_key.0 … past_value.29 [1, 3, 2047, 64]``."""
    plain = [f"`{name}` {list(shape)}" for name, shape in shapes.items() if not name.startswith("past_")]
    past = [name for name in shapes if name.startswith("past_")]
    if past:
        plain.append(f"`{past[0]}` … `{past[-1]}` {list(shapes[past[0]])}")
    return ", ".join(plain)
