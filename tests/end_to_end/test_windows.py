"""Models whose layers all have a sliding window: what lies behind it is given back, and no logit notices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.end_to_end import references
from tests.end_to_end.models import CHUNK, Fed, Workshop, answers, prompts, spec
from xamc.compiler.plan.plan import make_plan
from xamc.ir.tolerances import tolerance
from xamc.model.kv_cache import KV_BLOCK, kv_bytes_per_token, resident_blocks
from xamc.runtime import Model
from xamc.verify.metrics import relative_error

CONTEXT, WINDOW, STEPS = 420, 70, 250
SHAPE = {"input_ids": [[CHUNK], [CONTEXT]]}


def windowed(workshop: Workshop) -> Model:
    checkpoint = model_checkpoint(workshop)
    frontend = {"checkpoint": str(checkpoint), "type": "huggingface", "shape": SHAPE}
    return workshop.model(checkpoint, "mistral-window", frontend=frontend)


def test_a_long_generation_takes_the_memory_of_its_window(workshop: Workshop) -> None:
    model = windowed(workshop)
    pages = model.engine.executor.pages
    assert pages is not None
    rows, following = prompts((150, 90), STEPS)
    found = answers(model, rows, following)
    most = resident_blocks(CONTEXT, KV_BLOCK, WINDOW, CHUNK)
    assert most < 400 // KV_BLOCK and pages.touched <= 2 * most
    reference = references.answers(references.own_loading(model_checkpoint(workshop)), rows, following)
    for ours, theirs in zip(found, reference, strict=True):
        assert relative_error(ours, theirs) <= tolerance("cpu_fp32")


def test_the_next_turn_is_computed_from_what_its_window_reaches(workshop: Workshop) -> None:
    model = windowed(workshop)
    (text,), _ = prompts((400,))
    last = {}
    for reuse in (False, True):
        for length in (300, 340, 400):
            fed = Fed(model, [text[:length]], reuse)
            last[reuse, length] = fed.prompts()[0, 0]
            assert fed.reused == [{300: 0, 340: 300, 400: 340}[length] if reuse else 0]
            fed.close()
    for length in (300, 340, 400):
        assert relative_error(last[True, length], last[False, length]) <= tolerance("cpu_fp32")
    assert np.isfinite(last[True, 400]).all()


def test_the_plan_announces_the_smaller_cache(workshop: Workshop) -> None:
    checkpoint = model_checkpoint(workshop)
    frontend = {"checkpoint": str(checkpoint), "type": "huggingface", "shape": SHAPE}
    document = spec(checkpoint, frontend=frontend, runtime={"max_batch": 1})
    plan = make_plan(document)
    assert plan.running is not None
    model = windowed(workshop).manifest.model
    blocks = resident_blocks(CONTEXT, KV_BLOCK, WINDOW, CHUNK)
    assert plan.running.kv_sequence == blocks * KV_BLOCK * kv_bytes_per_token(model, "float32") == plan.kv_cache
    assert blocks * KV_BLOCK < CONTEXT


def model_checkpoint(workshop: Workshop) -> Path:
    return workshop.checkpoint("mistral", "mistral-window", sliding_window=WINDOW)
