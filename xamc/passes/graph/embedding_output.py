"""Makes an embedding model of a language model: hidden states come out, logits and caches don't."""

from __future__ import annotations

import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.onnx_graph import remove_dead
from xamc.ir.program import Program
from xamc.passes.graph.last_position import head_matmul
from xamc.passes.protocol import Arrays, PassReport, Tensors


class EmbeddingOutput:
    """Removes lm_head and the caches' outputs; the output `logits` holds what lm_head read.

        before: logits [1, S, V] = MatMul(hidden [1, S, H], Transpose(lm_head)), present_key.0, ...
        after:  logits [1, S, H] = hidden, the hidden states after the final norm, of every position

    The output keeps its name, as in VACC's embedding models, whose modeling files drop lm_head and return the hidden
    states in its place. A prompt shorter than S is padded on the right, and who reads the states takes the first ones.
    """

    name = "embedding_output"
    tolerance = "reassociated"

    def run(self, program: Program) -> PassReport:
        report = PassReport()
        graph = program.model.graph
        logits = next(value for value in graph.outputs if value.name == "logits")
        hidden = self._hidden(program.model)
        logits.name = "logits.of_head"
        hidden.name = "logits"
        report.count("cache_output", len(graph.outputs) - 1)
        graph.outputs[:] = [hidden]
        remove_dead(program.model)
        for value in program.weight_inputs():
            if not value.uses():
                graph.inputs.remove(value)
                program.weights.pop(str(value.name), None)
                report.count("weight")
        return report

    def shown_values(self, before: ir.Model) -> dict[str, str]:
        """The hidden states that become the output `logits`."""
        return {"logits": str(self._hidden(before).name)}

    def adapt(self, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
        """The same call; nothing but the hidden states is expected."""
        return dict(feeds), {"logits": fetches["logits"]}

    def _hidden(self, model: ir.Model) -> ir.Value:
        logits = next(value for value in model.graph.outputs if value.name == "logits")
        hidden = head_matmul(logits, self.name).inputs[0]
        if hidden is None or hidden.producer() is None:
            raise InternalError(
                "E1301",
                "embedding_output: lm_head reads no hidden state that the graph computes",
                fix="report this model",
            )
        return hidden
