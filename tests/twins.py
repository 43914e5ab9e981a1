"""Twins for tests: two shapes, and one per family; exported once per test session, with transformers' own answers."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import os
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from tests.checkpoints import write_tiny
from tests.worker import session_worker
from xamc.compiler.export.job import config_from_json, twin_program
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.frontends.configuration import rope_parameters
from xamc.ir.program import Program
from xamc.model.config import ModelConfig, RopeConfig
from xamc.passes.protocol import GraphPass
from xamc.verify.scenario import Case, load_cases, save_cases
from xamc.verify.twin import TWIN_POSITIONS, twin_config

# "tied": no biases, tied embedding, GQA 3:1; "windowed": q/k/v biases, one full and one sliding-window layer, untied
KINDS = ("tied", "windowed")
# otherwise as "tied": nine heads in three groups, as SmolLM2 has, and a bias everywhere; all heads in one group
THREE_GROUPS, ONE_KV_HEAD = "three_groups", "one_kv_head"
# the twin of a model of hidden size 96 and intermediate size 200, untied: with bfloat16 weights a float16
# cache moves it by 1.5e-3, more than the bound of 1e-3 that stood here once
ROUNDING = "rounding"
_HEADS = {"windowed": (4, 2), "tied": (6, 2), THREE_GROUPS: (9, 3), ONE_KV_HEAD: (5, 1), ROUNDING: (6, 2)}


def config(kind: str) -> ModelConfig:
    """The config of a twin; two layers, and 16-wide heads."""
    windowed = kind == "windowed"
    intermediate, vocabulary = (104, 107) if kind == ROUNDING else (160, 100)
    tied = kind not in ("windowed", ROUNDING)
    heads, kv_heads = _HEADS[kind]
    hidden = 16 * heads
    hf: dict[str, Any] = {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if windowed:
        kinds = ["full_attention", "sliding_attention"]
        hf |= {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1, "layer_types": kinds}
    else:
        hf |= {"head_dim": 16}
    if kind == THREE_GROUPS:
        hf |= {"attention_bias": True, "mlp_bias": True}
    return ModelConfig(
        model_type="qwen2" if windowed else "llama",
        architecture="Qwen2ForCausalLM" if windowed else "LlamaForCausalLM",
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_layers=2,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=16,
        vocab_size=vocabulary,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope=RopeConfig("default", 10000.0),
        tie_word_embeddings=tied,
        qk_norm=False,
        sliding_windows=(None, 3) if windowed else (None, None),
        bos_token_id=None,
        eos_token_ids=(),
        hf_config=hf,
    )


@functools.cache
def _exported(name: str) -> tuple[Program, list[Case]]:
    """A twin of `KINDS` or of a family, from this process, another one of the test session, or a fresh export."""
    session = os.environ.get("XAMC_TEST_TWINS")
    with contextlib.ExitStack() as stack:
        folder = Path(session or stack.enter_context(tempfile.TemporaryDirectory())) / name
        folder.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context((folder / "lock").open("w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "cases").exists():
            session_worker().call(f"{__name__}:_export", (name, folder))
        facts = json.loads((folder / "config.json").read_text())
        return twin_program(ir.load(folder / "twin.onnx"), config_from_json(facts)), load_cases(folder / "cases")


def _export(request: tuple[str, Path]) -> None:
    """Writes the twin `name` into `folder`, in the process where torch and transformers have been imported."""
    name, folder = request
    from xamc.compiler.export.exporter import export_model
    from xamc.compiler.export.worker import answers

    if name in _HEADS:
        small = config(name)
    else:
        small = twin_config(open_checkpoint(write_tiny(folder / "checkpoint", name), "huggingface").config)
    program = twin_program(export_model(small), small)
    ir.save(program.model, folder / "twin.onnx")
    (folder / "config.json").write_text(json.dumps(asdict(small)))
    save_cases(answers(program), folder / "cases")


def twin(kind: str) -> tuple[Program, list[Case]]:
    """A fresh copy of an exported twin, and transformers' answers to its scenario."""
    program, cases = _exported(kind)
    return copy(program), cases


def copy(program: Program, **changes: Any) -> Program:
    """A program with a graph of its own, and a config with `changes`."""
    return Program(program.model.clone(), dict(program.weights), replace(program.config, **changes))


def family(name: str, rope: RopeConfig | None = None, positions: int = TWIN_POSITIONS) -> Program:
    """A fresh copy of the exported twin of a family of `tests.checkpoints`, if wanted with another rotary embedding.

    The exported graph does not depend on the rotary embedding, whose tables are inputs.
    """
    program, _ = _exported(name)
    if rope is None:
        return copy(program)
    hf = dict(program.config.hf_config)
    hf |= {"rope_parameters": rope_parameters(rope), "max_position_embeddings": positions}
    return copy(program, rope=rope, max_position_embeddings=positions, hf_config=hf)


@functools.cache
def family_answers(name: str, rope: RopeConfig | None = None, positions: int = TWIN_POSITIONS) -> list[Case]:
    """transformers' answers to the scenario of `family` with the same arguments."""
    if rope is None:
        return _exported(name)[1]
    from xamc.compiler.export.worker import answers

    return answers(family(name, rope, positions))


def after(kind: str, *passes: GraphPass) -> Program:
    """A twin after `passes`."""
    program, _ = twin(kind)
    for graph_pass in passes:
        graph_pass.run(program)
    return program


def nodes(program: Program, op: str) -> list[Any]:
    """The nodes of an operator, in order."""
    return [node for node in program.model.graph if node.op_type == op]


def seeded(shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Standard normal float32 numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
