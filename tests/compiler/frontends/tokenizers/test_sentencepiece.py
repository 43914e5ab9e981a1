"""Conversion of tokenizer.model: more than a thousand lines get the ids of the sentencepiece library."""

from __future__ import annotations

import io
import random
import struct
from pathlib import Path

import pytest
import sentencepiece

from tools.reliability.tokenizers import KEEP, MODELS, PIECES, convert, corpus, failures, train
from xamc.errors import InputError, UnsupportedError


@pytest.mark.parametrize("name", MODELS)
def test_a_thousand_lines(name: str, tmp_path: Path) -> None:
    lines = corpus()
    assert len(lines) >= 1600
    reference, ours = sentencepiece.SentencePieceProcessor(model_proto=train(name)), convert(train(name), tmp_path)
    assert failures(name, reference, ours, lines) == []


@pytest.mark.parametrize("name", ["internlm", "no prefix", "collapsing", "unigram"])
def test_user_defined_pieces_are_found_in_any_text(name: str, tmp_path: Path) -> None:
    reference = sentencepiece.SentencePieceProcessor(model_proto=train(name))
    ours, generator, lines = convert(train(name), tmp_path), random.Random(3), corpus()[:800]
    texts = []
    for _ in range(300):
        piece = generator.choice([*PIECES, " <tool> ", "<tool><tool>x"])
        texts.append(generator.choice(lines)[:20] + piece + generator.choice(lines)[:20])
    assert failures(name, reference, ours, [text for text in texts if text.strip() not in PIECES]) == []


def test_a_text_that_spells_a_byte_piece_is_text(tmp_path: Path) -> None:
    for name in ("internlm", "no prefix", "collapsing"):
        reference = sentencepiece.SentencePieceProcessor(model_proto=train(name))
        ours = convert(train(name), tmp_path)
        for text in ("<0x0A>", "a<0x41>b", "<0x"):
            assert ours.encode(text, add_special_tokens=False).ids == reference.encode(text)


def test_a_unigram_model_does_not_take_spelled_bytes_for_bytes(tmp_path: Path) -> None:
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*corpus()[:200], *"<>0123456789xABC"] * 3),
        model_writer=trained,
        model_type="unigram",
        vocab_size=600,
        hard_vocab_limit=False,
        character_coverage=1.0,
        byte_fallback=True,
        minloglevel=2,
        **KEEP,
    )
    reference = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    ours = convert(trained.getvalue(), tmp_path)
    for text in ("<0x41>", "a <0x0A> b", "<unk"):
        assert ours.encode(text, add_special_tokens=False).ids == reference.encode(text)


def test_where_the_space_in_front_goes(tmp_path: Path) -> None:
    """Every part between special tokens goes through SentencePiece, unless tokenizer_config.json says legacy: false."""
    model, space = train("internlm"), "▁"
    text = "the<s>the"
    tokens = convert(model, tmp_path, bos_token="<s>").encode(text, add_special_tokens=False).tokens
    assert tokens[0][0] == space and tokens[tokens.index("<s>") + 1][0] == space
    tokens = convert(model, tmp_path, bos_token="<s>", legacy=False).encode(text, add_special_tokens=False).tokens
    assert tokens[0][0] == space and tokens[tokens.index("<s>") + 1][0] == "t"
    tokens = convert(model, tmp_path, add_prefix_space=False).encode(text, add_special_tokens=False).tokens
    assert space not in "".join(tokens)


def test_added_tokens_keep_their_rules(tmp_path: Path) -> None:
    size = sentencepiece.SentencePieceProcessor(model_proto=train("internlm")).vocab_size()
    decoder = {str(size): {"content": "<|end|>", "special": True, "lstrip": True}}
    ours = convert(train("internlm"), tmp_path, added_tokens_decoder=decoder, additional_special_tokens=["<|more|>"])
    ids = ours.encode("a   <|end|><|more|>", add_special_tokens=False).ids
    assert ids[-2:] == [size, size + 1] and ours.decode(ids) == "a"
    assert ours.decode(ids, skip_special_tokens=False) == "a<|end|><|more|>"


def test_ids_between_added_tokens_stay_free(tmp_path: Path) -> None:
    size = sentencepiece.SentencePieceProcessor(model_proto=train("internlm")).vocab_size()
    decoder = {str(size + 3): {"content": "<|end|>", "special": True}}
    ours = convert(train("internlm"), tmp_path, added_tokens_decoder=decoder)
    text = f"the [unassigned {size}]<|end|>"
    ids = ours.encode(text, add_special_tokens=False).ids
    assert ids[-1] == size + 3 and max(ids[:-1]) < size and ours.decode(ids, skip_special_tokens=False) == text


def test_a_piece_that_is_named_special_is_found_whole(tmp_path: Path) -> None:
    ours = convert(train("internlm"), tmp_path, additional_special_tokens=["<tool>"])
    ids = ours.encode("x<tool>y", add_special_tokens=False).ids
    assert "<tool>" in map(ours.id_to_token, ids) and "tool" not in ours.decode(ids)


def protobuf(number: int, value: bytes | int) -> bytes:
    """One field of a protobuf message, lengths and numbers below 2^14."""

    def varint(n: int) -> bytes:
        return bytes([n & 127 | 128, n >> 7]) if n > 127 else bytes([n])

    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def piece(text: str, score: float, kind: int) -> bytes:
    return protobuf(1, protobuf(1, text.encode()) + b"\x15" + struct.pack("<f", score) + protobuf(3, kind))


def model(*more: bytes, trainer: bytes = b"", normalizer: bytes = b"") -> bytes:
    first = [piece("<unk>", 0, 2), piece("<s>", 0, 3), piece("</s>", 0, 3), piece("a", -1, 1), piece("b", -2, 1)]
    return b"".join([*first, *more, protobuf(2, protobuf(3, 2) + trainer), protobuf(3, normalizer)])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (model(piece("ab", -3, 5)), "'ab', which is marked as unused"),
        (model(trainer=protobuf(24, 1)), "treat_whitespace_as_suffix"),
    ],
)
def test_what_tokenizer_json_cannot_express(content: bytes, words: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=f"E1163.*{words}"):
        convert(content, tmp_path)


def test_a_user_defined_piece_that_normalization_changes(tmp_path: Path) -> None:
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()[:300]),
        model_writer=trained,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        normalization_rule_name="nfkc_cf",
        user_defined_symbols=["<TOOL>"],
        minloglevel=2,
    )
    with pytest.raises(UnsupportedError, match=r"E1163.*'<TOOL>'"):
        convert(trained.getvalue(), tmp_path)


def test_a_piece_of_absurd_length(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"E1134.*600 characters"):
        convert(model(piece("a" * 600, -9, 1)), tmp_path)


def test_pieces_that_stay_unused(tmp_path: Path) -> None:
    assert convert(model(piece("[PAD5]", -3, 5)), tmp_path).encode("ab", add_special_tokens=False).ids == [0, 3, 4]


@pytest.mark.parametrize(
    "table",
    [
        b"\xff\xff\xff\x7fabcd",  # longer than the file
        b"\x03\x00\x00\x00abcd",
        struct.pack("<II", 4, 0x7FFFFE00),  # the root leads far beyond the end
        struct.pack("<I", 2048) + struct.pack("<I", 1 << 10) + b"\0" * 2044 + b"\xff\xfe",  # texts are not UTF-8
    ],
)
def test_a_damaged_normalization_table(table: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="E1134"):
        convert(model(normalizer=protobuf(2, table)), tmp_path)
