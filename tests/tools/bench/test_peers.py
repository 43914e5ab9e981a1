"""Models of the peers: names and rows as llama.cpp wants them, bytes as in their files, environments as pinned."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tools.bench import engines
from tools.bench.checkpoint import half_split, parameter_name
from tools.bench.lineup import KINDS, MODELS, ROWS
from tools.bench.peers import environments, prepare, stored
from tools.bench.peers.write_gguf import interleaved, tensor_name, write
from tools.make_checkpoint import SHAPES, tensor_layout, write_checkpoint

ROOT = Path(__file__).parents[3]
TINY = {
    **SHAPES["tinyllama-1.1b"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 320,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("tiny"), TINY)


def test_names_and_rows_lead_back() -> None:
    for name in tensor_layout(TINY):
        assert parameter_name(tensor_name(name)) == name
    rows = np.arange(24).reshape(12, 2)
    assert (half_split(interleaved(rows, 3), 3) == rows).all()
    # one head of width 6: pairs (0, 3), (1, 4), (2, 5) come side by side
    assert interleaved(np.arange(6)[:, None], 1)[:, 0].tolist() == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_a_gguf_holds_the_checkpoint(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    from safetensors.numpy import load_file

    out = tmp_path / "tiny.gguf"
    write(checkpoint, out, kind)
    reader = gguf.GGUFReader(out)
    expected = load_file(checkpoint / "model.safetensors")
    assert len(reader.tensors) == len(expected)
    tolerance = 0.0 if kind == "f16" else 2**-8  # bf16 keeps 8 significant bits
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        part = tensor.name.split(".")[-2]
        heads = {"attn_q": 4, "attn_k": 2}.get(part)
        values = half_split(values, heads) if heads else values
        wanted = expected[parameter_name(tensor.name)].astype(np.float32)
        assert np.allclose(values.reshape(wanted.shape), wanted, rtol=tolerance, atol=0), tensor.name
    assert reader.fields["llama.attention.head_count_kv"].contents() == 2
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 320


def test_bytes_of_a_gguf_and_of_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    write(checkpoint, tmp_path / "tiny.gguf", "f16")
    count = stored.weights_count(checkpoint)
    layers = 2 * (64 * 64 * 2 + 32 * 64 * 2 + 96 * 64 * 3)
    assert count == 2 * 320 * 64 + layers
    assert stored.layers_count(checkpoint) == layers
    # the embedding is not the output head, so a token does not read it
    expected = stored.Stored(2 * count, 2 * (count - 320 * 64))
    assert stored.of_gguf(tmp_path / "tiny.gguf") == expected
    assert stored.of_checkpoint(checkpoint, 2) == expected


def test_bytes_of_an_onnx_model(tmp_path: Path) -> None:
    def tensor(name: str, nbytes: int) -> onnx.TensorProto:
        value = TensorProto(name=name, data_type=TensorProto.UINT8, dims=[nbytes], data_location=TensorProto.EXTERNAL)
        value.external_data.add(key="location", value="model.onnx.data")
        value.external_data.add(key="length", value=str(nbytes))
        return value

    sizes = {"embedding": 50_000, "codes": 40_000, "scales": 5_000, "tied": 30_000, "norm": 9_000, "cos_cache": 70_000}
    nodes = [
        helper.make_node("Gather", ["embedding", "ids"], ["x"]),
        helper.make_node("GatherBlockQuantized", ["tied", "ids"], ["z"]),
        helper.make_node("MatMulNBits", ["x", "codes", "scales"], ["y"]),
        helper.make_node("MatMulNBits", ["y", "tied"], ["w"]),
        helper.make_node("SimplifiedLayerNormalization", ["y", "norm"], ["v"]),
        helper.make_node("GroupQueryAttention", ["y", "cos_cache"], ["u"]),
    ]
    graph = helper.make_graph(nodes, "g", [], [], [tensor(name, size) for name, size in sizes.items()])
    (tmp_path / "model.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert stored.of_onnx(tmp_path) == stored.Stored(125_000, 75_000)


def test_bytes_of_an_openvino_model(tmp_path: Path) -> None:
    layers = [
        (0, "Const", 50_000), (1, "Convert", 0), (2, "Gather", 0),
        (3, "Const", 40_000), (4, "Const", 5_000), (5, "Subtract", 0), (6, "MatMul", 0),
        (7, "Const", 8_000), (8, "Add", 0), (9, "Const", 16),
    ]  # fmt: skip
    edges = [(0, 1), (1, 2), (3, 5), (4, 5), (5, 6), (7, 8), (9, 6)]
    text = "".join(
        f'<layer id="{i}" type="{kind}"><data size="{size}"/></layer>' for i, kind, size in layers
    ) + "".join(f'<edge from-layer="{a}" to-layer="{b}"/>' for a, b in edges)
    (tmp_path / "openvino_model.xml").write_text(f"<net>{text}</net>")
    assert stored.of_openvino(tmp_path) == stored.Stored(95_000, 45_000)


def test_every_row_has_a_spec_and_an_adapter() -> None:
    for row in ROWS:
        if row.kind == "xamc":
            for model in MODELS:
                assert (ROOT / "build_configs" / model.specs.format(weights=row.weights)).is_file()
    for kind in KINDS:
        assert (ROOT / "tools/bench/adapters" / f"{kind}.py").is_file()


def test_requirements_are_pinned_and_say_why() -> None:
    files = sorted(environments.REQUIREMENTS.glob("*.txt"))
    assert len(files) == 6
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        assert lines[0].startswith("# "), f"{file.name} does not say what it is for"
        assert all("==" in line.split("#")[0] for line in lines if not line.startswith("#")), file.name


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = tmp_path / "tool.txt"
    requirements.write_text("# a tool\n")
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "peers")
    monkeypatch.setattr(environments, "REQUIREMENTS", tmp_path)
    commands: list[list[str]] = []
    monkeypatch.setattr(environments, "_run", lambda command, *rest: commands.append(command))
    monkeypatch.setattr(environments.venv, "create", lambda folder, with_pip: folder.mkdir(parents=True))
    said: list[str] = []
    python = environments.environment("tool", said.append)
    assert python.parts[-3:] == ("tool", "bin", "python") and len(commands) == 1 and len(said) == 1
    environments.environment("tool", said.append)
    assert len(commands) == 1, "nothing changed"
    requirements.write_text("# a newer tool\n")
    environments.environment("tool", said.append)
    assert len(commands) == 2


def test_a_model_is_converted_once_and_again_when_the_command_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    monkeypatch.setattr(engines, "ROOT", tmp_path)
    preparation = prepare.Preparation(MODELS[1], lambda text: None)
    preparation.folder, preparation._log = tmp_path, tmp_path / "log"
    out = tmp_path / "models/m"
    out.parent.mkdir()
    script = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); assert p.name.endswith('.part'); p.write_text('x')"
    command = ["python3", "-c", script, "{out}"]
    assert preparation._make(out, command).endswith(" models/m"), "the record has no path of this machine"
    made = out.stat().st_mtime_ns
    preparation._make(out, command)
    assert out.stat().st_mtime_ns == made
    preparation._make(out, [*command, "more"])
    assert out.stat().st_mtime_ns > made
