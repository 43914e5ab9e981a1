"""Artifacts of static graphs made of twins, built once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests import twins
from tests.vacc_artifacts import Variant, write_graphs
from xamc.artifact.manifest import Cpu, Generation, KvCache, Manifest, Phase, Quantization, StaticGraph
from xamc.ir.weights.kv_scales import KvScales
from xamc.model.bucket import Bucket
from xamc.model.rope import rope_table
from xamc.targets.kernels.isa import Isa
from xamc.targets.vacc.names import ISA
from xamc.verify.oracle import oracle_of

PREFILL, DECODE, LONGER = Bucket("prefill", 16), Bucket("decode", 16), Bucket("decode", 32)


def _isa_runs_here() -> bool:
    return set(Isa.by_name(ISA).cpu_flags) <= set(Isa.host().cpu_flags)


if not _isa_runs_here():
    pytest.skip(f"this processor has no {ISA}", allow_module_level=True)


class Reference:
    """A twin as it was exported, in fp32 under ONNX Runtime, without any of the passes."""

    def __init__(self, kind: str) -> None:
        self.program, _ = twins.twin(kind)
        self._oracle = oracle_of(self.program)

    def run(self, tokens: list[int]) -> dict[str, np.ndarray]:
        """Logits [1, T, V] and caches of a whole sequence."""
        config, length = self.program.config, len(tokens)
        cos, sin = rope_table(config, length)
        empty = np.zeros((1, config.num_kv_heads, 0, config.head_dim), np.float32)
        feeds = {"input_ids": np.array([tokens]), "position_ids": np.arange(length)[None], "rope_cos": cos}
        pasts = {str(v.name): empty for v in self.program.data_inputs() if str(v.name).startswith("past_")}
        return {name: np.asarray(a) for name, a in self._oracle.run({**feeds, "rope_sin": sin, **pasts}).items()}

    def logits(self, tokens: list[int]) -> np.ndarray:
        """float32[T, V]."""
        return self.run(tokens)["logits"][0]


@pytest.fixture(scope="session")
def tied() -> Reference:
    return Reference("tied")


@pytest.fixture(scope="session")
def windowed() -> Reference:
    return Reference("windowed")


MakeManifest = Callable[..., Manifest]


def manifest(kind: str, graphs: list[StaticGraph], **changes: object) -> Manifest:
    """The manifest around static graphs of a twin."""
    isa = Isa.by_name(ISA)
    lengths = {k: tuple(sorted({(g.length,) for g in graphs if g.kind == k})) for k in ("prefill", "decode")}
    values: dict[str, object] = {
        "name": kind,
        "target": "tvm_vacc",
        "xamc_version": "0",
        "spec": {},
        "model": twins.config(kind),
        "context_limit": max(g.length for g in graphs),
        "prefill_chunk": max(g.length for g in graphs if g.kind == "prefill"),
        "max_batch": 2,
        "kv": KvCache("float16"),
        "functions": ("main",),
        "phases": tuple(Phase(k, ("main",), found) for k, found in lengths.items() if found),
        "code_file": None,
        "weights": None,
        "cpu": Cpu(isa.name, isa.cpu_flags),
        "quantization": Quantization(),
        "tokenizer": "tokenizer",
        "generation": Generation(None, ()),
        "ranks": 1 + max(g.rank for g in graphs),
        "graphs": tuple(graphs),
        "executes_on": "host-simulator",
    }
    return Manifest(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[StaticGraph]]:
    """Tied embedding and lm_head, float16, one rank, two decode lengths."""
    folder = tmp_path_factory.mktemp("one_rank")
    return folder, write_graphs(folder, Variant(), [PREFILL, DECODE, LONGER])


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[StaticGraph]]:
    """The same model on two ranks."""
    folder = tmp_path_factory.mktemp("two_ranks")
    return folder, write_graphs(folder, Variant(tp=2), [PREFILL, DECODE])


@pytest.fixture(scope="session")
def kv_scales(windowed: Reference) -> KvScales:
    """Ranges of a sequence's keys and values, a tenth wider."""
    outputs = windowed.run(list(range(3, 80, 3)))
    ranges = {}
    for name, array in outputs.items():
        if name.startswith("present_"):
            low, high = array[0].min(1), array[0].max(1)
            margin = 0.1 * (high - low)
            ranges[name.replace("present_", "past_")] = (low - margin, high + margin)
    return KvScales.from_ranges(twins.config("windowed"), ranges)


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory, kv_scales: KvScales) -> tuple[Path, list[StaticGraph]]:
    """Biases, a sliding window, int8 weights and caches; its prefill gives logits of all positions."""
    folder = tmp_path_factory.mktemp("quantized")
    variant = Variant("windowed", int8=True, kv_scales=kv_scales, insert_slice=False)
    return folder, write_graphs(folder, variant, [PREFILL, DECODE])
