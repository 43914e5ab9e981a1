"""The decode step of a model as a program of kernels (`kernels/decode_step.py`) and its operands.

The dialect calls of one token are gathered between barriers of all threads: a linear layer takes the
norm, the gate or the merging of attention before it along, and the bias, the residual addition or the gate behind it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tvm import relax

from xamc.artifact.manifest import ALIGNMENT
from xamc.artifact.step_program import Instruction, StepProgram
from xamc.ir.dialect import DialectCall, decode, is_op
from xamc.ir.relax_program import RelaxProgram
from xamc.passes.lowering.body import Body
from xamc.targets.cpu.key_bias import key_bias
from xamc.targets.cpu.weight_plan import WeightPlan, stored_parts, weight_format
from xamc.targets.kernels.decode_kernels import (
    AttentionKernel,
    AttentionSource,
    DecodeKernel,
    EmbeddingKernel,
    GateSource,
    LinearKernel,
    NormSource,
    PlainSource,
    Source,
)
from xamc.targets.kernels.decode_rows import prepared_bytes
from xamc.targets.kernels.decode_step import program_width
from xamc.targets.kernels.few_rows import MOST_ROWS
from xamc.targets.kernels.kv_pages import KvDtype
from xamc.targets.kernels.linear import Activations


class NotOneProgram(Exception):
    """Why a model's decode step is no program of these kernels; it then stays a function of the virtual machine."""


@dataclass(frozen=True)
class DecodeProgram:
    """The kernels, and what runs them in which order on what."""

    kernels: tuple[DecodeKernel, ...]
    program: StepProgram
    vocabulary: int
    rotated: int


@dataclass
class _Value:
    """A tensor of the workspace: when it is written and when read last, by number of the instruction."""

    nbytes: int
    born: int
    dies: int
    offset: int = 0


@dataclass
class _Attention:
    """What attention needs of a `rope_kv_write`."""

    call: DialectCall
    pools: tuple[int, ...]
    qkv: _Value


@dataclass
class _Read:
    """How a linear layer reads a value: the kernel's part and its operands."""

    source: Source
    operands: tuple[_Value | int, ...]


@dataclass
class _Planner:
    """Walks the body of the decode function."""

    program: RelaxProgram
    body: Body
    plan: WeightPlan
    kv_dtype: KvDtype
    activations: Activations
    block: int
    kernels: list[DecodeKernel] = field(default_factory=list)
    steps: list[tuple[int, tuple[_Value | int, ...]]] = field(default_factory=list)
    values: list[_Value] = field(default_factory=list)
    # what each variable stands for
    whole: dict[Any, _Value] = field(default_factory=dict)
    read: dict[Any, _Read] = field(default_factory=dict)
    attention: dict[Any, _Attention] = field(default_factory=dict)
    pools: dict[str, tuple[int, ...]] = field(default_factory=dict)
    tuples: dict[Any, tuple[Any, ...]] = field(default_factory=dict)
    rotated: int = 0
    vocabulary: int = 0

    def run(self) -> None:
        self.users = self.body.users()
        per_layer = 4 if self.kv_dtype == "int8" else 2
        caches = [p.name for p in self.body.params if p.name.startswith(("cache_key.", "cache_value."))]
        for layer, name in enumerate(caches[::2]):
            self.pools[name] = tuple(range(layer * per_layer, (layer + 1) * per_layer))
        for var, value in self.body.bindings:
            if isinstance(value, relax.TupleGetItem) and value.tuple_value in self.tuples:
                self._stand_for(var, self.tuples[value.tuple_value][value.index])
                continue
            call = decode(value)
            handler = getattr(self, f"_{call.name}", None) if call is not None else None
            if handler is not None:
                handler(var, call)
            elif is_op(value, "add") and var in self.whole:
                continue  # a linear layer did it
            else:
                name = call.name if call is not None else getattr(getattr(value, "op", None), "name", "an expression")
                raise NotOneProgram(f"{name} ({var.name}) is not part of it")
        if self.body.outputs[0] not in self.read or not self.vocabulary:
            raise NotOneProgram("its result is not that of a linear layer")

    def _stand_for(self, var: Any, meaning: Any) -> None:
        if isinstance(meaning, _Value):
            self.whole[var] = meaning
        elif isinstance(meaning, _Read):
            self.read[var] = meaning
        elif isinstance(meaning, _Attention):
            self.attention[var] = meaning

    # -- instructions -------------------------------------------------------------------------------------------

    def _add(self, kernel: DecodeKernel, operands: Sequence[_Value | int], *, result: bool = True) -> _Value | None:
        """Appends an instruction; its result's place is its last operand."""
        if kernel not in self.kernels:
            self.kernels.append(kernel)
        number = len(self.steps)
        for operand in operands:
            if isinstance(operand, _Value):
                operand.dies = number
        value = None
        if result:
            value = _Value(4 * math.prod(kernel.output), number, number)
            self.values.append(value)
        self.steps.append((self.kernels.index(kernel), (*operands, *([value] if value is not None else []))))
        return value

    def _value(self, var: Any) -> _Value:
        if var not in self.whole:
            raise NotOneProgram(f"{var.name} is wanted as a tensor")
        return self.whole[var]

    def _read_of(self, var: Any) -> _Read:
        """How a linear layer reads `var`."""
        if var in self.read:
            return self.read[var]
        return _Read(PlainSource(_width(var)), (self._value(var),))

    def _vector(self, var: Any) -> int:
        return self.plan.first[(var.name,)]

    def _matrix(self, call: DialectCall) -> tuple[int, ...]:
        names = tuple(t.name for t in call.tensors[1 : 1 + stored_parts(call)])
        start = self.plan.first[names]
        return tuple(range(start, start + len(next(w for w in self.plan.weights if w.sources == names).buffers)))

    # -- one handler per dialect call ---------------------------------------------------------------------------

    def _embedding(self, var: Any, call: DialectCall) -> None:
        vocabulary, width = (int(dim) for dim in call.tensors[1].ty.shape)
        result = self._add(EmbeddingKernel(vocabulary, width, weight_format(call)), self._matrix(call))
        self._stand_for(var, result)

    def _rms_norm(self, var: Any, call: DialectCall) -> None:
        self.read[var] = self._norm(self._value(call.tensors[0]), call.tensors[1], call)

    def _add_rms_norm(self, var: Any, call: DialectCall) -> None:
        if var not in self.whole:
            raise NotOneProgram(f"the addition in {var.name} does not follow a linear layer")
        total = self.whole.pop(var)
        self.tuples[var] = (self._norm(total, call.tensors[2], call), total)

    def _norm(self, x: _Value, weight: Any, call: DialectCall) -> _Read:
        width = int(weight.ty.shape[0])
        return _Read(NormSource(width, float(call.attributes["epsilon"])), (x, self._vector(weight)))

    def _gather_position(self, var: Any, call: DialectCall) -> None:
        hidden = call.tensors[0]
        self._stand_for(var, self.whole.get(hidden) or self.read.get(hidden))

    def _linear(self, var: Any, call: DialectCall) -> None:
        read = self._read_of(call.tensors[0])
        n = int(call.tensors[1].ty.shape[0])
        operands: list[_Value | int] = [*read.operands, *self._matrix(call)]
        has_bias = bool(call.attributes["bias"])
        if has_bias:
            operands.append(self._vector(call.tensors[1 + stored_parts(call)]))
        users = self.users.get(var, [])
        user = users[0] if len(users) == 1 else None
        behind = decode(self.body.producer(user)) if user is not None else None
        kernel = LinearKernel(n, read.source, weight_format(call), self.activations, has_bias)
        if var in self.body.outputs[:1]:
            self.vocabulary = n
            self._add(replace(kernel, logits=True), operands, result=False)
            self.read[var] = read
            return
        if behind is not None and behind.name == "swiglu_packed" and LinearKernel.can_gate(n) and not has_bias:
            self._stand_for(user, self._add(replace(kernel, gate=True), operands))
            return
        other = self._added_to(var, user, behind)
        if other is not None:
            self._stand_for(user, self._add(replace(kernel, residual=True), [*operands, other]))
            return
        self._stand_for(var, self._add(kernel, operands))

    def _added_to(self, var: Any, user: Any, behind: DialectCall | None) -> _Value | None:
        """What the only reader of `var` adds it to, if that is there already."""
        terms: Sequence[Any] = ()
        if behind is not None and behind.name == "add_rms_norm":
            terms = behind.tensors[:2]
        elif user is not None and is_op(self.body.producer(user), "add"):
            terms = self.body.producer(user).args
        others = [term for term in terms if not term.same_as(var)]
        if len(terms) != 2 or len(others) != 1 or _width(others[0]) != _width(var):
            return None
        return self.whole.get(others[0])

    def _swiglu_packed(self, var: Any, call: DialectCall) -> None:
        if var not in self.whole:
            both = call.tensors[0]
            self.read[var] = _Read(GateSource(_width(both) // 2), (self._value(both),))

    def _rope_kv_write(self, var: Any, call: DialectCall) -> None:
        pools = self.pools[call.tensors[5].name]
        self.rotated = int(call.tensors[3].ty.shape[1])
        meaning = _Attention(call, pools, self._value(call.tensors[0]))
        self.tuples[var] = (meaning, meaning, meaning)

    def _attention_rows(self, var: Any, call: DialectCall) -> None:
        query, key = call.tensors[:2]
        if query not in self.attention or self.attention[query] is not self.attention.get(key):
            raise NotOneProgram(f"{var.name} attends to a cache that its queries do not belong to")
        before = self.attention[query]
        update, attributes = before.call, call.attributes
        heads, kv_heads, d = (int(update.attributes[k]) for k in ("heads", "kv_heads", "head_dim"))
        bias = key_bias(self.program, self.body, update, self.kv_dtype)
        kernel = AttentionKernel(
            heads,
            kv_heads,
            d,
            self.kv_dtype,
            float(attributes["scale"]),
            attributes["window"],
            self.block,
            update.attributes["epsilon"],
            bias is not None,
        )
        vectors = [self._vector(vector) for vector in (*update.tensors[7:], *([] if bias is None else [bias]))]
        parts = self._add(kernel, [before.qkv, *vectors, *before.pools])
        assert parts is not None
        self.read[var] = _Read(AttentionSource(heads, kv_heads, d, attributes["window"]), (parts,))

    # -- the result ---------------------------------------------------------------------------------------------

    def place(self) -> int:
        """Gives every value its place in the workspace, first fit; returns the workspace's size.

        An instruction's result may not lie where one of its operands does: threads read and write as they come.
        """
        placed: list[_Value] = []
        for value in self.values:
            offset = 0
            for other in sorted((o for o in placed if o.dies >= value.born), key=lambda o: o.offset):
                if offset + value.nbytes <= other.offset:
                    break
                offset = max(offset, _aligned(other.offset + other.nbytes))
            value.offset = offset
            placed.append(value)
        return max((_aligned(value.offset + value.nbytes) for value in self.values), default=0)

    def instructions(self) -> tuple[Instruction, ...]:
        result = []
        for number, operands in self.steps:
            places = tuple(operand.offset if isinstance(operand, _Value) else operand for operand in operands)
            result.append(Instruction(number, places))
        return tuple(result)


def plan_decode(
    program: RelaxProgram, body: Body, plan: WeightPlan, kv_dtype: KvDtype, activations: Activations, block: int
) -> DecodeProgram:
    """The decode step of a model as a program.

    Args:
        program: the model after its Relax passes.
        body: of the function for one sequence and one token.
        plan: its packed weights.
        kv_dtype: how keys and values are stored.
        activations: what linear layers with integer weights multiply their inputs as.
        block: positions of a block of the KV cache.

    Raises:
        NotOneProgram: some call is none of those that the kernels are made for.
    """
    planner = _Planner(program, body, plan, kv_dtype, activations, block)
    planner.run()
    workspace = planner.place()
    step = StepProgram(
        workspace=workspace,
        width=program_width(planner.kernels),
        kernels=tuple(kernel.key for kernel in planner.kernels),
        regions=tuple(kernel.operands for kernel in planner.kernels),
        instructions=planner.instructions(),
        rows=MOST_ROWS,
        consecutive=True,
        prepared=max(map(prepared_bytes, planner.kernels)),
    )
    return DecodeProgram(tuple(planner.kernels), step, planner.vocabulary, planner.rotated)


def _width(var: Any) -> int:
    return int(var.ty.shape[-1])


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
