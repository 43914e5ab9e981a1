"""A thin layer over TVM's TensorIR builder: vectors of a chosen width, registers, loops, conversions.

Kernels are Python functions that emit statements while they run, so a Python loop is an unrolled loop and `serial` is
a real one. All float math is written on explicit vectors; nothing relies on LLVM's auto-vectorizer. Functions that
take `lanes` accept 1, which means a scalar, so that tails use the same code as bodies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from tvm.ir import PointerType, PrimType
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Add, FloorDiv, FloorMod, IntImm, Max, Min, Mul, Shuffle, Sub, Var, truncdiv, truncmod
from tvm.tirx.script.builder import ir as T

from xamc.targets.kernels.isa import Isa

Expr = Any
Buffer = Any
PrimFunc = Any
LaneReader = Callable[[Expr, int], Expr]
"""Yields `lanes` consecutive elements from an offset on."""
TotalWriter = Callable[[Expr, int, "Register"], None]
"""Takes a row, the number of a vector and its sums."""
Loop = Callable[[Expr], AbstractContextManager[Expr]]
"""`serial` or `parallel`."""
_OPERATIONS = (Add, Sub, Mul, Min, Max, FloorDiv, FloorMod)
LaneWriter = Callable[[Expr, Expr, int], None]
"""Takes an offset and the `lanes` consecutive elements that go there."""


def build(name: str, body: Callable[[], None]) -> PrimFunc:
    """The PrimFunc called `name` whose parameters and statements `body` emits."""
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name(name)
            T.func_attr({"tirx.noalias": True})
            body()
        return builder.get()


def dynamic(name: str) -> Expr:
    """A symbolic int64 dimension."""
    return Var(name, "int64")


Declare = Callable[[Sequence[Expr | int], str], Buffer]
"""Declares a tensor of a shape and dtype."""
_elsewhere: ContextVar[Declare | None] = ContextVar("_elsewhere", default=None)


def parameter(name: str, shape: Sequence[Expr | int], dtype: str) -> Buffer:
    """The next parameter: a tensor, whose unbound symbolic dimensions are bound by its shape."""
    declare = _elsewhere.get()
    if declare is not None:
        return declare(shape, dtype)
    return T.match_buffer(T.arg(name, T.handle()), tuple(shape), dtype)


@contextmanager
def parameters_from(declare: Declare) -> Iterator[None]:
    """Lets `parameter` take what `declare` yields instead of a parameter of the function."""
    token = _elsewhere.set(declare)
    try:
        yield
    finally:
        _elsewhere.reset(token)


def view(region: Buffer, offset: Expr, shape: Sequence[Expr | int], dtype: str) -> Buffer:
    """A tensor that lies at a byte offset of a region uint8 [N]; symbolic dimensions, the first one alone, don't count.

    LLVM takes views for separate memory: two that overlap may not be used between the same two calls.
    """
    pointer = PointerType(PrimType(dtype))
    address = Var("address", pointer)
    T.Bind(T.reinterpret(pointer, T.address_of(region[offset])), var=address)
    return T.decl_buffer([extent if isinstance(extent, int) else 1 for extent in shape], dtype, data=address)


def flat(buffer: Buffer, shape: Sequence[Expr | int]) -> Buffer:
    """A whole tensor as another of the same elements."""
    return T.decl_buffer(tuple(shape), str(buffer.ty.dtype), data=buffer.data)


def scratch(shape: Sequence[Expr | int], dtype: str = "float32") -> Buffer:
    """Uninitialized working memory: on the stack below 1 KiB, from TVM's per-thread pool above."""
    return T.alloc_buffer(tuple(shape), dtype)


def vector(dtype: str, lanes: int) -> str:
    """Dtype name of `lanes` elements of `dtype`."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def number_name(value: float) -> str:
    """A float as part of a name, exactly."""
    return float(value).hex().replace(".", "_").replace("-", "m").replace("+", "p")


def i32(value: int) -> Expr:
    return T.int32(value)


def i64(value: int | Expr) -> Expr:
    return T.int64(value) if isinstance(value, int) else T.cast(value, "int64")


def f32(value: float) -> Expr:
    return T.float32(value)


def splat(value: Expr, lanes: int) -> Expr:
    """`value` in every lane."""
    return value if lanes == 1 else T.broadcast(value, lanes)


def const(value: float, lanes: int, dtype: str = "float32") -> Expr:
    """A constant in every lane."""
    return splat(getattr(T, dtype)(value), lanes)


def ramp(start: Expr, lanes: int) -> Expr:
    """start, start + 1, ... as a vector."""
    return T.ramp(start, 1, lanes)


def either(a: Expr, b: Expr) -> Expr:
    """Logical or."""
    return T.Or(a, b)


def both(a: Expr, b: Expr) -> Expr:
    """Logical and."""
    return T.And(a, b)


def load(buffer: Buffer, index: Sequence[Expr | int], lanes: int = 1) -> Expr:
    """`lanes` consecutive elements of the last axis."""
    return buffer.vload(list(index), vector(str(buffer.ty.dtype), lanes))


def load_strided(buffer: Buffer, start: Expr, step: int, lanes: int) -> Expr:
    """Elements start, start + step, ... of a flat buffer."""
    return buffer.vload([T.ramp(start, step, lanes)], vector(str(buffer.ty.dtype), lanes))


def store(buffer: Buffer, index: Sequence[Expr | int], value: Expr, lanes: int = 1) -> None:
    """Stores `lanes` consecutive elements of the last axis."""
    last = index[-1] if lanes == 1 else T.ramp(index[-1], 1, lanes)
    T.buffer_store(buffer, value, [*index[:-1], last])


def _truncating(index: Expr | int) -> Expr | int:
    """`index` with divisions by something unknown as the machine does them.

    Nothing is negative in an index. TVM doesn't know, and would choose between rounding down and up at run time; it
    also reasons about that choice wherever the index is used: most of the time that attention took to compile.
    """
    if not isinstance(index, _OPERATIONS):
        return index
    a, b = _truncating(index.a), _truncating(index.b)
    if isinstance(index, FloorDiv | FloorMod) and not isinstance(b, IntImm):
        return truncdiv(a, b) if isinstance(index, FloorDiv) else truncmod(a, b)
    return type(index)(a, b)


def let(value: Expr | int) -> Expr:
    """Evaluates `value` here, once.

    Indices are bound, so that TVM can reason about them. It would reason about data too, in time exponential in the
    length of a chain of values that are read more than once; data goes through a variable, which LLVM keeps in a
    register.
    """
    dtype = "int32" if isinstance(value, int) else str(value.ty.dtype)
    if dtype in ("int64", "int32"):
        return T.Bind(_truncating(value))
    element, _, lanes = dtype.partition("x")
    return Register(int(lanes or 1), element, value).get()


def fma(a: Expr, b: Expr, c: Expr, lanes: int) -> Expr:
    """a * b + c, fused where the level can (llvm.fma would call a library function elsewhere)."""
    return T.call_llvm_pure_intrin(vector("float32", lanes), "llvm.fmuladd", a, b, c)


def cast(value: Expr, dtype: str, lanes: int) -> Expr:
    return T.cast(value, vector(dtype, lanes))


def bits(value: Expr, dtype: str, lanes: int) -> Expr:
    """The same bits as another dtype."""
    return T.reinterpret(vector(dtype, lanes), value)


def select(condition: Expr, then: Expr, otherwise: Expr) -> Expr:
    """Lane-wise choice; both sides are evaluated."""
    return T.Select(condition, then, otherwise)


def choose(condition: Expr, then: Expr, otherwise: Expr) -> Expr:
    """Scalar choice."""
    return T.if_then_else(condition, then, otherwise)


def shuffle(value: Expr, lanes: Sequence[int]) -> Expr:
    """A vector of the given lanes of `value`; a single lane yields a scalar."""
    return Shuffle([value], [T.int32(lane) for lane in lanes])


def reduce(value: Expr, lanes: int, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """Combines all lanes into a scalar, halving the vector each step."""
    while lanes > 1:
        value, half = let(value), lanes // 2
        value = combine(shuffle(value, range(half)), shuffle(value, range(half, lanes)))
        lanes = half
    return let(value)


def add(a: Expr, b: Expr) -> Expr:
    return a + b


def maximum(a: Expr, b: Expr) -> Expr:
    return T.max(a, b)


def minimum(a: Expr, b: Expr) -> Expr:
    return T.min(a, b)


def at_least(value: Expr, bound: Expr) -> Expr:
    """`value`, or a bound above it; unlike `maximum` it keeps NaN, and -0 under a bound of 0, for the same price."""
    return T.Select(bound > value, bound, value)


def at_most(value: Expr, bound: Expr) -> Expr:
    """`value`, or a bound below it; unlike `minimum` it keeps NaN."""
    return T.Select(bound < value, bound, value)


def is_nan(value: Expr, lanes: int) -> Expr:
    """Lane-wise, by the bits of a float32: TVM takes a number to be equal to itself."""
    return (bits(value, "int32", lanes) & const(0x7FFFFFFF, lanes, "int32")) > const(0x7F800000, lanes, "int32")


def prefetch(buffer: Buffer, index: Sequence[Expr | int]) -> None:
    """Asks for the cache line of an element that is going to be read; it need not exist."""
    # read, keep in all levels, data
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", T.address_of(buffer[tuple(index)]), i32(0), i32(3), i32(1)))


def sqrt(value: Expr) -> Expr:
    return T.call_llvm_pure_intrin("float32", "llvm.sqrt", value)


def gather_sums(values: Sequence[Expr]) -> Expr:
    """The vector of the sums of the lanes of each of `values`; as many values as lanes, a power of two.

    Pairs of vectors are added such that each half holds partial sums of one of them: n - 1 additions in all, where n
    separate horizontal sums take n log n.
    """
    lanes = len(values)
    blocks, width = list(values), lanes
    while len(blocks) > 1:
        # Every vector holds lanes / width blocks of `width` partial sums, one block per value.
        half, merged = width // 2, []
        for low, high in zip(blocks[::2], blocks[1::2]):
            even: list[int] = []
            odd: list[int] = []
            for vector_index in range(2):
                for start in range(0, lanes, width):
                    even += range(vector_index * lanes + start, vector_index * lanes + start + half)
                    odd += range(vector_index * lanes + start + half, vector_index * lanes + start + width)
            merged.append(let(_shuffle2(low, high, even) + _shuffle2(low, high, odd)))
        blocks, width = merged, half
    return blocks[0]


def transpose(values: Sequence[Expr]) -> list[Expr]:
    """Transposes as many vectors as they have lanes, a power of two: log n rounds of perfect shuffles."""
    lanes = len(values)
    current, half = list(values), lanes // 2
    low = [lane for j in range(half) for lane in (j, lanes + j)]
    high = [lane for j in range(half, lanes) for lane in (j, lanes + j)]
    for _ in range(lanes.bit_length() - 1):
        merged = []
        for first, second in zip(current[:half], current[half:]):
            merged += [let(_shuffle2(first, second, low)), let(_shuffle2(first, second, high))]
        current = merged
    return current


def _shuffle2(low: Expr, high: Expr, lanes: Sequence[int]) -> Expr:
    return Shuffle([low, high], [T.int32(lane) for lane in lanes])


class Register:
    """A vector variable. LLVM keeps it in a register because every access has a constant index."""

    def __init__(self, lanes: int, dtype: str = "float32", initial: Expr | None = None) -> None:
        # The default scope is what TVM puts on the stack; "local" would come from the workspace pool.
        self.buffer = T.alloc_buffer((lanes,), dtype)
        self.lanes = lanes
        if initial is not None:
            self.set(initial)

    def get(self) -> Expr:
        return load(self.buffer, [0], self.lanes)

    def set(self, value: Expr) -> None:
        store(self.buffer, [0], value, self.lanes)

    def zero(self) -> None:
        self.set(const(0, self.lanes, str(self.buffer.ty.dtype)))


@contextmanager
def serial(start: Expr | int, stop: Expr | int | None = None, step: int | None = None) -> Iterator[Expr]:
    """A loop over [start, stop), or [0, start)."""
    with T.serial(start, stop, step=step) as index:
        yield index


@contextmanager
def parallel(extent: Expr | int) -> Iterator[Expr]:
    """A loop whose iterations are shared out among the threads, a contiguous range each."""
    with T.parallel(extent) as index:
        yield index


def when(condition: Expr, then: Callable[[], None], otherwise: Callable[[], None] | None = None) -> None:
    """Runs `then` or `otherwise`, decided at run time."""
    with T.If(condition):
        with T.Then():
            then()
        if otherwise is not None:
            with T.Else():
                otherwise()


def rows(extent: Expr, body: Callable[[Expr], None], threshold: int = 4) -> None:
    """Runs `body` for every row: in parallel from `threshold` rows on, else without waking the other threads."""

    def run(loop: Callable[[Expr], Any]) -> None:
        with loop(extent) as row:
            body(row)

    when(extent < threshold, lambda: run(serial), lambda: run(parallel))


def lanewise(extent: int, isa: Isa, body: Callable[[Expr, int], None], unroll: int = 4) -> None:
    """Runs `body(offset, lanes)` over [0, extent): full vectors, then single elements."""
    lanes = isa.lanes
    whole = extent // lanes
    if whole <= unroll:
        for i in range(whole):
            body(i32(i * lanes), lanes)
    else:
        with serial(whole) as i:
            body(i * lanes, lanes)
    if extent % lanes:
        with serial(whole * lanes, extent) as i:
            body(i, 1)


def half_to_float(value: Expr, lanes: int, isa: Isa) -> Expr:
    """float16 to float32, exactly.

    Without F16C: shift the mantissa into place and scale by 2^112, which also makes subnormals right; infinities and
    NaNs get the exponent 255.
    """
    if isa.has_f16c:
        return cast(value, "float32", lanes)
    raw = let(cast(bits(value, "uint16", lanes), "uint32", lanes))
    magnitude = let((raw & const(0x7FFF, lanes, "uint32")) << const(13, lanes, "uint32"))
    scaled = bits(magnitude, "float32", lanes) * const(2.0**112, lanes)
    special = bits(magnitude | const(0x7F800000, lanes, "uint32"), "float32", lanes)
    finite = magnitude < const(0x0F800000, lanes, "uint32")
    result = bits(select(finite, scaled, special), "uint32", lanes)
    sign = (raw & const(0x8000, lanes, "uint32")) << const(16, lanes, "uint32")
    return bits(result | sign, "float32", lanes)


def float_to_half(value: Expr, lanes: int, isa: Isa) -> Expr:
    """float32 to float16, to nearest even, overflow to infinity.

    Without F16C: subnormal results are rounded by the adder (adding 0.5 leaves the result in the low mantissa bits),
    normal ones by adding half a unit in the last place, the carry running into the exponent.
    """
    if isa.has_f16c:
        return cast(value, "float16", lanes)

    def u32(number: int) -> Expr:
        return const(number, lanes, "uint32")

    raw = let(bits(value, "uint32", lanes))
    sign = let(raw & u32(0x80000000))
    magnitude = let(raw ^ sign)
    small = bits(bits(magnitude, "float32", lanes) + const(0.5, lanes), "uint32", lanes) - u32(0x3F000000)
    odd = (magnitude >> u32(13)) & u32(1)
    # Rebias the exponent from 127 to 15, modulo 2^32.
    normal = (magnitude + u32(0xC8000000) + u32(0xFFF) + odd) >> u32(13)
    special = select(magnitude > u32(0x7F800000), u32(0x7E00), u32(0x7C00))
    finite = select(magnitude < u32(113 << 23), small, normal)
    half = select(magnitude >= u32(143 << 23), special, finite)
    return bits(cast(half | (sign >> u32(16)), "uint16", lanes), "float16", lanes)


def bfloat_to_float(value: Expr, lanes: int) -> Expr:
    """The bits of a bfloat16 (uint16) to float32, exactly."""
    return bits(cast(value, "uint32", lanes) << const(16, lanes, "uint32"), "float32", lanes)


def float_to_bfloat(value: Expr, lanes: int) -> Expr:
    """float32 to the bits of a bfloat16 (uint16), to nearest even; NaN stays NaN."""
    raw = let(bits(value, "uint32", lanes))
    shift, one = const(16, lanes, "uint32"), const(1, lanes, "uint32")
    rounded = (raw + const(0x7FFF, lanes, "uint32") + ((raw >> shift) & one)) >> shift
    nan = (raw >> shift) | const(0x40, lanes, "uint32")
    is_nan = (raw & const(0x7FFFFFFF, lanes, "uint32")) > const(0x7F800000, lanes, "uint32")
    return cast(select(is_nan, nan, rounded), "uint16", lanes)


def load_float(buffer: Buffer, index: Sequence[Expr | int], lanes: int, isa: Isa) -> Expr:
    """Elements of a float32, float16 or bfloat16 buffer as float32; integers stay as they are."""
    value, dtype = load(buffer, index, lanes), str(buffer.ty.dtype)
    if dtype == "float16":
        return half_to_float(value, lanes, isa)
    if dtype == "bfloat16":
        return bfloat_to_float(bits(value, "uint16", lanes), lanes)
    return value


def store_float(buffer: Buffer, index: Sequence[Expr | int], value: Expr, lanes: int, isa: Isa) -> None:
    """Stores float32 values into a float32, float16 or bfloat16 buffer, rounded to nearest even."""
    dtype = str(buffer.ty.dtype)
    if dtype == "float16":
        value = float_to_half(value, lanes, isa)
    elif dtype == "bfloat16":
        value = bits(float_to_bfloat(value, lanes), "bfloat16", lanes)
    store(buffer, index, value, lanes)


def largest_magnitude(buffer: Buffer, extent: int, isa: Isa) -> Expr:
    """max |x| over the first `extent` elements of a flat float32 buffer."""
    lanes = isa.lanes
    tops = Register(lanes, initial=const(0, lanes))
    with serial(extent // lanes) as index:
        value = let(load(buffer, [index * lanes], lanes))
        tops.set(maximum(tops.get(), maximum(value, const(0, lanes) - value)))
    result = Register(1, initial=reduce(tops.get(), lanes, maximum))
    with serial(extent // lanes * lanes, extent) as index:
        single = let(load(buffer, [index]))
        result.set(maximum(result.get(), maximum(single, f32(0) - single)))
    return result.get()


def round_to_int8(value: Expr, lanes: int) -> Expr:
    """float32 in [-127, 127] to int8, to nearest even.

    Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits, whose lowest byte is the result.
    """
    shifted = bits(let(value + const(12582912.0, lanes)), "int32", lanes)
    return cast(shifted, "int8", lanes)


def exp(value: Expr, lanes: int) -> Expr:
    """e**value in float32; see docs/kernels.md for the measured error.

    Cephes' expf (Moshier, 1992, single precision): x = n ln 2 + r with the two-part constant of Cody and Waite, a
    polynomial of degree 5 in r, and n added to the exponent field. Relative error below 2e-7 on [-87.3, 88.3];
    below -87.3 the result is 0, above 88.3 it stays at exp(88.3).
    """
    x = let(minimum(value, const(88.3, lanes)))
    x = let(maximum(x, const(-87.3, lanes)))
    # Adding 1.5 * 2^23 rounds to an integer and leaves it in the low mantissa bits.
    shifted = let(fma(x, const(1.44269504088896341, lanes), const(12582912.0, lanes), lanes))
    n = let(shifted - const(12582912.0, lanes))
    r = let(fma(n, const(-0.693359375, lanes), x, lanes))
    r = let(fma(n, const(2.12194440e-4, lanes), r, lanes))
    p = const(1.9875691500e-4, lanes)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = fma(p, r, const(coefficient, lanes), lanes)
    p = fma(let(p * r), r, r, lanes) + const(1.0, lanes)
    exponent = bits(shifted, "int32", lanes) << const(23, lanes, "int32")
    result = bits(bits(let(p), "int32", lanes) + exponent, "float32", lanes)
    return let(select(value < const(-87.3, lanes), const(0.0, lanes), result))
