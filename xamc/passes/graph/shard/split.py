"""Makes one program into one per rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from xamc.errors import InternalError
from xamc.ir.names import ALL_GATHER_OP, ALL_REDUCE_OP, MASK_DOMAIN, WEIGHT_ROLE
from xamc.ir.onnx_graph import add_function, constant_node, dims, new_node
from xamc.ir.program import Program
from xamc.ir.weights.lazy import LazyTensor
from xamc.model.kv_cache import past_key, past_value
from xamc.model.layer import EMBEDDING, HEAD
from xamc.model.parameters import layer_of
from xamc.passes.graph.shard.collectives import all_gather_function, all_reduce_function
from xamc.passes.graph.shard.plan import ShardPlan
from xamc.passes.graph.shard.propagate import Propagation
from xamc.passes.graph.shard.roles import Axes, Cut, Role, head_cut, rank_part, role_of

_EMBEDDING, _HEAD = EMBEDDING.name, HEAD.name


@dataclass(frozen=True)
class Shard:
    """Divides a program among `tp` ranks (Shoeybi et al. 2019); runs last, on fp32, 16-bit or int8 weights alike.

        before: q = MatMul(x, Transpose(q_proj [H D, I]))                  k, v likewise; Reshape to [1, S, H, D]
                y = MatMul(heads [1, S, H D], Transpose(o_proj [I, H D])) (+ bias)
                m = MatMul(SwiGLU(gate, up) [1, S, F], Transpose(down_proj [I, F])) (+ bias)
                logits = MatMul(hidden, Transpose(lm_head [V, I]))
        after:  q = MatMul(x, Transpose(q_proj [h D, I]))                  k, v likewise; Reshape to [1, S, h, D]
                y = xamc::AllReduce(MatMul(heads [1, S, h D], Transpose(o_proj [I, h D])) (+ bias, on rank 0))
                m = xamc::AllReduce(MatMul(SwiGLU(gate, up) [1, S, f], Transpose(down_proj [I, f])) (+ bias, on rank 0))
                logits = xamc::AllGather<axis=-1>(MatMul(hidden, Transpose(lm_head [V/tp, I])))

    `ShardPlan` says which heads, columns and rows a rank owns. All ranks' graphs are the same, node for node, with
    the same shapes: ranks differ in their weights alone, so code is generated once. Padded heads, columns and rows
    are zeros, which add nothing: a padded query head's output meets zero columns of o_proj, SwiGLU of zeros is zero,
    and a padded KV head's cache holds zeros. Caches have a rank's own KV heads.

    The embedding lies on every rank: a look-up needs one row of it, and dividing its rows would cost a further
    all-reduce per step to save V × I numbers per rank. A tied lm_head becomes a weight of its own, of which every rank
    has its rows, beside the whole embedding. Norm weights and RoPE tables lie on every rank.
    """

    tp: int
    name: str = "shard"
    tolerance: str = "reassociated"

    def plan(self, program: Program) -> ShardPlan:
        """What each rank of `program` owns; its lm_head says how many rows the vocabulary has."""
        shapes = {value.name: dims(value) for value in program.weight_inputs()}
        heads = (f"{name}.weight{part}" for name in (_HEAD, _EMBEDDING) for part in ("", ".codes"))
        rows = next((shape[0] for name in heads if (shape := shapes.get(name))), None)
        return ShardPlan.of(program.config, self.tp, rows if isinstance(rows, int) else None)

    def split(self, program: Program) -> list[Program]:
        """The ranks' programs, in order; `program` itself is not changed.

        More than one rank share one graph object: who rewrites a rank's graph further rewrites all of them, or copies
        it first.

        Raises:
            InputError: E1331 when the plan is impossible.
            InternalError: E1332 for weights that contradict the config; E1333 naming an operator through which
                shared-out heads, columns or rows can't be followed.
        """
        plan = self.plan(program)
        model, weights = program.model.clone(), dict(program.weights)
        if self.tp == 1:
            return [Program(model, weights, program.config)]
        _untie(model, weights)
        whole = Program(model, weights, program.config)
        roles = _roles(whole, plan)
        state = Propagation(plan)
        for value in model.graph.inputs:
            role = roles.get(str(value.name))
            state.set(value, role.axes if role is not None else _cache_axes(value, whole, plan))
            if role is not None and role.first_rank_only:
                state.first_rank_only.add(value)
        state.run(model.graph)
        _rewrite(model, state)
        return [
            Program(
                model,
                {name: rank_part(tensor, roles[name], plan, share) for name, tensor in weights.items()},
                program.config,
            )
            for share in plan.shares
        ]


def _roles(program: Program, plan: ShardPlan) -> dict[str, Role]:
    roles: dict[str, Role] = {}
    layer = layer_of(program.config)
    for value in program.weight_inputs():
        shape = tuple(n for n in dims(value) or () if isinstance(n, int))
        roles[str(value.name)] = role_of(str(value.name), shape, layer, plan)
    return roles


def _cache_axes(value: ir.Value, program: Program, plan: ShardPlan) -> Axes:
    """Cuts of an input that is not a weight: [B, Hkv, P, D] of a cache has its heads shared out."""
    layers = range(program.config.num_layers)
    caches = {name(layer) for layer in layers for name in (past_key, past_value)}
    return (None, head_cut("kv_head", 1, plan), None, None) if value.name in caches else ()


def _untie(model: ir.Model, weights: dict[str, LazyTensor]) -> None:
    """Gives lm_head a weight of its own where it shares the embedding's: every rank has all rows of one, and some of
    the other."""
    graph = model.graph
    known = {value.name for value in graph.inputs}
    if f"{_HEAD}.weight" in known or f"{_HEAD}.weight.codes" in known:
        return
    copies: dict[ir.Value, ir.Value] = {}

    def copied(value: ir.Value, before: ir.Node) -> ir.Value:
        if value in copies:
            return copies[value]
        node = value.producer()
        name = str(value.name).replace(_EMBEDDING, _HEAD)
        if WEIGHT_ROLE in value.metadata_props:
            twin = ir.val(name, dtype=value.dtype, shape=value.shape)
            twin.metadata_props.update(value.metadata_props)
            graph.inputs.append(twin)
            if value.name in weights:
                weights[name] = weights[str(value.name)]
        elif node is None or node.op_type == "Constant":
            return value
        else:
            inputs = [copied(operand, before) if operand is not None else None for operand in node.inputs]
            clone = ir.node(node.op_type, inputs, dict(node.attributes), domain=node.domain, num_outputs=1)
            clone.metadata_props.update(before.metadata_props)
            twin = clone.outputs[0]
            twin.name = name if name != value.name else f"{name}.{_HEAD}"
            twin.type, twin.shape = value.type, value.shape
            graph.insert_before(before, clone)
        copies[value] = twin
        return twin

    stored = _stored(graph)
    for node in list(graph):
        source = node.inputs[0] if node.op_type == "Transpose" and node.domain == "" else None
        if source is not None and source in stored:
            node.replace_input_with(0, copied(source, node))


def _stored(graph: ir.Graph) -> set[ir.Value]:
    """The embedding's weight and everything that is computed from it alone, such as its cast to float32."""
    found = {v for v in graph.inputs if str(v.name).startswith(f"{_EMBEDDING}.weight")}
    for node in graph:
        operands = [v for v in node.inputs if v is not None and (v.producer() is None or v in found)]
        if node.op_type != "Gather" and operands and all(v in found for v in operands):
            found.update(node.outputs)
    return found


def _rewrite(model: ir.Model, state: Propagation) -> None:
    """Writes a rank's sizes and the collectives into the graph; the same for all ranks."""
    graph, plan = model.graph, state.plan
    for node, sizes in state.sizes.items():
        target = constant_node(np.array(sizes, np.int64), f"{node.outputs[0].name}.rank_sizes")
        graph.insert_before(node, target)
        node.replace_input_with(1, target.outputs[0])
    for value, axes in state.axes.items():
        sizes_of = dims(value) or ()
        cut = zip(sizes_of, axes, strict=True)
        value.shape = ir.Shape([n if c is None else plan.local(c.kind) * c.unit for n, c in cut])
    for value in state.partial:
        _insert_after(graph, value, ALL_REDUCE_OP, "partial")
        add_function(model, all_reduce_function())
    for value in list(graph.outputs):
        axes = state.of(value)
        if axes[-1:] == (Cut("vocab"),):
            gathered = _insert_after(graph, value, ALL_GATHER_OP, "rank", axis=-1)
            shape = list(dims(gathered) or ())
            gathered.shape = ir.Shape([*shape[:-1], plan.local("vocab") * plan.tp])
            add_function(model, all_gather_function(plan.tp))
        elif axes not in ((None, head_cut("kv_head", 1, plan), None, None), (None,) * len(axes)):
            raise InternalError(
                "E1333",
                f"shard: the output {value.name!r} is shared out as {axes}, and is neither logits nor a cache",
                fix="compile for one rank (tp: 1), and report this model",
            )


def _insert_after(graph: ir.Graph, value: ir.Value, op: str, suffix: str, **attributes: int) -> ir.Value:
    """Puts a collective after `value`, whose name and readers its result takes over."""
    node = value.producer()
    assert node is not None
    readers = list(value.uses())
    name = value.name
    call = new_node(op, [value], [f"{name}"], like=node, domain=MASK_DOMAIN, **attributes)
    result = call.outputs[0]
    result.type, result.shape = value.type, value.shape
    result.metadata_props.update(value.metadata_props)
    for reader, operand in readers:
        reader.replace_input_with(operand, result)
    for index, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[index] = result
    value.name = f"{name}.{suffix}"
    graph.insert_after(node, call)
    return result
