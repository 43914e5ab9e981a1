"""The kernels of a decode step: each does in one go what lies between two barriers of all threads.

With one row, what is cheap and comes before the work that is shared out (norms, the gate, merging the parts of
attention, rounding activations) every thread does for itself, in memory of its own: that costs less than another
barrier. Several rows share it out, see `decode_rows.py`. A kernel asks for its operands one by one, in the order that
`operands` lists them by region; see `decode_step`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from xamc.artifact.packing import WeightFormat, packed_layout
from xamc.artifact.panels import PANEL
from xamc.artifact.step_program import Region
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.attention_decode import SPLITS, Part, Span, merge_parts, partial_shape
from xamc.targets.kernels.embedding import take_row
from xamc.targets.kernels.gemv import emit_gemv
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.key_bias import KeyBias
from xamc.targets.kernels.kv_pages import KvDtype, declare_pools
from xamc.targets.kernels.linear import Activations, products
from xamc.targets.kernels.norm import inverse_rms
from xamc.targets.kernels.rope import Projected
from xamc.targets.kernels.swiglu import silu
from xamc.targets.kernels.tiles import DEFAULT_CHOICE, TileChoice
from xamc.targets.kernels.weights import PackedWeight

REGIONS: tuple[Region, ...] = ("weights", "pools", "workspace")


Reader = Callable[[E.Expr], tuple[E.Buffer, E.Expr]]
"""Emits what makes a row of a source; yields a float32 tensor and the number that the row has in it."""


@dataclass(frozen=True)
class StepInputs:
    """What all kernels of a step read: the tokens, where each stands, and RoPE's tables; and the logits, which one
    writes.

    ids, position_ids int64 [B, 1], write_index int64 [B], block_table int32 [B, M], cos and sin float32 [R, D/2],
    logits float32 [B, V]. `tiles` are those of layers with one row, `rows` is B.
    """

    ids: E.Buffer
    position_ids: E.Buffer
    write_index: E.Buffer
    block_table: E.Buffer
    cos: E.Buffer
    sin: E.Buffer
    logits: E.Buffer
    tiles: TileChoice = DEFAULT_CHOICE
    rows: E.Expr | int = 1


class Operands:
    """The operands of the step's instruction at hand."""

    def __init__(self, program: E.Buffer, step: E.Expr, regions: dict[Region, E.Buffer]) -> None:
        self._program, self._step, self._regions = program, step, regions
        self.taken: list[Region] = []

    def take(self, region: Region, shape: tuple[E.Expr | int, ...], dtype: str = "float32") -> E.Buffer:
        """The next operand, a tensor of a region."""
        self.taken.append(region)
        offset = E.let(E.load(self._program, [self._step, len(self.taken)]))
        return E.view(self._regions[region], offset, shape, dtype)

    @contextmanager
    def parameters(self, region: Region) -> Iterator[None]:
        """Lets what is declared as parameters be the next operands, of one region."""
        with E.parameters_from(lambda shape, dtype: self.take(region, tuple(shape), dtype)):
            yield


class DecodeKernel(Protocol):
    """A kernel of a decode step; equal ones are compiled once."""

    @property
    def key(self) -> str:
        """A name that tells it from every other kernel of a model."""
        ...

    @property
    def operands(self) -> tuple[Region, ...]:
        """Where its operands lie, in the order in which it takes them."""
        ...

    @property
    def output(self) -> tuple[int, ...]:
        """Shape, for one row, of the float32 tensor that is its last operand; what writes the logits has none."""
        ...

    def emit(self, operands: Operands, inputs: StepInputs, isa: Isa) -> None:
        """Emits its statements, which all threads run."""
        ...


@dataclass(frozen=True)
class EmbeddingKernel:
    """Operands: the packed buffers of the table, y [B, width]."""

    vocabulary: int
    width: int
    format: WeightFormat

    @property
    def key(self) -> str:
        return f"embedding_{self.vocabulary}x{self.width}_{self.format.tag}"

    @property
    def operands(self) -> tuple[Region, ...]:
        return (*_packed(self.vocabulary, self.width, self.format), "workspace")

    @property
    def output(self) -> tuple[int, ...]:
        return (1, self.width)

    def emit(self, operands: Operands, inputs: StepInputs, isa: Isa) -> None:
        table, y = self.take(operands, inputs, isa)
        take_row(table, E.let(E.load(inputs.ids, [0, 0])), y, E.i32(0), E.parallel)

    def take(self, operands: Operands, inputs: StepInputs, isa: Isa) -> tuple[PackedWeight, E.Buffer]:
        """Takes its operands: the table and y."""
        with operands.parameters("weights"):
            table = PackedWeight(self.vocabulary, self.width, self.format, isa)
        return table, operands.take("workspace", (inputs.rows, self.width))


@dataclass(frozen=True)
class PlainSource:
    """What a linear layer reads, as it is. Operands: x [B, width]."""

    width: int
    key: str = "plain"
    operands: tuple[Region, ...] = ("workspace",)

    def reader(self, operands: Operands, inputs: StepInputs, isa: Isa) -> Reader:
        x = operands.take("workspace", (inputs.rows, self.width))
        return lambda row: (x, row)


@dataclass(frozen=True)
class NormSource:
    """The RMSNorm of what lies there. Operands: x [B, width], weights [width]."""

    width: int
    epsilon: float
    operands: tuple[Region, ...] = ("workspace", "weights")

    @property
    def key(self) -> str:
        return f"norm{E.number_name(self.epsilon)}"

    def reader(self, operands: Operands, inputs: StepInputs, isa: Isa) -> Reader:
        x = operands.take("workspace", (inputs.rows, self.width))
        weights = operands.take("weights", (self.width,))

        def read(row: E.Expr) -> tuple[E.Buffer, E.Expr]:
            y = E.scratch((1, self.width))
            factor = inverse_rms(lambda c, lanes: E.load(x, [row, c], lanes), self.width, self.epsilon, isa)

            def scale(c: E.Expr, lanes: int) -> None:
                value = E.load(x, [row, c], lanes) * E.splat(factor, lanes) * E.load(weights, [c], lanes)
                E.store(y, [0, c], value, lanes)

            E.lanewise(self.width, isa, scale)
            return y, E.i32(0)

        return read


@dataclass(frozen=True)
class GateSource:
    """silu(gate) * up of the halves of a row. Operands: gate and up [B, 2 * width]."""

    width: int
    key: str = "gate"
    operands: tuple[Region, ...] = ("workspace",)

    def reader(self, operands: Operands, inputs: StepInputs, isa: Isa) -> Reader:
        both = operands.take("workspace", (inputs.rows, 2 * self.width))

        def read(row: E.Expr) -> tuple[E.Buffer, E.Expr]:
            y = E.scratch((1, self.width))

            def activate(c: E.Expr, lanes: int) -> None:
                gate = silu(E.let(E.load(both, [row, c], lanes)), lanes)
                E.store(y, [0, c], gate * E.load(both, [row, self.width + c], lanes), lanes)

            E.lanewise(self.width, isa, activate)
            return y, E.i32(0)

        return read


@dataclass(frozen=True)
class AttentionSource:
    """The merged parts of attention. Operands: the partial results of an `AttentionKernel`."""

    heads: int
    kv_heads: int
    d: int
    window: int | None
    operands: tuple[Region, ...] = ("workspace",)

    @property
    def key(self) -> str:
        return f"merge{self.heads}_{self.kv_heads}x{self.d}_w{self.window}"

    @property
    def width(self) -> int:
        return self.heads * self.d

    def reader(self, operands: Operands, inputs: StepInputs, isa: Isa) -> Reader:
        group = self.heads // self.kv_heads
        partial = operands.take("workspace", partial_shape(inputs.rows * self.kv_heads, group, self.d))

        def read(row: E.Expr) -> tuple[E.Buffer, E.Expr]:
            y = E.scratch((1, self.width))
            splits = E.let(E.minimum(Span(E.load(inputs.write_index, [row]), self.window).tiles, E.i64(SPLITS)))
            with E.serial(self.heads) as head:
                place = [E.let(E.i64(row) * (SPLITS * self.kv_heads) + head // group), E.let(head % group)]
                first = E.let(head * self.d)
                merge_parts(
                    partial, place, self.kv_heads, splits,
                    lambda e, value, lanes: E.store(y, [0, first + e], value, lanes), isa,
                )  # fmt: skip
            return y, E.i32(0)

        return read


Source = PlainSource | NormSource | GateSource | AttentionSource


@dataclass(frozen=True)
class LinearKernel:
    """y = W source (+ bias) (+ residual), or silu of W's first half times its second.

    Operands: the source's, the packed buffers of W [N, K], bias [N] if any, residual [B, N] if any, y.

    Attributes:
        n: output features N, before the gate halves them.
        source: what it reads, of width K.
        format: how W is stored.
        activations: what the source is multiplied as.
        bias: whether there is a bias.
        residual: whether something is added.
        gate: whether y [1, N/2] is gated; N is then a multiple of two panels, without bias and residual.
        logits: whether y is the step's result.
    """

    n: int
    source: Source
    format: WeightFormat
    activations: Activations
    bias: bool = False
    residual: bool = False
    gate: bool = False
    logits: bool = False

    @staticmethod
    def can_gate(n: int) -> bool:
        """Whether both halves of W are whole panels."""
        return n % (2 * PANEL) == 0

    @property
    def key(self) -> str:
        parts = [f"{self.source.key}_linear_{self.n}x{self.source.width}_{self.format.tag}"]
        parts += [name for name in ("bias", "residual", "gate", "logits") if getattr(self, name)]
        return "_".join(parts)

    @property
    def operands(self) -> tuple[Region, ...]:
        regions: list[Region] = [*self.source.operands, *_packed(self.n, self.source.width, self.format)]
        regions += ["weights"] * self.bias
        regions += ["workspace"] * self.residual
        return (*regions, *(() if self.logits else ("workspace",)))

    @property
    def output(self) -> tuple[int, ...]:
        return (1, self.n // 2 if self.gate else self.n)

    def emit(self, operands: Operands, inputs: StepInputs, isa: Isa) -> None:
        taken = self.take(operands, inputs, isa)
        x, _ = taken.read(E.i32(0))
        row = products(taken.weight, self.activations)
        emit_gemv(taken.weight, row, x, taken.bias, taken.residual, taken.y, gate=self.gate, launched=True)

    def take(self, operands: Operands, inputs: StepInputs, isa: Isa) -> LinearOperands:
        """Takes its operands."""
        read = self.source.reader(operands, inputs, isa)
        with operands.parameters("weights"):
            tiles = inputs.tiles.of_linear(self.n, self.source.width, self.format, "one")
            weight = PackedWeight(self.n, self.source.width, self.format, isa, tiles)
        bias = operands.take("weights", (self.n,)) if self.bias else None
        residual = operands.take("workspace", (inputs.rows, self.n)) if self.residual else None
        y = inputs.logits if self.logits else operands.take("workspace", (inputs.rows, self.output[1]))
        return LinearOperands(read, weight, bias, residual, y)


@dataclass(frozen=True)
class LinearOperands:
    """What a `LinearKernel` reads and writes: rows of its source, W, bias [N], residual [B, N], and y."""

    read: Reader
    weight: PackedWeight
    bias: E.Buffer | None
    residual: E.Buffer | None
    y: E.Buffer


@dataclass(frozen=True)
class AttentionPieces:
    """What an `AttentionKernel` emits.

    Attributes:
        cache: writes the key and value of a row and a KV head.
        attend: one part of one KV head of a row: the row, its span, the head, the part, and how many there are.
    """

    cache: Callable[[E.Expr, E.Expr], None]
    attend: Callable[[E.Expr, Span, E.Expr, E.Expr, E.Expr], None]


@dataclass(frozen=True)
class AttentionKernel:
    """RoPE, the update of the cache, and attention in parts, from what the projection of a token yields.

    Of a single row the thread that attends to the last part of a KV head writes the head's key and value before, and
    every part rotates the queries of its own group, so that nobody has to wait. Of several rows all are written first:
    they may be neighbours in one sequence, where each sees those before it.

    Operands: qkv [B, (Hq + 2 Hkv) D], the norms of queries and keys [D] if `epsilon` is given, the projection's bias if
    `key_bias` says that keys are cached without theirs (see `kernels.key_bias`), the pools of keys and values, and with
    int8 those of their scales, the partial results.
    """

    heads: int
    kv_heads: int
    d: int
    kv_dtype: KvDtype
    scale: float
    window: int | None
    block: int
    epsilon: float | None = None
    key_bias: bool = False

    @property
    def key(self) -> str:
        norm = "" if self.epsilon is None else f"_norm{E.number_name(self.epsilon)}"
        return (
            f"attention_{self.heads}_{self.kv_heads}x{self.d}_{self.kv_dtype}_b{self.block}_w{self.window}"
            f"_{E.number_name(self.scale)}{norm}{'_key_bias' * self.key_bias}"
        )

    @property
    def operands(self) -> tuple[Region, ...]:
        norms: list[Region] = ["weights"] * (0 if self.epsilon is None else 2)
        pools: list[Region] = ["pools"] * (4 if self.kv_dtype == "int8" else 2)
        biases: list[Region] = ["weights"] * self.key_bias
        return ("workspace", *norms, *biases, *pools, "workspace")

    @property
    def output(self) -> tuple[int, ...]:
        return tuple(int(extent) for extent in partial_shape(self.kv_heads, self.heads // self.kv_heads, self.d))

    def emit(self, operands: Operands, inputs: StepInputs, isa: Isa) -> None:
        taken = self.take(operands, inputs, isa)
        row = E.i32(0)
        span = Span(E.let(E.load(inputs.write_index, [row])), self.window)
        splits = E.let(E.minimum(span.tiles, E.i64(SPLITS)))
        with E.parallel(splits * self.kv_heads) as task:
            head, split = E.let(task % self.kv_heads), E.let(task // self.kv_heads)
            E.when(span.share(split, splits)[1] == span.tiles, lambda: taken.cache(row, head))
            taken.attend(row, span, head, split, splits)

    def take(self, operands: Operands, inputs: StepInputs, isa: Isa) -> AttentionPieces:
        """Takes its operands."""
        heads, kv_heads, d = self.heads, self.kv_heads, self.d
        group = heads // kv_heads
        qkv = operands.take("workspace", (inputs.rows, (heads + 2 * kv_heads) * d))
        norms = [operands.take("weights", (d,)) if self.epsilon is not None else None for _ in range(2)]
        bias = operands.take("weights", ((heads + 2 * kv_heads) * d,)) if self.key_bias else None
        with operands.parameters("pools"):
            keys, values = declare_pools(kv_heads, d, self.kv_dtype, inputs.block_table, isa, self.block)
        partial = operands.take("workspace", partial_shape(inputs.rows * kv_heads, group, d))
        scores = None if bias is None else KeyBias(bias, heads, d, (inputs.cos, inputs.sin), isa)

        def projected(row: E.Expr) -> Projected:
            angles = (inputs.cos, inputs.sin, E.let(E.load(inputs.position_ids, [row, 0])))
            return Projected(qkv, [row], heads, kv_heads, d, angles, norms, self.epsilon or 0.0, isa, bias)

        def cache(row: E.Expr, head: E.Expr) -> None:
            cached = E.let(E.load(inputs.write_index, [row]))
            projected(row).cache(head, keys, values, keys.place(row, cached))

        def attend(row: E.Expr, span: Span, head: E.Expr, split: E.Expr, splits: E.Expr) -> None:
            queries = projected(row)
            begin, end = span.share(split, splits)
            q = E.scratch((1, 1, group * d))
            with E.serial(group) as member:
                first = E.let(member * d)
                queries.query(
                    E.let(head * group + member), lambda e, value, lanes: E.store(q, [0, 0, first + e], value, lanes)
                )
            task = E.let((E.i64(row) * SPLITS + split) * kv_heads + head)
            part = Part(isa, q, E.i32(0), keys, values, partial, row, head, task, self.scale, scores, E.i32(0))
            part.attend(span, begin, end)

        return AttentionPieces(cache, attend)


def _packed(n: int, k: int, fmt: WeightFormat) -> tuple[Region, ...]:
    return tuple("weights" for _ in packed_layout(n, k, fmt).buffers)
