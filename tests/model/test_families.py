"""The layer tables against transformers' own classes, and a family that this test alone knows."""

from __future__ import annotations

import ast
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import xamc
from tests.checkpoints import CONFIGS, write_tiny
from tests.compiler.frontends.gguf_files import write_gguf
from xamc.compiler.export.exporter import export_model
from xamc.compiler.frontends import open_checkpoint
from xamc.compiler.frontends.config_reader import ConfigReader
from xamc.compiler.frontends.families import find_family
from xamc.compiler.handoff.llama_checkpoint import as_llama
from xamc.errors import UnsupportedError
from xamc.model.bucket import Bucket
from xamc.model.config import ModelConfig
from xamc.model.families import FAMILIES, family_of
from xamc.model.families.llama import llama_layer
from xamc.model.layer import Family, GgufArchitecture
from xamc.model.meta_model import meta_model
from xamc.model.parameters import layer_of, operator_counts, parameter_shapes, parameters
from xamc.passes.graph.shard.plan import ShardPlan
from xamc.passes.graph.shard.roles import role_of
from xamc.targets.vacc.operator_counts import operator_counts as static_counts
from xamc.targets.vacc.plan import static_plan
from xamc.targets.vacc.request import VaccRequest
from xamc.verify.twin import twin_config

# Seed-OSS: Llama whose q, k and v have biases by one flag and o by another, with wide heads
SEED_OSS = Family(
    "seed_oss",
    "SeedOssForCausalLM",
    llama_layer(qkv_bias="attention_bias", o_bias="attention_out_bias", mlp_bias="mlp_bias"),
    gguf=(GgufArchitecture("seed_oss"),),
    defaults={"attention_bias": True, "head_dim": 128, "num_key_value_heads": 8},
)
VALUES: dict[str, Any] = {**CONFIGS["llama"], "model_type": "seed_oss", "attention_bias": True}


def config_of(values: dict[str, Any]) -> ModelConfig:
    reader = ConfigReader(values, Path("config.json"))
    config = find_family(reader).configure(reader)
    assert reader.leftover() == ()
    return config


def in_transformers(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """What transformers' own class has; a tied head is no parameter of its own."""
    return {name: tuple(p.shape) for name, p in meta_model(config, "eager").named_parameters()}


@pytest.fixture
def seed_oss(monkeypatch: pytest.MonkeyPatch) -> ModelConfig:
    """A model of a family that was registered a moment ago."""
    monkeypatch.setitem(FAMILIES, SEED_OSS.architecture, SEED_OSS)
    return config_of(VALUES | {"attention_out_bias": True})


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_those_of_the_transformers_class(name: str) -> None:
    config = config_of(CONFIGS[name])
    assert parameter_shapes(config) == in_transformers(config)
    assert config.qk_norm == layer_of(config).has_qk_norm == any("q_norm" in name for name in in_transformers(config))


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.model_type)
def test_each_linear_has_a_role_of_its_own(family: Family) -> None:
    roles = [linear.role for linear in family.layer.linears]
    assert roles == ["query", "key", "value", "output", "gate", "up", "down"]
    names = [getattr(part, column) for column in ("name", "gguf") for part in family.layer.parts]
    assert len(set(names)) == len(names)


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"E1105.*'OtherForCausalLM'"):
        family_of(replace(config_of(CONFIGS["llama"]), architecture="OtherForCausalLM"))
    with pytest.raises(UnsupportedError, match="E1105"):
        config_of(VALUES)


def test_a_new_family_has_the_parameters_of_its_class(seed_oss: ModelConfig) -> None:
    assert parameter_shapes(seed_oss) == in_transformers(seed_oss)
    without = config_of(VALUES)
    assert parameter_shapes(without) == in_transformers(without)
    assert parameter_shapes(seed_oss).keys() - parameter_shapes(without).keys() == {
        f"model.layers.{i}.self_attn.o_proj.bias" for i in range(2)
    }
    published = transformers.SeedOssConfig()
    bare = config_of({k: v for k, v in VALUES.items() if k not in ("attention_bias", "head_dim")})
    assert bare.hf_config["attention_bias"] is published.attention_bias is True
    assert bare.head_dim == published.head_dim


def test_a_new_family_is_read_from_both_formats(seed_oss: ModelConfig, tmp_path: Path) -> None:
    changes = {"model_type": "seed_oss", "attention_bias": True, "attention_out_bias": True}
    folder = write_tiny(tmp_path / "hf", "llama", **changes)
    checkpoint = open_checkpoint(folder, "huggingface")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert type(model).__name__ == checkpoint.config.architecture
    state = model.state_dict()
    assert checkpoint.tensors.keys() == state.keys()
    write_gguf(tmp_path / "m.gguf", folder)
    from_gguf = open_checkpoint(tmp_path / "m.gguf", "gguf")
    for name, tensor in checkpoint.tensors.items():
        np.testing.assert_array_equal(tensor.read_rows(0, tensor.shape[0]), state[name].numpy())
        stored = from_gguf.tensors[name]
        np.testing.assert_array_equal(stored.read_rows(0, stored.shape[0]), state[name].numpy())
    names = {parameter.name: parameter.gguf for parameter in parameters(seed_oss)}
    assert names["model.layers.1.self_attn.o_proj.bias"] == "blk.1.attn_output.bias"
    assert names["lm_head.weight"] == "output.weight"


def test_a_new_family_is_exported_as_it_says(seed_oss: ModelConfig) -> None:
    twin = twin_config(seed_oss, tp=2)
    assert parameter_shapes(twin).keys() == parameter_shapes(seed_oss).keys()
    model = export_model(twin)
    assert {str(v.name): tuple(v.shape or ()) for v in model.graph.inputs[8:]} == parameter_shapes(twin)
    assert operator_counts(twin) == {"Attention": 2, "RotaryEmbedding": 4, "RMSNormalization": 5}


def test_a_new_family_is_divided_counted_and_planned(seed_oss: ModelConfig) -> None:
    layer, plan = layer_of(seed_oss), ShardPlan.of(seed_oss, 2)
    shapes, bias = parameter_shapes(seed_oss), "model.layers.0.self_attn.o_proj.bias"
    assert role_of(bias, shapes[bias], layer, plan).first_rank_only
    queries = "model.layers.0.self_attn.q_proj.bias"
    assert [cut and cut.kind for cut in role_of(queries, shapes[queries], layer, plan).axes] == ["head"]
    bucket = Bucket("prefill", 16)
    request = VaccRequest("float16", None, "float16", buckets=(bucket, Bucket("decode", 16)))
    without = config_of(VALUES)
    adds = [static_counts(config, request, bucket)["Add"] for config in (seed_oss, without)]
    assert adds[0] - adds[1] == seed_oss.num_layers
    with_bias, plain = (static_plan(config, request) for config in (seed_oss, without))
    assert with_bias.shapes.keys() == shapes.keys()
    vocabulary = 272  # a multiple of 16: nothing is padded
    assert seed_oss.vocab_size == vocabulary
    tables = 2 * 16 * seed_oss.head_dim * 2
    assert with_bias.graphs[0].parameters == sum(map(math.prod, shapes.values())) * 2 + tables
    assert with_bias.graphs[0].parameters - plain.graphs[0].parameters == 2 * seed_oss.num_layers * seed_oss.hidden_size


def test_a_new_family_is_handed_off_as_llama(seed_oss: ModelConfig, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path, "llama", model_type="seed_oss", attention_bias=True)
    llama = as_llama(open_checkpoint(folder, "huggingface"), 16)
    assert llama.config["attention_bias"] is True and "mlp_bias" not in llama.config
    assert any("o_proj got zeros" in note for note in llama.notes)
    assert llama.tensors["model.layers.0.self_attn.o_proj.bias"].shape == (seed_oss.hidden_size,)


def test_no_other_file_knows_a_class_or_a_linear_by_its_name() -> None:
    """Strings of code, not of prose: who wants a linear asks the table for its role."""
    named = re.compile(r"[\w.]*\b[qkvo]_proj[\w.]*|[\w.]*\b(gate|up|down)_proj[\w.]*|\w+ForCausalLM")
    root = Path(xamc.__file__).parent
    found = {
        f"{file.relative_to(root)}: {node.value}"
        for file in root.rglob("*.py")
        if file.parent != root / "model" / "families"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and named.fullmatch(node.value)
    }
    assert found == set()
