"""Replaces dialect calls by TensorIR kernels, once per function of the artifact.

Activations are rows [T, N] between kernels, T = batch * seq; only RoPE and attention see [B, S, N]. Each distinct
kernel is generated once per module, however many layers and functions call it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import tvm
from tvm import relax, tirx
from tvm.relax import op
from tvm.relax.utils import copy_with_new_vars

from xamc.artifact.step_program import ROWS_FUNCTION, STEP_FUNCTION, StepProgram
from xamc.errors import UnsupportedError
from xamc.ir.dialect import DialectCall, decode
from xamc.ir.relax_program import RelaxProgram
from xamc.model.kv_cache import KV_BLOCK
from xamc.passes.lowering.body import Body, substitute
from xamc.targets.cpu.decode_program import NotOneProgram, plan_decode
from xamc.targets.cpu.key_bias import key_bias
from xamc.targets.cpu.weight_plan import WeightPlan, stored_parts, weight_format
from xamc.targets.kernels.attention import attention
from xamc.targets.kernels.decode_kernels import LinearKernel
from xamc.targets.kernels.decode_step import decode_step
from xamc.targets.kernels.embedding import embedding
from xamc.targets.kernels.emit import number_name
from xamc.targets.kernels.gather_position import gather_position
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.kv_pages import KvDtype
from xamc.targets.kernels.linear import Activations, linear
from xamc.targets.kernels.norm import add_rms_norm, rms_norm
from xamc.targets.kernels.rope import rope_kv_write
from xamc.targets.kernels.swiglu import silu_mul
from xamc.targets.kernels.tiles import DEFAULT_CHOICE, AttentionProblem, TileChoice

FunctionName = Literal["decode", "prefill_last", "prefill_all"]
FUNCTIONS: tuple[FunctionName, ...] = ("decode", "prefill_last", "prefill_all")

# data inputs of every function, before the caches and the weights
DATA_INPUTS = ("input_ids", "position_ids", "write_index", "last_index", "block_table", "rope_cos", "rope_sin")


@dataclass(frozen=True)
class Selected:
    """Kernels, and what calls them.

    Attributes:
        module: the functions of `FUNCTIONS` and the kernels.
        step: the program that `decode` and `decode_rows` run, or None when `decode` is a function of the virtual
            machine like the others, and there is no `decode_rows`.
        reason: why it is one.
    """

    module: tvm.IRModule
    step: StepProgram | None
    reason: str = ""


def select_kernels(
    program: RelaxProgram,
    plan: WeightPlan,
    isa: Isa,
    kv_dtype: KvDtype,
    activations: Activations,
    block: int = KV_BLOCK,
    tiles: TileChoice = DEFAULT_CHOICE,
) -> Selected:
    """A module with the functions of `FUNCTIONS` and the kernels they call; no dialect call is left.

    Here the caches [B, Hkv, C, D] of the program become pools of blocks (see `kernels.kv_pages`): each function takes
    the data inputs, with the block table int32 [B, M] among them, the pools as one tuple (k0, v0, k1, v1, ...; with
    int8 k0, v0, k0's scales, v0's scales, ...) and the weights as one tuple, updates the pools in place and returns
    the logits. `decode`, for one sequence and one token, is a single kernel that runs a program (`kernels.decode_step`)
    wherever the model can be put like that; `decode_rows` then runs it for several sequences.

    Args:
        program: the model after its Relax passes.
        plan: its packed weights.
        isa: the level to generate for.
        kv_dtype: how keys and values are stored.
        activations: what linear layers with integer weights multiply their inputs as.
        block: positions of a block.
        tiles: of kernels that were tuned.

    Raises:
        UnsupportedError: E1403 when a dialect call has no kernel, because a pass was disabled or didn't match.
    """
    builder = relax.BlockBuilder()
    kernels = _Kernels(builder)
    step, reason = None, ""
    try:
        decode_program = plan_decode(program, one_token(program), plan, kv_dtype, activations, block)
        step = decode_program.program
    except NotOneProgram as error:
        reason = str(error)
    for name in FUNCTIONS:
        if name != "decode" or step is None:
            _Selection(program, plan, isa, kv_dtype, activations, block, tiles, name, builder, kernels).build()
    if step is not None:
        made = (decode_program.kernels, decode_program.vocabulary, decode_program.rotated, isa, tiles)
        for function, rows in ((STEP_FUNCTION, False), (ROWS_FUNCTION, True)):
            builder.add_func(decode_step(function, *made, rows=rows), function)
    return Selected(builder.finalize(), step, reason)


def one_token(program: RelaxProgram) -> Body:
    """The body of the model for one sequence and one token."""
    module = relax.transform.BindSymbolicVars({"batch": 1, "seq": 1}, func_name="main")(program.module)
    # functions of one module may not share variables
    return Body.of(copy_with_new_vars(module["main"]))


class _Kernels:
    """The module's PrimFuncs, one per distinct key."""

    def __init__(self, builder: relax.BlockBuilder) -> None:
        self.builder = builder
        self.variables: dict[str, Any] = {}

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self.variables:
            self.variables[key] = self.builder.add_func(make(), key)
        return self.variables[key]


@dataclass
class _Shape:
    """Symbolic dimensions of one function."""

    batch: Any
    seq: Any

    @property
    def rows(self) -> Any:
        return self.batch * self.seq


class _Selection:
    def __init__(
        self,
        program: RelaxProgram,
        plan: WeightPlan,
        isa: Isa,
        kv_dtype: KvDtype,
        activations: Activations,
        block: int,
        tiles: TileChoice,
        name: FunctionName,
        builder: relax.BlockBuilder,
        kernels: _Kernels,
    ) -> None:
        self.plan, self.isa, self.name, self.kernels = plan, isa, name, kernels
        self.kv_dtype, self.activations, self.block, self.tiles = kv_dtype, activations, block, tiles
        self.program = program
        # functions of one module may not share variables
        self.body = one_token(program) if name == "decode" else Body.of(copy_with_new_vars(program.module["main"]))
        self.users = self.body.users()
        self.params = {param.name: param for param in self.body.params}
        ids = self.params["input_ids"].ty.shape
        self.shape = _Shape(ids[0], ids[1])
        self.m: Literal["one", "any"] = "one" if name == "decode" else "any"
        self.builder = builder
        # each value may be known as rows [T, N], in its own shape, or both
        self.as_rows: dict[Any, Any] = {}
        self.as_whole: dict[Any, Any] = {}
        # values that are tuples: the Relax tuple, and which of its items are rows
        self.tuples: dict[Any, tuple[Any, tuple[int, ...]]] = {}
        # the same for tuples of rows that no kernel makes as one
        self.items: dict[Any, tuple[Any, ...]] = {}
        # linear layers that did the addition behind them
        self.totals: set[Any] = set()
        # pools of 8-bit keys and values by the name of the cache they stand for: their scales
        self.scales: dict[str, Any] = {}
        # after a cache update
        self.updated_scales: dict[Any, list[Any]] = {}
        table = relax.TensorType([self.shape.batch, tirx.Var("table_width", "int64")], "int32")
        self.table = relax.Var("block_table", table)

    def build(self) -> None:
        data = [self.table if name == "block_table" else self.params[name] for name in DATA_INPUTS]
        caches = [p for p in self.body.params if p.name.startswith(("cache_key.", "cache_value."))]
        entries = tirx.Var("pool_blocks", "int64")
        pools: list[tuple[str, Any]] = []
        for pair in zip(caches[::2], caches[1::2], strict=True):
            _, heads, _, dim = pair[0].ty.shape
            shapes = [[entries, heads, dim, self.block], [entries, heads, self.block, dim]]
            pools += [(c.name, relax.TensorType(s, self.kv_dtype)) for c, s in zip(pair, shapes, strict=True)]
            if self.kv_dtype == "int8":
                scale = relax.TensorType([entries, heads, self.block], "float32")
                pools += [(f"{c.name}_scale", scale) for c in pair]
        weight_types = [relax.TensorType(list(b.shape), b.dtype) for b in self.plan.buffers]
        kv = relax.Var("kv", relax.TupleType([ty for _, ty in pools]))
        weights = relax.Var("weights", relax.TupleType(weight_types))
        with self.builder.function(self.name, [*data, kv, weights]):
            with self.builder.dataflow():
                items = {
                    name: self.builder.emit(relax.TupleGetItem(kv, position), name)
                    for position, (name, _) in enumerate(pools)
                }
                for cache in caches:
                    self.as_whole[cache] = items[cache.name]
                    self.scales[cache.name] = items.get(f"{cache.name}_scale")
                self.packed = [
                    self.builder.emit(relax.TupleGetItem(weights, i), b.name) for i, b in enumerate(self.plan.buffers)
                ]
                for var, value in self.body.bindings:
                    self._emit(var, value)
                result = self.builder.emit_output(self._whole(self.body.outputs[0]))
            self.builder.emit_func_output(result)

    def _emit(self, var: Any, value: Any) -> None:
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in self.items:
            self.as_rows[var] = self.items[value.tuple_value][value.index]
            return
        if isinstance(value, relax.TupleGetItem) and value.tuple_value in self.tuples:
            pair, rows = self.tuples[value.tuple_value]
            form = self.as_rows if value.index in rows else self.as_whole
            form[var] = self.builder.emit(relax.TupleGetItem(pair, value.index), var.name)
            return
        call = decode(value)
        if call is None:
            self.as_whole[var] = self.builder.emit(substitute(value, self._whole), var.name)
            return
        handler = getattr(self, f"_{call.name}", None)
        if handler is None:
            raise UnsupportedError(
                "E1403",
                f"the CPU target has no kernel for {call.name} on its own ({var.name})",
                fix="remove this graph's passes from passes.disable; the report lists what did not match and why",
            )
        handler(var, call)

    # -- the two forms of a value -------------------------------------------------------------------------------

    def _whole(self, var: Any) -> Any:
        """`var` in its own shape."""
        if var in self.as_rows and var not in self.as_whole:
            leading = [self.shape.batch, self.shape.seq] if not self._is_single(var) else [self.shape.batch, 1]
            rows = self.as_rows[var]
            self.as_whole[var] = self.builder.emit(op.reshape(rows, [*leading, rows.ty.shape[1]]), f"{var.name}_whole")
        return self.as_whole.get(var, var)

    def _rows(self, var: Any) -> Any:
        """`var` [B, S, N] as [T, N], or token ids [B, S] as [T]."""
        if var not in self.as_rows:
            whole = self._whole(var)
            shape = list(whole.ty.shape)
            flat = [shape[0] * shape[1], *shape[2:]]
            self.as_rows[var] = self.builder.emit(op.reshape(whole, flat), f"{var.name}_rows")
        return self.as_rows[var]

    def _is_single(self, var: Any) -> bool:
        """Whether `var` holds one position per row of the batch."""
        return getattr(var.ty.shape[1], "value", None) == 1 and self.name == "prefill_last"

    def _matrix(self, call: DialectCall) -> list[Any]:
        names = tuple(t.name for t in call.tensors[1 : 1 + stored_parts(call)])
        start = self.plan.first[names]
        count = len(next(w for w in self.plan.weights if w.sources == names).buffers)
        return self.packed[start : start + count]

    def _vector(self, var: Any) -> Any:
        return self.packed[self.plan.first[(var.name,)]]

    def _call(self, key: str, make: Callable[[], Any], arguments: list[Any], types: list[Any], name: str) -> Any:
        kernel = self.kernels.get(key, make)
        return self.builder.emit(
            relax.call_tir(kernel, relax.Tuple(arguments), types[0] if len(types) == 1 else types), name
        )

    def _rows_type(self, rows: Any, width: int) -> Any:
        return relax.TensorType([rows.ty.shape[0], width], "float32")

    # -- one handler per dialect call ---------------------------------------------------------------------------

    def _embedding(self, var: Any, call: DialectCall) -> None:
        layout_of = weight_format(call)
        vocabulary, width = (int(d) for d in call.tensors[1].ty.shape)
        ids = self._rows(call.tensors[0])
        key = f"embedding_{vocabulary}x{width}_{layout_of.tag}"
        self.as_rows[var] = self._call(
            key,
            lambda: embedding(vocabulary, width, layout_of, self.isa),
            [ids, *self._matrix(call)],
            [relax.TensorType([ids.ty.shape[0], width], "float32")],
            var.name,
        )

    def _linear(self, var: Any, call: DialectCall) -> None:
        fmt = weight_format(call)
        n, k = (int(d) for d in call.tensors[1].ty.shape)
        extra = list(call.tensors[1 + stored_parts(call) :])
        has_bias = bool(call.attributes["bias"])
        x = self._rows(call.tensors[0])
        arguments = [x, *self._matrix(call)] + ([self._vector(extra[0])] if has_bias else [])
        gated = self._gated(var, n) if not has_bias else None
        residual = self._residual(var)
        arguments += [] if residual is None else [self._rows(residual)]
        suffix = "".join(("_bias" * has_bias, "_gate" * (gated is not None), "_residual" * (residual is not None)))
        if residual is not None:
            self.totals.add(var)
        self.as_rows[var if gated is None else gated] = self._call(
            f"linear_{n}x{k}_{fmt.tag}_{self.m}{suffix}",
            lambda: linear(
                n,
                k,
                fmt,
                self.isa,
                m=self.m,
                bias=has_bias,
                residual=residual is not None,
                gate=gated is not None,
                activations=self.activations,
                tiles=self.tiles.of_linear(n, k, fmt, self.m),
            ),
            arguments,
            [self._rows_type(x, n if gated is None else n // 2)],
            var.name,
        )

    def _gated(self, var: Any, n: int) -> Any:
        """The gate that is all that reads a linear layer's N outputs, if the layer's kernel can do it."""
        users = self.users.get(var, [])
        user = users[0] if len(users) == 1 else None
        call = decode(self.body.producer(user)) if user is not None else None
        return user if call is not None and call.name == "swiglu_packed" and LinearKernel.can_gate(n) else None

    def _residual(self, var: Any) -> Any:
        """What a linear layer's only reader adds to it before a norm, if that is there already."""
        users = self.users.get(var, [])
        call = decode(self.body.producer(users[0])) if len(users) == 1 else None
        if call is None or call.name != "add_rms_norm":
            return None
        others = [term for term in call.tensors[:2] if not term.same_as(var)]
        there = len(others) == 1 and (others[0] in self.as_rows or others[0] in self.as_whole)
        return others[0] if there else None

    def _rms_norm(self, var: Any, call: DialectCall) -> None:
        x = self._rows(call.tensors[0])
        self.as_rows[var] = self._norm(x, call.tensors[1], call, var.name)

    def _norm(self, x: Any, weight: Any, call: DialectCall, name: str) -> Any:
        width, epsilon = int(x.ty.shape[1]), float(call.attributes["epsilon"])
        return self._call(
            f"rms_norm_{width}_{number_name(epsilon)}",
            lambda: rms_norm(width, epsilon, self.isa),
            [x, self._vector(weight)],
            [x.ty],
            name,
        )

    def _add_rms_norm(self, var: Any, call: DialectCall) -> None:
        for term in call.tensors[:2]:
            if term in self.totals:
                total = self._rows(term)
                self.items[var] = (self._norm(total, call.tensors[2], call, var.name), total)
                return
        x, residual = self._rows(call.tensors[0]), self._rows(call.tensors[1])
        width, epsilon = int(x.ty.shape[1]), float(call.attributes["epsilon"])
        pair = self._call(
            f"add_rms_norm_{width}_{number_name(epsilon)}",
            lambda: add_rms_norm(width, epsilon, self.isa),
            [x, residual, self._vector(call.tensors[2])],
            [x.ty, x.ty],
            var.name,
        )
        self.tuples[var] = (pair, (0, 1))

    def _rope_kv_write(self, var: Any, call: DialectCall) -> None:
        qkv, positions, index, cos, sin, cache_key, cache_value, *norms = call.tensors
        heads, kv_heads, dim = (call.attributes[k] for k in ("heads", "kv_heads", "head_dim"))
        epsilon = call.attributes["epsilon"]
        bias = key_bias(self.program, self.body, call, self.kv_dtype)
        pools = [self._whole(cache_key), self._whole(cache_value)]
        scales = [scale for scale in (self.scales[c.name] for c in (cache_key, cache_value)) if scale is not None]
        mutated = [*pools, *scales]
        vectors = [*norms, *([] if bias is None else [bias])]
        arguments = [self._whole(qkv), positions, self.table, index, cos, sin, *map(self._vector, vectors), *mutated]
        query = relax.TensorType([self.shape.batch, self.shape.seq, heads * dim], "float32")
        normed = ("" if epsilon is None else f"_normed_{number_name(epsilon)}") + "_key_bias" * (bias is not None)
        kernel = self.kernels.get(
            f"rope_kv_write_{heads}_{kv_heads}_{dim}_{self.kv_dtype}_b{self.block}{normed}",
            lambda: rope_kv_write(
                heads,
                kv_heads,
                dim,
                self.kv_dtype,
                self.isa,
                qk_norm=epsilon is not None,
                eps=epsilon or 0.0,
                key_bias=bias is not None,
                block=self.block,
            ),
        )
        places = list(range(len(arguments) - len(mutated), len(arguments)))
        result = self.builder.emit(
            relax.call_tir_inplace(
                kernel, relax.Tuple(arguments), [-1, *places], [query, *(pool.ty for pool in mutated)]
            ),
            var.name,
        )
        self.tuples[var] = (result, ())
        # what reads the updated cache finds its scales behind the update too, so that it can't run before
        self.updated_scales[var] = [
            self.builder.emit(relax.TupleGetItem(result, 3 + position), "updated_scale")
            for position, scale in enumerate(scales)
        ]

    def _attention_rows(self, var: Any, call: DialectCall) -> None:
        query, key, value, index = call.tensors
        heads, window, scale = call.attributes["heads"], call.attributes["window"], float(call.attributes["scale"])
        pools = [self._whole(key), self._whole(value)]
        kv_heads, dim = int(pools[0].ty.shape[1]), int(pools[0].ty.shape[2])
        q = self._whole(query)
        update = self._update_of(key)
        written = decode(self.body.producer(update))
        assert written is not None
        bias = key_bias(self.program, self.body, written, self.kv_dtype)
        added = [] if bias is None else [*written.tensors[3:5], self._vector(bias)]
        name = (
            f"attention_{heads}_{kv_heads}_{dim}_{self.kv_dtype}_b{self.block}_{window}_{number_name(scale)}_{self.m}"
            + "_key_bias" * bool(added)
        )
        self.as_whole[var] = self._call(
            name,
            lambda: attention(
                heads,
                kv_heads,
                dim,
                self.kv_dtype,
                self.isa,
                scale=scale,
                m=self.m,
                window=window,
                block=self.block,
                key_bias=bool(added),
                tiles=self.tiles.of_attention(AttentionProblem(heads, kv_heads, dim, self.kv_dtype, window)),
            ),
            [q, self.table, index, *added, *pools, *self.updated_scales[update]],
            [q.ty],
            var.name,
        )

    def _update_of(self, key: Any) -> Any:
        """The cache update that `key` is an item of."""
        update = self.body.producer(key)
        assert isinstance(update, relax.TupleGetItem)
        return update.tuple_value

    def _swiglu_packed(self, var: Any, call: DialectCall) -> None:
        if var in self.as_rows:
            return  # the linear layer before it did it
        x = self._rows(call.tensors[0])
        width = int(x.ty.shape[1]) // 2
        self.as_rows[var] = self._call(
            f"swiglu_packed_{width}",
            lambda: silu_mul(width, self.isa, fused=True),
            [x],
            [self._rows_type(x, width)],
            var.name,
        )

    def _columns(self, var: Any, call: DialectCall) -> None:
        x = self._rows(call.tensors[0])
        start, stop = call.attributes["start"], call.attributes["stop"]
        self.as_rows[var] = self.builder.emit(op.strided_slice(x, [1], [start], [stop]), var.name)

    def _gather_position(self, var: Any, call: DialectCall) -> None:
        hidden, index = call.tensors
        if self.name != "prefill_last":
            # decode has one position; prefill_all keeps them all
            self.as_rows[var] = self._rows(hidden)
            return
        whole = self._whole(hidden)
        width = int(whole.ty.shape[2])
        self.as_rows[var] = self._call(
            f"gather_position_{width}",
            lambda: gather_position(width),
            [whole, index],
            [relax.TensorType([self.shape.batch, width], "float32")],
            var.name,
        )
