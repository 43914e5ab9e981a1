"""Runs an artifact of the CPU target: TVM's Relax VM, weights mapped from the disk, a paged KV cache."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.compiler.artifact.manifest import Manifest, TensorEntry
from xamc.compiler.errors import InputError, InternalError
from xamc.runtime.block_cache import BlockCache
from xamc.runtime.cpu_features import check_cpu
from xamc.runtime.executor import F32, Step
from xamc.runtime.memory import Bytes, aligned_zeros, map_file, prefault
from xamc.runtime.noise import noise
from xamc.runtime.threads import check_threads, configure_tvm_threads
from xamc.runtime.tvm_library import TVM_ERRORS, load_functions, tvm_ffi

# NumPy has no counterpart for this type of DLPack: it hands over the bits, and TVM gets a view of the right type.
_BIT_DTYPES = {"bfloat16": np.dtype(np.uint16)}


class CpuExecutor:
    """See `xamc.runtime.executor.Executor`; `docs/runtime.md` describes the functions called."""

    def __init__(
        self, folder: Path, manifest: Manifest, threads: int | None = None, prefault_weights: bool = False
    ) -> None:
        """Loads the code and maps the weights, which are read from the disk as they are needed, or here if asked.

        Raises:
            UnsupportedError: E1607, this CPU lacks features.
            ToolchainError: E1609, the code or TVM's runtime can't be loaded.
            InputError: E1606, the KV cache can't be mapped; E1611, the weights file is missing or cut off; E1624, the
                code is of an older xamc.
        """
        if not manifest.kv.block:
            raise InputError(
                "E1624",
                f"the code of {manifest.name} works on a KV cache that this runtime no longer has",
                "compile the model again with this xamc",
            )
        check_cpu(manifest.cpu)
        self._manifest = manifest
        self._wanted_threads = check_threads(threads)
        self._ffi = tvm_ffi()
        self._thread_pools = threading.local()
        self._threads = self._use_threads()
        code_file, weights = manifest.library()
        self._functions = load_functions(folder / code_file, manifest.functions)
        self._free_unused = self._ffi.get_global_func("vm.builtin.memory_manager.clear")
        self._create_view = self._ffi.get_global_func("runtime.TVMTensorCreateView")
        mapped = map_file(folder / weights.file, weights.nbytes)
        if prefault_weights:
            prefault(mapped)
        self._weights = self._ffi.Array([self._weight(mapped, entry) for entry in weights.tensors])
        self.pages = BlockCache(
            manifest.kv.block,
            manifest.context_limit,
            manifest.max_batch,
            self._copy_block,
            self._fill_block,
            manifest.model.window,
            manifest.prefill_chunk,
        )
        self._pools, self._kv = self._make_pools()
        self._rope: tuple[F32 | None, Any, Any] = (None, None, None)
        self._decode_ids, self._decode_ids_tensor = self._buffer((1, 1))
        self._decode_position, self._decode_position_tensor = self._buffer((1, 1))
        self._decode_index, self._decode_index_tensor = self._buffer((1,))
        _, self._decode_last_tensor = self._buffer((1,))
        self._decode_table, self._decode_table_tensor = self._buffer((1, self.pages.width), np.int32)

    @property
    def threads(self) -> int:
        return self._threads

    def allocate(self, batch: int) -> None:
        self.pages.begin([np.zeros(1, np.int64)] * batch, False, None)

    def forward(self, step: Step) -> F32:
        """Rows without tokens have no part in the call."""
        batch = len(step.lengths)
        if batch != self.pages.rows:
            raise InternalError("E1617", f"a step of {batch} rows on a KV cache of {self.pages.rows}")
        self.pages.reserve(step.write_index + step.lengths)
        active = np.flatnonzero(step.lengths > 0)
        if len(active) == batch:
            return self._call(step, self.pages.table)
        logits = self._call(step.of_rows(active), self.pages.table[active])
        result: F32 = np.zeros((batch, *logits.shape[1:]), np.float32)
        result[active] = logits
        return result

    def _call(self, step: Step, table: NDArray[np.int32]) -> F32:
        self._use_threads()
        batch, length = step.input_ids.shape
        if batch == 1 and length == 1 and "decode" in self._functions:
            self._decode_ids[:] = step.input_ids
            self._decode_position[:] = self._decode_index[:] = step.write_index
            self._decode_table[:] = table
            name = "decode"
            inputs = (
                self._decode_ids_tensor,
                self._decode_position_tensor,
                self._decode_index_tensor,
                self._decode_last_tensor,
                self._decode_table_tensor,
            )
        else:
            name = "prefill_all" if step.all_positions else "prefill_last"
            inputs = (
                self._copied(step.input_ids),
                self._copied(step.position_ids),
                self._copied(step.write_index),
                self._copied(step.last_index),
                self._copied(table),
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
        if not hasattr(self._thread_pools, "threads"):
            self._thread_pools.threads = configure_tvm_threads(self._ffi, self._wanted_threads)
        return int(self._thread_pools.threads)

    def _rope_tensors(self, cos: F32, sin: F32) -> tuple[Any, Any]:
        if self._rope[0] is not cos:
            self._rope = (cos, self._ffi.from_dlpack(cos), self._ffi.from_dlpack(sin))
        return self._rope[1], self._rope[2]

    def _buffer(self, shape: tuple[int, ...], dtype: Any = np.int64) -> tuple[Any, Any]:
        array = aligned_zeros(shape, dtype)
        return array, self._ffi.from_dlpack(array)

    def _copied(self, values: NDArray[Any]) -> Any:
        array, tensor = self._buffer(values.shape, values.dtype)
        array[...] = values
        return tensor

    def _make_pools(self) -> tuple[list[NDArray[Any]], Any]:
        """The pools of all layers in the order of the functions' KV tuple, as arrays and as TVM's tensors."""
        model, kv = self._manifest.model, self._manifest.kv
        blocks = (self.pages.blocks, model.num_kv_heads)
        of_layer: list[tuple[tuple[int, ...], str]] = [
            ((*blocks, model.head_dim, kv.block), kv.dtype),
            ((*blocks, kv.block, model.head_dim), kv.dtype),
        ]
        if kv.dtype == "int8":
            of_layer += [((*blocks, kv.block), "float32")] * 2
        pools, tensors = [], []
        try:
            for entry_shape, dtype in of_layer * model.num_layers:
                bits = _BIT_DTYPES.get(dtype)
                pool = aligned_zeros(entry_shape, bits or np.dtype(dtype))
                tensor = self._ffi.from_dlpack(pool)
                if bits is not None:
                    tensor = self._create_view(tensor, self._ffi.Shape(entry_shape), dtype, 0)
                pools.append(pool)
                tensors.append(tensor)
        except OSError as error:
            raise InputError(
                "E1606",
                f"addresses for a KV cache of {self._manifest.max_batch} x {self._manifest.context_limit} tokens can't "
                f"be mapped: {error.strerror}",
                "compile with a smaller runtime.max_batch or context limit, or raise the process's address space limit",
            ) from error
        return pools, self._ffi.Array(tensors)

    def _copy_block(self, source: int, target: int) -> None:
        for pool in self._pools:
            pool[target] = pool[source]

    def _fill_block(self, block: int, seed: int) -> None:
        """Pseudo-random keys and values of variance 1."""
        kind = self._manifest.kv.dtype
        for number, pool in enumerate(self._pools):
            entry = pool[block]
            if kind == "int8" and pool.dtype == np.float32:
                entry[...] = 3**0.5 / 127
                continue
            values = noise(entry.size, seed * len(self._pools) + number).reshape(entry.shape)
            if kind == "int8":
                entry[...] = np.rint(values * np.float32(127 / 3**0.5))
            elif kind == "bfloat16":
                entry[...] = values.view(np.uint32) >> np.uint32(16)
            else:
                entry[...] = values

    def _weight(self, mapped: Bytes, entry: TensorEntry) -> Any:
        tensor = self._ffi.from_dlpack(mapped[entry.offset : entry.offset + entry.nbytes])
        return self._create_view(tensor, self._ffi.Shape(entry.shape), entry.dtype, 0)
