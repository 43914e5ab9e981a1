"""Build files for the vendor's `vamc compile`: its own keys only, in the shapes that its published files have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from xamc.compiler.spec import LoadedSpec
from xamc.compiler.spec.vamc_keys import KEYS
from xamc.errors import InputError, UnsupportedError
from xamc.targets.vacc.caps import CAPS

CHECKPOINT = "./checkpoint"
# The only types that published build files name.
QUANTIZE_TYPES = ("w8a16_gptq", "w16kv8")
_DTYPES = ("fp16", "int8")
_VENDOR_KEYS = frozenset(key.path for key in KEYS)
# What every published build file of a language model says.
_ALWAYS = {("backend", "merge_params"): True, ("backend", "compile", "data_type"): 0}
_SECTION_ORDER = ("name", "frontend", "graph", "backend", "dataset", "workspace")


class _Dumper(yaml.SafeDumper):
    """Block style with lists of plain values in brackets, as vamc's files are written; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _list_in_brackets(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    flow = all(isinstance(item, int | float | str | bool | list) for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


_Dumper.add_representer(list, _list_in_brackets)


def write_vamc(path: Path, values: Mapping[str, Any], comment: str) -> None:
    """Writes a build file with one comment line on top."""
    text = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False)
    path.write_text(f"# {comment}\n{text}", encoding="utf-8")


def require_vamc_spec(loaded: LoadedSpec) -> None:
    """Checks that a spec asks for what vamc's files can say.

    Raises:
        InputError: E1452 another target, or no lengths.
        UnsupportedError: E1451 a quantization or a dtype that vamc's files don't have.
    """
    spec = loaded.spec
    if spec.backend.type != CAPS.name:
        raise InputError(
            "E1452",
            f"the spec is for {spec.backend.type}; a hand-off is for {CAPS.name}",
            fix="add --target vacc, and --set frontend.shape.input_ids=[[1024],[2048]] if it has no lengths",
            locations=loaded.at("backend.type"),
        )
    if not spec.frontend.is_language_model:
        raise UnsupportedError(
            "E1451",
            f"frontend.type {spec.frontend.type} is the vendor's toolchain's own input: it needs no hand-off",
            fix="give the file to vamc as it is",
            locations=loaded.at("frontend.type"),
        )
    if not spec.prefill_lengths:
        raise InputError(
            "E1452",
            "frontend.shape.input_ids is missing: vamc compiles fixed lengths",
            fix="write frontend.shape.input_ids: [[1024], [2048]] (prefill and total lengths, multiples of 16)",
        )
    quantize = spec.frontend.quantize
    if quantize is not None and quantize.type not in QUANTIZE_TYPES:
        raise UnsupportedError(
            "E1451",
            f"frontend.quantize.type {quantize.type} is xamc's own; vamc's files know {', '.join(QUANTIZE_TYPES)}",
            fix="use --set frontend.quantize.type=w8a16_gptq (vamc calibrates), or remove frontend.quantize",
            locations=loaded.at("frontend.quantize.type"),
        )
    if spec.backend.dtype not in _DTYPES:
        raise UnsupportedError(
            "E1451",
            f"backend.dtype {spec.backend.dtype} is not one of vamc's: {', '.join(_DTYPES)}",
            fix="use --set backend.dtype=fp16",
            locations=loaded.at("backend.dtype"),
        )


def llama_build(loaded: LoadedSpec, transformers: str | None) -> dict[str, Any]:
    """The build file of the plain Llama checkpoint: the spec as written, less xamc's own keys and what is unknown.

    Args:
        loaded: a spec that `require_vamc_spec` accepts.
        transformers: a release to ask for in `workspace.pyenv` where the spec doesn't; None when any will do.
    """
    spec = loaded.spec
    values = _vendor_part(loaded.values, ())
    values.pop("model", None)
    values["name"] = spec.name
    frontend, backend = values.setdefault("frontend", {}), values.setdefault("backend", {})
    lengths = [list(spec.prefill_lengths), list(spec.total_lengths)]
    values["frontend"] = {
        **frontend,
        "checkpoint": CHECKPOINT,
        "type": "huggingface",
        "shape": {"input_ids": lengths},
        # the vendor's own Llama files set it, although nothing is patched
        "model_kwargs": {"tp": spec.frontend.model_kwargs.tp, "model_arch": "vacc", **frontend.get("model_kwargs", {})},
    }
    values["backend"] = {**backend, "type": CAPS.name, "dtype": spec.backend.dtype}
    workspace = dict(values.get("workspace", {}))
    workspace["path"] = workspace.pop("path", None) or workspace.pop("work_dir", None) or "./vacc_deploy"
    workspace.pop("work_dir", None)
    pyenv = dict(spec.workspace.pyenv)
    if transformers is not None:
        pyenv.setdefault("transformers", transformers)
    if pyenv:
        workspace["pyenv"] = pyenv
    values["workspace"] = workspace
    for path, value in _ALWAYS.items():
        section = values
        for part in path[:-1]:
            section = section.setdefault(part, {})
        section.setdefault(path[-1], value)
    return {key: values[key] for key in _SECTION_ORDER if values.get(key)}


def onnx_build(name: str, file: str, shapes: Mapping[str, tuple[int, ...]], workspace: str) -> dict[str, Any]:
    """The build file of one static ONNX graph, in the keys that published files of ONNX models have.

    Args:
        name: of the artifact.
        file: the ONNX file, beside the build file.
        shapes: every input's static shape, in order.
        workspace: where vamc writes.
    """
    return {
        "name": name,
        "frontend": {
            "checkpoint": f"./{file}",
            "type": "onnx",
            "dtype": "fp32",
            "shape": {key: list(shape) for key, shape in shapes.items()},
        },
        "backend": {"type": CAPS.name, "dtype": "fp16", "compile": {"data_type": 0, "cluster_mode": 0}},
        "workspace": {"path": workspace},
    }


def _vendor_part(values: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """The keys that vamc's published files have; a misspelt key means nothing to anybody and is left out."""
    kept: dict[str, Any] = {}
    for name, value in values.items():
        at = (*path, str(name))
        dotted = ".".join(at)
        if dotted in _VENDOR_KEYS and value is not None:
            kept[str(name)] = value
        elif isinstance(value, Mapping):
            inner = _vendor_part(value, at)
            if inner:
                kept[str(name)] = inner
    return kept
