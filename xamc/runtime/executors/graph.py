"""A loaded graph artifact: `GraphModel.run` takes and gives arrays by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xamc.artifact.loading import check_load
from xamc.artifact.onnx_manifest import GraphTensor, OnnxManifest
from xamc.artifact.params_index import ParamEntry, read_params_index
from xamc.artifact.read import OnnxArtifact, check_digests, read_onnx_artifact
from xamc.errors import InputError, InternalError
from xamc.runtime.cpu_features import check_cpu
from xamc.runtime.memory import aligned_zeros, map_file
from xamc.runtime.process_lock import ProcessLock
from xamc.runtime.threads import PoolThread, check_threads
from xamc.runtime.tvm_library import TVM_ERRORS, load_functions, tvm_ffi

Array = NDArray[Any]
_PREPARE = "main_transform_params"
"""Of the library: the weights as they are stored → as main takes them."""


def load_graph(path: str | Path, threads: int | None = None, verify_weights: bool = False) -> GraphModel:
    """Loads an artifact that holds one graph.

    Args:
        path: the folder that `xamc compile` made.
        threads: threads of the kernels; None takes every CPU of the process's affinity.
        verify_weights: compare weights of more than 64 MiB with their digest; smaller ones and the code always are.

    Raises:
        InputError: E15xx and E1641, no such artifact or a damaged one.
        UnsupportedError: E1607, this CPU lacks features.
        ToolchainError: E1609, a library is missing or refuses the code.
        MisuseError: E1608, a bad number of threads.
    """
    artifact = read_onnx_artifact(path)
    return GraphModel(artifact.path, artifact.manifest, threads, verify_weights)


class GraphModel:
    """A loaded graph.

    Attributes:
        manifest: the artifact's manifest; `graph_inputs` and `graph_outputs` say what a call takes and gives.
        path: the artifact's folder.
    """

    def __init__(
        self, path: Path, manifest: OnnxManifest, threads: int | None = None, verify_weights: bool = False
    ) -> None:
        """Use `load` or `load_graph`."""
        self.path = path
        self.manifest = manifest
        artifact = OnnxArtifact(path, manifest)
        check_digests(artifact, only={manifest.code_file})  # as for a language model's code
        check_load(artifact, verify_weights)
        index = read_params_index(path / manifest.params_file)
        missing = [name for name in manifest.parameters if name not in index]
        if missing:
            raise InputError(
                "E1611",
                f"{manifest.params_file} lacks {len(missing)} parameters, {missing[0]} first",
                fix="compile the model again",
            )
        entries = [index[name] for name in manifest.parameters]
        weights = {entry.name: array for entry, array in zip(entries, _map(path / manifest.params_file, entries))}
        kind = _OnnxRunner if manifest.target == "reference" else _TvmRunner
        self._runner: _OnnxRunner | _TvmRunner = kind(path, manifest, weights, check_threads(threads))
        self._lock = ProcessLock(manifest.name, self._runner.threads)

    @property
    def threads(self) -> int:
        """Threads the kernels use."""
        return self._runner.threads

    @property
    def simulated(self) -> bool:
        """Whether the host simulates the target, so that times say nothing about it."""
        return self.manifest.simulated

    def run(self, feeds: Mapping[str, Array] | None = None, /, **named: Array) -> dict[str, Array]:
        """Runs the graph once: ``run(image=array)``, or ``run({"input.1": array})`` for names that are no identifiers.

        Args:
            feeds: input name → array of the input's shape; a dtype that converts without loss is converted.
            named: further inputs by name.

        Returns:
            Output name → array, a copy of its own.

        Raises:
            InputError: E1642 a feed is missing, unknown or of another shape or type; E1643 a token id lies outside of
                its table.
            InternalError: E1645 the compiled code failed.
        """
        feeds = {**(feeds or {}), **named}
        inputs = self.manifest.graph_inputs
        names = [tensor.name for tensor in inputs]
        for name in feeds:
            if name not in names:
                near = get_close_matches(name, names, 1)
                fix = f"did you mean {near[0]}?" if near else f"the inputs are {', '.join(names)}"
                raise InputError("E1642", f"{self.manifest.name} has no input {name!r}", fix)
        missing = [tensor for tensor in inputs if tensor.name not in feeds]
        if missing:
            wanted = "; ".join(f"{tensor.name}: {tensor.dtype} {tensor.shape_text}" for tensor in missing)
            raise InputError("E1642", f"{self.manifest.name} needs further inputs", f"give {wanted}")
        arrays = [_checked(tensor, np.asarray(feeds[tensor.name])) for tensor in inputs]
        _check_symbols(inputs, arrays)
        outputs = self._lock.run(lambda: self._runner.run(arrays))
        return {tensor.name: array for tensor, array in zip(self.manifest.graph_outputs, outputs)}


def _checked(tensor: GraphTensor, array: Array) -> Array:
    wanted = np.dtype(tensor.dtype)
    bounds = zip(tensor.least or tensor.shape, array.shape, tensor.shape)
    if array.ndim != len(tensor.shape) or not all(low <= dim <= high for low, dim, high in bounds):
        raise InputError(
            "E1642",
            f"the input {tensor.name} has shape {list(array.shape)}; the graph was compiled for {tensor.shape_text}",
            "give that shape, or compile the model again with another frontend.shape",
        )
    same_kind = array.dtype.kind == wanted.kind or (wanted.kind in "iu" and array.dtype.kind in "iu")
    if array.dtype != wanted and not (same_kind or np.can_cast(array.dtype, wanted, "safe")):
        raise InputError("E1642", f"the input {tensor.name} is {array.dtype}, not {wanted}", f"convert it to {wanted}")
    if wanted.kind in "iu" and array.size:
        low, high = int(array.min()), int(array.max())
        if tensor.limit is not None and (low < -tensor.limit or high >= tensor.limit):
            raise InputError(
                "E1643",
                f"the input {tensor.name} goes from {low} to {high}; its table has entries 0 to "
                f"{tensor.limit - 1}, or -{tensor.limit} to -1 from its end",
                "give ids of this model's vocabulary",
            )
        info = np.iinfo(wanted)
        if low < info.min or high > info.max:
            raise InputError("E1642", f"the input {tensor.name} goes from {low} to {high}, beyond {wanted}", "")
    # compiled code expects aligned memory that nobody else writes to
    fresh = aligned_zeros(array.shape, wanted)
    fresh[...] = array
    return np.asarray(fresh)


def _check_symbols(inputs: Sequence[GraphTensor], arrays: Sequence[Array]) -> None:
    """Dimensions of the same name are equal in all inputs."""
    seen: dict[str, tuple[str, int]] = {}
    for tensor, array in zip(inputs, arrays):
        for symbol, dim in zip(tensor.symbols, array.shape):
            name, first = seen.setdefault(symbol, (tensor.name, dim)) if symbol else ("", dim)
            if first != dim:
                raise InputError(
                    "E1642",
                    f"{name} has the dimension {first} where {tensor.name} has {dim}; they are the same ({symbol})",
                    "give arrays of the same dimension",
                )


def _map(path: Path, entries: list[ParamEntry]) -> list[Array]:
    """The parameters, copied to aligned memory: TVM's container does not align them, and its code expects it."""
    if not entries:
        return []
    mapped = map_file(path, max(entry.offset + entry.nbytes for entry in entries))
    arrays = []
    for entry in entries:
        block = mapped[entry.offset : entry.offset + entry.nbytes]
        fresh = aligned_zeros(entry.shape, np.dtype(entry.dtype))
        fresh.reshape(-1).view(np.uint8)[...] = block
        arrays.append(fresh)
    return arrays


class _TvmRunner:
    """The Relax VM of TVM's small runtime."""

    def __init__(self, folder: Path, manifest: OnnxManifest, weights: Mapping[str, Array], threads: int) -> None:
        check_cpu(manifest.cpu)
        self._ffi = tvm_ffi()
        self._pool = PoolThread(self._ffi, threads)
        self.threads = self._pool.threads
        self._name = manifest.name
        names = ["main", *([_PREPARE] if weights else [])]
        functions = load_functions(folder / manifest.code_file, names)
        self._main = functions["main"]
        self._weights = None
        if weights:
            # widened, packed: once, and what they were is let go
            self._weights = functions[_PREPARE](self._ffi.Array([self._tensor(array) for array in weights.values()]))

    def run(self, arrays: list[Array]) -> list[Array]:
        return self._pool.run(lambda: self._run_here(arrays))

    def _run_here(self, arrays: list[Array]) -> list[Array]:
        tensors = [self._tensor(array) for array in arrays]
        extra = [] if self._weights is None else [self._weights]
        try:
            result = self._main(*tensors, *extra)
        except TVM_ERRORS as error:
            raise InternalError(
                "E1645",
                f"the compiled graph {self._name} failed",
                "report it with the artifact's manifest.json",
                details=tuple(str(error).strip().splitlines()[-5:]),
            ) from error
        outputs = [result] if isinstance(result, self._ffi.Tensor) else list(result)
        return [np.array(np.from_dlpack(output)) for output in outputs]

    def _tensor(self, array: Array) -> Any:
        if array.dtype != np.bool_:
            return self._ffi.from_dlpack(array)
        view = self._ffi.from_dlpack(array.view(np.uint8))
        create = self._ffi.get_global_func("runtime.TVMTensorCreateView")
        return create(view, self._ffi.Shape(array.shape), "bool", 0)


class _OnnxRunner:
    """ONNX Runtime with every optimization off."""

    def __init__(self, folder: Path, manifest: OnnxManifest, weights: Mapping[str, Array], threads: int) -> None:
        from xamc.runtime.executors.reference import onnxruntime_module, open_session

        self._ort = onnxruntime_module()
        self.threads = threads
        self._name = manifest.name
        self._inputs = [tensor.name for tensor in manifest.graph_inputs]
        self._outputs = [tensor.name for tensor in manifest.graph_outputs]
        self._weights = {name: self._ort.OrtValue.ortvalue_from_numpy(array) for name, array in weights.items()}
        self._session = open_session(folder / manifest.code_file, threads)

    def run(self, arrays: list[Array]) -> list[Array]:
        make = self._ort.OrtValue.ortvalue_from_numpy
        feeds = {name: make(array) for name, array in zip(self._inputs, arrays)}
        try:
            results = self._session.run_with_ort_values(self._outputs, feeds | self._weights)
        except Exception as error:  # ONNX Runtime's errors share no base class but this
            raise InternalError(
                "E1645",
                f"the graph {self._name} failed in ONNX Runtime",
                "report it with the artifact's manifest.json",
                details=tuple(str(error).strip().splitlines()[-5:]),
            ) from error
        return [np.array(result.numpy()) for result in results]
