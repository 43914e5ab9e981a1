"""16-, 8- and 4-bit weights: the artifact computes what transformers does with the weights that were stored.

The stored weights are worked out here with NumPy from their definition. All five ways of storing come from one export,
which a second compile must not repeat.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from tests.end_to_end import references
from tests.end_to_end.models import F32, Workshop, answers, prompts, states
from xamc.compiler.pipeline import Compiled
from xamc.ir.tolerances import tolerance
from xamc.runtime import load
from xamc.verify.metrics import relative_error

GROUP = 32
QUANTIZE = {"w8": {"type": "w8a16_rtn", "group_size": -1}, "w4": {"type": "w4a16_rtn", "group_size": GROUP}}
DTYPES = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "w8": "int8", "w4": "int4"}
FP32_CACHE = {"kv_dtype": "fp32"}


def checkpoint(workshop: Workshop) -> Path:
    """Qwen2: biases beside the stored matrices; every row is a whole number of groups."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    return workshop.checkpoint("qwen2", "stored", **sizes)


def compiled(workshop: Workshop, kind: str, target: str = "tvm_cpu") -> Compiled:
    folder = checkpoint(workshop)
    frontend: dict[str, Any] = {"checkpoint": str(folder), "shape": {"input_ids": [[24], [120]]}}
    if kind in QUANTIZE:
        frontend["quantize"] = QUANTIZE[kind]
    # what is stored is compared, not what rounded activations cost; that has bounds of its own
    backend = {"type": target, "dtype": DTYPES[kind], "compile": {"activations": "float32"}}
    return workshop.compiled(folder, f"{target}-{kind}", frontend=frontend, backend=backend, runtime=FP32_CACHE)


def scale_up(scale: NDArray[np.float32]) -> F32:
    """The smallest float16 that is not below `scale`."""
    near = scale.astype(np.float16)
    return np.where(near.astype(np.float32) < scale, np.nextafter(near, np.float16(np.inf)), near).astype(np.float32)


def eight_bits(weight: F32, group: int) -> F32:
    """Symmetric: codes -127 to 127, one scale per `group` columns."""
    values = weight.reshape(len(weight), -1, group)
    scale = scale_up(np.abs(values).max(axis=2, keepdims=True) / np.float32(127))
    return (np.rint(values / scale) * scale).reshape(weight.shape)


def four_bits(weight: F32, group: int) -> F32:
    """Asymmetric: codes 0 to 15, a float16 scale and zero point per `group` columns, whole where a weight is 0."""
    values = weight.reshape(len(weight), -1, group)
    low = np.minimum(values.min(axis=2, keepdims=True), 0)
    high = np.maximum(values.max(axis=2, keepdims=True), 0)
    scale = scale_up((high - low) / np.float32(15))
    zero = -low / scale
    zero = np.where((values == 0).any(axis=2, keepdims=True), np.rint(zero), zero).astype(np.float16)
    codes = np.clip(np.rint(values / scale + zero.astype(np.float32)), 0, 15)
    return ((codes - zero) * scale).reshape(weight.shape)


def as_stored(name: str, weight: F32, kind: str) -> F32:
    """What `weight` is once stored; norms and biases stay float32, embedding and lm_head have 8 bits at least."""
    if weight.ndim != 2 or kind == "fp32":
        return weight
    if kind in ("fp16", "bf16"):
        return weight.astype(np.float16 if kind == "fp16" else ml_dtypes.bfloat16).astype(np.float32)
    if kind == "w8":
        return eight_bits(weight, weight.shape[1])
    return eight_bits(weight, GROUP) if "embed_tokens" in name or "lm_head" in name else four_bits(weight, GROUP)


def reference(workshop: Workshop, kind: str) -> Any:
    """transformers with the stored weights."""
    model = references.own_loading(checkpoint(workshop))
    state = {name: as_stored(name, tensor.numpy(), kind) for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()}, strict=True)
    assert isinstance(model, transformers.Qwen2ForCausalLM)
    return model


@pytest.mark.parametrize("kind", ["fp16", "bf16", "w8", "w4"])
def test_logits_are_those_of_the_stored_weights(kind: str, workshop: Workshop) -> None:
    model = load(compiled(workshop, kind).path, threads=1)
    assert model.manifest.kv.dtype == "float32"
    full = references.own_loading(checkpoint(workshop))
    for lengths in ((29,), (13, 29, 1)):
        rows, following = prompts(lengths, 8)
        found = answers(model, rows, following)
        expected = references.answers(reference(workshop, kind), rows, following)
        unrounded = references.answers(full, rows, following)
        for ours, theirs, other in zip(found, expected, unrounded, strict=True):
            assert relative_error(ours, theirs) <= tolerance("cpu_fp32")
            assert relative_error(theirs, other) > 2 * tolerance("cpu_fp32")  # the rounding is seen


@pytest.mark.parametrize("kind", ["bf16", "w4"])
def test_reference_target_computes_the_same(kind: str, workshop: Workshop) -> None:
    ours = load(compiled(workshop, kind).path, threads=1)
    theirs = load(compiled(workshop, kind, "reference").path, threads=1)
    for lengths in ((29,), (13, 29, 1)):
        rows, following = prompts(lengths, 8)
        for found, expected in zip(answers(ours, rows, following), answers(theirs, rows, following), strict=True):
            assert relative_error(found, expected) <= tolerance("cpu_fp32")


def test_reference_target_in_float32(workshop: Workshop) -> None:
    rows, following = prompts((13, 29, 1), 8)
    model = load(compiled(workshop, "fp32", "reference").path, threads=1)
    expected = references.answers(references.own_loading(checkpoint(workshop)), rows, following)
    for ours, theirs in zip(answers(model, rows, following), expected, strict=True):
        assert relative_error(ours, theirs) <= tolerance("export_fp32")


def test_a_change_of_the_backend_exports_nothing_again(workshop: Workshop) -> None:
    """Five ways of storing and two targets, one export."""
    made = [compiled(workshop, kind) for kind in ("fp16", "bf16", "w8", "w4")]
    made += [compiled(workshop, kind, "reference") for kind in ("fp32", "bf16", "w4")]
    exports = [states(result)["export"] for result in made]
    assert exports.count("cached") >= len(exports) - 1, exports


def test_sizes_follow_the_bits(workshop: Workshop) -> None:
    nbytes = {kind: compiled(workshop, kind).manifest.weights.nbytes for kind in ("fp16", "bf16", "w8", "w4")}
    assert nbytes["fp16"] == nbytes["bf16"]
    assert nbytes["w4"] < nbytes["w8"] < 0.7 * nbytes["fp16"]
