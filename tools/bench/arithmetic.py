"""What the arithmetic of a CPU level costs: `python -m tools.bench.arithmetic [LEVEL ...]`.

SmolLM2-135M is compiled with every kind of weights and everything its linear layers can multiply their inputs as, for
each level (default: this machine's), and compared with its float32 artifact, which is 5e-11 nats from transformers, on
4,096 positions of real text. Prints a table; `targets/cpu/arithmetic.py` and docs/kernels.md have what it measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from tools.bench.corpus import I64, windows
from tools.bench.engines import ROOT, SPECS
from tools.bench.fidelity import WINDOW, WINDOWS, compare
from xamc import compiler, runtime
from xamc.targets.kernels.isa import Isa

ROWS = (
    ("fp16", "float32"),
    ("fp16", "bfloat16"),
    ("bf16", "float32"),
    ("bf16", "bfloat16"),
    ("w8", "float32"),
    ("w8", "bfloat16"),
    ("w8", "int16"),
    ("w8", "int8"),
    ("w4", "float32"),
    ("w4", "bfloat16"),
    ("w4", "int16"),
    ("w4", "int8"),
)


def build(weights: str, activations: str, level: str, out: Path) -> Path:
    """Compiles SmolLM2-135M and returns the artifact's folder."""
    choices: dict[str, Any] = {
        "workspace": {"path": str(out / f"{level}-{activations}")},
        "verify": {"passes": "off"},
        "backend": {"compile": {"mcpu": level, "activations": activations}},
    }
    return compiler.compile(SPECS / f"smollm2_135m_{weights}.yaml", **choices).path


def logits_of(artifact: Path, ids: I64) -> np.ndarray:
    """float32[N, T, V] of the rows of `ids`."""
    model = runtime.load(artifact)
    return np.stack([np.asarray(model.logits([row.tolist()])[0]) for row in ids])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("levels", nargs="*", default=[Isa.host().name])
    parser.add_argument("--rows", nargs="*", default=[f"{w}-{a}" for w, a in ROWS], help="for example w8-int16")
    parser.add_argument("--out", type=Path, default=ROOT / "build/bench/arithmetic")
    arguments = parser.parse_args()
    reference = build("fp32", "float32", arguments.levels[0], arguments.out)
    ids = windows(reference / "tokenizer/tokenizer.json", WINDOWS, WINDOW)
    expected = arguments.out / "reference.npy"
    np.save(expected, logits_of(reference, ids))
    print(
        "| level | weights | activations | arithmetic of prompts | mean KL, nats | p99 | same top token | perplexity |"
    )
    print("|---|---|---|---|---:|---:|---:|---:|", flush=True)
    for level in arguments.levels:
        for row in arguments.rows:
            weights, _, activations = row.partition("-")
            artifact = build(weights, activations, level, arguments.out)
            values = np.load(expected, mmap_mode="r")
            found = compare(row, values, logits_of(artifact, ids), ids)
            arithmetic = runtime.load(artifact).manifest.cpu.arithmetic
            words = "" if arithmetic is None else arithmetic.prompts
            print(
                f"| {level} | {weights} | {activations} | {words} | {found.mean_kl:.2e} | {found.p99_kl:.1e} "
                f"| {100 * found.top1:.2f} % | {found.perplexity:.3f} |",
                flush=True,
            )
    expected.unlink()


if __name__ == "__main__":
    main()
