"""The twin behind the lowering: every Relax pass, and at last the compiled kernels, against the oracle's outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import onnx_ir as ir
import tvm
from numpy.typing import NDArray
from tvm import relax

from xamc.artifact.manifest import plan_layout
from xamc.artifact.packing import pack_rows
from xamc.artifact.records import from_json
from xamc.artifact.staging import temporary_folder
from xamc.artifact.step_program import ROWS_FUNCTION, STEP_FUNCTION, StepProgram
from xamc.errors import InternalError
from xamc.ir.program import Program
from xamc.ir.relax_program import RelaxProgram
from xamc.ir.tolerances import tolerance
from xamc.model.config import ModelConfig
from xamc.passes.lowering.evaluate import Evaluation, evaluate
from xamc.passes.lowering.lower import lower
from xamc.passes.relax.kv_storage import KvStorage
from xamc.passes.relax.protocol import RelaxPass
from xamc.runtime.executors.step_runner import StepRunner
from xamc.runtime.memory import Bytes, aligned_zeros
from xamc.runtime.threads import configure_tvm_threads
from xamc.runtime.tvm_library import tvm_ffi
from xamc.targets.cpu.codegen import build_library
from xamc.targets.cpu.key_bias import rotated_biases
from xamc.targets.cpu.rounding_noise import Rounding, rounding_effect
from xamc.targets.cpu.select_kernels import DATA_INPUTS, select_kernels
from xamc.targets.cpu.weight_plan import WeightPlan, plan_weights
from xamc.targets.kernels.isa import Isa
from xamc.targets.kernels.kv_pages import GRAIN, LARGEST_CODE, KvDtype
from xamc.targets.kernels.linear import Activations
from xamc.verify.metrics import relative_error
from xamc.verify.scenario import Case, load_cases, several_rows
from xamc.verify.twin_file import read_weights

Array = NDArray[np.generic]

_THREADS = 3


NOISE = "rounding_noise"


@dataclass(frozen=True)
class Bound:
    """What a deviation may be: the tolerance's name and, as some follow from the twin itself, the number."""

    name: str
    value: float


@dataclass(frozen=True)
class Proven:
    """The deviation that came nearest to its bound."""

    deviation: float
    bound: Bound

    def to_json(self) -> dict[str, Any]:
        """``deviation``, the name of the ``tolerance`` and the ``bound`` in force."""
        return {"deviation": self.deviation, "tolerance": self.bound.name, "bound": self.bound.value}


@dataclass
class TwinProof:
    """A twin in Relax form, the names of its outputs in order, and the calls it must answer as the oracle did.

    Each pass is compared with the program right before it, so that errors do not add up; the kernels are compared
    with the oracle.
    """

    program: RelaxProgram
    outputs: Sequence[str]
    cases: Sequence[Case]
    before: list[dict[str, Array]]

    @staticmethod
    def open(request: Mapping[str, Any]) -> TwinProof:
        """Reads the files ``graph``, ``config``, ``weights`` and ``cases`` of a request, and lowers the twin."""
        model = ir.load(request["graph"])
        config = from_json(ModelConfig, json.loads(Path(request["config"]).read_text(encoding="utf-8")))
        program = lower(Program(model, read_weights(Path(request["weights"])), config))
        outputs = [str(value.name) for value in model.graph.outputs]
        cases = load_cases(Path(request["cases"]))
        return TwinProof(program, outputs, cases, [case.fetches for case in cases])

    def prove(self, relax_pass: RelaxPass) -> Proven:
        """Runs a pass on the twin and returns how far its outputs moved from what they were before it.

        A pass that rounds the KV cache may move them as far as noise of that size does.

        Raises:
            InternalError: E1406 naming the pass when that is more than its tolerance.
        """
        bounds = self._bounds(relax_pass.tolerance)
        if isinstance(relax_pass, KvStorage) and relax_pass.tolerance == NOISE:
            rounding = Rounding(cast(KvDtype, relax_pass.dtype))
            exact = [[outputs[name] for name in self.outputs] for outputs in self.before]
            found = self._noise_bounds(Evaluation(self.program), exact, rounding, "reassociated")
            bounds = dict(zip(self.outputs, found, strict=True))
        relax_pass.run(self.program)
        return self._check(relax_pass.name, bounds)

    def check(self, stage: str, bound: str) -> Proven:
        """How far the outputs are from those before; what was computed is compared with next.

        Before any pass has run, that is the lowering against the oracle.

        Raises:
            InternalError: E1406 naming the stage when that is more than its bound.
        """
        return self._check(stage, self._bounds(bound))

    def _bounds(self, bound: str) -> dict[str, Bound]:
        return {name: Bound(bound, tolerance(bound)) for name in self.outputs}

    def _noise_bounds(
        self, evaluation: Evaluation, exact: Sequence[Sequence[Array]], rounding: Rounding, rest: str
    ) -> list[Bound]:
        """For each output in `exact`: `rounding_noise` times what noise of that size does to it, and `rest`."""
        effects = rounding_effect(evaluation, [case.feeds for case in self.cases], exact, rounding)
        return [Bound(NOISE, tolerance(rest) + tolerance(NOISE) * effect) for effect in effects]

    def _check(self, stage: str, bounds: Mapping[str, Bound]) -> Proven:
        worst: list[Proven] = []
        results = evaluate(self.program, [case.feeds for case in self.cases])
        after = [dict(zip(self.outputs, outputs, strict=True)) for outputs in results]
        for case, expected, actual in zip(self.cases, self.before, after, strict=True):
            for name in self.outputs:
                worst.append(_deviation(stage, bounds[name], case.name, name, actual[name], expected[name]))
        self.before = after
        return max(worst, key=lambda found: found.deviation / max(found.bound.value, 1e-30))

    def prove_kernels(self, isa: Isa, kv_dtype: str, activations: str) -> dict[str, Any]:
        """Compiles the twin with the real kernels and compares the logits; not on a CPU that can't execute them.

        The kernels are those of an artifact but for the blocks of the KV cache, which are so small here that sequences
        of a dozen tokens take several: they lie in random order in their pools, so that a wrong table entry shows.
        Where they round, they may move the logits as far as noise of that size does.
        """
        if Isa.host().name != isa.name and not set(isa.cpu_flags) <= set(Isa.host().cpu_flags):
            return {"executed": False, "reason": f"this machine cannot execute {isa.name}"}
        plan = plan_weights(self.program)
        dtypes = cast(KvDtype, kv_dtype), cast(Activations, activations)
        selected = select_kernels(self.program, plan, isa, *dtypes, block=GRAIN)
        # caches of 16 bits are the program's own by now, so that they are rounded with and without noise
        rounding = Rounding("int8" if kv_dtype == "int8" else "float32", dtypes[1], isa)
        bound = Bound("cpu_fp32", tolerance("cpu_fp32"))
        if kv_dtype != "float32" or rounding.rounds_activations(plan.formats):
            exact = [[case.fetches["logits"]] for case in self.cases]
            (bound,) = self._noise_bounds(Evaluation(self.program), exact, rounding, "cpu_fp32")
        worst = 0.0
        with temporary_folder("twin") as folder:
            library = folder / "twin.so"
            build_library(selected.module, isa, library)
            # as many threads as show what they must not share
            configure_tvm_threads(tvm_ffi(), _THREADS)
            loaded = tvm.runtime.load_module(str(library))
            machine = relax.VirtualMachine(loaded, tvm.cpu())
            packed = pack_twin(plan, self.program)
            weights = [tvm.runtime.tensor(array) for array in packed]
            for call in self.cases:
                for function in ("prefill_last", "prefill_all", "decode"):
                    if function == "decode" and call.feeds["input_ids"].shape != (1, 1):
                        continue
                    if function == "decode" and selected.step is not None:
                        actual = self._run_step(loaded[STEP_FUNCTION], selected.step, call, packed, kv_dtype)
                    else:
                        actual = self._run(machine, function, call, weights, kv_dtype)
                    if function == "prefill_all":
                        actual = actual[np.arange(len(actual)), call.feeds["last_index"]][:, None]
                    expected = call.fetches["logits"]
                    found = _deviation("kernels", bound, call.name, function, actual, expected)
                    worst = max(worst, found.deviation)
            if selected.step is not None:
                step_of_rows = loaded.get_function(ROWS_FUNCTION, query_imports=True)
                for call in several_rows(self.cases, selected.step.rows):
                    actual = self._run_step(step_of_rows, selected.step, call, packed, kv_dtype)
                    found = _deviation("kernels", bound, call.name, ROWS_FUNCTION, actual, call.fetches["logits"])
                    worst = max(worst, found.deviation)
        return {"executed": True, **Proven(worst, bound).to_json()}

    def _run(self, machine: Any, function: str, call: Case, weights: list[Any], kv_dtype: str) -> Array:
        table, pools = paged(self._caches(call, kv_dtype), kv_dtype, GRAIN)
        feeds = {**call.feeds, "block_table": table}
        data = [tvm.runtime.tensor(np.ascontiguousarray(feeds[name])) for name in DATA_INPUTS]
        result: Array = machine[function](*data, [tvm.runtime.tensor(pool) for pool in pools], weights).numpy()
        return result

    def _run_step(self, function: Any, program: StepProgram, call: Case, weights: list[Array], kv_dtype: str) -> Array:
        """The logits [B, 1, V] of a call of one token for each row, by the program."""
        table, pools = paged(self._caches(call, kv_dtype), kv_dtype, GRAIN)
        runner = StepRunner(
            (function, function),
            tvm.runtime.from_dlpack,
            program,
            _region(weights),
            _region(pools),
            table.shape[1],
            call.fetches["logits"].shape[-1],
            len(table),
        )
        runner.table[...] = table
        tables = [tvm.runtime.tensor(np.ascontiguousarray(call.feeds[name])) for name in ("rope_cos", "rope_sin")]
        names = ("input_ids", "write_index", "position_ids")
        ids, cached, angles = (np.asarray(call.feeds[name], np.int64).reshape(-1) for name in names)
        if len(table) == 1:
            logits = runner.run(int(ids[0]), int(cached[0]), *tables)
        else:
            logits = runner.run_rows(ids, cached, angles, *tables)
        return np.array(logits)[:, None]

    def _caches(self, call: Case, kv_dtype: str) -> list[Array]:
        """Keys and values of all layers, as pools of `kv_dtype` hold them: without what attention adds to keys."""
        tables = (np.asarray(call.feeds[name], np.float32) for name in ("rope_cos", "rope_sin"))
        caches: list[Array] = []
        for layer, lacking in enumerate(rotated_biases(self.program, cast(KvDtype, kv_dtype), *tables)):
            keys, values = (np.asarray(call.feeds[f"cache_{kind}.{layer}"], np.float32) for kind in ("key", "value"))
            caches += [keys if lacking is None else keys - lacking[:, : keys.shape[2]], values]
        return caches


def _deviation(stage: str, bound: Bound, call: str, output: str, actual: Array, expected: Array) -> Proven:
    deviation = relative_error(np.asarray(actual), np.asarray(expected))
    if deviation > bound.value:
        raise InternalError(
            "E1406",
            f"{stage} moved {output} of the twin's {call} by {deviation:.2g} (relative), "
            f"more than {bound.value:.2g} ({bound.name})",
            fix="look at the graphs before and after with --dump-ir DIR, leave the pass out with passes.disable, "
            "and report it",
        )
    return Proven(deviation, bound)


def _region(arrays: Sequence[Array]) -> tuple[Bytes, list[int]]:
    """The arrays' bytes one after the other, and where each lies."""
    layout, nbytes = plan_layout((str(number), "uint8", (a.nbytes,)) for number, a in enumerate(arrays))
    region: Bytes = aligned_zeros((nbytes,), np.uint8)
    for entry, array in zip(layout, arrays, strict=True):
        region[entry.offset : entry.offset + entry.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return region, [entry.offset for entry in layout]


def paged(caches: Sequence[Array], kv_dtype: str, block: int) -> tuple[Array, list[Array]]:
    """Contiguous caches as pools of blocks in random order, see `kernels.kv_pages`.

    Args:
        caches: float32 [B, Hkv, C, D] each: k0, v0, k1, v1, ...
        kv_dtype: how the pools store them.
        block: positions of a block.

    Returns:
        The block table int32 [B, M], and the pools in the order of the functions' KV tuple. Blocks of no sequence hold
        large numbers, which would show if they were read.
    """
    batch, heads, capacity, _ = caches[0].shape
    blocks = -(-capacity // block)
    entries = batch * blocks + 2
    table = np.random.default_rng(entries).permutation(entries)[: batch * blocks].astype(np.int32)

    def pool(array: Array, turned: bool = False) -> Array:
        """[B, Hkv, C, ...] as [N, Hkv, block, ...], or with the last two axes turned."""
        rest = array.shape[3:]
        padding = [(0, 0), (0, 0), (0, blocks * block - capacity), *((0, 0) for _ in rest)]
        cut = np.pad(array, padding).reshape(batch, heads, blocks, block, *rest)
        result = np.full((entries, heads, block, *rest), 99).astype(array.dtype)
        result[table] = np.moveaxis(cut, 2, 1).reshape(batch * blocks, heads, block, *rest)
        return np.ascontiguousarray(np.swapaxes(result, -1, -2)) if turned else result

    pools: list[Array] = []
    for pair in zip(caches[::2], caches[1::2], strict=True):
        if kv_dtype == "int8":
            scales = [(np.abs(array).max(-1) / LARGEST_CODE).astype(np.float32) for array in pair]
            codes = [np.rint(a / np.maximum(s, 1e-30)[..., None]) for a, s in zip(pair, scales, strict=True)]
            pools += [pool(codes[0].astype(np.int8), True), pool(codes[1].astype(np.int8)), *map(pool, scales)]
        else:
            dtype = np.dtype(ml_dtypes.bfloat16) if kv_dtype == "bfloat16" else np.dtype(kv_dtype)
            pools += [pool(pair[0].astype(dtype), True), pool(pair[1].astype(dtype))]
    return table.reshape(batch, blocks), pools


def pack_twin(plan: WeightPlan, program: RelaxProgram) -> list[Array]:
    """The weights tuple of a small program, in memory."""
    arrays: list[Array] = []
    for weight in plan.weights:
        parts = [program.weights[name].read_rows(0, program.weights[name].shape[0]) for name in weight.sources]
        if weight.layout is None:
            arrays.append(parts[0].astype(np.float32))
            continue
        fmt = weight.layout.format
        if fmt.quantized:
            codes = parts[0].astype(np.int8 if fmt.kind == "int8" else np.uint8)
            packed = pack_rows(codes, fmt, scale=parts[1], zero=parts[2] if len(parts) > 2 else None)
        else:
            packed = pack_rows(parts[0], fmt)
        arrays += [packed[buffer.name] for buffer in weight.layout.buffers]
    return arrays
