"""The text files of an artifact for CANN: atc.sh, and GE's configuration of every graph."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from xamc.model.config import ModelConfig
from xamc.targets.ascend.assumptions import SOC_VERSIONS
from xamc.targets.ascend.gears import GearGraph, dims_text, shape_text

NEVER_RUN = "never run on an NPU"
SCRIPT, OUTPUT = "atc.sh", "om"

_HEAD = f"""#!/usr/bin/env bash
# Compiles the ONNX files of this folder with ATC, which is in Huawei's CANN toolkit: source its set_env.sh first.
# Written by xamc and {NEVER_RUN}. docs/ascend.md explains every option and how the host drives the graphs.
# Usage: bash atc.sh [FOLDER FOR THE .om FILES], by default {OUTPUT} beside this script.
set -euo pipefail
output="$(realpath -m -- "${{1:-$(dirname "${{BASH_SOURCE[0]}}")/{OUTPUT}}}")"
cd "$(dirname "${{BASH_SOURCE[0]}}")"
mkdir -p "$output"
"""


def atc_script(graphs: Sequence[GearGraph], config: ModelConfig, soc_version: str) -> str:
    """atc.sh: one command per graph."""
    commands = [
        " \\\n  ".join(["atc", *(_quoted(argument) for argument in atc_arguments(graph, config, soc_version))])
        for graph in graphs
    ]
    return "\n".join([_HEAD, *(f"{command}\n" for command in commands)])


def atc_arguments(graph: GearGraph, config: ModelConfig, soc_version: str) -> Iterator[str]:
    """The command line of one graph, as `assumptions.ATC_OPTIONS` describes it."""
    _require_known(soc_version)
    yield "--framework=5"
    yield f"--model={graph.name}.onnx"
    yield f"--output=$output/{graph.name}"
    yield f"--soc_version={soc_version}"
    yield "--input_format=ND"
    yield f"--input_shape={shape_text(graph.inputs(config))}"
    if not graph.is_static:
        yield f"--dynamic_dims={dims_text(graph)}"
    yield "--precision_mode_v2=origin"
    yield "--external_weight=1"


def ge_config(graph: GearGraph, config: ModelConfig, soc_version: str) -> str:
    """One graph's configuration for a host that compiles online through GE, as `assumptions.GE_KEYS` describes it."""
    _require_known(soc_version)
    shapes = graph.inputs(config)
    case = "static" if graph.is_static else "doubly dynamic" if graph.kind == "decode" else "dynamic"
    lines = [
        f"# {graph.name}.onnx, {case}; written by xamc and {NEVER_RUN}. docs/ascend.md explains every key.",
        "[ascend_context]",
        "provider=ge",
        "",
        "[ge_global_options]",
        f"ge.socVersion={soc_version}",
        "",
        "[ge_session_options]",
        "ge.externalWeight=1",
        "ge.exec.precision_mode_v2=origin",
        "ge.exec.formatMode=1",
        "ge.exec.atomicCleanPolicy=1",
        "ge.exec.staticMemoryPolicy=2",
        "",
        "[ge_graph_options]",
    ]
    if not graph.is_static:
        changing = {name: shape for name, shape in shapes.items() if -1 in shape}
        lines.append(f"# what changes: ge.inputShape={shape_text(changing)}; the caches between are fixed")
    lines.append(f"ge.inputShape={shape_text(shapes)}")
    if not graph.is_static:
        lines += [f"ge.dynamicDims={dims_text(graph)}", "ge.dynamicNodeType=1"]
    return "\n".join(lines) + "\n"


def _quoted(argument: str) -> str:
    """For bash; only the output's folder, which the script sets, is not taken literally."""
    option, found, name = argument.partition("=$output/")
    return f'{option}="$output"/{shlex.quote(name)}' if found else shlex.quote(argument)


def _require_known(soc_version: str) -> None:
    """A spec is checked before; this keeps a script free of anything else whoever calls."""
    if soc_version not in SOC_VERSIONS:
        raise ValueError(f"{soc_version!r} is no soc_version of this route")
