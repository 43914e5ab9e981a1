"""Spaces before punctuation, against transformers' own clean-up, whole and in pieces."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from xamc.runtime.clean_up import CleanUp, clean_up
from xamc.runtime.detokenize import detokenizer
from xamc.runtime.tokenizer import Tokenizer

PIECES = st.lists(
    st.sampled_from([" ", ".", "?", "'", " '", "n't", " n't", "n", "t", "s", " 've", "'re", "m", "a", ","])
)


@given(PIECES)
def test_pieces_are_cleaned_like_the_whole(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert clean_up(text) == PreTrainedTokenizerFast.clean_up_tokenization(None, text)
    stream = CleanUp()
    assert "".join(map(stream.push, pieces)) + stream.flush() == clean_up(text)


def test_an_answer_in_pieces_is_the_decoded_one(tmp_path: Path) -> None:
    words = ["it", "'", "s", "n't", "do", ".", "'s", "a", "!"]
    library = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="a"))
    library.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"clean_up_tokenization_spaces": True}))
    tokenizer = Tokenizer(tmp_path)
    ids = tokenizer.encode("it ' s do n't a . it 's a a ! do ' do").tolist()
    stream = detokenizer(tokenizer)
    text = "".join(map(stream.push, ids)) + stream.flush()
    assert text == tokenizer.decode(ids) == "it's don't a. it's a a! do'do"
