"""Computes logits at one position per row instead of at all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.names import GATHER_POSITION_OP, MASK_DOMAIN
from xamc.ir.onnx_graph import Emit, add_function, forget_shapes, infer_types_and_shapes, make_function, new_node
from xamc.ir.program import Program
from xamc.passes.protocol import Arrays, PassReport, Tensors


def gather_position_function() -> ir.Function:
    """GatherPosition(hidden [B, S, H], last_index int64 [B]) -> [B, 1, H]: hidden[b, last_index[b]]."""

    def build(emit: Emit, inputs: Sequence[ir.Value]) -> ir.Value:
        axes = emit("Constant", [], "axes", value_ints=[1, 2])
        # [B, 1, 1]: with batch_dims 1, each row of indices names one position of its own batch row
        indices = emit("Unsqueeze", [inputs[1], axes], "indices")
        return emit("GatherND", [inputs[0], indices], "gathered", batch_dims=1)

    return make_function(GATHER_POSITION_OP, ["hidden", "last_index"], build)


class LastPosition:
    """Gathers the hidden state that enters lm_head at `last_index`, so that lm_head runs on one position per row.

        before: logits [B, S, V] = MatMul(hidden [B, S, H], Transpose(lm_head))
        after:  logits [B, 1, V] = MatMul(xamc::GatherPosition(hidden, last_index), Transpose(lm_head))

    New input: `last_index` int64 [B], the position within this call whose logits are wanted. In a right-padded batch
    that is each row's length - 1.
    """

    name = "last_position"
    # a matmul of one row may be blocked otherwise than one of many
    tolerance = "reassociated"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        model = program.model
        logits = next(value for value in model.graph.outputs if value.name == "logits")
        head = head_matmul(logits, self.name)
        hidden = head.inputs[0]
        last_index = ir.val("last_index", dtype=ir.DataType.INT64, shape=["batch"])
        position = next(i for i, value in enumerate(model.graph.inputs) if value.name == "position_ids")
        model.graph.inputs.insert(position + 1, last_index)
        gather = new_node(GATHER_POSITION_OP, [hidden, last_index], ["last_hidden"], like=head, domain=MASK_DOMAIN)
        model.graph.insert_before(head, gather)
        head.replace_input_with(0, gather.outputs[0])
        add_function(model, gather_position_function())
        forget_shapes([head.outputs[0], logits])
        logits.shape = ir.Shape(["batch", 1, program.config.vocab_size])
        infer_types_and_shapes(model)
        report.count("last_position")
        return report

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
        """Asks row b for its b-th position from the end, so that rows differ; expects the logits found there."""
        batch, length = feeds["input_ids"].shape
        index = np.maximum(length - 1 - np.arange(batch, dtype=np.int64), 0)
        expected = dict(fetches)
        if "logits" in fetches:
            expected["logits"] = fetches["logits"][np.arange(batch), index][:, None]
        return {**feeds, "last_index": index}, expected


def head_matmul(logits: ir.Value, asking: str) -> ir.Node:
    """The matrix product with lm_head that yields `logits`, with or without a bias.

    Raises:
        InternalError: E1301 in the name of the pass `asking`, when something else yields them.
    """
    node = logits.producer()
    if node is not None and node.op_type == "Add":
        # a bias of lm_head
        node = next((value.producer() for value in node.inputs if value is not None and value.producer()), None)
    if node is None or node.op_type != "MatMul" or node.inputs[0] is None:
        raise InternalError(
            "E1301",
            f"{asking}: logits are not the product of a hidden state and lm_head"
            f" but come from {node.op_type if node is not None else 'an input'}",
            fix=f"disable it with passes.disable: [{asking}], and report this model",
        )
    return node
