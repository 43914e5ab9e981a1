"""Draws the race of one model: ``python plots.py DATA.json OUT.svg``, in the environment that has matplotlib.

A row of panels per number of threads: decode and prefill 512, a bar per engine with a whisker from the slowest to the
fastest round, and the roofline, the most that the machine's limits allow with that engine's weights, as a grey tick.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

_OURS, _THEIRS, _LIMIT, _TEXT = "#0b6bcb", "#b9c3d0", "#5b6675", "#1d2733"
_QUANTITIES = {"decode": "decode, tokens/s", "prefill512": "prefill of 512, tokens/s"}


def draw(data: dict[str, Any], out: Path) -> None:
    """Writes the picture; the type is the file's suffix.

    Args:
        data: what `tables.bars` gave.
        out: the file.
    """
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {
            "font.family": ["DejaVu Sans", "sans-serif"],
            "font.size": 9,
            "svg.hashsalt": "xamc",
            "svg.fonttype": "none",
            "text.color": _TEXT,
        }
    )
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    line: Any = importlib.import_module("matplotlib.lines").Line2D
    patch: Any = importlib.import_module("matplotlib.patches").Patch

    panels = [panel for panel in data["panels"] if panel["rows"]]
    if not panels:
        raise SystemExit("nothing was measured, so there is nothing to draw")
    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    height = 0.24 * max(len(panel["rows"]) for panel in panels) + 0.9
    figure, axes = pyplot.subplots(lines, columns, figsize=(5.6 * columns, height * lines + 0.6), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels):
        _panel(axis, panel)
    handles = [
        patch(color=_OURS, label="xamc"),
        patch(color=_THEIRS, label="other engines"),
        line([], [], color=_LIMIT, marker="|", linestyle="", markersize=11, markeredgewidth=1.6, label="roofline"),
    ]
    figure.suptitle(data["title"], x=0.01, y=0.995, ha="left", fontsize=12, fontweight="bold")
    figure.legend(handles=handles, loc="upper right", ncols=3, frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.2 / (height * lines + 0.6)))
    figure.savefig(out, metadata={"Date": None} if out.suffix == ".svg" else None, dpi=110, facecolor="white")


def _panel(axis: Any, panel: dict[str, Any]) -> None:
    places, place, width = [], 0.0, None
    for row in panel["rows"]:
        place += 1.0 if width in (None, row["width"]) else 1.5  # a gap between widths
        width = row["width"]
        places.append(place)
    longest = max(max(row["high"] for row in panel["rows"]), 1e-9)
    # a roofline far beyond every bar would squeeze them; such a one is drawn at the edge, with its number
    edge = longest * 1.75
    for at, row in zip(places, panel["rows"]):
        color = _OURS if row["ours"] else _THEIRS
        axis.barh(at, row["median"], height=0.78, color=color, zorder=2)
        axis.plot([row["low"], row["high"]], [at, at], color=_TEXT, linewidth=0.9, zorder=3)
        number = f"{row['median']:,.1f}" if row["median"] < 20 else f"{row['median']:,.0f}"
        if row["low"] > longest * 0.16:  # inside the bar, where no roofline can cross it
            ink = "white" if row["ours"] else _TEXT
            axis.text(longest * 0.015, at, number, va="center", fontsize=7.5, color=ink, zorder=4)
        else:
            axis.text(row["high"] + longest * 0.015, at, number, va="center", fontsize=7.5, zorder=4)
        if row["limit"]:
            inside = row["limit"] <= edge
            axis.plot([min(row["limit"], edge)] * 2, [at - 0.42, at + 0.42], color=_LIMIT, linewidth=1.6, zorder=3)
            if not inside:
                axis.text(edge * 0.99, at, f"{row['limit']:,.0f} ›", va="center", ha="right", fontsize=7, color=_LIMIT)
    axis.set_yticks(places, [row["engine"] for row in panel["rows"]])
    for label, row in zip(axis.get_yticklabels(), panel["rows"]):
        label.set_fontweight("bold" if row["ours"] else "normal")
    axis.invert_yaxis()
    axis.set_xlim(0, edge * 1.01)
    axis.grid(axis="x", color="#e6eaef", zorder=0)
    axis.tick_params(length=0)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    count = "1 thread" if panel["threads"] == 1 else f"{panel['threads']} threads"
    limit = f", read bandwidth {panel['gigabytes_per_s']:.0f} GB/s" if panel["quantity"] == "decode" else ""
    axis.set_title(f"{_QUANTITIES[panel['quantity']]} · {count}{limit}", loc="left", fontsize=9)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
