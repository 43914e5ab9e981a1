"""Micro-benchmark of the CPU kernels against what the machine can do at that moment.

    python tools/bench/kernels.py [--threads N] [--repeats N] [--level NAME] [--only linear|attention] [--json]

Memory-bound kernels (one row of activations) are printed as a fraction of the read bandwidth, compute-bound ones as a
fraction of the float32 multiply-add peak. Both limits are probed right before and right after every repeat, by kernels
that do nothing else, because clocks and the bandwidth of shared machines change within seconds; the fraction is the
median over the repeats. With one thread, the thread's CPU time is taken instead of the wall clock, so that other
processes' time slices do not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from xamc.artifact.packing import WeightFormat, packed_layout
from xamc.model.kv_cache import KV_BLOCK
from xamc.targets.cpu import tir_pipeline
from xamc.targets.kernels import emit as E
from xamc.targets.kernels.attention import attention
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.kv_pages import KvDtype
from xamc.targets.kernels.linear import Activations, linear

PROBE_BYTES = 192 * 2**20
"""Beyond the last-level cache of the machines we know."""
FORMATS = (
    WeightFormat("float32"),
    WeightFormat("float16"),
    WeightFormat("bfloat16"),
    WeightFormat("int8"),
    WeightFormat("uint4", 32),
)
ARITHMETICS: tuple[tuple[WeightFormat, Activations], ...] = (
    *((fmt, "float32") for fmt in FORMATS),
    (WeightFormat("bfloat16"), "bfloat16"),
    *((fmt, "int8") for fmt in FORMATS if fmt.quantized),
    (WeightFormat("int8"), "int16"),
)
"""Formats, and what they are multiplied as; integer rows too are fractions of the float32 multiply-add peak."""
SHAPES = {"135M gate_up": (3072, 576), "1.1B gate_up": (11264, 2048), "1.1B down": (2048, 5632)}
ROWS = (4, 128, 512)
Limit = Callable[[], float]


@dataclass(frozen=True)
class Result:
    """One measurement: `rate` and `limit` in GB/s or Gflop/s, `fraction` the median of their ratios."""

    kernel: str
    unit: str
    rate: float
    limit: float
    fraction: float


def tensor(array: NDArray[Any]) -> Any:
    return tvm.runtime.tensor(array)


def compiled(function: Any, isa: Isa) -> Callable[..., None]:
    module = tvm.compile(function, target=tvm.target.Target(isa.target()), tir_pipeline=tir_pipeline.NAME)
    entry: Callable[..., None] = module[function.attrs["global_symbol"]]
    return entry


clock = time.perf_counter


def seconds(call: Callable[[], None]) -> float:
    start = clock()
    call()
    return clock() - start


def bandwidth_probe(isa: Isa, threads: int) -> Limit:
    """Reads a large buffer once; GB/s."""
    lanes, chains = isa.lanes, 8
    block = lanes * chains
    rows = PROBE_BYTES // (4 * block)
    per_thread = rows // threads

    def body() -> None:
        x = E.parameter("x", (rows, block), "float32")
        y = E.parameter("y", (threads, block), "float32")
        with E.parallel(threads) as t:
            best = [E.Register(lanes, initial=E.const(0, lanes)) for _ in range(chains)]
            with E.serial(per_thread) as i:
                for c, register in enumerate(best):
                    value = E.load(x, [t * per_thread + i, c * lanes], lanes)
                    register.set(E.maximum(value, register.get()))
            for c, register in enumerate(best):
                E.store(y, [t, c * lanes], register.get(), lanes)

    run = compiled(E.build("read", body), isa)
    x, y = tensor(np.ones((rows, block), np.float32)), tensor(np.zeros((threads, block), np.float32))
    return lambda: threads * per_thread * block * 4 / seconds(lambda: run(x, y)) / 1e9


def peak_probe(isa: Isa, threads: int) -> Limit:
    """Independent multiply-adds in registers; Gflop/s."""
    lanes, chains, steps = isa.lanes, 12, 1_000_000

    def body() -> None:
        x = E.parameter("x", (2 * lanes,), "float32")
        y = E.parameter("y", (threads, chains * lanes), "float32")
        with E.parallel(threads) as t:
            sums = [E.Register(lanes, initial=E.const(0, lanes)) for _ in range(chains)]
            a, b = E.let(E.load(x, [0], lanes)), E.let(E.load(x, [lanes], lanes))
            with E.serial(steps):
                for register in sums:
                    register.set(E.fma(a, register.get(), b, lanes))
            for c, register in enumerate(sums):
                E.store(y, [t, c * lanes], register.get(), lanes)

    run = compiled(E.build("peak", body), isa)
    x, y = tensor(np.full(2 * lanes, 0.5, np.float32)), tensor(np.zeros((threads, chains * lanes), np.float32))
    return lambda: threads * chains * steps * lanes * 2 / seconds(lambda: run(x, y)) / 1e9


def measure(kernel: str, unit: str, amount: float, call: Callable[[], None], limit: Limit, repeats: int) -> Result:
    """Rates of `repeats` calls that each move or compute `amount` (in units of 1e9)."""
    call()
    rates, limits = [], []
    for _ in range(repeats):
        before = limit()
        rates.append(amount / seconds(call))
        limits.append((before + limit()) / 2)
    fraction = statistics.median(rate / peak for rate, peak in zip(rates, limits))
    return Result(kernel, unit, statistics.median(rates), statistics.median(limits), fraction)


def linears(isa: Isa, bandwidth: Limit, peak: Limit, repeats: int, counts: Sequence[int] = ROWS) -> Iterator[Result]:
    generator = np.random.default_rng(0)
    for shape, (n, k) in SHAPES.items():
        for fmt, activations in ARITHMETICS:
            layout = packed_layout(n, k, fmt)

            def weight(layout: Any = layout) -> list[Any]:
                return [tensor(np.ones(b.shape, b.dtype)) for b in layout.buffers]

            name = f"{fmt.kind}{f' g{fmt.group_size}' if fmt.group_size else ''} {shape} {n}x{k}"
            name = name if activations == "float32" else f"{activations} activations {name}"
            copies = [weight() for _ in range(max(1, PROBE_BYTES // layout.nbytes))]
            one = compiled(linear(n, k, fmt, isa, m="one", activations=activations), isa)
            x, y = tensor(generator.standard_normal((1, k)).astype(np.float32)), tensor(np.zeros((1, n), np.float32))

            def stream(one: Any = one, copies: Any = copies, x: Any = x, y: Any = y) -> None:
                for buffers in copies:
                    one(x, *buffers, y)

            moved = layout.nbytes * len(copies) / 1e9
            yield measure(f"gemv {name}", "GB/s", moved, stream, bandwidth, repeats)
            many = compiled(linear(n, k, fmt, isa, m="any", activations=activations), isa)
            for m in counts:
                x = tensor(generator.standard_normal((m, k)).astype(np.float32))
                y = tensor(np.zeros((m, n), np.float32))

                def multiply(many: Any = many, first: Any = copies[0], x: Any = x, y: Any = y) -> None:
                    many(x, *first, y)

                yield measure(f"gemm m={m} {name}", "Gflop/s", 2 * m * n * k / 1e9, multiply, peak, repeats)


def cache(generator: np.random.Generator, shape: tuple[int, ...], dtype: KvDtype) -> list[Any]:
    """Keys and values of one layer, and the scales of int8 ones."""
    both = ((*shape[:2], shape[3], shape[2]), shape)
    if dtype == "int8":
        codes = [tensor(generator.integers(-127, 128, shape, np.int8)) for shape in both]
        return codes + [tensor(np.full(shape[:3], 0.01, np.float32)) for _ in both]
    return [tensor(generator.standard_normal(shape, np.float32).astype(dtype)) for shape in both]


def attentions(isa: Isa, bandwidth: Limit, peak: Limit, repeats: int) -> Iterator[Result]:
    generator = np.random.default_rng(0)
    dtypes: tuple[KvDtype, ...] = ("float32", "float16", "int8")
    for hq, hkv, d in ((9, 3, 64), (32, 4, 64), (16, 8, 128)):
        for dtype in dtypes:
            capacity = 4096
            per_layer = 2 * hkv * capacity * (d * np.dtype(dtype).itemsize + (4 if dtype == "int8" else 0))
            blocks = capacity // KV_BLOCK
            table = tensor(generator.permutation(blocks).astype(np.int32)[None])
            caches = [cache(generator, (blocks, hkv, KV_BLOCK, d), dtype) for _ in range(PROBE_BYTES // per_layer + 1)]
            name = f"{hq}/{hkv} heads of {d}, {dtype} cache"
            for m, s, past in (("one", 1, capacity - 1), ("any", 512, 0)):
                run = compiled(attention(hq, hkv, d, dtype, isa, scale=d**-0.5, m=m), isa)  # type: ignore[arg-type]
                q = tensor(generator.standard_normal((1, s, hq * d)).astype(np.float32))
                y, index = tensor(np.zeros((1, s, hq * d), np.float32)), tensor(np.array([past]))

                def attend(
                    run: Any = run,
                    some: Any = caches if s == 1 else caches[:1],
                    inputs: Any = (q, table, index),
                    y: Any = y,
                ) -> None:
                    for pools in some:
                        run(*inputs, *pools, y)

                if s == 1:
                    moved = len(caches) * per_layer / 1e9
                    yield measure(f"attention decode at {capacity}, {name}", "GB/s", moved, attend, bandwidth, repeats)
                else:
                    work = 4 * hq * d * s * (s + 1) / 2 / 1e9
                    yield measure(f"attention prefill {s}, {name}", "Gflop/s", work, attend, peak, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--level", default=None, help="CPU level, this machine's by default")
    parser.add_argument("--only", choices=("linear", "attention"), default=None)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="of linear layers, beside one")
    parser.add_argument("--json", action="store_true", help="a JSON object per line instead of a table")
    options = parser.parse_args()
    if options.threads == 1:
        global clock
        clock = time.thread_time
    isa = Isa.by_name(options.level) if options.level else Isa.host()
    tvm.get_global_func("runtime.config_threadpool")(1, options.threads)
    bandwidth, peak = bandwidth_probe(isa, options.threads), peak_probe(isa, options.threads)
    bandwidth(), peak()  # the first call pays for page faults
    if not options.json:
        print(f"{isa.name}, {options.threads} threads: {bandwidth():.0f} GB/s read, {peak():.0f} Gflop/s fp32")
    groups: dict[str, Callable[[Isa, Limit, Limit, int], Iterator[Result]]] = {
        "linear": partial(linears, counts=options.rows),
        "attention": attentions,
    }
    for name, group in groups.items():
        if options.only not in (None, name):
            continue
        for result in group(isa, bandwidth, peak, options.repeats):
            if options.json:
                print(json.dumps(asdict(result)), flush=True)
            else:
                figures = f"{result.rate:8.1f} of {result.limit:6.1f} {result.unit:8s} {result.fraction:4.0%}"
                print(f"{figures}  {result.kernel}", flush=True)


if __name__ == "__main__":
    main()
