"""Runs an artifact of the reference target: the exported ONNX under ONNX Runtime, as the living definition of the IR.

Graph optimizations are off: at their defaults they fuse dequantize + matmul with int8 activations and keep fp32
between neighbouring fp16 ops. The graph is in past/present form, whose past has one length for all rows; so rows run
one by one.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from xamc.artifact.manifest import Manifest, TensorEntry
from xamc.artifact.read import Artifact, check_digests
from xamc.errors import InputError, InternalError, ToolchainError
from xamc.model.kv_cache import past_key, past_value, present_key, present_value
from xamc.runtime.executor import F32, Step, forward_rows
from xamc.runtime.memory import Bytes, map_file
from xamc.runtime.threads import check_threads

_STEP_INPUTS = frozenset({"input_ids", "position_ids", "rope_cos", "rope_sin"})
_ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16


class ReferenceExecutor:
    """See `xamc.runtime.executor.Executor`."""

    def __init__(
        self, folder: Path, manifest: Manifest, threads: int | None = None, prefault_weights: bool = False
    ) -> None:
        """Loads the graph and maps the weights.

        Raises:
            ToolchainError: E1609, ONNX Runtime is missing or refuses the graph.
            InputError: E1505, a changed graph; E1611, a weight of the graph is not in the artifact, or the weights file
                is cut off.
        """
        self._ort = onnxruntime_module()
        self._threads = check_threads(threads)
        check_digests(Artifact(folder, manifest), only={manifest.library()[0]})
        self._session = self.open_graph(folder / manifest.library()[0])
        layers = range(manifest.model.num_layers)
        self._past = [name for layer in layers for name in (past_key(layer), past_value(layer))]
        self._present = [name for layer in layers for name in (present_key(layer), present_value(layer))]
        self._empty = np.zeros((1, manifest.model.num_kv_heads, 0, manifest.model.head_dim), np.float32)
        self._weights = self._map_weights(folder, manifest)
        self._slots: list[dict[str, Any]] = [{} for _ in range(manifest.max_batch)]
        for slot in range(manifest.max_batch):
            self.clear(slot)

    pages = None

    def open_graph(self, path: Path) -> Any:
        """A session on the graph; for targets that keep it in another form."""
        return open_session(path, self._threads)

    @property
    def threads(self) -> int:
        return self._threads

    def clear(self, slot: int) -> None:
        self._slots[slot] = {name: self._value(self._empty) for name in self._past}

    def forward(self, step: Step) -> F32:
        return forward_rows(step, lambda row, tokens: self._forward_row(step, row, tokens))

    def _forward_row(self, step: Step, row: int, tokens: int) -> F32:
        slot, start = int(step.slots[row]), int(step.write_index[row])
        stop = start + tokens
        cos, sin = step.tables_of_row(row)
        feeds = {
            "input_ids": self._value(step.input_ids[row : row + 1, :tokens]),
            "position_ids": self._value(np.arange(start, stop, dtype=np.int64)[None]),
            "rope_cos": self._value(cos),
            "rope_sin": self._value(sin),
            **{name: self._cut(value, start) for name, value in self._slots[slot].items()},
            **self._weights,
        }
        try:
            logits, *present = self._session.run_with_ort_values(["logits", *self._present], feeds)
        except Exception as error:  # ONNX Runtime's errors share no base class but this
            raise InternalError(
                "E1617",
                f"the reference graph failed on {tokens} tokens at position {start}",
                "report it with the artifact's manifest.json",
                details=tuple(str(error).strip().splitlines()[-5:]),
            ) from error
        self._slots[slot] = dict(zip(self._past, present))
        result: F32 = logits.numpy()[0]
        return result

    def _cut(self, value: Any, length: int) -> Any:
        """The first `length` cached tokens; a later prompt may begin with less of it."""
        if value.shape()[2] == length:
            return value
        return self._value(np.ascontiguousarray(value.numpy()[:, :, :length]))

    def _value(self, array: Any) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))

    def _map_weights(self, folder: Path, manifest: Manifest) -> dict[str, Any]:
        code_file, weights = manifest.library()
        entries = {entry.name: entry for entry in weights.tensors}
        names = [node.name for node in self._session.get_inputs()]
        wanted = [name for name in names if name not in _STEP_INPUTS and name not in self._past]
        missing = [name for name in wanted if name not in entries]
        if missing:
            raise InputError(
                "E1611",
                f"{code_file} needs {len(missing)} weights that the artifact lacks: {', '.join(missing[:3])}",
                "compile the model again",
            )
        if not wanted:
            return {}
        mapped = map_file(folder / weights.file, weights.nbytes)
        return {name: self._weight(mapped, entries[name]) for name in wanted}

    def _weight(self, mapped: Bytes, entry: TensorEntry) -> Any:
        block = mapped[entry.offset : entry.offset + entry.nbytes]
        if entry.dtype == "bfloat16":
            bits = block.view(np.uint16).reshape(entry.shape)
            return self._ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _ONNX_BFLOAT16)
        return self._ort.OrtValue.ortvalue_from_numpy(block.view(np.dtype(entry.dtype)).reshape(entry.shape))


def onnxruntime_module() -> Any:
    """ONNX Runtime, imported when it is needed.

    Raises:
        ToolchainError: E1609, it is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ToolchainError(
            "E1609",
            f"the reference target needs ONNX Runtime, which can't be imported: {error}",
            "pip install 'xamc[compiler]'",
        ) from error


def open_session(graph: Path | bytes, threads: int) -> Any:
    """An ONNX Runtime session on a graph, a file or its content, on the CPU and with every graph optimization off.

    Raises:
        ToolchainError: E1609, ONNX Runtime is missing or refuses the graph.
    """
    ort = onnxruntime_module()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        return ort.InferenceSession(
            graph if isinstance(graph, bytes) else str(graph), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's errors share no base class but this
        raise ToolchainError(
            "E1609",
            f"ONNX Runtime can't load {'the graph' if isinstance(graph, bytes) else graph}",
            "compile the model again with the packages installed here; `xamc doctor` compares them with the pins",
            details=tuple(str(error).strip().splitlines()[-3:]),
        ) from error
