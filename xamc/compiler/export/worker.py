"""The exporting child process: `python -m xamc.compiler.export.worker FOLDER/job.json`.

torch and transformers live and die here. The child exports the model, then its twin, and lets transformers answer the
twin's scenario in eager fp32; the parent compares every later graph with these answers.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import transformers

from xamc.compiler.export.exporter import export_model
from xamc.compiler.export.job import (
    CASES_FILE,
    MODEL_FILE,
    TWIN_FACTS_FILE,
    TWIN_FILE,
    ExportJob,
    twin_program,
)
from xamc.ir.program import Program
from xamc.model.config import ModelConfig
from xamc.model.kv_cache import past_key, past_value, present_key, present_value
from xamc.model.layer import HEAD_WEIGHT
from xamc.passes.protocol import Arrays, Tensors
from xamc.verify.oracle import materialize
from xamc.verify.scenario import Case, prompts, save_cases, steps
from xamc.verify.twin import twin_config


def run_job(job: ExportJob, folder: Path) -> None:
    """Does `job` and writes its files into `folder`."""
    ir.save(export_model(job.config), folder / MODEL_FILE)
    if not job.twin:
        return
    start = time.perf_counter()
    config = twin_config(job.config, job.group, job.tp)
    twin = twin_program(export_model(config), config)
    ir.save(twin.model, folder / TWIN_FILE)
    save_cases(answers(twin), folder / CASES_FILE)
    facts = {"config": asdict(config), "seconds": round(time.perf_counter() - start, 3)}
    (folder / TWIN_FACTS_FILE).write_text(json.dumps(facts, indent=1, sort_keys=True))


def answers(twin: Program) -> list[Case]:
    """transformers' eager fp32 logits and caches for every call of the twin's scenario."""
    model = eager_model(twin.config, materialize(twin.weights))
    cases: list[Case] = []
    for run, ids in prompts(twin.config).items():
        cache = transformers.DynamicCache()
        past = _empty_past(twin.config, ids.shape[0])
        for step, feeds in enumerate(steps(twin.config, ids)):
            with torch.no_grad():
                result = model(
                    input_ids=torch.from_numpy(feeds["input_ids"]),
                    position_ids=torch.from_numpy(feeds["position_ids"]),
                    past_key_values=cache,
                    use_cache=True,
                )
            present: Arrays = {}
            for layer in range(twin.config.num_layers):
                entry = cache.layers[layer]
                present[present_key(layer)] = entry.keys.numpy().copy()
                present[present_value(layer)] = entry.values.numpy().copy()
            cases.append(Case(run, step, {**feeds, **past}, {"logits": result.logits.numpy(), **present}))
            past = {name.replace("present", "past"): array for name, array in present.items()}
    return cases


def eager_model(config: ModelConfig, weights: Tensors) -> Any:
    """The unpatched transformers model with `weights` (float32, by parameter name), in evaluation mode."""
    cls = getattr(transformers, config.architecture)
    model = cls(cls.config_class(**dict(config.hf_config), attn_implementation="eager")).eval()
    state = {name: torch.from_numpy(np.array(array)) for name, array in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {HEAD_WEIGHT} if config.tie_word_embeddings else set()
    if set(missing) - tied or unexpected:
        raise RuntimeError(f"weights missing for {sorted(missing)}, unknown {sorted(unexpected)}")
    model.tie_weights()
    return model


def _empty_past(config: ModelConfig, batch: int) -> Arrays:
    empty = np.zeros((batch, config.num_kv_heads, 0, config.head_dim), np.float32)
    return {name(layer): empty for layer in range(config.num_layers) for name in (past_key, past_value)}


def run_file(path: str) -> None:
    """Entry point of the child: does the job described at `path` (job.json) into the folder it lies in."""
    # the exporter warns about torchvision, which nothing here needs
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    job_file = Path(path)
    run_job(ExportJob.read(job_file), job_file.parent)


if __name__ == "__main__":
    run_file(sys.argv[1])
