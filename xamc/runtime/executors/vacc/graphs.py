"""Runs VACC's static graphs on this machine, all ranks at once: the functional simulator.

Each rank has a thread of its own, with its own code and weights; collectives join them. What it computes is the
contract of the graphs (`mod.json`), operator by operator, in float16 between operators.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xamc.artifact.manifest import StaticGraph
from xamc.errors import InternalError, UnsupportedError
from xamc.runtime.executor import I64
from xamc.runtime.executors.vacc.collectives import RankGroup, register_collectives
from xamc.runtime.executors.vacc.description import GraphDescription, read_description
from xamc.runtime.executors.vacc.weights import WeightStore
from xamc.runtime.memory import aligned_zeros
from xamc.runtime.threads import check_threads, configure_tvm_threads
from xamc.runtime.tvm_library import TVM_ERRORS, load_functions, tvm_ffi

F16 = NDArray[np.float16]
Array = NDArray[np.generic]
Presents = list[list[Array]]
"""Per rank: present_key.0, present_value.0, present_key.1, ..., each [1, kv heads, slots, channels]."""
Kind = Literal["prefill", "decode"]


@dataclass
class _RankGraph:
    """One loaded graph of one rank."""

    description: GraphDescription
    function: Any
    weights: Any


class VaccGraphs:
    """The graphs of an artifact, by phase and length.

    Attributes:
        ranks: number of ranks.
        lengths: lengths of each phase's graphs, ascending.
    """

    def __init__(self, folder: Path, graphs: Sequence[StaticGraph], threads: int | None = None) -> None:
        """Loads code and weights of all graphs and ranks; weights are packed for the kernels on the way.

        Args:
            folder: the artifact.
            graphs: its graphs.
            threads: threads of the kernels in all; each rank gets its share, at least one.

        Raises:
            InputError: E1512, E1611 or E1620, a damaged file.
            ToolchainError: E1609, code that TVM's runtime refuses.
            MisuseError: E1608, a bad number of threads.
        """
        self._folder = folder
        self._ffi = tvm_ffi()
        register_collectives(self._ffi)
        self.ranks = 1 + max(graph.rank for graph in graphs)
        self._threads = max(1, check_threads(threads) // self.ranks)
        self._workers = [
            ThreadPoolExecutor(1, f"rank{rank}", initializer=configure_tvm_threads, initargs=(self._ffi, self._threads))
            for rank in range(self.ranks)
        ]
        self._stores = [WeightStore(self._ffi.from_dlpack) for _ in range(self.ranks)]
        self._graphs: dict[tuple[str, int], list[_RankGraph]] = {}
        kinds = sorted({(graph.kind, graph.length) for graph in graphs})
        self.lengths: Mapping[str, tuple[int, ...]] = {
            kind: tuple(length for other, length in kinds if other == kind) for kind in ("prefill", "decode")
        }
        for kind, length in kinds:
            of_ranks = sorted((g for g in graphs if (g.kind, g.length) == (kind, length)), key=lambda g: g.rank)
            loads = [worker.submit(self._load, graph) for worker, graph in zip(self._workers, of_ranks, strict=True)]
            self._graphs[kind, length] = [load.result() for load in loads]
        self._free_unused = self._ffi.get_global_func("vm.builtin.memory_manager.clear")

    @property
    def threads(self) -> int:
        """Threads of all ranks together."""
        return self._threads * self.ranks

    @property
    def simulated(self) -> bool:
        """Always true: no card has a part in this."""
        return True

    def description(self, kind: Kind, length: int) -> GraphDescription:
        """The signature of a graph, the same for all ranks."""
        return self._of(kind, length)[0].description

    def prefill(self, length: int, input_ids: I64) -> tuple[F16, Presents]:
        """Runs a prefill graph.

        Args:
            length: S, which graph.
            input_ids: int64[1, S].

        Returns:
            Logits [1, 1, V'] (or [1, S, V'] of a graph without last-position slice), and the caches per rank.

        Raises:
            InternalError: E1617, the code failed.
            UnsupportedError: E1621, there is no such graph.
        """
        logits, presents = self._run("prefill", length, {"input_ids": input_ids}, None)
        # the pool would keep a prefill's activations beside those of decode
        self._free_unused()
        return logits, presents

    def decode(
        self, length: int, input_ids: I64, attention_mask: I64, position_ids: I64, pasts: Sequence[Any]
    ) -> tuple[F16, Presents]:
        """Runs a decode graph.

        Args:
            length: S, which graph.
            input_ids: int64[1, 1].
            attention_mask: int64[1, S], 1 for valid slots; slot S - 1 is the new token's.
            position_ids: int64[1, 1].
            pasts: per rank what `past` made of its caches, each [1, kv heads, S - 1, channels].

        Returns:
            Logits [1, 1, V'], and the caches per rank, new key and value in slot S - 1.

        Raises:
            InternalError: E1617, the code failed.
            UnsupportedError: E1621, there is no such graph.
        """
        feeds = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        return self._run("decode", length, feeds, pasts)

    def past(self, arrays: Sequence[Array]) -> Any:
        """What `decode` takes for a rank's caches; the arrays stay the caller's, to be written between steps."""
        return self._ffi.Array([self._ffi.from_dlpack(array) for array in arrays])

    def _load(self, graph: StaticGraph) -> _RankGraph:
        description = read_description(self._folder / graph.graph)
        function = load_functions(self._folder / graph.code, ["main"])["main"]
        weights = self._stores[graph.rank].load(self._folder / graph.params, description.weights)
        return _RankGraph(description, function, self._ffi.Array(weights))

    def _of(self, kind: Kind, length: int) -> list[_RankGraph]:
        found = self._graphs.get((kind, length))
        if found is None:
            raise UnsupportedError(
                "E1621",
                f"the artifact has no {kind} graph of length {length}; it has {list(self.lengths[kind])}",
                "compile the spec with the length in frontend.shape.input_ids",
            )
        return found

    def _run(
        self, kind: Kind, length: int, feeds: Mapping[str, I64], pasts: Sequence[Any] | None
    ) -> tuple[F16, Presents]:
        graphs = self._of(kind, length)
        group = RankGroup(self.ranks)
        runs = [
            worker.submit(self._run_rank, group, rank, graph, feeds, pasts[rank] if pasts is not None else None)
            for rank, (worker, graph) in enumerate(zip(self._workers, graphs, strict=True))
        ]
        results = _results(runs, group, f"{kind}_{length}")
        return results[0][0], [presents for _, presents in results]

    def _run_rank(
        self, group: RankGroup, rank: int, graph: _RankGraph, feeds: Mapping[str, I64], past: Any
    ) -> tuple[F16, list[Array]]:
        with group.member(rank):
            inputs = []
            for entry in graph.description.data:
                array = aligned_zeros(entry.shape, np.int64)
                array[...] = feeds[entry.name]
                inputs.append(self._ffi.from_dlpack(array))
            outputs = graph.function(*inputs, self._ffi.Array([]) if past is None else past, graph.weights)
        logits, presents = outputs[0], outputs[1]
        values: F16 = np.asarray(np.from_dlpack(logits), np.float16)
        return values, [np.from_dlpack(present) for present in presents]


def _results(
    runs: Sequence[Future[tuple[F16, list[Array]]]], group: RankGroup, name: str
) -> list[tuple[F16, list[Array]]]:
    """Every rank's result, once all have ended.

    Raises:
        InternalError: E1617, of the rank that failed first.
    """
    wait(runs)
    if group.failed is None:
        return [run.result() for run in runs]
    error = runs[group.failed].exception()
    if not isinstance(error, TVM_ERRORS):
        raise error or AssertionError("a rank failed without an exception")
    raise InternalError(
        "E1617",
        f"the simulated graph {name} failed on rank {group.failed}",
        "report it with the artifact's manifest.json",
        details=tuple(str(error).strip().splitlines()[-5:]),
    ) from error
