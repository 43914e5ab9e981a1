"""Which stage made two artifacts differ: their manifests side by side, and what each stage was made from.

The manifests say what differs (they hold every file's digest); `report.json` says why: its ``made`` names what went
into each stage's result and what came out. A stage whose inputs are the same and whose results differ is not
reproducible; one whose inputs differ only by an earlier stage's result is innocent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xamc.artifact.manifest import REPORT, FileDigest, Weights
from xamc.artifact.read import AnyArtifact, Artifact, verify_digests
from xamc.artifact.records import to_json

STAGES = ("spec", "tools", "frontend", "export", "passes", "codegen", "weights", "golden", "files")
# parts of a key that earlier stages decide
_FROM_EARLIER = (".input graph:", ".input weights:", ".input buffers:", ".input tensors:")
_LISTED = 8  # of a stage's differences; more are counted
_CHUNK = 2**20
_DIGEST = re.compile(r"[0-9a-f]{64}")

# top-level keys of both kinds of manifests → the stage that decides them
_KEYS = {
    "spec": ("name", "target", "spec", "context_limit", "prefill_chunk", "max_batch", "quantization", "ranks", "kind"),
    "tools": ("xamc_version", "tools", "format_version"),
    "frontend": ("model", "tokenizer", "generation", "inputs", "graph_inputs", "graph_outputs", "parameters"),
    "codegen": ("functions", "phases", "code_file", "graph_file", "cpu", "kv", "graphs", "executes_on"),
    "weights": ("weights", "params_file", "weight_dtype", "compute_dtype"),
    "golden": ("golden",),
}
# results of the stage cache → the stage they are part of
_MADE = {"import": "frontend", "export": "export", "codegen": "codegen", "reference": "codegen", "weights": "weights"}


@dataclass(frozen=True)
class StageDifference:
    """What differs between two artifacts in one stage; nothing where `details` is empty.

    `cause` is whether the stage itself, or what it was given by the user, made a difference; False means that its
    results differ because those of an earlier stage do.
    """

    stage: str
    details: tuple[str, ...]
    cause: bool = False


def compare(first: AnyArtifact, second: AnyArtifact) -> tuple[StageDifference, ...]:
    """The differences of every stage, in the order of the compile; all are empty for artifacts with the same digest."""
    found: dict[str, list[str]] = {stage: [] for stage in STAGES}
    mine, other = to_json(first.manifest), to_json(second.manifest)
    _compare_manifests(mine, other, found)
    _compare_files(first, second, found)
    causes = _compare_made(first.path, second.path, found)
    if _contents(mine) != _contents(other):
        causes.add("frontend")
    if not found["codegen"] and not any(found[stage] for stage in ("frontend", "weights", "golden", "files")):
        # what differs inside without a trace in any file is not a difference of the artifacts
        found["export"], found["passes"] = [], []
    result, earlier = [], False
    for stage in STAGES:
        details = tuple(found[stage])
        result.append(StageDifference(stage, details, bool(details) and (stage in causes or not earlier)))
        earlier = earlier or bool(details)
    return tuple(result)


def _compare_manifests(first: Mapping[str, Any], second: Mapping[str, Any], found: dict[str, list[str]]) -> None:
    stage_of = {key: stage for stage, keys in _KEYS.items() for key in keys}
    for key in sorted({*first, *second} - {"files", "weights"}):
        lines = list(_differences(key, first.get(key), second.get(key)))
        place = found[stage_of.get(key, "files")]
        place += lines[:_LISTED]
        if len(lines) > _LISTED:
            place.append(f"{key}: {len(lines) - _LISTED} more differences")


def _contents(manifest: Mapping[str, Any]) -> list[str]:
    """Digests of the user's files, under whatever names."""
    return sorted(str(entry.get("sha256")) for entry in manifest.get("inputs") or ())


def _differences(name: str, first: Any, second: Any) -> Iterable[str]:
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        for key in sorted({*first, *second}):
            yield from _differences(f"{name}.{key}", first.get(key), second.get(key))
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for index, (one, other) in enumerate(zip(first, second)):
            label = one.get("name", index) if isinstance(one, Mapping) else index
            yield from _differences(f"{name}[{label}]", one, other)
    elif first != second:
        yield f"{name}: {_short(first)} → {_short(second)}"


def _short(value: Any) -> str:
    text = "(absent)" if value is None else str(value)
    if _DIGEST.fullmatch(text):
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}..."


def _compare_files(first: AnyArtifact, second: AnyArtifact, found: dict[str, list[str]]) -> None:
    for letter, artifact in (("A", first), ("B", second)):
        found["files"] += [f"{letter} was changed after it was published: {d}" for d in verify_digests(artifact)]
    mine = {file.path: file for file in first.manifest.files}
    other = {file.path: file for file in second.manifest.files}
    for path in sorted({*mine, *other}):
        one, two = mine.get(path), other.get(path)
        if one == two:
            continue
        stage = _stage_of_file(path)
        found[stage].append(f"{path}: {_file(one)} → {_file(two)}")
        if stage == "weights" and one and two and isinstance(first, Artifact) and isinstance(second, Artifact):
            found[stage] += _tensors(first, second)


def _file(file: FileDigest | None) -> str:
    return "(absent)" if file is None else f"{file.nbytes} bytes, sha256 {file.sha256[:12]}"


def _stage_of_file(path: str) -> str:
    name = path.rpartition("/")[2]
    if path.startswith("tokenizer/"):
        return "frontend"
    if path.startswith("golden/"):
        return "golden"
    if name.endswith((".bin", ".params", ".safetensors")):
        return "weights"
    return "codegen" if name.endswith((".so", ".json", ".onnx", ".sh", ".cfg", ".ini")) else "files"


def _tensors(first: Artifact, second: Artifact) -> list[str]:
    """Names of the tensors of two weights files that differ, as far as both have them in the same form."""
    one, two = first.manifest.weights, second.manifest.weights
    if one is None or two is None:
        return []
    entries = {entry.name: entry for entry in two.tensors}
    names = []
    with first.file(one.file).open("rb") as mine, second.file(two.file).open("rb") as other:
        for entry in one.tensors:
            match = entries.pop(entry.name, None)
            if match is None or (match.dtype, match.shape) != (entry.dtype, entry.shape):
                names.append(f"tensor {entry.name}: {_form(one, entry.name)} → {_form(two, entry.name)}")
                continue
            mine.seek(entry.offset)
            other.seek(match.offset)
            left = entry.nbytes
            while left > 0:
                size = min(left, _CHUNK)
                if mine.read(size) != other.read(size):
                    names.append(f"tensor {entry.name}: other values")
                    break
                left -= size
    names += [f"tensor {name}: (absent) → {_form(two, name)}" for name in entries]
    more = [f"{len(names) - _LISTED} more tensors"] if len(names) > _LISTED else []
    return names[:_LISTED] + more


def _form(weights: Weights, name: str) -> str:
    entry = next((entry for entry in weights.tensors if entry.name == name), None)
    return "(absent)" if entry is None else f"{entry.dtype}{list(entry.shape)}"


def _compare_made(first: Path, second: Path, found: dict[str, list[str]]) -> set[str]:
    """Adds why stages differ; returns those that differ by what is their own: sources, tools, options, or chance."""
    mine, other = _made(first), _made(second)
    causes = set()
    for name, one, two in _pairs(mine, other):
        stage = _MADE.get(name.partition(" ")[0])
        if stage is None or one["outputs"] == two["outputs"]:
            continue
        changed = list(_differences("", one["parts"], two["parts"]))
        given = [line for line in changed if not line.startswith(_FROM_EARLIER)]
        if not changed:
            found[stage].append(f"{name}: the same inputs gave other bytes; this stage is not reproducible here")
            causes.add(stage)
        elif given:
            found[stage] += [f"{name}: {line.removeprefix('.')}" for line in given[:_LISTED]]
            causes.add(stage)
        elif any(line.startswith(".input graph:") for line in changed):
            begins = [made.get("export", made.get("import", {})).get("outputs") for made in (mine, other)]
            if begins[0] is not None and begins[0] == begins[1] and stage == "codegen":
                source = "export" if "export" in mine else "imported graph"
                found["passes"].append(f"{name}: the {source} is the same, the rewritten graph is not")
                causes.add("passes")
    return causes


def _pairs(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Results of the same stage: made from the same, or the same ones, or else in their order.

    A stage with a result per bucket and rank numbers them as they get ready, which is another order each time.
    """
    pairs = []
    for stage in sorted({name.partition(" ")[0] for name in mine}):
        ones = sorted((name, entry) for name, entry in mine.items() if name.partition(" ")[0] == stage)
        twos = [entry for name, entry in sorted(other.items()) if name.partition(" ")[0] == stage]
        for key in ("parts", "outputs"):
            for name, one in list(ones):
                match = next((entry for entry in twos if entry[key] == one[key]), None)
                if match is not None:
                    pairs.append((name, one, match))
                    ones.remove((name, one))
                    twos.remove(match)
        pairs += [(name, one, two) for (name, one), two in zip(ones, twos)]
    return pairs


def _made(folder: Path) -> dict[str, Any]:
    """The report's ``made``, as far as it has the expected form: the report is outside the digests."""
    try:
        value = json.loads((folder / REPORT).read_text(encoding="utf-8"))["made"]
        return {
            name: {"parts": dict(entry["parts"]), "outputs": dict(entry["outputs"])} for name, entry in value.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
