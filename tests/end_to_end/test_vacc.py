"""From a vendor's build file to simulated text: families, ranks, lengths and ways of storing, against transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end.models import F32, I64, wrong_answers_of_many_callers
from tests.end_to_end.vacc_models import VARIANTS, VaccWorkshop, build, error_of
from tests.worker import Worker
from xamc.compiler.pipeline import compile_spec
from xamc.errors import InputError, UnsupportedError
from xamc.ir.tolerances import tolerance
from xamc.runtime import Model
from xamc.verify.metrics import relative_error

LANGUAGE_MODELS = [name for name, variant in VARIANTS.items() if variant.total]
STORED = {"w8a16_gptq": "vacc_w8a16", "w16kv8": "vacc_kv8", None: "vacc_fp16"}


@pytest.fixture(scope="module")
def vacc(tmp_path_factory: pytest.TempPathFactory, worker: Worker) -> Iterator[VaccWorkshop]:
    with worker.active():
        yield VaccWorkshop(tmp_path_factory.mktemp("vacc"))


def text(length: int, seed: int = 7) -> I64:
    """Random tokens, whatever a model would say."""
    return np.random.default_rng(seed).integers(3, 272, length)


def bound(name: str) -> float:
    return tolerance(STORED[VARIANTS[name].quantize])


def likeliest_are(tokens: list[int], logits: F32, allowed: float) -> bool:
    """Whether each token is the likeliest of its row, or so near that rounding decides."""
    margins = logits.max(axis=-1) - logits[np.arange(len(tokens)), tokens]
    return bool((margins <= 2 * allowed * np.abs(logits).max()).all())


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_logits_and_text_are_those_of_transformers(name: str, vacc: VaccWorkshop) -> None:
    """A prompt that fills the prefill graph, then decode up to the last slot; and what greedy decoding says."""
    variant, model = VARIANTS[name], vacc.model(name)
    assert model.manifest.simulated and model.manifest.ranks == variant.tp
    prompt, limit = variant.prefill[0], variant.total[-1]
    tokens = text(limit)
    assert error_of(model, tokens, vacc.reference(name, tokens), prompt) <= bound(name)

    answer = model.generate(tokens[:prompt], limit - prompt, ignore_eos=True)
    assert len(answer.token_ids) == limit - prompt and len(set(answer.token_ids)) > 4
    said = np.concatenate([tokens[:prompt], answer.token_ids])
    expected = vacc.reference(name, said)[prompt - 1 : -1]
    assert likeliest_are(answer.token_ids, expected, bound(name))


@pytest.mark.parametrize(
    ("name", "single"),
    [
        ("llama-tp2", "llama"),
        ("internlm2-tp2", "internlm2"),
        ("internlm3-tp8", "internlm3"),
        ("qwen2-tp4", "qwen2"),
    ],
)
def test_ranks_together_compute_what_one_does(name: str, single: str, vacc: VaccWorkshop) -> None:
    tokens = text(32)[None]
    expected = vacc.model(single).logits(tokens)
    assert 0 < relative_error(vacc.model(name).logits(tokens), expected) <= tolerance("vacc_ranks")


@pytest.mark.parametrize("name", ["llama", "llama-tp2"])
def test_many_callers_get_the_answers_they_would_get_alone(name: str, vacc: VaccWorkshop) -> None:
    assert wrong_answers_of_many_callers(vacc.model(name), [text(5), text(16, 1), text(20, 2)], 8) == []


@pytest.mark.parametrize("length", [1, 9, 16, 17, 32, 33, 47, 48, 49, 63])
def test_prompts_of_any_length(length: int, vacc: VaccWorkshop) -> None:
    """Shorter than a prefill graph, as long, longer than all of them; decode graphs of 48 and 64 change over."""
    model, tokens = vacc.model("llama"), text(64)
    assert error_of(model, tokens, vacc.reference("llama", tokens), length) <= tolerance("vacc_fp16")
    answer = model.generate(tokens[:length], ignore_eos=True)
    assert len(answer.token_ids) == 64 - length and answer.finish_reason == "context"


def test_a_slot_too_few(vacc: VaccWorkshop) -> None:
    model, tokens = vacc.model("llama"), text(65)
    assert model.logits(tokens[None, :64], positions="last").shape == (1, 1, 272)
    for ask in (
        lambda: model.logits(tokens[None]),
        lambda: model.generate(tokens[:40], 25),
        lambda: model.generate(tokens[:64], 1),
    ):
        with pytest.raises(InputError) as caught:
            ask()
        assert caught.value.code == "E1603" and "context limit is 64" in caught.value.message
        assert "frontend.shape.input_ids" in caught.value.fix


def test_the_comparison_can_fail(vacc: VaccWorkshop) -> None:
    """One other token among sixteen is far above the bounds."""
    model, tokens = vacc.model("llama"), text(32)
    reference = vacc.reference("llama", tokens)
    other = tokens.copy()
    other[3] += 1
    assert error_of(model, other, reference, 16) > 20 * tolerance("vacc_fp16")


def test_reused_caches_and_one_prompt_at_a_time(vacc: VaccWorkshop) -> None:
    model, tokens = vacc.model("llama-tp2"), text(20).tolist()
    first = model.generate(tokens, 4, ignore_eos=True)
    longer = [*tokens, *first.token_ids]
    alone = model.generate(longer, 4, ignore_eos=True, prefix_cache=False).token_ids
    model.generate(tokens, 4, ignore_eos=True)
    assert model.generate(longer, 4, ignore_eos=True).token_ids == alone
    with pytest.raises(InputError) as caught:
        model.generate([tokens, tokens], 2)
    assert caught.value.code == "E1604"


def test_an_embedding_model_yields_hidden_states(vacc: VaccWorkshop) -> None:
    import torch

    from tests.end_to_end import references

    model = vacc.model("qwen3-embedding")
    with pytest.raises(InputError, match="E1622"):
        model.engine.open([1])
    transformer = references.own_loading(vacc.checkpoint("qwen3")).model
    rows = [text(16), text(5), text(1)]
    padded = np.zeros((3, 16), np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    states = model.hidden_states(padded, lengths=[16, 5, 1])
    assert states.shape == (3, 16, 48) and states.dtype == np.float32 and not states[1, 5:].any()
    for index, row in enumerate(rows):
        with torch.no_grad():
            expected = transformer(input_ids=torch.from_numpy(row)[None]).last_hidden_state[0].numpy()
        assert relative_error(states[index, : len(row)], expected) <= tolerance("vacc_fp16")


def test_an_embedding_model_does_not_talk(vacc: VaccWorkshop) -> None:
    embedding: Model = vacc.model("qwen3-embedding")
    for ask in (
        lambda: embedding.generate([3, 4], 2),
        lambda: embedding.stream([3, 4], 2),
        lambda: embedding.logits([[3, 4]]),
    ):
        with pytest.raises(InputError) as caught:
            ask()
        assert caught.value.code == "E1622" and "embedding model" in caught.value.message
        assert "hidden_states" in caught.value.fix
    with pytest.raises(InputError) as caught:
        embedding.hidden_states([list(range(3, 20))])
    assert caught.value.code == "E1603"
    with pytest.raises(InputError) as caught:
        vacc.model("llama").hidden_states([[3, 4]])
    assert caught.value.code == "E1623"


def test_what_is_stored_in_int8(vacc: VaccWorkshop) -> None:
    """The logits alone would not tell an int8 cache, as they hardly move."""
    for name in ("qwen3-kv8", "mistral-w8", "llama-tp2"):
        compiled, of_cache, linear = vacc.compiled(name), set(), set()
        for graph in compiled.manifest.graphs:
            described = json.loads((compiled.path / graph.graph).read_text())
            of_cache |= {e["dtype"] for e in described["inputs"] + described["outputs"] if "_key." in e["name"]}
            linear |= {e["dtype"] for e in described["params"] if "_proj.weight" in e["name"]}
        assert of_cache == ({"int8"} if name == "qwen3-kv8" else {"float16"})
        # codes, and a scale per output channel
        assert linear == ({"int8", "float16"} if name == "mistral-w8" else {"float16"})
        assert compiled.manifest.kv.dtype in of_cache


def test_gptq_is_refused_without_leave(vacc: VaccWorkshop) -> None:
    with pytest.raises(UnsupportedError) as caught:
        compile_spec(vacc.build("mistral-w8"))
    assert caught.value.code == "E1408" and caught.value.exit_code == 3
    compiled = vacc.compiled("mistral-w8")
    quantization = compiled.manifest.quantization
    assert (quantization.requested, quantization.used) == ("w8a16_gptq", "w8a16_rtn")
    assert any("w8a16_gptq was asked for, w8a16_rtn is used" in warning for warning in compiled.report["warnings"])


def test_graphs_with_different_tables_have_different_files(vacc: VaccWorkshop) -> None:
    """internlm2's graph of 80 tokens has another RoPE base than the one of 16, as 64 were trained."""
    for name in ("internlm2", "internlm2-tp2"):
        compiled = vacc.compiled(name)
        files = {graph.params for graph in compiled.manifest.graphs}
        nodes = {(compiled.path / file).stat().st_ino for file in files}
        assert len(files) == len(nodes) == 2 * VARIANTS[name].tp
        (warning,) = [text for text in compiled.report["warnings"] if "merge_params" in text]
        assert "rope_cos, rope_sin" in warning and "prefill_16; decode_80" in warning
    assert not [text for text in vacc.compiled("llama").report["warnings"] if "merge_params" in text]


@pytest.mark.parametrize("kind", ["chatglm", "baichuan"])
def test_another_family_is_named(kind: str, vacc: VaccWorkshop, tmp_path: Path) -> None:
    from tests.checkpoints import write_tiny
    from tests.end_to_end.test_bad_input import change_config

    folder = write_tiny(tmp_path / kind, "llama")
    change_config(folder, model_type=kind)
    with pytest.raises(UnsupportedError) as caught:
        compile_spec(build(folder, kind, VARIANTS["llama"]))
    assert kind in caught.value.message and caught.value.exit_code == 3
    assert not list(tmp_path.glob("vacc_deploy/*"))
