"""All ranks of a tensor-parallel model as one graph that ONNX Runtime can run, and the calls it takes.

The merged graph is an oracle's, not a target's: it holds every rank's nodes side by side, and the collectives between
them are an addition and a concatenation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.names import ALL_GATHER_OP, ALL_REDUCE_OP, MASK_DOMAIN, WEIGHT_ROLE
from xamc.ir.onnx_graph import dims, new_node
from xamc.ir.program import Program
from xamc.ir.weights.lazy import LazyTensor
from xamc.model.kv_cache import past_key, past_value, present_key, present_value
from xamc.passes.graph.shard import ShardPlan, Share
from xamc.passes.protocol import Arrays, Tensors
from xamc.verify.metrics import Array

_PASTS = (past_key, past_value)
_PRESENTS = (present_key, present_value)


def rank_name(rank: int, name: str) -> str:
    """The name that a rank's value has in the merged graph."""
    return f"rank{rank}.{name}"


def merge_ranks(programs: Sequence[Program]) -> Program:
    """One graph of all ranks.

    Values are called ``rank<r>.<name>``. What a collective yields is one value for all ranks and keeps its name:
    AllReduce becomes additions in the order of ranks, AllGather a Concat. Data inputs that mean the same to all ranks
    (tokens, positions, masks) are shared, caches are not. Weights are each rank's own, also where ranks hold copies,
    so that ranks that differ where they must not are seen.

    Returns:
        A program for the oracle; it does not follow the IR's rules of names.

    Raises:
        InternalError: E1334 when the ranks' graphs differ in more than their weights.
    """
    merged = _Merge(programs)
    for nodes in zip(*(list(program.model.graph) for program in programs), strict=True):
        merged.add(nodes)
    return merged.finish()


class _Merge:
    def __init__(self, programs: Sequence[Program]) -> None:
        self.programs = programs
        graphs = [program.model.graph for program in programs]
        if len({_structure(graph) for graph in graphs}) != 1:
            raise InternalError(
                "E1334",
                "shard: the ranks' graphs differ in more than their weights",
                fix="this is a defect of the pass; compile for one rank (tp: 1) and report this model",
            )
        self.values: list[dict[ir.Value, ir.Value]] = [{} for _ in programs]
        self.inputs: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.weights: dict[str, LazyTensor] = {}
        caches = {name(layer) for layer in range(programs[0].config.num_layers) for name in _PASTS}
        for rank, program in enumerate(programs):
            for index, value in enumerate(program.model.graph.inputs):
                own = WEIGHT_ROLE in value.metadata_props or value.name in caches
                if rank and not own:
                    self.values[rank][value] = self.values[0][graphs[0].inputs[index]]
                    continue
                name = rank_name(rank, str(value.name)) if own else str(value.name)
                copy = ir.val(name, dtype=value.dtype, shape=value.shape)
                copy.metadata_props.update(value.metadata_props)
                self.values[rank][value] = copy
                self.inputs.append(copy)
            self.weights |= {rank_name(rank, name): tensor for name, tensor in program.weights.items()}

    def add(self, nodes: Sequence[ir.Node]) -> None:
        """The same node of every rank, or the collective that joins them."""
        first = nodes[0]
        if (first.domain, first.op_type) in ((MASK_DOMAIN, ALL_REDUCE_OP), (MASK_DOMAIN, ALL_GATHER_OP)):
            parts = [self._value(rank, node.inputs[0]) for rank, node in enumerate(nodes)]
            result = self._joined(first, parts)
            for rank, node in enumerate(nodes):
                self.values[rank][node.outputs[0]] = result
            return
        for rank, node in enumerate(nodes):
            copy = ir.node(
                node.op_type,
                [self._value(rank, value) for value in node.inputs],
                dict(node.attributes),
                domain=node.domain,
                num_outputs=len(node.outputs),
            )
            copy.metadata_props.update(node.metadata_props)
            for old, new in zip(node.outputs, copy.outputs, strict=True):
                new.name = rank_name(rank, str(old.name)) if old.name else ""
                new.type, new.shape = old.type, old.shape
                self.values[rank][old] = new
            self.nodes.append(copy)

    def _value(self, rank: int, value: ir.Value | None) -> ir.Value | None:
        return None if value is None else self.values[rank][value]

    def _joined(self, node: ir.Node, parts: Sequence[ir.Value | None]) -> ir.Value:
        name = str(node.outputs[0].name)
        if node.op_type == ALL_GATHER_OP:
            axis = node.attributes["axis"].as_int()
            self.nodes.append(new_node("Concat", parts, [name], like=node, axis=axis))
        else:
            total = parts[0]
            for rank, part in enumerate(parts[1:], 1):
                last = rank == len(parts) - 1
                self.nodes.append(new_node("Add", [total, part], [name if last else f"{name}.to_{rank}"], like=node))
                total = self.nodes[-1].outputs[0]
                total.type, total.shape = node.outputs[0].type, node.outputs[0].shape
        result = self.nodes[-1].outputs[0]
        result.type, result.shape = node.outputs[0].type, node.outputs[0].shape
        return result

    def finish(self) -> Program:
        outputs: list[ir.Value] = []
        for values, program in zip(self.values, self.programs, strict=True):
            outputs += [v for value in program.model.graph.outputs if (v := values[value]) not in outputs]
        model = self.programs[0].model
        graph = ir.Graph(
            self.inputs,
            outputs,
            nodes=self.nodes,
            opset_imports=dict(model.graph.opset_imports),
            name=f"{model.graph.name}.ranks",
        )
        functions = [
            function for function in model.functions.values() if function.name not in (ALL_REDUCE_OP, ALL_GATHER_OP)
        ]
        copy = ir.Model(graph, ir_version=model.ir_version, functions=[function.clone() for function in functions])
        return Program(copy, self.weights, self.programs[0].config)


def _structure(graph: ir.Graph) -> tuple[object, ...]:
    """Everything of a graph that ranks have in common."""
    return (
        tuple((value.name, value.dtype, dims(value)) for value in graph.inputs),
        tuple((node.op_identifier(), tuple((value.name, dims(value)) for value in node.outputs)) for node in graph),
    )


def split_call(plan: ShardPlan, feeds: Tensors, fetches: Tensors) -> tuple[Arrays, Arrays]:
    """A call of the whole graph as a call of the merged one: caches divided among the ranks, zeros where a rank's KV
    heads or its rows of the vocabulary are padding.

    Args:
        plan: the division.
        feeds: `past_key.i` and `past_value.i` [B, Hkv, P, D], and inputs that all ranks share.
        fetches: `logits` [B, S, V] and `present_key.i`, `present_value.i` [B, Hkv, S, D], as they are expected. What is
            not gathered, such as the hidden states of an embedding model, is expected of every rank.
    """
    expected = _split(plan, fetches, _PRESENTS)
    if "logits" in fetches:
        logits = expected.pop("logits")
        if _is_gathered(plan, logits):
            missing = plan.tp * plan.local("vocab") - plan.vocab_rows
            expected["logits"] = np.pad(logits, [*[(0, 0)] * (logits.ndim - 1), (0, missing)])
        else:
            expected |= {rank_name(rank, "logits"): logits for rank in range(plan.tp)}
    return _split(plan, feeds, _PASTS), expected


def _is_gathered(plan: ShardPlan, logits: Array) -> bool:
    return plan.tp > 1 and logits.shape[-1] == plan.vocab_rows


def _split(plan: ShardPlan, arrays: Tensors, caches: Sequence[Callable[[int], str]]) -> Arrays:
    prefixes = tuple(name(0).removesuffix("0") for name in caches)
    parts: Arrays = {}
    for name, array in arrays.items():
        if not name.startswith(prefixes):
            parts[name] = np.asarray(array)
            continue
        for share in plan.shares:
            parts[rank_name(share.rank, name)] = _heads_of(np.asarray(array), share, plan)
    return parts


def _heads_of(cache: Array, share: Share, plan: ShardPlan) -> Array:
    start, stop = share.kv_heads
    missing = plan.local("kv_head") - (stop - start)
    return np.pad(cache[:, start:stop], ((0, 0), (0, missing), (0, 0), (0, 0)))
