"""Commands that look and change nothing but the cache: verify, inspect, targets, explain, doctor, cache."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xamc.artifact import Artifact, OnnxArtifact, check_digests, read_any
from xamc.artifact.golden import Golden, read_golden
from xamc.artifact.manifest import REPORT, Manifest
from xamc.artifact.manifest_file import digest
from xamc.artifact.records import to_json
from xamc.cli.commands.onnx_models import check_onnx_golden, inspect_onnx
from xamc.cli.commands.output import message_console, print_json, print_table, print_text, result_console
from xamc.cli.commands.sizes import parse_size
from xamc.errors import ToolchainError
from xamc.ir.tolerances import TOLERANCES, tolerance
from xamc.jobs.cache import CacheInfo, cache_info, prune
from xamc.jobs.progress import Progress, Stage, size

if TYPE_CHECKING:
    from xamc.targets.caps import TargetCaps
    from xamc.verify.golden import GoldenResult


def verify_command(path: Path, threads: int | None, *, as_json: bool) -> None:
    """Digests first: golden logits of damaged weights would only say that something is wrong somewhere."""
    artifact = read_any(path)
    progress = Progress(message_console() if as_json else result_console())
    files = artifact.manifest.files
    total = sum(file.nbytes for file in files)
    with progress.stage("digests") as stage:
        done = 0

        def advance(file: Any) -> None:
            nonlocal done
            stage.progress(done, total, "bytes")
            done += file.nbytes

        check_digests(artifact, advance)
        stage.result(f"{len(files)} files, {size(total)}, are what the manifest says")
    with progress.stage("golden") as stage:
        if isinstance(artifact, OnnxArtifact):
            golden = check_onnx_golden(artifact, threads, stage)
        else:
            golden = _check_golden(artifact, threads, stage)
    if as_json:
        print_json({"path": str(path), "files": len(files), "nbytes": total, "golden": golden})


def _check_golden(artifact: Artifact, threads: int | None, stage: Stage) -> dict[str, Any] | None:
    """Runs the artifact on its golden prompts if this machine can; returns what was found, for scripts."""
    from xamc.runtime import load_language_model
    from xamc.runtime.cpu_features import why_not_run
    from xamc.verify.golden import check_golden

    manifest = artifact.manifest
    if manifest.golden is None:
        stage.result("the artifact holds no golden logits", "skipped")
        return None
    golden = read_golden(artifact.file(manifest.golden))
    lacking = why_not_run(manifest.cpus)
    if lacking:
        reason = f"this CPU lacks {lacking}"
        own = f"; it holds no logits of its own: {golden.not_run}" if golden.not_run else ""
        stage.result(f"not compared: {reason}{own}", "not run")
        return {"executed": False, "reason": reason, "recorded": not golden.not_run}
    model = load_language_model(artifact.path, threads)
    result = check_golden(artifact.path, manifest, golden, model.logits, model.cpu_level)
    stage.result(_found(result, golden))
    return {"executed": True, "recorded": not golden.not_run, **dataclasses.asdict(result)}


def _found(result: GoldenResult, golden: Golden) -> str:
    prompts = f"{result.prompts} prompt" + ("s" if result.prompts > 1 else "")
    if result.deviation is None:
        text = f"{prompts} ran; no logits were recorded when it was compiled ({golden.not_run})"
    else:
        same = f"{result.same_top1} of {result.positions} likeliest tokens agree"
        text = f"off by {result.deviation:.1e} (allowed {result.tolerance:.1e}), {same}, {prompts}"
    if result.distance is not None:
        text += f"; KL {result.distance.mean_kl:.1e} nats from transformers fp32"
    return text


def _target_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """The target, and per library the size and what a CPU must have for it."""
    if not manifest.variants:
        needs = " ".join(manifest.cpu.features) or "nothing"
        rows = [("target", f"{manifest.target}, {manifest.cpu.mcpu}; needs {needs}")]
        return rows + ([("arithmetic", str(manifest.cpu.arithmetic))] if manifest.cpu.arithmetic else [])
    from xamc.runtime.cpu_features import best_code, why_not_run

    nbytes = {file.path: file.nbytes for file in manifest.files}
    here = None if why_not_run(manifest.cpus) else best_code(manifest)
    rows = [("target", f"{manifest.target}, code for {len(manifest.codes)} CPU levels; the best a CPU has is run")]
    for code in manifest.codes:
        chosen = "; run on this machine" if code == here else ""
        rows.append((code.cpu.mcpu, f"{size(nbytes[code.file])}, needs {' '.join(code.cpu.features)}{chosen}"))
        if code.cpu.arithmetic:
            rows.append(("", str(code.cpu.arithmetic)))
    return rows


def inspect_command(path: Path, *, as_json: bool) -> None:
    """The manifest and the report, for a person; with `as_json` both as they are."""
    artifact = read_any(path)
    report = _report(artifact)
    if as_json:
        identity = digest(artifact.manifest)
        print_json({"digest": identity, "manifest": to_json(artifact.manifest), "report": report})
        return
    if isinstance(artifact, OnnxArtifact):
        inspect_onnx(artifact, report)
        return
    manifest, console = artifact.manifest, result_console()
    model = manifest.model
    quantization = manifest.quantization
    used = quantization.used or "not quantized"
    if quantization.requested != quantization.used:
        used += f" ({quantization.requested} was asked for)"
    heads = f"{model.num_heads} heads, {model.num_kv_heads} KV heads of {model.head_dim}"
    rows = [
        ("name", manifest.name),
        *_target_rows(manifest),
        ("model", f"{model.model_type}: {model.num_layers} layers, hidden {model.hidden_size}, {heads}"),
        ("vocabulary", f"{model.vocab_size}, RoPE {model.rope.kind}"),
        ("weights", f"{used}; {_weights_row(manifest)}"),
        ("context", f"{manifest.context_limit} tokens, prefill in chunks of {manifest.prefill_chunk}"),
        ("KV cache", f"{manifest.kv.dtype} {manifest.kv.layout}, at most {manifest.max_batch} sequences"),
        ("executes on", manifest.executes_on),
        ("functions", ", ".join(manifest.functions)),
        ("golden logits", _golden_row(artifact, report)),
        ("made by", f"xamc {manifest.xamc_version}; " + ", ".join(f"{k} {v}" for k, v in manifest.tools.items())),
        ("made from", ", ".join(f"{i.name} ({size(i.nbytes)}, {i.sha256[:12]})" for i in manifest.inputs)),
        ("digest", digest(manifest)),
    ]
    print_table(console, ("", ""), rows)
    console.print()
    print_table(console, ("file", "size", "sha256"), [(f.path, size(f.nbytes), f.sha256[:16]) for f in manifest.files])
    passes = [*report.get("graph_passes", ()), *report.get("relax_passes", ())]
    if passes:
        console.print()
        print_table(console, ("pass", "matched", "deviation", "tolerance"), [_pass_row(entry) for entry in passes])
    stages = report.get("stages", ())
    if stages:
        console.print()
        rows_of = [(s["name"], s["state"], f"{s['seconds']:.1f} s", size(s["peak_bytes"]), s["detail"]) for s in stages]
        print_table(console, ("stage", "state", "time", "memory", "what"), rows_of)


def _weights_row(manifest: Manifest) -> str:
    if manifest.weights is not None:
        return f"{len(manifest.weights.tensors)} buffers, {size(manifest.weights.nbytes)}"
    sizes = {file.path: file.nbytes for file in manifest.files}
    files = {graph.params for graph in manifest.graphs}
    return f"{size(sum(sizes[file] for file in files))} in {len(files)} files, {manifest.ranks} ranks"


def targets_command(*, as_json: bool) -> None:
    """What each target can do, as the passes and the plan see it."""
    from xamc.targets.registry import CAPS

    if as_json:
        print_json([dataclasses.asdict(caps) for caps in CAPS.values()])
        return
    console = result_console()
    rows = [
        (
            caps.name,
            " ".join(caps.weight_dtypes),
            " ".join(caps.kv_dtypes),
            " ".join(caps.quantize_types) or "-",
            _lengths(caps),
            str(caps.max_tensor_parallel),
        )
        for caps in CAPS.values()
    ]
    print_table(console, ("backend.type", "weights", "KV cache", "quantization", "lengths", "tp"), rows)
    console.print()
    shown = [(caps.short, caps.summary) for caps in CAPS.values()]
    print_table(console, ("--target", "what"), shown)


def _lengths(caps: TargetCaps) -> str:
    if caps.dynamic_shapes:
        return "any"
    return "fixed" if caps.length_multiple == 1 else f"fixed, x{caps.length_multiple}"


def explain_command(code: str | None, *, as_json: bool) -> None:
    """One code's explanation, or the first sentence of every one."""
    from xamc.errors.explain import catalogue, explain

    if code is not None:
        text = explain(code)
        if as_json:
            print_json({"code": code, "text": text})
        else:
            print_text(result_console(), text)
        return
    codes = catalogue()
    if as_json:
        print_json(codes)
        return
    rows = [(name, " ".join(text.split()).partition(". ")[0]) for name, text in codes.items()]
    print_table(result_console(), ("code", "meaning"), rows)


def doctor_command(*, as_json: bool) -> None:
    """Print every finding; a failed one ends with exit code 4."""
    from xamc.cli.doctor import examine

    findings = examine()
    if as_json:
        print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        rows = [(f.state, f.subject, f.found + (f"; {f.remedy}" if f.remedy else "")) for f in findings]
        print_table(result_console(), ("", "", ""), rows)
    failed = [finding for finding in findings if finding.state == "fail"]
    if failed:
        raise ToolchainError(
            "E1703",
            f"{len(failed)} of {len(findings)} checks failed: {', '.join(finding.subject for finding in failed)}",
            fix=failed[0].remedy,
        )


def cache_info_command(*, as_json: bool) -> None:
    """Where the stage cache is and what it takes."""
    _print_cache(cache_info(), as_json)


def cache_prune_command(max_size: str, *, as_json: bool) -> None:
    """Shrink the cache and show what is left."""
    _print_cache(prune(parse_size(max_size, "--max-size")), as_json)


def _print_cache(info: CacheInfo, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(info))
        return
    console = result_console()
    console.print(f"{info.path}: {info.entries} entries, {size(info.nbytes)}, of them {size(info.shared)} in artifacts")
    if info.stages:
        print_table(console, ("stage", "size"), [(stage, size(n)) for stage, n in sorted(info.stages.items())])


def _report(artifact: Artifact | OnnxArtifact) -> dict[str, Any]:
    """report.json; empty when it was removed or is not JSON, as it is outside the digests."""
    try:
        value = json.loads(artifact.file(REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _golden_row(artifact: Artifact, report: dict[str, Any]) -> str:
    if artifact.manifest.golden is None:
        return "none"
    facts = report.get("golden") or {}
    text = f"{facts.get('prompts', 'some')} prompts"
    return f"{text}; not run: {facts['not_run']}" if facts.get("not_run") else text


def _pass_row(entry: dict[str, Any]) -> tuple[str, str, str, str]:
    matched = entry.get("matched")
    count = sum(matched.values()) if isinstance(matched, dict) else matched
    deviation, name = entry.get("deviation"), entry.get("tolerance")
    # some bounds follow from the twin, by the tolerance of that name
    value = entry.get("bound") or (tolerance(name) if name in TOLERANCES else None)
    bound = "" if name is None else str(name) if value is None else f"{value:.1e} ({name})"
    return str(entry.get("name")), str(count), "not run" if deviation is None else f"{deviation:.1e}", bound
