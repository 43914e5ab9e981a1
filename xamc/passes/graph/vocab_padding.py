"""Pads the vocabulary of lm_head, and with it the logits, to a multiple of a hardware's width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.names import WEIGHT_ROLE
from xamc.ir.onnx_graph import dims
from xamc.ir.program import Program
from xamc.ir.weights.transforms import Pad
from xamc.passes.protocol import Arrays, NonMatch, PassReport, Tensors


@dataclass(frozen=True)
class VocabPadding:
    """Appends zero rows to lm_head until the vocabulary is a multiple of `multiple`.

        before: logits [B, S, V]  = MatMul(hidden, Transpose(lm_head [V, H]))  (+ bias [V])
        after:  logits [B, S, V'] = MatMul(hidden, Transpose(lm_head [V', H])) (+ bias [V'])

    Logits of the padding are exactly 0, which is not below every real logit: who reads the logits takes the first V.
    A tied embedding is the same tensor and gets the same rows, which no token id reaches. The rows are appended where
    they are read; no file and no memory holds them before that.
    """

    multiple: int = 16
    name: str = "vocab_padding"
    # a product of another width may be blocked otherwise
    tolerance: str = "reassociated"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        rows = program.config.vocab_size
        padded = self._padded(rows)
        logits = next(value for value in program.model.graph.outputs if value.name == "logits")
        products, weights = _head(logits)
        if padded == rows:
            report.skipped.append(NonMatch("logits", f"a vocabulary of {rows} is a multiple of {self.multiple}"))
            return report
        # products have the vocabulary last, weights as they are stored have it first
        for value, axis in (*((product, -1) for product in products), *((weight, 0) for weight in weights)):
            shape = list(dims(value) or ())
            if not shape or shape[axis] != rows:
                raise _unknown(f"{value.name!r} is {shape}, without the {rows} rows of the vocabulary")
            shape[axis] = padded
            value.shape = ir.Shape(shape)
            if value.name in program.weights:
                program.weights[value.name] = Pad(program.weights[value.name], padded)
            if WEIGHT_ROLE in value.metadata_props:
                report.count("weight")
        report.count("logits")
        return report

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
        """The same feeds; zeros behind the logits."""
        expected: Arrays = dict(fetches)
        if "logits" in fetches:
            logits = np.asarray(fetches["logits"])
            wider = self._padded(logits.shape[-1]) - logits.shape[-1]
            expected["logits"] = np.pad(logits, [*[(0, 0)] * (logits.ndim - 1), (0, wider)])
        return dict(feeds), expected

    def _padded(self, rows: int) -> int:
        return -(-rows // self.multiple) * self.multiple


def _head(logits: ir.Value) -> tuple[list[ir.Value], list[ir.Value]]:
    """Values of lm_head whose last axis is the vocabulary, and those whose first axis is: its weight as it is stored.

    Raises:
        InternalError: E1330 when logits are not the product with a transposed weight, with a bias at most.
    """
    products, weights = [logits], []
    node = logits.producer()
    if node is not None and node.op_type == "Add":
        bias = next((value for value in node.inputs if value is not None and value.producer() is None), None)
        node = next((value.producer() for value in node.inputs if value is not None and value is not bias), None)
        if bias is None or node is None:
            raise _unknown("an Add without a bias makes the logits")
        weights.append(bias)
        products.append(node.outputs[0])
    transpose = node.inputs[1].producer() if node is not None and node.op_type == "MatMul" and node.inputs[1] else None
    if transpose is None or transpose.op_type != "Transpose":
        raise _unknown(f"{node.op_type if node is not None else 'an input'} makes the logits")
    products.append(transpose.outputs[0])
    value = transpose.inputs[0]
    while value is not None and (cast := value.producer()) is not None and cast.op_type == "Cast":
        weights.append(value)
        value = cast.inputs[0]
    if value is None or WEIGHT_ROLE not in value.metadata_props:
        raise _unknown("the weight behind the logits is not a graph input")
    weights.append(value)
    return products, weights


def _unknown(what: str) -> InternalError:
    return InternalError(
        "E1330",
        f"vocab_padding: logits are not the product of a hidden state and lm_head: {what}",
        fix="disable it with passes.disable: [vocab_padding] if the vocabulary needs no padding, and report this model",
    )
