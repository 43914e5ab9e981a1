"""Computes a prefill's logits at its last position only."""

from __future__ import annotations

import numpy as np

from xamc.ir.onnx_graph import constant_node, forget_shapes, infer_types_and_shapes, new_node, static_dims
from xamc.ir.program import Program
from xamc.passes.graph.last_position import head_matmul
from xamc.passes.protocol import Arrays, NonMatch, PassReport, Tensors


class InsertSlice:
    """Slices the hidden state between the final norm and lm_head to the last position of a prefill.

    before: logits [1, S, V] = MatMul(hidden [1, S, H], Transpose(lm_head))
    after:  logits [1, 1, V] = MatMul(Slice(hidden, S - 1, S, axis 1), Transpose(lm_head))

    The position is S - 1 of the fixed length: for a prompt that is shorter and padded on the right these are a
    padding token's logits. Without the pass the graph yields the logits of every position.
    """

    name = "insert_slice"
    # a matmul of one row may be blocked otherwise than one of many
    tolerance = "reassociated"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        model = program.model
        logits = next(value for value in model.graph.outputs if value.name == "logits")
        head = head_matmul(logits, self.name)
        hidden = head.inputs[0]
        shape = static_dims(hidden)
        if shape is None or shape[1] == 1:
            why = "a dynamic length" if shape is None else "one position already"
            report.skipped.append(NonMatch(head.outputs[0].name or "logits", f"the hidden state has {why}"))
            return report
        length = shape[1]
        start, stop, axis = (
            constant_node(np.array([number], np.int64), f"last_position.{name}")
            for name, number in (("start", length - 1), ("stop", length), ("axis", 1))
        )
        last = new_node(
            "Slice", [hidden, start.outputs[0], stop.outputs[0], axis.outputs[0]], ["last_hidden"], like=head
        )
        model.graph.insert_before(head, [start, stop, axis, last])
        head.replace_input_with(0, last.outputs[0])
        forget_shapes({head.outputs[0], logits})
        infer_types_and_shapes(model)
        report.count("last_position")
        return report

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
        """The same call; expects the logits of its last position."""
        return dict(feeds), {**fetches, "logits": fetches["logits"][:, -1:]}
