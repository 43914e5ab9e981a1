"""Runs an artifact of the CPU target: TVM's Relax VM, weights mapped from the disk, a KV cache updated in place."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.compiler.artifact.manifest import Manifest, TensorEntry
from xamc.compiler.errors import InternalError
from xamc.runtime.cpu_features import check_cpu
from xamc.runtime.executor import F32, Step
from xamc.runtime.memory import Bytes, aligned_zeros, map_file
from xamc.runtime.threads import check_threads, configure_tvm_threads
from xamc.runtime.tvm_library import TVM_ERRORS, load_functions, tvm_ffi

# NumPy has no counterpart for this type of DLPack: it hands over the bits, and TVM gets a view of the right type.
_BIT_DTYPES = {"bfloat16": np.dtype(np.uint16)}


class CpuExecutor:
    """See `xamc.runtime.executor.Executor`; `docs/runtime.md` describes the functions called."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int | None = None) -> None:
        """Loads the code and maps the weights; nothing is read from the disk before it is needed.

        Raises:
            UnsupportedError: E1607, this CPU lacks features.
            ToolchainError: E1609, the code or TVM's runtime can't be loaded.
            InputError: E1611, the weights file is missing or cut off.
        """
        check_cpu(manifest.cpu)
        self._manifest = manifest
        self._wanted_threads = check_threads(threads)
        self._ffi = tvm_ffi()
        self._pools = threading.local()
        self._threads = self._use_threads()
        code_file, weights = manifest.library()
        self._functions = load_functions(folder / code_file, manifest.functions)
        self._free_unused = self._ffi.get_global_func("vm.builtin.memory_manager.clear")
        self._create_view = self._ffi.get_global_func("runtime.TVMTensorCreateView")
        mapped = map_file(folder / weights.file, weights.nbytes)
        self._weights = self._ffi.Array([self._weight(mapped, entry) for entry in weights.tensors])
        self._kv = self._ffi.Array([])
        self._batch = 0
        self._rope: tuple[F32 | None, Any, Any] = (None, None, None)
        self._decode_ids, self._decode_ids_tensor = self._buffer((1, 1))
        self._decode_position, self._decode_position_tensor = self._buffer((1, 1))
        self._decode_index, self._decode_index_tensor = self._buffer((1,))
        _, self._decode_last_tensor = self._buffer((1,))

    @property
    def threads(self) -> int:
        return self._threads

    def allocate(self, batch: int) -> None:
        model, kv = self._manifest.model, self._manifest.kv
        shape = (batch, model.num_kv_heads, self._manifest.context_limit, model.head_dim)
        self._kv = self._ffi.Array([self._tensor_of(shape, kv.dtype) for _ in range(2 * model.num_layers)])
        self._batch = batch

    def forward(self, step: Step) -> F32:
        self._use_threads()
        batch, length = step.input_ids.shape
        if batch != self._batch:
            raise InternalError("E1617", f"a step of {batch} rows on a KV cache of {self._batch}")
        if batch == 1 and length == 1 and "decode" in self._functions:
            self._decode_ids[:] = step.input_ids
            self._decode_position[:] = self._decode_index[:] = step.write_index
            name = "decode"
            inputs = (
                self._decode_ids_tensor,
                self._decode_position_tensor,
                self._decode_index_tensor,
                self._decode_last_tensor,
            )
        else:
            name = "prefill_all" if step.all_positions else "prefill_last"
            inputs = (
                self._int64(step.input_ids),
                self._int64(step.position_ids),
                self._int64(step.write_index),
                self._int64(step.last_index),
            )
        try:
            logits = self._functions[name](
                *inputs, *self._rope_tensors(step.rope_cos, step.rope_sin), self._kv, self._weights
            )
        except TVM_ERRORS as error:
            raise InternalError(
                "E1617",
                f"the artifact's function {name} failed on {batch} rows of {length} tokens",
                "report it with the artifact's manifest.json",
                details=tuple(str(error).strip().splitlines()[-5:]),
            ) from error
        result = np.asarray(np.from_dlpack(logits), np.float32)
        if length > 1:
            # The pool keeps one set of buffers per length seen; without this, memory grows with every new one.
            self._free_unused()
        return result

    def _use_threads(self) -> int:
        """TVM has one thread pool per calling thread: configures this thread's at its first call."""
        if not hasattr(self._pools, "threads"):
            self._pools.threads = configure_tvm_threads(self._ffi, self._wanted_threads)
        return int(self._pools.threads)

    def _rope_tensors(self, cos: F32, sin: F32) -> tuple[Any, Any]:
        if self._rope[0] is not cos:
            self._rope = (cos, self._ffi.from_dlpack(cos), self._ffi.from_dlpack(sin))
        return self._rope[1], self._rope[2]

    def _buffer(self, shape: tuple[int, ...]) -> tuple[NDArray[np.int64], Any]:
        array = aligned_zeros(shape, np.int64)
        return array, self._ffi.from_dlpack(array)

    def _int64(self, values: NDArray[np.int64]) -> Any:
        array, tensor = self._buffer(values.shape)
        array[...] = values
        return tensor

    def _tensor_of(self, shape: tuple[int, ...], dtype: str) -> Any:
        bits = _BIT_DTYPES.get(dtype)
        tensor = self._ffi.from_dlpack(aligned_zeros(shape, bits or np.dtype(dtype)))
        return tensor if bits is None else self._create_view(tensor, self._ffi.Shape(shape), dtype, 0)

    def _weight(self, mapped: Bytes, entry: TensorEntry) -> Any:
        tensor = self._ffi.from_dlpack(mapped[entry.offset : entry.offset + entry.nbytes])
        return self._create_view(tensor, self._ffi.Shape(entry.shape), entry.dtype, 0)
