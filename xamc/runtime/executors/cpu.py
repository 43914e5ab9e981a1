"""Runs an artifact of the CPU target: TVM's Relax VM, weights mapped from the disk, a paged KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.artifact.manifest import Manifest, TensorEntry, plan_layout
from xamc.artifact.read import Artifact, check_digests
from xamc.artifact.records import RecordError
from xamc.artifact.step_program import ROWS_FUNCTION, STEP_FUNCTION, load_step
from xamc.errors import InputError, InternalError
from xamc.runtime.block_cache import BlockCache
from xamc.runtime.cpu_features import best_code
from xamc.runtime.executor import F32, I64, ForwardOne, ForwardTokens, Step
from xamc.runtime.executors.noise import noise
from xamc.runtime.executors.step_runner import StepRunner
from xamc.runtime.memory import Bytes, aligned_zeros, map_file, prefault, read_ahead
from xamc.runtime.threads import PoolThread, check_threads
from xamc.runtime.tvm_library import TVM_ERRORS, load_functions, load_kernel, tvm_ffi

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
            InputError: E1505, changed code; E1606, the KV cache can't be mapped; E1611, the weights file is missing or
                cut off; E1624, the code is of an older xamc.
        """
        if not manifest.kv.block:
            raise InputError(
                "E1624",
                f"the code of {manifest.name} works on a KV cache that this runtime no longer has",
                "compile the model again with this xamc",
            )
        code = best_code(manifest)
        self.cpu_level = code.cpu.mcpu
        # what is executed is checked at every start; reading all weights again is for `xamc verify`
        check_digests(Artifact(folder, manifest), only={code.file, manifest.step_file or code.file})
        self._manifest = manifest
        self._ffi = tvm_ffi()
        self._pool = PoolThread(self._ffi, check_threads(threads))
        _, weights = manifest.library()
        in_machine = [name for name in manifest.functions if name != STEP_FUNCTION or manifest.step_file is None]
        self._functions = load_functions(folder / code.file, in_machine)
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
        self._token_arrays: tuple[NDArray[Any], ...] = ()
        self._token_tensors: tuple[Any, ...] = ()
        self.step_runner = self._make_step_runner(folder, code.file, mapped) if manifest.step_file is not None else None
        self.forward_one: ForwardOne | None = self._forward_one if self.step_runner is not None else None
        self.token_rows = 0 if self.step_runner is None or not self.step_runner.consecutive else self.step_runner.rows
        self.forward_tokens: ForwardTokens | None = self._forward_tokens if self.token_rows > 1 else None
        if not prefault_weights:
            read_ahead(folder / weights.file, weights.nbytes)  # last: the disk has what is above to read before

    @property
    def threads(self) -> int:
        return self._pool.threads

    def clear(self, slot: int) -> None:
        """Does nothing: sequences begin and end in `pages`."""

    def forward(self, step: Step) -> F32:
        self.pages.reserve(step.slots, step.write_index + step.lengths)
        return self._pool.run(lambda: self._call_here(step, self.pages.table[step.slots]))

    def _call_here(self, step: Step, table: NDArray[np.int32]) -> F32:
        batch, length = step.input_ids.shape
        if batch == 1 and length == 1 and self.step_runner is not None:
            token, position = int(step.input_ids[0, 0]), int(step.write_index[0])
            return self._run_step(self.step_runner, token, position, table, step.rope_cos, step.rope_sin)[None]
        if length == 1 and self.step_runner is not None and 1 < batch <= self.step_runner.rows:
            return self._run_rows(self.step_runner, step, table)
        rope = self._rope_tensors(step.rope_cos, step.rope_sin)
        name = "prefill_all" if step.all_positions else "prefill_last"
        if batch == 1 and length == 1 and "decode" in self._functions:
            name = "decode"
        try:
            fed = (step.input_ids, step.table_rows, step.write_index, step.last_index, table)
            inputs = self._decode_inputs(fed) if name == "decode" else tuple(self._copied(array) for array in fed)
            logits = self._functions[name](*inputs, *rope, self._kv, self._weights)
        except TVM_ERRORS as error:
            raise _failed(name, batch, length, error) from error
        result = np.asarray(np.from_dlpack(logits), np.float32)
        if length > 1:
            # The pool keeps one set of buffers per length seen; without this, memory grows with every new one.
            self._free_unused()
        return result

    def _forward_one(self, slot: int, token: int, position: int, cos: F32, sin: F32) -> F32:
        runner = self.step_runner
        assert runner is not None
        self.pages.reserve_row(slot, position + 1)
        return self._pool.run(lambda: self._run_step(runner, token, position, self.pages.table[slot], cos, sin))

    def _forward_tokens(self, slots: I64, tokens: I64, positions: I64, angles: I64, cos: F32, sin: F32) -> F32:
        runner = self.step_runner
        assert runner is not None
        self.pages.reserve(slots, positions + 1)
        step = Step(tokens[:, None], slots, positions, np.ones_like(slots), cos, sin, rope_rows=angles[:, None])
        return self._pool.run(lambda: self._run_rows(runner, step, self.pages.table[slots]))[:, 0]

    def _run_step(
        self, runner: StepRunner, token: int, position: int, table: NDArray[np.int32], cos: F32, sin: F32
    ) -> F32:
        runner.table[0] = table
        try:
            return runner.run(token, position, *self._rope_tensors(cos, sin))
        except TVM_ERRORS as error:
            raise _failed("decode", 1, 1, error) from error

    def _run_rows(self, runner: StepRunner, step: Step, table: NDArray[np.int32]) -> F32:
        batch = len(table)
        runner.table[:batch] = table
        tables = self._rope_tensors(step.rope_cos, step.rope_sin)
        try:
            ids, angles = step.input_ids[:, 0], step.table_rows[:, 0]
            return runner.run_rows(ids, step.write_index, angles, *tables)[:, None]
        except TVM_ERRORS as error:
            raise _failed(ROWS_FUNCTION, batch, 1, error) from error

    def _rope_tensors(self, cos: F32, sin: F32) -> tuple[Any, Any]:
        if self._rope[0] is not cos:
            self._rope = (cos, self._ffi.from_dlpack(cos), self._ffi.from_dlpack(sin))
        return self._rope[1], self._rope[2]

    def _buffer(self, shape: tuple[int, ...], dtype: Any = np.int64) -> tuple[Any, Any]:
        array = aligned_zeros(shape, dtype)
        return array, self._ffi.from_dlpack(array)

    def _decode_inputs(self, fed: Sequence[NDArray[Any]]) -> Sequence[Any]:
        """The inputs of a token in memory that is the same for every token."""
        if not self._token_arrays:
            buffers = [self._buffer(array.shape, array.dtype) for array in fed]
            self._token_arrays = tuple(array for array, _ in buffers)
            self._token_tensors = tuple(tensor for _, tensor in buffers)
        for own, array in zip(self._token_arrays, fed):
            own[...] = array
        return self._token_tensors

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
        layout, nbytes = plan_layout(
            (str(number), dtype, shape) for number, (shape, dtype) in enumerate(of_layer * model.num_layers)
        )
        self._pool_offsets = [entry.offset for entry in layout]
        try:
            self._pool_bytes: Bytes = aligned_zeros((nbytes,), np.uint8)
        except OSError as error:
            raise InputError(
                "E1606",
                f"addresses for a KV cache of {self._manifest.max_batch} x {self._manifest.context_limit} tokens can't "
                f"be mapped: {error.strerror}",
                "compile with a smaller runtime.max_batch or context limit, or raise the process's address space limit",
            ) from error
        pools, tensors = [], []
        for entry in layout:
            part = self._pool_bytes[entry.offset : entry.offset + entry.nbytes]
            pools.append(part.view(_BIT_DTYPES.get(entry.dtype) or np.dtype(entry.dtype)).reshape(entry.shape))
            tensors.append(self._weight(self._pool_bytes, entry))
        return pools, self._ffi.Array(tensors)

    def _make_step_runner(self, folder: Path, code_file: str, weights: Bytes) -> StepRunner:
        """What runs `decode` and `decode_rows`.

        Raises:
            InputError: E1502, its program does not fit the artifact.
            ToolchainError: E1609, the library lacks it.
        """
        manifest = self._manifest
        _, table = manifest.library()
        file = folder / str(manifest.step_file)
        program = load_step(file)
        # drafts of one sequence take rows too; memory for rows that no step has costs nothing
        rows = program.rows if program.consecutive else min(program.rows, manifest.max_batch)
        names = (STEP_FUNCTION, ROWS_FUNCTION) if rows > 1 else (STEP_FUNCTION,)
        try:
            return StepRunner(
                [load_kernel(folder / code_file, name) for name in names],
                self._ffi.from_dlpack,
                program,
                (weights, [entry.offset for entry in table.tensors]),
                (self._pool_bytes, self._pool_offsets),
                self.pages.width,
                manifest.model.vocab_size,
                rows,
            )
        except RecordError as error:
            raise InputError("E1502", f"{file}: {error}", "compile the model again") from None

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


def _failed(name: str, rows: int, tokens: int, error: Exception) -> InternalError:
    return InternalError(
        "E1617",
        f"the artifact's function {name} failed on {rows} rows of {tokens} tokens",
        "report it with the artifact's manifest.json",
        details=tuple(str(error).strip().splitlines()[-5:]),
    )
