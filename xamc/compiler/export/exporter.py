"""Exports a transformers model, built on the meta device, to an ONNX graph of high-level operators.

The result has opset 24 and IR version 11, no weight data, and the weights as graph inputs named like the
transformers parameters; `export_model` has the signature.
"""

from __future__ import annotations

import ast
import importlib
import re
import warnings
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import onnx_ir as ir
import torch
import transformers

from xamc.compiler.export.mask_function import sliding_window_mask_function
from xamc.compiler.export.patches import ATTENTION_NAME, ExportState, patched, tracing
from xamc.compiler.export.stamp import Depth, stamp
from xamc.errors import InternalError
from xamc.ir.names import IR_VERSION, MASK_DOMAIN, MODULE_KEY, OPSET, WEIGHT_ROLE
from xamc.ir.onnx_graph import infer_types_and_shapes
from xamc.model.config import ModelConfig
from xamc.model.kv_cache import past_key, past_value, present_key, present_value
from xamc.model.layer import EMBEDDING_WEIGHT, HEAD_WEIGHT
from xamc.model.meta_model import meta_model
from xamc.model.parameters import operator_counts


class _RopeTables(torch.nn.Module):
    """Stands in for a model's rotary embedding module and hands the table inputs through."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        assert self.tables is not None
        return self.tables


class _CausalLM(torch.nn.Module):
    """The traced function: explicit positions, RoPE tables and past in, logits and present out."""

    def __init__(self, lm: Any, config: ModelConfig) -> None:
        super().__init__()
        self.lm = lm
        self.config = config
        self.rope = _RopeTables()
        lm.model.rotary_emb = self.rope

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        rope_cos: torch.Tensor,
        rope_sin: torch.Tensor,
        past: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        self.rope.tables = (rope_cos, rope_sin)
        with tracing(ExportState(position_ids, past, self.config.sliding_windows)) as state:
            hidden = self.lm.model(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
            logits = self.lm.lm_head(hidden)
        return logits, [state.present[layer] for layer in range(self.config.num_layers)]


def export_model(config: ModelConfig) -> ir.Model:
    """Exports `config` to ONNX.

    Inputs: input_ids, position_ids int64 [B, S]; rope_cos, rope_sin float32 [R, D/2]; past_key.i, past_value.i
    float32 [B, Hkv, P, D]; then every weight as float32. Outputs: logits float32 [B, S, V]; present_key.i,
    present_value.i [B, Hkv, P + S, D].

    Raises:
        InternalError: E1202 when the operator counts differ from what the config implies.
    """
    depth = Depth(config.sliding_windows)
    model = _export(depth.shallow(config))
    model = ir.Model(stamp(model.graph, depth), ir_version=IR_VERSION, producer_name="xamc", producer_version="")
    if any(window is not None for window in config.sliding_windows):
        function = sliding_window_mask_function(OPSET)
        model.functions[function.identifier()] = function
        model.opset_imports[MASK_DOMAIN] = 1
    model.graph.name = config.model_type
    check_counts(model, config)
    infer_types_and_shapes(model)
    return model


def _export(config: ModelConfig) -> ir.Model:
    """torch's export of all layers, with our names."""
    cls = getattr(transformers, config.architecture)
    modeling = importlib.import_module(cls.__module__)
    layers, dim = config.num_layers, config.head_dim
    with patched(modeling):
        wrapper = _CausalLM(meta_model(config, ATTENTION_NAME), config).eval()
        batch, length, past_length = 2, 8, 4
        ids = torch.zeros((batch, length), dtype=torch.int64, device="meta")
        table = torch.zeros((64, dim // 2), device="meta")
        past = [
            tuple(torch.zeros((batch, config.num_kv_heads, past_length, dim), device="meta") for _ in range(2))
            for _ in range(layers)
        ]
        token_axes, past_axes = {0: "batch", 1: "seq"}, {0: "batch", 2: "past"}
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                wrapper,
                (ids, torch.zeros_like(ids), table, torch.zeros_like(table), past),
                dynamo=True,
                opset_version=OPSET,
                dynamic_shapes=(
                    token_axes,
                    token_axes,
                    {0: "rope_rows"},
                    {0: "rope_rows"},
                    [(past_axes, past_axes)] * layers,
                ),
                optimize=False,
                report=False,
                verbose=False,
            )
    assert program is not None
    model = program.model
    _name_values(model, config)
    _lift_weights(model, config)
    _strip_metadata(model)
    return model


def check_counts(model: ir.Model, config: ModelConfig) -> None:
    """Raises E1202 when an operator is missing or left in pieces, for instance after a transformers upgrade."""
    found = Counter(node.op_type for node in model.graph)
    for op, expected in operator_counts(config).items():
        if found[op] != expected:
            raise InternalError(
                "E1202",
                f"the export of {config.architecture} has {found[op]} {op} nodes where "
                f"{config.num_layers} layers imply {expected}",
                fix="install the transformers version of constraints.txt (xamc doctor), or report this model",
            )


_SIZE = "sym_size_int"


def _name_values(model: ir.Model, config: ModelConfig) -> None:
    names = ["input_ids", "position_ids", "rope_cos", "rope_sin"]
    outputs = ["logits"]
    for layer in range(config.num_layers):
        names += [past_key(layer), past_value(layer)]
        outputs += [present_key(layer), present_value(layer)]
    for value, name in zip(model.graph.inputs, names, strict=True):
        value.name = name
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name
    for value in (output for node in model.graph for output in node.outputs if output.shape is not None):
        # torch writes the last layer's either way
        value.shape = ir.Shape(["past + seq" if str(size) == "seq + past" else size for size in value.shape or ()])
    # the exporter's numbers of these depend on how many layers there are
    sizes = [node for node in model.graph if (node.name or "").startswith(f"node_{_SIZE}")]
    for index, node in enumerate(sizes):
        node.outputs[0].name = f"{_SIZE}_{index}"
        node.name = f"node_{_SIZE}_{index}"


def _lift_weights(model: ir.Model, config: ModelConfig) -> None:
    """Turns initializers into graph inputs named like the transformers parameters, so that nothing folds them."""
    lifted: dict[str, ir.Value] = {}
    for name, value in list(model.graph.initializers.items()):
        model.graph.initializers.pop(name)
        value.const_value = None
        parameter = name.removeprefix("lm.")
        if config.tie_word_embeddings and parameter == HEAD_WEIGHT:
            # torch names a tied parameter by either of its names, or keeps both
            parameter = EMBEDDING_WEIGHT
        if parameter in lifted:
            value.replace_all_uses_with(lifted[parameter])
            continue
        lifted[parameter] = value
        value.name = parameter
        value.metadata_props[WEIGHT_ROLE] = "float32"
        model.graph.inputs.append(value)


# the wrapper's own scope, and the slice by which transformers walks over the decoder layers
_SCOPE = re.compile(r"^lm\.?|\.slice\([^)]*\)")


def _strip_metadata(model: ir.Model) -> None:
    """Keeps of the exporter's notes only the Hugging Face module path of each node, and which inputs are weights."""
    for value in (*model.graph.inputs, *model.graph.outputs):
        for key in [key for key in value.metadata_props if key != WEIGHT_ROLE]:
            del value.metadata_props[key]
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        modules = [s for s in scopes if s == "lm" or s.startswith("lm.")]
        node.metadata_props.clear()
        if modules:
            node.metadata_props[MODULE_KEY] = _SCOPE.sub("", modules[-1])
        for output in node.outputs:
            output.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
