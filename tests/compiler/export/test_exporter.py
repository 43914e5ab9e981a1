from __future__ import annotations

import importlib
from types import ModuleType

import numpy as np
import pytest
import transformers
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests import twins
from xamc.compiler.export.exporter import check_counts
from xamc.compiler.export.job import ExportJob, config_from_json, read_exported
from xamc.compiler.export.patches import ATTENTION_NAME, patched
from xamc.compiler.export.worker import run_file
from xamc.errors import InternalError
from xamc.ir.names import MODULE_KEY
from xamc.model.parameters import operator_counts
from xamc.passes.graph.cleanup import Cleanup
from xamc.passes.invariants import check_invariants
from xamc.verify.proof import prove

LLAMA = importlib.import_module("transformers.models.llama.modeling_llama")


def test_everything_patched_is_restored_also_after_an_error() -> None:
    rotary, norm = LLAMA.apply_rotary_pos_emb, LLAMA.LlamaRMSNorm.forward
    with pytest.raises(RuntimeError, match="stop"), patched(LLAMA):
        assert LLAMA.apply_rotary_pos_emb is not rotary and LLAMA.LlamaRMSNorm.forward is not norm
        assert ATTENTION_NAME in ALL_ATTENTION_FUNCTIONS and ATTENTION_NAME in ALL_MASK_ATTENTION_FUNCTIONS
        raise RuntimeError("stop")
    assert LLAMA.apply_rotary_pos_emb is rotary and LLAMA.LlamaRMSNorm.forward is norm
    assert ATTENTION_NAME not in ALL_ATTENTION_FUNCTIONS and ATTENTION_NAME not in ALL_MASK_ATTENTION_FUNCTIONS


def test_a_module_with_nothing_to_patch_is_refused() -> None:
    with pytest.raises(InternalError) as error, patched(ModuleType("transformers.models.new.modeling_new")):
        pass
    assert error.value.code == "E1201" and "modeling_new" in error.value.message


def test_counts_follow_from_the_config() -> None:
    program, _ = twins.twin("tied")
    assert operator_counts(program.config) == {"Attention": 2, "RotaryEmbedding": 4, "RMSNormalization": 5}
    check_counts(program.model, program.config)
    twins.nodes(program, "RotaryEmbedding")[0].op_type = "Identity"
    with pytest.raises(InternalError) as error:
        check_counts(program.model, program.config)
    assert error.value.code == "E1202" and "3 RotaryEmbedding" in error.value.message


@pytest.mark.parametrize("kind", twins.KINDS)
def test_weights_are_inputs_named_like_parameters_and_nodes_know_their_module(kind: str) -> None:
    program, _ = twins.twin(kind)
    config = program.config
    model = getattr(transformers, config.architecture)(
        getattr(transformers, config.architecture).config_class(**dict(config.hf_config))
    )
    parameters = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert {str(v.name): tuple(v.shape) for v in program.weight_inputs()} == parameters  # type: ignore[arg-type]
    modules = {name for name, _ in model.named_modules()}
    found = {node.metadata_props[MODULE_KEY] for node in program.model.graph if MODULE_KEY in node.metadata_props}
    assert found <= modules and f"model.layers.{config.num_layers - 1}.self_attn" in found
    check_invariants(program)


def test_the_child_leaves_a_model_and_a_twin_that_prove(tmp_path) -> None:  # type: ignore[no-untyped-def]
    config = twins.config("tied")
    path = ExportJob(config, twin=True, group=64).write(tmp_path)
    job = ExportJob.read(path)
    assert job == ExportJob(config, twin=True, group=64)
    run_file(str(path))
    exported = read_exported(tmp_path)
    assert [v.name for v in exported.model.graph.inputs] == [v.name for v in twins.twin("tied")[0].model.graph.inputs]
    assert exported.twin is not None and exported.twin_seconds > 0
    assert exported.twin.config.hidden_size % 64 == config.hidden_size % 64
    prove([Cleanup()], exported.twin, exported.cases).require()
    # the same seed gives the same twin in every process
    name = "model.layers.0.mlp.up_proj.weight"
    again = read_exported(tmp_path).twin
    assert again is not None
    np.testing.assert_array_equal(again.weights[name].read_rows(0, 4), exported.twin.weights[name].read_rows(0, 4))


def test_a_config_survives_json() -> None:
    import json
    from dataclasses import asdict

    for kind in twins.KINDS:
        config = twins.config(kind)
        assert config_from_json(json.loads(json.dumps(asdict(config)))) == config
