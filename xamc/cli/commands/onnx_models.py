"""What the commands do with ONNX models: plan, run, inspect and verify what is no language model."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xamc.artifact import OnnxArtifact
from xamc.artifact.manifest_file import digest
from xamc.artifact.onnx_manifest import GraphTensor, OnnxManifest
from xamc.artifact.staging import write_file
from xamc.cli.commands.output import message_console, print_json, print_table, result_console
from xamc.compiler.spec import LoadedSpec
from xamc.errors import InputError, MisuseError, ToolchainError
from xamc.ir.tolerances import tolerance
from xamc.jobs.progress import Stage, size

if TYPE_CHECKING:
    from xamc.compiler.plan.onnx_model import OnnxPlan

Arrays = Mapping[str, NDArray[Any]]


def plan_onnx_model(loaded: LoadedSpec, allow_rtn: bool, die_memory: int | None, *, as_json: bool) -> None:
    """Print the plan of a graph; then refuse it if a die of `die_memory` bytes can't hold it."""
    from xamc.compiler.plan.onnx_model import make_onnx_plan

    plan = make_onnx_plan(loaded, allow_rtn)
    if as_json:
        print_json(plan.to_dict())
    else:
        for note in plan.notes:
            message_console().print(f" warning: {note}", style="yellow")
        _print_plan(plan)
    if die_memory is not None:
        plan.require_die(die_memory)


def _print_plan(plan: OnnxPlan) -> None:
    console = result_console()
    console.print("\ninputs and outputs", style="bold")
    rows = [("input", *_tensor(tensor)) for tensor in plan.inputs]
    rows += [("output", *_tensor(tensor)) for tensor in plan.outputs]
    print_table(console, ("", "name", "dtype", "shape"), rows)
    console.print("\noperators", style="bold")
    print_table(console, ("operator", "nodes"), [(name, str(count)) for name, count in plan.operators.items()])
    widened = f", {plan.halves} in the file, computed in float32" if plan.halves else ""
    quantized = f", {plan.quantized} of the tensors int8" if plan.quantized else ""
    count = f"{plan.parameters / 1e6:.1f} M" if plan.parameters >= 1e5 else f"{plan.parameters}"
    console.print(
        f"\nweights  {count} parameters{quantized}, {size(plan.params_bytes)} in {plan.params_file} "
        f"({plan.storage}){widened}"
    )
    console.print(
        f"memory   {size(plan.nbytes)} while it runs, {size(plan.activations)} of it values, computed in float32"
    )
    console.print(f"runs on  {plan.executes_on}" + (", simulated" if plan.executes_on == "host-simulator" else ""))


def run_onnx_command(
    artifact: Path,
    prompt: str | None,
    inputs: Path | None,
    outputs: Path | None,
    target: str | None,
    seed: int | None,
    threads: int | None,
    verify_weights: bool = False,
    *,
    as_json: bool,
) -> None:
    """Run a graph on arrays of a file, or on seeded ones; a table of outputs goes to stdout.

    Raises:
        MisuseError: E1644 a prompt beside inputs; E1705 the artifact is not for `target`.
        InputError: E1644 a file that can't be read, and what `GraphModel.run` raises.
    """
    from xamc.runtime import load_graph
    from xamc.runtime.seeded_feeds import seeded_feeds

    if prompt is not None:
        raise MisuseError(
            "E1644", "--prompt is for language models, --inputs and --outputs for graphs", "give one of them"
        )
    model = load_graph(artifact, threads, verify_weights)
    manifest = model.manifest
    if target is not None and manifest.target != target:
        raise MisuseError(
            "E1705",
            f"{artifact} is compiled for {manifest.target}, not for {target}",
            "leave --target out, or give the artifact of that target",
        )
    feeds: Arrays = seeded_feeds(manifest.graph_inputs, seed or 0) if inputs is None else read_arrays(inputs)
    start = time.perf_counter()
    results = model.run(feeds)
    seconds = time.perf_counter() - start
    if outputs is not None:
        write_arrays(outputs, results)
    if as_json:
        fields = {"executes_on": manifest.executes_on, "simulated": manifest.simulated, "seconds": seconds}
        print_json(fields | {"outputs": {name: _summary(array) for name, array in results.items()}})
        return
    rows = [_row(name, array) for name, array in results.items()]
    print_table(result_console(), ("output", "dtype", "shape", "min", "max", "mean"), rows)
    made = "seeded inputs" if inputs is None else str(inputs)
    simulated = f"simulated for {manifest.target}, not run on a card; " if manifest.simulated else ""
    message_console().print(f"{simulated}{made}, {seconds * 1e3:.1f} ms, {model.threads} threads", style="dim")


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; pickled objects are refused.

    Raises:
        InputError: E1644.
    """
    fix = "write it with numpy.savez(FILE, name=array, ...); names are those of the graph's inputs"
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise InputError("E1644", f"{path} holds one array without a name", fix)
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError("E1644", f"{path} can't be read as .npz: {error}", fix) from error


def write_arrays(path: Path, arrays: Arrays) -> None:
    """An .npz file at exactly `path`, whatever the arrays are called (numpy.savez can't write one called `file`).

    Raises:
        InputError: E1506, E1507.
    """

    def write(place: Path) -> None:
        with zipfile.ZipFile(place, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)

    write_file(path, write)


def inspect_onnx(artifact: OnnxArtifact, report: Mapping[str, Any]) -> None:
    """The manifest and the report of a graph, for a person."""
    manifest, console = artifact.manifest, result_console()
    print_table(console, ("", ""), _rows(manifest))
    console.print()
    rows = [("input", *_tensor(tensor)) for tensor in manifest.graph_inputs]
    rows += [("output", *_tensor(tensor)) for tensor in manifest.graph_outputs]
    print_table(console, ("", "name", "dtype", "shape"), rows)
    console.print()
    print_table(console, ("file", "size", "sha256"), [(f.path, size(f.nbytes), f.sha256[:16]) for f in manifest.files])
    deviation = report.get("deviation", {})
    if deviation.get("compiled_from_original"):
        console.print()
        names = [tensor.name for tensor in manifest.graph_outputs]
        columns = ("compiled_from_onnxruntime_same_weights", "compiled_from_original")
        table = [(name, *(f"{deviation.get(column, {}).get(name, 0):.1e}" for column in columns)) for name in names]
        print_table(console, ("output", "off from ONNX Runtime, same weights", "off from the fp32 model"), table)


def _rows(manifest: OnnxManifest) -> Iterable[tuple[str, str]]:
    quantization = manifest.quantization
    used = quantization.used or "not quantized"
    if quantization.requested != quantization.used:
        used += f" ({quantization.requested} was asked for)"
    simulated = ", simulated" if manifest.simulated else ""
    return (
        ("name", manifest.name),
        ("target", f"{manifest.target}, {manifest.cpu.mcpu}; needs {' '.join(manifest.cpu.features) or 'nothing'}"),
        ("kind", "graph"),
        ("weights", f"{len(manifest.parameters)} tensors, {manifest.weight_dtype}; {used}"),
        ("computes in", manifest.compute_dtype),
        ("executes on", f"{manifest.executes_on}{simulated}"),
        ("made by", f"xamc {manifest.xamc_version}; " + ", ".join(f"{k} {v}" for k, v in manifest.tools.items())),
        ("made from", ", ".join(f"{i.name} ({size(i.nbytes)}, {i.sha256[:12]})" for i in manifest.inputs)),
        ("digest", digest(manifest)),
    )


def check_onnx_golden(artifact: OnnxArtifact, threads: int | None, stage: Stage) -> dict[str, Any] | None:
    """Runs a graph on its golden inputs and compares; returns what was found, for scripts.

    Raises:
        InputError: E1510 the golden file is damaged.
        ToolchainError: E1511 the outputs are further apart than the bound.
    """
    import safetensors
    import safetensors.numpy

    from xamc.runtime import load_graph
    from xamc.runtime.cpu_features import missing_features

    manifest = artifact.manifest
    if manifest.golden is None:
        stage.result("the artifact holds no golden outputs: the machine that compiled it could not run it", "skipped")
        return None
    if missing := missing_features(manifest.cpu):
        reason = f"this CPU lacks {', '.join(missing)}, which {manifest.cpu.mcpu} code needs"
        stage.result(f"not compared: {reason}", "not run")
        return {"executed": False, "reason": reason}
    model = load_graph(artifact.path, threads)
    worst = 0.0
    files = [file.path for file in manifest.files if file.path.startswith(f"{manifest.golden}/")]
    for path in [artifact.file(file) for file in files]:
        try:
            tensors = safetensors.numpy.load_file(path)
            feeds = {tensor.name: tensors[f"input.{tensor.name}"] for tensor in manifest.graph_inputs}
            golden = {tensor.name: tensors[f"output.{tensor.name}"] for tensor in manifest.graph_outputs}
        except (OSError, KeyError, safetensors.SafetensorError) as error:
            raise InputError("E1510", f"{path} can't be read: {error}", fix="compile the model again") from None
        worst = max(worst, _off(artifact.path, model.run(feeds), golden))
    simulated = ", simulated" if manifest.simulated else ""
    count = len(manifest.graph_outputs)
    sizes = f" at {len(files)} sizes" if len(files) > 1 else ""
    stage.result(f"{count} outputs{sizes} off by {worst:.1e} (allowed {tolerance('golden'):.1e}){simulated}")
    return {"executed": True, "deviation": worst, "outputs": count, "simulated": manifest.simulated}


def _off(path: Path, actual: Arrays, golden: Arrays) -> float:
    """How far outputs are from the golden ones, at most."""
    from xamc.verify.metrics import relative_error

    worst = 0.0
    for name, expected in golden.items():
        is_float = expected.dtype.kind == "f"
        bound = tolerance("golden" if is_float else "graph_integers")
        off = relative_error(actual[name], expected) if is_float else float(np.mean(actual[name] != expected))
        if not off <= bound:
            raise ToolchainError(
                "E1511",
                f"{path}: the output {name} differs from the golden one by {off:.2g}, allowed are {bound:.2g}",
                fix="its files are whole, so this machine computes something else: run `xamc doctor`, and compile here",
            )
        worst = max(worst, off)
    return worst


def _tensor(tensor: GraphTensor) -> tuple[str, str, str]:
    shape = tensor.shape_text
    if tensor.symbols:
        shape += f" ({', '.join(dict.fromkeys(filter(None, tensor.symbols)))})"
    return tensor.name, tensor.dtype, shape if tensor.limit is None else f"{shape}, each below {tensor.limit}"


def _summary(array: NDArray[Any]) -> dict[str, Any]:
    wide = array.astype(np.float64)
    numbers = {"min": wide.min(), "max": wide.max(), "mean": wide.mean()} if array.size else {}
    shown = {key: float(value) if np.isfinite(value) else None for key, value in numbers.items()}
    return {"dtype": array.dtype.name, "shape": list(array.shape), **shown}


def _row(name: str, array: NDArray[Any]) -> tuple[str, ...]:
    summary = _summary(array)
    numbers = (summary.get(key) for key in ("min", "max", "mean"))
    texts = ("-" if value is None else f"{value:.6g}" for value in numbers)
    return name, summary["dtype"], str(summary["shape"]), *texts
