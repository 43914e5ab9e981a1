"""Folders as people bring them, on every target: a head that config.json denies, and no tokenizer at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from tests.checkpoints import CONFIGS
from tests.end_to_end import references
from tests.end_to_end.models import Workshop, spec
from xamc.cli import main as cli
from xamc.compiler.handoff.export import HandoffOptions, export_vamc
from xamc.errors import InputError
from xamc.ir.tolerances import tolerance
from xamc.runtime import Model
from xamc.verify.metrics import relative_error

LENGTH = 16
BOUNDS = {
    "reference": ("fp32", "cpu_fp32"),
    "tvm_cpu": ("fp32", "cpu_fp32"),
    "tvm_vacc": ("fp16", "vacc_fp16"),
    "tvm_ascend": ("fp16", "ascend_fp16"),
}


def folder(workshop: Workshop) -> Path:
    """Two different matrices that config.json ties, and no file of a tokenizer."""
    path = workshop.checkpoint("llama", "odd")
    (path / "config.json").write_text(json.dumps(CONFIGS["llama"] | {"tie_word_embeddings": True}))
    for file in path.glob("tokenizer*"):
        file.unlink()
    return path


def model(workshop: Workshop, target: str) -> Model:
    sections = {
        "backend": {"type": target, "dtype": BOUNDS[target][0]},
        "frontend": spec(folder(workshop))["frontend"] | {"shape": {"input_ids": [[LENGTH], [32]]}},
    }
    return workshop.model(folder(workshop), f"odd-{target}", **sections)


@pytest.mark.parametrize("target", BOUNDS)
def test_logits_are_those_of_transformers(target: str, workshop: Workshop) -> None:
    ids = np.random.default_rng(3).integers(3, 272, (1, LENGTH))
    with torch.no_grad():
        expected = references.own_loading(folder(workshop))(torch.from_numpy(ids)).logits.numpy()
    found = model(workshop, target).logits(ids)
    assert relative_error(found, expected) <= tolerance(BOUNDS[target][1])


def test_token_ids_alone_are_taken_and_given(
    workshop: Workshop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = model(workshop, "reference")
    answer = loaded.generate([5, 6, 7], 4, ignore_eos=True)
    assert len(answer.token_ids) == 4 and answer.text == ""
    for call in (
        lambda: loaded.generate("text", 4),
        lambda: loaded.generate([5], 4, stop="x"),
        lambda: loaded.chat([{"role": "user", "content": "text"}], 4),
    ):
        with pytest.raises(InputError, match=r"E1613 .*no tokenizer") as caught:
            call()
        assert "token ids" in caught.value.fix
    assert cli.run(["run", str(loaded.path), "--prompt", "text"]) == 1
    assert "E1613" in capsys.readouterr().err
    assert cli.run(["verify", str(loaded.path)]) == 0


def test_the_hand_off_holds_both_matrices_and_says_so(workshop: Workshop, tmp_path: Path) -> None:
    path = folder(workshop)
    document = spec(path, backend={"type": "tvm_vacc", "dtype": "fp16"}, workspace={"path": str(tmp_path)})
    document["frontend"] = document["frontend"] | {"shape": {"input_ids": [[LENGTH], [32]]}}
    result = export_vamc(document, options=HandoffOptions(routes=("llama",), dtype="source"))
    written = next(Path(result.path).glob("**/checkpoint"))
    assert json.loads((written / "config.json").read_text())["tie_word_embeddings"] is False
    stored, given = load_file(next(written.glob("*.safetensors"))), load_file(path / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(stored[name], given[name])


def test_a_tokenizer_that_makes_nothing_of_our_own_prompts_stops_no_compile(workshop: Workshop) -> None:
    """transformers reads a qwen2 folder as byte-level BPE, whatever its tokenizer.json is: here without a token."""
    path = workshop.checkpoint("qwen2", "wordless")
    words = Tokenizer(models.WordLevel({"<unk>": 0, "w1": 1, "w2": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    assert AutoTokenizer.from_pretrained(path)("w1 w2").input_ids == []
    loaded = workshop.model(path, "wordless", backend={"type": "reference", "dtype": "fp32"})
    assert len(loaded.generate([1, 2], 3, ignore_eos=True).token_ids) == 3
    with pytest.raises(InputError, match="E1311"):
        workshop.model(path, "words", backend={"type": "reference", "dtype": "fp32"}, verify={"prompts": ["w1 w2"]})
