"""Streaming text from tokens: no half characters, pieces joined equal the whole, for both kinds of tokenizers."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers

from xamc.runtime.detokenize import StreamDetokenizer

TEXTS = [
    "Hello world",
    "你好,世界!中文字符",
    "😀 emoji 👩‍👩‍👧‍👦 family",
    " leading and  double  spaces\n\nnew lines\t",
    "naïve café — ﬁn",
    "mixed 中a文b字😀c",
    "",
]


class Wrapped:
    """The runtime's interface round a tokenizer of the library."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def sentencepiece_tokenizer() -> Any:
    """Llama 2's construction: ▁ for spaces, bytes for unknown characters, the first space dropped by the decoder."""
    words = ["▁", "▁Hello", "▁world", "▁leading", "l", "e", "a", "d", "i", "n", "g", "m", "x", "b", "c", "▁and", ","]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for value in range(256):
        vocab[f"<0x{value:02X}>"] = len(vocab)
    for word in words:
        vocab[word] = len(vocab)
    tokenizer = tokenizers.Tokenizer(models.Unigram([(word, -1.0) for word in vocab], unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


@pytest.fixture(scope="module", params=["byte-level", "sentencepiece"])
def decoder(request: pytest.FixtureRequest, tokenizer: Any) -> Wrapped:
    return Wrapped(tokenizer if request.param == "byte-level" else sentencepiece_tokenizer())


def stream(decoder: Wrapped, ids: list[int]) -> list[str]:
    detokenizer = StreamDetokenizer(decoder)
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_join_to_the_text_without_replacement_characters(decoder: Wrapped, text: str) -> None:
    ids = decoder.encode(text)
    pieces = stream(decoder, ids)
    assert "".join(pieces) == decoder.decode(ids) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_characters_are_split_over_tokens_here(decoder: Wrapped) -> None:
    """What the test above is about does happen: some token alone is half a character."""
    assert any("\ufffd" in decoder.decode([token]) for token in decoder.encode("世😀"))
    assert "" in stream(decoder, decoder.encode("世😀"))


@settings(deadline=None)
@given(st.text(max_size=30))
def test_any_valid_text(decoder: Wrapped, text: str) -> None:
    ids = decoder.encode(text)
    assert "".join(stream(decoder, ids)) == decoder.decode(ids)


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 260), max_size=40))
def test_any_tokens_of_a_byte_level_tokenizer(tokenizer: Any, ids: list[int]) -> None:
    """Also invalid UTF-8, special tokens and characters cut off at the end."""
    decoder = Wrapped(tokenizer)
    assert "".join(stream(decoder, ids)) == decoder.decode(ids)


def test_special_tokens_are_left_out(decoder: Wrapped) -> None:
    ids = decoder.encode("Hello world")
    pieces = stream(decoder, [1, *ids[:1], 1, *ids[1:], 1])
    assert "".join(pieces) == "Hello world"


def test_text_comes_out_as_early_as_possible(tokenizer: Any) -> None:
    decoder = Wrapped(tokenizer)
    ids = decoder.encode("a世b")
    pieces = stream(decoder, ids)
    assert pieces[0] == "a" and pieces[-2:] == ["b", ""]


def test_unfinished_bytes_come_out_at_the_end(tokenizer: Any) -> None:
    decoder = Wrapped(tokenizer)
    ids = decoder.encode("a世")[:-1]
    assert "".join(stream(decoder, ids)) == "a\ufffd" == decoder.decode(ids)
    assert "\ufffd" not in "".join(stream(decoder, ids)[:-1])
