"""A folder as InternLM 2 was published: pickled shards, a bare tokenizer.model, Python files that must not run."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
import yaml

from tests.checkpoints import write_tiny
from tests.end_to_end.models import spec
from tests.end_to_end.references import as_llama
from tests.pickles import Runs, to_pickles, write_pickles
from xamc.cli import main as cli

TRAPS = (
    "modeling_internlm2", "configuration_internlm2", "tokenization_internlm2", "tokenization_internlm2_fast",
    "__init__", "sitecustomize", "usercustomize", "torch", "numpy", "sentencepiece", "transformers", "xamc", "json",
)  # fmt: skip


def tokenizer_model() -> bytes:
    """As many tokens as the tiny checkpoint has rows: specials, bytes, the chat's two, and a few letters."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["abc bca cab", "aabb cc abab", "bb ca acab"] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=272,
        byte_fallback=True,
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<|im_start|>", "<|im_end|>"],
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; beside it the same model as safetensors, for references."""
    folder = write_tiny(tmp_path_factory.mktemp("published") / "internlm2", "internlm2")
    shutil.copytree(folder, folder.with_name("safetensors"))
    to_pickles(folder, 3)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(tokenizer_model())
    mark = folder.parent / "sprung"
    for name in TRAPS:
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write({name!r})\n")
    auto_map = {
        "AutoConfig": "configuration_internlm2.InternLM2Config",
        "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
        "AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None],
    }
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "auto_map": auto_map}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | {"tokenizer_class": "InternLM2Tokenizer"}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2], "_from_model_config": True}))
    (folder.parent / "build.yaml").write_text(yaml.safe_dump(spec(folder)))
    return folder


def test_from_pickles_to_an_answer(
    published: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # where `python -c` and careless children would find the traps first
    monkeypatch.chdir(published)
    monkeypatch.setenv("PYTHONSAFEPATH", "")
    build = str(published.parent / "build.yaml")
    assert cli.run(["compile", build]) == 3
    message = " ".join(capsys.readouterr().err.split())
    assert "E1116" in message and "--allow-pickle" in message and "xamc convert-weights" in message
    assert cli.run(["compile", build, "--allow-pickle", "--json"]) == 0, capsys.readouterr().err
    path = json.loads(capsys.readouterr().out)["path"]
    arguments = ["run", path, "--prompt", "abc 模型", "--chat", "--max-new-tokens", "3", "--ignore-eos", "--json"]
    assert cli.run(arguments) == 0, capsys.readouterr().err
    answer = json.loads(capsys.readouterr().out)
    prompt = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_model()).encode(
        "<|im_start|>user\nabc 模型<|im_end|>\n<|im_start|>assistant\n"
    )
    reference = as_llama(published.with_name("safetensors"))
    ids = [1, *prompt]
    for _ in range(3):
        with torch.no_grad():
            ids.append(int(reference(torch.tensor([ids])).logits[0, -1].argmax()))
    assert answer["token_ids"] == ids[-3:]
    manifest = json.loads((Path(path) / "manifest.json").read_text())
    assert manifest["generation"]["eos_token_ids"] == [2, 4]
    assert not (published.parent / "sprung").exists()
    assert not [n for n, m in sys.modules.items() if str(published) in str(getattr(m, "__file__", ""))]


def test_a_malicious_shard_stops_the_compile(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "internlm2"
    shutil.copytree(published, folder)
    write_pickles(folder, {"w": torch.ones(2), "x": Runs(os.system, f"touch {tmp_path / 'sprung'}")}, 2)
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(spec(folder)))
    assert cli.run(["compile", str(tmp_path / "build.yaml"), "--allow-pickle"]) == 1
    message = " ".join(capsys.readouterr().err.split())
    assert "E1164" in message and "posix.system" in message
    assert not (tmp_path / "sprung").exists() and not (tmp_path / "artifacts" / "internlm2").exists()
