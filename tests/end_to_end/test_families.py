"""Every family from its published tensor names to logits, against transformers or the published description."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.compiler.frontends import published
from tests.end_to_end import references
from tests.end_to_end.models import CHUNK, F32, I64, Workshop, answers, prompts, spec, states
from tests.worker import Worker
from xamc.compiler.pipeline import Compiled, compile_spec
from xamc.errors import InternalError
from xamc.ir.program import Program
from xamc.ir.tolerances import tolerance
from xamc.passes.pipeline import Pipeline
from xamc.passes.protocol import PassReport, SameSignature
from xamc.runtime import Model, load
from xamc.targets.registry import target as target_named
from xamc.verify.metrics import relative_error

BOUND = tolerance("cpu_fp32")
STEPS = 32
TARGETS = ("tvm_cpu", "reference")

# Family → the tiny checkpoint, and what is changed in its config.json. Between them: every RoPE scaling, sliding
# windows shorter than any prompt (in all layers and in one), biases, tied embeddings, q/k norms, groups of 1 and 3.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama3", {}),
    "internlm": ("internlm", {}),
    "internlm2": ("internlm2", {}),
    "internlm3": ("internlm3", {}),
    "qwen2": ("qwen2_window", {}),
    "qwen3": ("qwen3", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "mistral": ("mistral", {}),
}
# Proofs compile the twin too, which doubles the time: RoPE tables and tied embeddings, q/k norms, sliding windows.
PROVEN = ("llama", "qwen3", "mistral")
PUBLISHED = {"internlm": published.internlm, "internlm2": published.internlm2}


def checkpoint(workshop: Workshop, family: str) -> Path:
    kind, changes = VARIANTS[family]
    return workshop.checkpoint(kind, family, **changes)


def compiled(workshop: Workshop, family: str, target: str = "tvm_cpu") -> Compiled:
    """Both targets take the same export."""
    verify = {"passes": "each" if family in PROVEN else "off"}
    backend = {"type": target, "dtype": "fp32"}
    return workshop.compiled(checkpoint(workshop, family), f"{target}-{family}", backend=backend, verify=verify)


def model_of(workshop: Workshop, family: str, target: str = "tvm_cpu") -> Model:
    return load(compiled(workshop, family, target).path, threads=1)


def expected(folder: Path, family: str, rows: Sequence[I64], following: I64) -> list[F32]:
    """The reference's logits for each row."""
    if family in PUBLISHED:
        # it has no cache, and needs none: causal logits of the whole sequence are those of its steps
        state, config = references.stored(folder)
        whole = [torch.from_numpy(np.concatenate([row, more]))[None] for row, more in zip(rows, following)]
        return [PUBLISHED[family](state, config, ids)[0].numpy() for ids in whole]
    load_model = references.as_llama if family == "internlm3" else references.own_loading
    return references.answers(load_model(folder), rows, following)


@functools.cache
def expected_of_prompts(folder: Path, family: str, lengths: tuple[int, ...]) -> list[F32]:
    """The same for `prompts(lengths, STEPS)`, computed once for both targets."""
    return expected(folder, family, *prompts(lengths, STEPS))


def assert_close(found: Sequence[F32], reference: Sequence[F32]) -> None:
    for row, (ours, theirs) in enumerate(zip(found, reference, strict=True)):
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs) <= BOUND, f"row {row}"


@pytest.mark.parametrize("lengths", [(29,), (13, 29, 1)], ids=["batch 1", "ragged batch 3"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("family", VARIANTS)
def test_logits_of_prefill_and_decode(family: str, target: str, lengths: tuple[int, ...], workshop: Workshop) -> None:
    assert max(lengths) > CHUNK  # the prompt takes more than one call
    found = answers(model_of(workshop, family, target), *prompts(lengths, STEPS))
    assert_close(found, expected_of_prompts(checkpoint(workshop, family), family, lengths))


@pytest.mark.parametrize("family", VARIANTS)
def test_the_second_target_exports_nothing_again(family: str, workshop: Workshop) -> None:
    exports = [states(compiled(workshop, family, target))["export"] for target in TARGETS]
    assert exports[1] == "cached", exports


@pytest.mark.parametrize("family", PROVEN)
def test_every_pass_was_proven(family: str, workshop: Workshop) -> None:
    """The report says for each pass, and for the kernels, how far the twin's outputs moved, and that is allowed."""
    report = compiled(workshop, family).report
    passes = [*report["graph_passes"], *report["relax_passes"]]
    assert {"cleanup", "swiglu", "kv_cache", "concat_projections", "rope_cache"} <= {entry["name"] for entry in passes}
    for entry in passes:
        assert entry["deviation"] is not None and entry["deviation"] <= tolerance(entry["tolerance"]), entry["name"]
    assert report["kernel_proof"]["executed"] and 0 < report["kernel_proof"]["deviation"] <= BOUND
    assert states(compiled(workshop, family))["passes"].endswith("proven")


@dataclass
class WrongRotation(SameSignature):
    """Gives the last layer's rotation of keys the sine where the cosine belongs."""

    tolerance: str = "exact"
    name: str = "wrong_rotation"

    def run(self, program: Program) -> PassReport:
        rotations = [node for node in program.model.graph if node.op_type == "RotaryEmbedding"]
        node = rotations[-1]
        node.replace_input_with(1, node.inputs[2])
        return PassReport({"rope": 1})


@pytest.mark.parametrize("target", TARGETS)
def test_a_wrong_pass_among_right_ones_stops_the_compile(
    target: str, workshop: Workshop, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler names the pass and the module of the first wrong node; without proofs nothing would be noticed."""
    right = target_named(target)

    def with_a_wrong_one(request: Any) -> Pipeline:
        pipeline = right.passes(request)
        first, *rest = pipeline.common
        return replace(pipeline, common=[first, WrongRotation(), *rest])

    wrong = replace(right, passes=with_a_wrong_one)
    monkeypatch.setattr("xamc.compiler.pipeline.target_named", lambda name: wrong)
    document = spec(checkpoint(workshop, "mistral"), backend={"type": target, "dtype": "fp32"})
    document |= {"name": f"wrong-{target}", "verify": {"passes": "each"}}
    with pytest.raises(InternalError) as caught, worker.active():
        compile_spec(document)
    assert caught.value.code == "E1309"
    assert caught.value.message.startswith("wrong_rotation changed the model's outputs")
    assert "model.layers.1.self_attn" in caught.value.message
    assert not (Path(document["workspace"]["path"]) / document["name"]).exists()


@pytest.mark.parametrize("lengths", [(50,), (50, 7, 61)], ids=["batch 1", "ragged batch 3"])
@pytest.mark.parametrize("family", ["llama", "internlm2", "internlm3", "qwen3", "mistral"])
def test_decoding_across_the_trained_length(family: str, lengths: tuple[int, ...], workshop: Workshop) -> None:
    """64 positions were trained. A dynamic RoPE grows its base with each step beyond; cached keys stay as they are."""
    folder = checkpoint(workshop, family)
    rows, following = prompts(lengths, STEPS)
    load_model = references.as_llama if family.startswith("internlm") else references.own_loading
    found = answers(model_of(workshop, family), rows, following)
    # one by one: in transformers the longest row of a batch decides the base of all
    alone = [references.answers(load_model(folder), [row], following[at : at + 1])[0] for at, row in enumerate(rows)]
    assert_close(found, alone)


@pytest.mark.parametrize("family", ["internlm2", "internlm3"])
def test_prompts_beyond_the_trained_length(family: str, workshop: Workshop) -> None:
    """The base follows the whole prompt, however many calls it takes."""
    rows, following = prompts((100,))
    found = answers(model_of(workshop, family), rows, following)
    assert_close(found, expected(checkpoint(workshop, family), family, rows, following))


def test_the_comparison_can_fail(workshop: Workshop) -> None:
    """What a mixed-up head, a forgotten window or a plain RoPE would change is far above the bound."""
    rows, following = prompts((29,), 4)
    reference = expected(checkpoint(workshop, "mistral"), "mistral", rows, following)
    full = references.own_loading(checkpoint(workshop, "mistral"))
    full.config.sliding_window = None
    for layer in full.model.layers:
        layer.self_attn.sliding_window = None
    assert relative_error(references.answers(full, rows, following)[0], reference[0]) > 100 * BOUND


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_rows_of_a_batch_do_not_see_each_other(family: str, workshop: Workshop) -> None:
    """Batch 1 decodes with its own function, a batch with the one for prefill: the same numbers but for rounding."""
    model = model_of(workshop, family)
    rows, following = prompts((3, 27, 11), 8)
    alone = [answers(model, [row], following[index : index + 1])[0] for index, row in enumerate(rows)]
    assert_close(answers(model, rows, following), alone)


def test_the_public_calls(workshop: Workshop) -> None:
    """`logits` with padding and lengths, last positions, and `generate`, which takes the likeliest token each time."""
    model = model_of(workshop, "llama")
    rows, following = prompts((29, 12), 0)
    reference = expected(checkpoint(workshop, "llama"), "llama", rows, following)
    padded = np.zeros((2, 29), np.int64)
    for row, tokens in enumerate(rows):
        padded[row, : len(tokens)] = tokens
    logits = model.logits(padded, lengths=[29, 12])
    assert logits.shape == (2, 29, 272) and logits.dtype == np.float32 and not logits[1, 12:].any()
    assert_close([logits[0], logits[1, :12]], reference)
    last = model.logits(padded, lengths=[29, 12], positions="last")
    assert_close(list(last), [reference[0][-1:], reference[1][-1:]])

    hf = references.own_loading(checkpoint(workshop, "llama"))
    made = hf.generate(torch.from_numpy(rows[0])[None], max_new_tokens=20, min_new_tokens=20, do_sample=False)
    answer = model.generate(rows[0], 20, ignore_eos=True)
    greedy, hf_tokens = answer.token_ids, made[0, 29:].tolist()
    assert len(greedy) == 20 and answer.prompt_tokens == 29 and answer.decode_tokens_per_s > 0
    assert greedy == hf_tokens
