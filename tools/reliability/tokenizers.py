"""Tokenizers converted from tokenizer.model beside the sentencepiece library, line by line.

    python -m tools.reliability.tokenizers

Models are trained here, as InternLM's and Llama's are and in other ways; lines are code, English, Chinese and emoji.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import sentencepiece
from tokenizers import Tokenizer

from tools.reliability.results import Row, record, today
from xamc.compiler.frontends.tokenizers.sentencepiece import sentencepiece_tokenizer
from xamc.compiler.frontends.tokenizers.sentencepiece_added import with_added_tokens
from xamc.compiler.frontends.tokenizers.sentencepiece_model import read_sentencepiece

ROOT = Path(__file__).parents[2]
PIECES = ["<tool>", "[UNUSED_TOKEN_1]", "[UNUSED_TOKEN_12]"]
EMOJI = [chr(c) for c in range(0x1F300, 0x1F6FF)] + [
    "👩‍👩‍👧‍👦",
    "🇨🇳",
    "👍🏽",
    "❤️",
    "🏳️‍🌈",
    "①㎏",
    "ﬁne",
    "Ａ½",
    "e\u0301",
    "가",
    "\u1112\u1161\u11ab",
    "\u3000",
    "\u00a0",
    "\t",
    "ﷺ",
]
KEEP: dict[str, Any] = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
# Name → how the model is trained. InternLM's and Llama's are BPE, identity, spaces kept, digits apart.
MODELS: dict[str, dict[str, Any]] = {
    "internlm": {"model_type": "bpe", **KEEP, "split_digits": True, "allow_whitespace_only_pieces": True},
    "no prefix": {"model_type": "bpe", **KEEP, "add_dummy_prefix": False},
    "collapsing": {"model_type": "bpe", "normalization_rule_name": "identity"},
    "nfkc": {"model_type": "bpe", "normalization_rule_name": "nmt_nfkc"},
    "no bytes": {"model_type": "bpe", **KEEP, "byte_fallback": False},
    "unigram": {"model_type": "unigram", "vocab_size": 1700, **KEEP},
    "unigram nfkc": {"model_type": "unigram", "vocab_size": 1700, "normalization_rule_name": "nmt_nfkc"},
}


@cache
def corpus() -> list[str]:
    """Code, English and Chinese of this repository's files, emoji, and runs of one character."""
    generator = random.Random(7)
    files = [*sorted((ROOT / "xamc" / "passes").rglob("*.py")), ROOT / "README.md", ROOT / "docs" / "spec.md"]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    lines = generator.sample(lines, 900)
    chinese = (ROOT / "xamc" / "compiler" / "handoff" / "readme_zh.py").read_text(encoding="utf-8")
    characters = sorted({c for c in chinese if "\u4e00" <= c <= "\u9fff"})
    lines += [line for line in chinese.splitlines() if any(c in characters for c in line)]
    for _ in range(300):
        length = generator.randint(3, 40)
        tail = generator.choice(["。", "！", "，abc 123", "", " ok"])
        lines.append("".join(generator.choices(characters, k=length)) + tail)
    for _ in range(300):
        words = (generator.choices([*EMOJI, "a", " ", "the", "中"], k=generator.randint(1, 5)) for _ in range(4))
        lines.append(" ".join("".join(word) for word in words))
    lines += [generator.choice("=-# a.*") * generator.randint(1, 40) + generator.choice(["", "x"]) for _ in range(100)]
    return lines


@cache
def train(name: str) -> bytes:
    model = io.BytesIO()
    options: dict[str, Any] = {"vocab_size": 3000, "byte_fallback": True, "user_defined_symbols": PIECES} | MODELS[name]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()[:1000]),
        model_writer=model,
        character_coverage=0.995,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def convert(model: bytes, folder: Path, **settings: Any) -> Tokenizer:
    (folder / "tokenizer.model").write_bytes(model)
    vocabulary = read_sentencepiece(folder / "tokenizer.model")
    if settings:
        vocabulary = with_added_tokens(vocabulary, settings, {})
    return Tokenizer.from_str(sentencepiece_tokenizer(vocabulary).decode())


def failures(name: str, reference: Any, ours: Tokenizer, lines: Sequence[str]) -> list[str]:
    """Lines whose ids, or whose text made of ids again, are not the library's.

    A unigram model may have several segmentations of a line that are equally likely: the same pieces in another order
    count as equal on up to 0.5 % of the lines.
    """
    expected = reference.encode(list(lines))
    found = [encoding.ids for encoding in ours.encode_batch(list(lines), add_special_tokens=False)]
    different = [index for index, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b]
    if MODELS[name]["model_type"] == "unigram":
        ties = [index for index in different if sorted(found[index]) == sorted(expected[index])]
        if len(ties) <= len(lines) // 200:
            different = [index for index in different if index not in ties]
    if MODELS[name].get("byte_fallback", True):
        texts = ours.decode_batch(expected, skip_special_tokens=False)
        different += [index for index, ids in enumerate(expected) if texts[index] != reference.decode(ids)]
    return [lines[index] for index in sorted(set(different))]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compares every model and records a row for each; exit code 1 where a line differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-record", action="store_true", help="leave docs/reliability.csv alone")
    options = parser.parse_args(arguments)
    rows, lines = [], corpus()
    for name in MODELS:
        with tempfile.TemporaryDirectory(prefix="reliability-tokenizers-") as folder:
            ours = convert(train(name), Path(folder))
        wrong = failures(name, sentencepiece.SentencePieceProcessor(model_proto=train(name)), ours, lines)
        kind = MODELS[name]["model_type"]
        print(f"tokenizer, {name} ({kind}): {len(lines)} lines, {len(wrong)} differ", *wrong[:5], sep="\n  ")
        note = f"lines whose ids and text are those of sentencepiece; a {kind} model trained for it"
        rows.append(Row(f"tokenizer: {name}", len(lines), len(wrong), 7, today(), note))
    if not options.no_record:
        record(rows)
    return 1 if any(row.failed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
