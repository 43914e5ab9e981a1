"""What is fuzzed: for every input format valid examples, and the function of xamc that reads them.

A reader may return or raise one of xamc's errors; anything else is a failure.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tools.make_checkpoint import write_checkpoint
from tools.reliability.kill import CONFIG

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Format:
    """`seeds` makes valid examples in a folder; `read` is given an input and that folder, to put it there and read it.

    `share` is its part of all inputs.
    """

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[bytes, Path], None]
    share: int


def _checkpoint(folder: Path) -> Path:
    place = folder / "model"
    if not place.is_dir():
        sizes = {"hidden_size": 12, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 2}
        write_checkpoint(place, CONFIG | sizes, dtype="float32", seed=0, shard_bytes=10**12)
    return place


def _yaml_seeds(folder: Path) -> list[bytes]:
    specs = sorted((ROOT / "build_configs").glob("*/*.yaml"))
    return [path.read_bytes() for path in specs]


def _read_yaml(content: bytes, folder: Path) -> None:
    from xamc.compiler.spec import load_spec

    path = folder / "build.yaml"
    path.write_bytes(content)
    loaded = load_spec(path)
    place = loaded.spec.workspace.path / loaded.spec.name
    if place.parent != loaded.spec.workspace.path:
        raise AssertionError(f"the name {loaded.spec.name!r} leads to {place}")


def _safetensors_seeds(folder: Path) -> list[bytes]:
    return [(_checkpoint(folder) / "model.safetensors").read_bytes()]


def _read_safetensors(content: bytes, folder: Path) -> None:
    from xamc.compiler.frontends.safetensors import read_header
    from xamc.compiler.frontends.safetensors import require_float as require

    path = folder / "model.safetensors"
    path.write_bytes(content)
    for name, (stored, tensor) in read_header(path).items():
        require(path, name, stored)
        if tensor.shape:
            tensor.read_rows(0, min(tensor.shape[0], 2))


def _gguf_seeds(folder: Path) -> list[bytes]:
    import gguf
    import numpy as np

    path = folder / "seed.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    width, inner, vocabulary = 32, 32, 8
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list([b"<s>", b"</s>", b"a", b"b", b"c", b"ab", b"bc", b"abc"])
    writer.add_token_types([3, 3, 1, 1, 1, 1, 1, 1])
    writer.add_token_merges(["a b", "b c", "ab c"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"attn_norm": (width,), "ffn_norm": (width,), "ffn_gate": (inner, width), "ffn_up": (inner, width)}
    shapes |= {"ffn_down": (width, inner)} | {f"attn_{n}": (width, width) for n in ("q", "k", "v", "output")}
    names: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, width), "output_norm.weight": (width,)}
    names |= {"output.weight": (vocabulary, width)} | {f"blk.0.{name}.weight": shape for name, shape in shapes.items()}
    for name, shape in names.items():
        data = np.full(shape, 0.5, np.float32)
        if name.startswith("blk.0.ffn_") and len(shape) == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return [path.read_bytes()]


def _read_gguf(content: bytes, folder: Path) -> None:
    from xamc.compiler.frontends import open_checkpoint

    path = folder / "model.gguf"
    path.write_bytes(content)
    checkpoint = open_checkpoint(path, "gguf")
    for tensor in checkpoint.tensors.values():
        tensor.read_rows(0, min(tensor.shape[0], 2))


def _folder_file(name: str) -> tuple[Callable[[Path], list[bytes]], Callable[[bytes, Path], None]]:
    """Seeds and reader for one JSON file of a Hugging Face folder whose other files are whole."""

    def seeds(folder: Path) -> list[bytes]:
        place = _checkpoint(folder)
        settings = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "auto_map": {"a": "b.C"}}
        settings |= {"added_tokens_decoder": {"5": {"content": "x"}}, "chat_template": "{{ messages[0]['content'] }}"}
        examples = {
            "tokenizer_config.json": settings,
            "generation_config.json": {"eos_token_id": [1, 2], "temperature": 0.5, "top_k": 5, "do_sample": True},
            "model.safetensors.index.json": {"weight_map": {"lm_head.weight": "model.safetensors"}, "metadata": {}},
        }
        if name in examples:
            return [json.dumps(examples[name]).encode()]
        return [(place / name).read_bytes()]

    def read(content: bytes, folder: Path) -> None:
        from xamc.compiler.frontends import open_checkpoint

        place = _checkpoint(folder)
        (place / name).write_bytes(content)
        open_checkpoint(place, "huggingface")

    return seeds, read


def _read_tokenizer(content: bytes, folder: Path) -> None:
    """What the runtime does with an artifact's tokenizer, whose text has passed the frontend."""
    from xamc.compiler.frontends.json_file import read_json
    from xamc.compiler.frontends.tokenizers.huggingface import _check
    from xamc.runtime.tokenizer import Tokenizer

    path = folder / "tokenizer.json"
    path.write_bytes(content)
    _check(path, read_json(path), 272)
    tokenizer = Tokenizer(folder)
    tokenizer.decode([int(number) for number in tokenizer.encode("Hello, 世界 \U0001f600")])


def _message(number: int, content: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return bytes([number << 3 | 2, len(content)]) + content


def _sentencepiece_seeds(folder: Path) -> list[bytes]:
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((f"<0x{byte:02X}>", 6) for byte in range(16))]
    pieces += [("▁", 1), ("a", 1), ("b", 1), ("ab", 1), ("▁a", 1), ("▁ab", 1), ("中", 1), ("文", 1), ("中文", 1)]
    content = b""
    for index, (text, kind) in enumerate(pieces):
        piece = _message(1, text.encode()) + b"\x15" + struct.pack("<f", -float(index)) + bytes([0x18, kind])
        content += _message(1, piece)
    trainer = bytes([3 << 3, 2, 35 << 3 & 0x7F | 0x80, 2, 1])  # model_type: BPE, byte_fallback
    return [content + _message(2, trainer) + _message(3, bytes([3 << 3, 1, 4 << 3, 0]))]


def _read_sentencepiece(content: bytes, folder: Path) -> None:
    from xamc.compiler.frontends.tokenizers.sentencepiece import sentencepiece_tokenizer
    from xamc.compiler.frontends.tokenizers.sentencepiece_model import read_sentencepiece

    path = folder / "tokenizer.model"
    path.write_bytes(content)
    sentencepiece_tokenizer(read_sentencepiece(path))


def _onnx_seeds(folder: Path) -> list[bytes]:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = [
        numpy_helper.from_array(np.ones((4, 3), np.float32), "w"),
        numpy_helper.from_array(np.zeros(3, np.float32), "b"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "shape"),
    ]
    outside = helper.make_tensor("outside", TensorProto.FLOAT, [2, 3], np.zeros(6, np.float32).tobytes(), raw=True)
    onnx.external_data_helper.set_external_data(outside, "weights.data", 0, 24)
    outside.ClearField("raw_data")
    outside.data_location = TensorProto.EXTERNAL
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["s"]),
    ]
    models = []
    plain, added = helper.make_node("Identity", ["s"], ["y"]), helper.make_node("Add", ["s", "outside"], ["y"])
    for extra, last in (([], plain), ([outside], added)):
        graph = helper.make_graph(
            [*nodes, last], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3])],
            [*weights, *extra],
        )  # fmt: skip
        models.append(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    return [model.SerializeToString() for model in models]


def _read_onnx(content: bytes, folder: Path) -> None:
    """What is done with an ONNX file in the compiling process; all else happens in a child."""
    from xamc.compiler.frontends.onnx.file import model_files, read_onnx

    (folder / "weights.data").write_bytes(bytes(24))
    path = folder / "model.onnx"
    path.write_bytes(content)
    for file in model_files(path):
        if file.resolve().parent != folder.resolve():
            raise AssertionError(f"{file} is not beside the model")
    read_onnx(path)


def _template_seeds(folder: Path) -> list[bytes]:
    texts = [
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n{% endfor %}",
        "{% set ns = namespace(x=0) %}{% for m in messages %}{% set ns.x = ns.x + 1 %}{{ loop.index }}{% endfor %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ lipsum.__globals__['os'].system('touch escaped') }}",
        "{% for c in [].__class__.__base__.__subclasses__() %}{{ c.__init__.__globals__ }}{% endfor %}",
        "{{ messages | map(attribute='__class__.__init__') | list }}",
        "{{ '%s' % messages }}{{ '{0.__class__}'.format(messages) }}{{ 'a' * 10**9 }}",
        "{{ raise_exception.__globals__ }}{{ self._TemplateReference__context }}{{ range(10**9) | list }}",
        "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}",
        "{% include '/etc/passwd' %}{% import 'os' as os %}",
    ]
    return [text.encode() for text in texts]


def _read_template(content: bytes, folder: Path) -> None:
    from xamc.runtime.chat import ChatTemplate

    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "你好"}]
    ChatTemplate(content.decode("utf-8", "replace"), {"bos_token": "<s>"}).render(messages)


def _of_folder(name: str, share: int) -> Format:
    return Format(*_folder_file(name), share)


FORMATS: Mapping[str, Format] = {
    "build.yaml": Format(_yaml_seeds, _read_yaml, 12),
    "safetensors": Format(_safetensors_seeds, _read_safetensors, 60),
    "gguf": Format(_gguf_seeds, _read_gguf, 40),
    "config.json": _of_folder("config.json", 30),
    "generation_config.json": _of_folder("generation_config.json", 10),
    "safetensors index": _of_folder("model.safetensors.index.json", 10),
    "tokenizer_config.json": _of_folder("tokenizer_config.json", 10),
    "tokenizer.json": Format(_folder_file("tokenizer.json")[0], _read_tokenizer, 10),
    "tokenizer.model": Format(_sentencepiece_seeds, _read_sentencepiece, 20),
    "onnx": Format(_onnx_seeds, _read_onnx, 20),
    "chat template": Format(_template_seeds, _read_template, 8),
}
