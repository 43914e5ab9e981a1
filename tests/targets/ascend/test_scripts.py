"""atc.sh as bash runs it, and GE's configuration as an ini parser reads it."""

from __future__ import annotations

import configparser
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests import twins
from tests.targets.ascend.test_passes import GEARS, STATIC
from xamc.targets.ascend.assumptions import ATC_OPTIONS, GE_KEYS, SOC_VERSIONS
from xamc.targets.ascend.gears import GearGraph, graphs_of
from xamc.targets.ascend.request import AscendRequest
from xamc.targets.ascend.scripts import NEVER_RUN, atc_arguments, atc_script, ge_config

CONFIG = twins.config("tied")
# what MindFormers-like serving calls the doubly dynamic case
DOUBLY_DYNAMIC = "batch_index:-1;batch_valid_length:-1;tokens:-1,1;zactivate_len:-1"


def _graphs(request: AscendRequest) -> dict[str, GearGraph]:
    return {graph.name: graph for graph in graphs_of(request)}


def test_one_graph_per_length_or_per_phase() -> None:
    assert list(_graphs(STATIC)) == ["prefill_16", "decode_32"]
    assert list(_graphs(GEARS)) == ["prefill", "decode"]
    decode = _graphs(GEARS)["decode"]
    assert (decode.rows, decode.capacity, decode.batch, decode.length) == (3, 32, None, None)
    assert [decode.dims(gear) for gear in decode.gears] == [(1, 1, 1, 16), (3, 3, 3, 16), (3, 3, 3, 32)]
    one = replace(GEARS, buckets=GEARS.buckets[1:])
    assert _graphs(one)["prefill"].is_static, "a single prefill length needs no gears, and GE takes no fewer than two"


def _run(script: str, folder: Path, *arguments: str) -> list[list[str]]:
    """What the script passes to atc, which is replaced by a program that writes its arguments down."""
    tools = folder / "tools"
    tools.mkdir()
    (tools / "atc").write_text(
        '#!/bin/sh\nfor word in "$@"; do printf "%s\\n" "$word"; done >> "$LOG"\necho . >> "$LOG"\n'
    )
    (tools / "atc").chmod(0o755)
    place = folder / "an artifact's folder $(touch hacked)"
    place.mkdir()
    (place / "atc.sh").write_text(script)
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "LOG": str(folder / "log")}
    subprocess.run(["bash", str(place / "atc.sh"), *arguments], check=True, env=environment, cwd=folder)
    calls = (folder / "log").read_text().split("\n.\n")
    assert not list(folder.rglob("hacked"))
    return [call.splitlines() for call in calls if call]


@pytest.mark.parametrize("request_", [STATIC, GEARS], ids=["static", "gears"])
def test_bash_runs_the_script(request_: AscendRequest, tmp_path: Path) -> None:
    graphs = _graphs(request_)
    script = atc_script(list(graphs.values()), CONFIG, "Ascend910B4-1")
    assert NEVER_RUN in script
    calls = _run(script, tmp_path, str(tmp_path / "out folder"))
    assert (tmp_path / "out folder").is_dir() and len(calls) == len(graphs)
    for call, graph in zip(calls, graphs.values()):
        options = dict(word.split("=", 1) for word in call)
        assert options["--framework"] == "5" and options["--model"] == f"{graph.name}.onnx"
        assert options["--output"] == str(tmp_path / "out folder" / graph.name)
        assert options["--soc_version"] == "Ascend910B4-1" and options["--input_format"] == "ND"
        assert options["--precision_mode_v2"] == "origin" and options["--external_weight"] == "1"
        shapes = dict(item.split(":") for item in options["--input_shape"].split(";"))
        assert list(shapes) == sorted(graph.inputs(CONFIG)) and shapes["cache_key.1"] == f"{graph.rows},32,2,16"
        assert ("--dynamic_dims" in options) != graph.is_static
        if not graph.is_static:
            free = options["--input_shape"].count("-1")
            assert {len(gear.split(",")) for gear in options["--dynamic_dims"].split(";")} == {free}
        assert set(options) <= {option.name for option in ATC_OPTIONS}


def test_the_folder_for_the_models_is_beside_the_script_by_default(tmp_path: Path) -> None:
    calls = _run(atc_script(list(_graphs(STATIC).values()), CONFIG, "Ascend910B2"), tmp_path)
    (output,) = {word.rpartition("/")[0] for call in calls for word in call if word.startswith("--output=")}
    assert output == f"--output={tmp_path}/an artifact's folder $(touch hacked)/om"


@pytest.mark.parametrize("soc", ["", "Ascend910B2; touch hacked", "$(touch hacked)", "Ascend910B2\nx", "ascend910b2"])
def test_only_known_npus_reach_a_script(soc: str) -> None:
    graph = _graphs(STATIC)["decode_32"]
    with pytest.raises(ValueError, match="soc_version"):
        list(atc_arguments(graph, CONFIG, soc))
    with pytest.raises(ValueError, match="soc_version"):
        ge_config(graph, CONFIG, soc)
    assert all(shlex.quote(known) == known for known in SOC_VERSIONS)


def _parsed(graph: GearGraph) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(ge_config(graph, CONFIG, "Ascend910B2"))
    return parser


def test_the_doubly_dynamic_configuration() -> None:
    graph = _graphs(GEARS)["decode"]
    parser = _parsed(graph)
    options = parser["ge_graph_options"]
    changing = [item for item in options["ge.inputShape"].split(";") if "-1" in item]
    assert ";".join(changing) == DOUBLY_DYNAMIC and DOUBLY_DYNAMIC in ge_config(graph, CONFIG, "Ascend910B2")
    names = [item.split(":")[0] for item in options["ge.inputShape"].split(";")]
    assert names == sorted(graph.inputs(CONFIG)), "GE sorts inputs by name and counts them"
    assert options["ge.dynamicDims"] == "1,1,1,16;3,3,3,16;3,3,3,32" and options["ge.dynamicNodeType"] == "1"


def test_the_static_configuration_has_no_gears() -> None:
    parser = _parsed(_graphs(STATIC)["decode_32"])
    assert (
        list(parser["ge_graph_options"]) == ["ge.inputShape"]
        and "-1" not in parser["ge_graph_options"]["ge.inputShape"]
    )
    assert "zactivate_len" not in parser["ge_graph_options"]["ge.inputShape"]


def test_every_key_is_described_and_nothing_else() -> None:
    parser = _parsed(_graphs(GEARS)["decode"])
    written = {key for section in parser.sections() for key in parser[section]}
    assert written == {key.name for key in GE_KEYS}
