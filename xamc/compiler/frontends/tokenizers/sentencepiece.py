"""tokenizer.json built from a SentencePiece vocabulary, BPE or Unigram, with the ids that SentencePiece itself gives.

Only the Rust library `tokenizers` is used. What SentencePiece does to a text before it looks at pieces
(normalizer.cc) becomes normalizers: its own table of characters, the spaces it removes, the space it puts in front, and
``▁`` for spaces. A text that is nothing but one user-defined piece does not get the space in front; every other text
has SentencePiece's own ids.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xamc.compiler.frontends.tokenizers.bpe import BYTE, NORMAL, UNUSED, USER_DEFINED, Vocabulary, add_specials
from xamc.errors import UnsupportedError

if TYPE_CHECKING:
    from tokenizers import decoders, models, normalizers, pre_tokenizers

SPACE = "▁"
MAX_PIECE = 512  # characters; SentencePiece's default is 16
MAX_USER_DEFINED = 2**18  # characters of all user-defined pieces


def sentencepiece_tokenizer(vocabulary: Vocabulary) -> bytes:
    """tokenizer.json of a SentencePiece vocabulary.

    Raises:
        InputError: E1134, scores are missing.
        UnsupportedError: E1163, a feature that `tokenizers` can't express.
    """
    from tokenizers import Tokenizer

    if len(vocabulary.scores) != len(vocabulary.tokens):
        raise vocabulary.invalid(f"{len(vocabulary.scores)} scores for {len(vocabulary.tokens)} tokens")
    tokenizer = Tokenizer(_unigram(vocabulary) if vocabulary.unigram else _bpe(vocabulary))
    tokenizer.normalizer = _normalizer(vocabulary)
    if (prefix := _first_prefix(vocabulary)) is not None:
        tokenizer.pre_tokenizer = prefix
    tokenizer.decoder = _decoder(vocabulary)
    return add_specials(tokenizer, vocabulary, user_defined_normalized=not vocabulary.user_defined_first)


def _bpe(vocabulary: Vocabulary) -> models.BPE:
    """SentencePiece joins the neighbouring pair whose joined piece scores best (bpe_model.cc); as ranked merges that
    is: every split of every piece into two pieces, best score first."""
    from tokenizers import models

    kinds = dict(zip(vocabulary.tokens, vocabulary.types, strict=True))
    joinable = {token for token, kind in kinds.items() if kind in (NORMAL, UNUSED)}
    index, ranked = vocabulary.index, []
    for token in joinable:
        if len(token) > MAX_PIECE:
            raise vocabulary.invalid(f"a piece has {len(token)} characters, {MAX_PIECE} are possible")
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left not in joinable or right not in joinable:
                continue
            if kinds[token] == UNUSED:
                # SentencePiece joins them as well and takes them apart again at the end, which merges can't say.
                raise _unsupported(vocabulary, f"the piece {token!r}, which is marked as unused and yet can be formed")
            ranked.append((-vocabulary.scores[index[token]], index[left], index[right], left, right))
    ranked.sort()
    return models.BPE(
        vocab=dict(index),
        merges=[(left, right) for *_, left, right in ranked],
        unk_token=vocabulary.token(vocabulary.unk_id),
        fuse_unk=True,
        byte_fallback=BYTE in vocabulary.types,
    )


def _unigram(vocabulary: Vocabulary) -> models.Unigram:
    """The most likely segmentation; pieces that only stand for themselves must not win in a text that spells them.

    `tokenizers` takes every entry for a piece of the text, ``<0x0A>`` and ``<s>`` as well, so these get a score below
    that of any text of known characters. Where two segmentations are equally likely, as in runs of one character,
    SentencePiece's choice depends on how its float32 sums round; `tokenizers` adds in float64 and takes the first.
    """
    from tokenizers import models

    scores = [s for s, kind in zip(vocabulary.scores, vocabulary.types, strict=True) if kind == NORMAL]
    never = 64 * min([*scores, -1.0])
    pieces = [
        (token, score if kind == NORMAL else never)
        for token, score, kind in zip(vocabulary.tokens, vocabulary.scores, vocabulary.types, strict=True)
    ]
    return models.Unigram(pieces, vocabulary.unk_id, BYTE in vocabulary.types)


def _normalizer(vocabulary: Vocabulary) -> normalizers.Normalizer:
    from tokenizers import Regex, normalizers

    steps: list[normalizers.Normalizer] = []
    if vocabulary.charsmap:
        table = normalizers.Precompiled(vocabulary.charsmap)
        for token in _user_defined(vocabulary):
            if table.normalize_str(token) != token:
                # SentencePiece looks for them before it normalizes.
                raise _unsupported(vocabulary, f"the piece {token!r}, which its own normalization changes")
        steps.append(table)
        if table.normalize_str("e\u0301") == "\u00e9":
            # A table that composes characters. `tokenizers` looks at clusters of more than five bytes character by
            # character, so that Hangul from its letters would stay apart.
            steps.append(normalizers.NFC())
    if vocabulary.collapse_spaces:
        steps += [normalizers.Replace(Regex(f"\\A +|[ {SPACE}]+\\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    space = SPACE if vocabulary.escape_spaces else " "
    if vocabulary.add_space_prefix and vocabulary.prefix_every_part:
        # Before every text that isn't empty. `tokenizers` sends the pieces of the user through the normalizer as well,
        # and they must come out as they are.
        pieces = [] if vocabulary.user_defined_first else _user_defined(vocabulary)
        alone = "|".join(re.escape(token) for token in pieces)
        if len(alone) > MAX_USER_DEFINED:
            raise _unsupported(vocabulary, f"{MAX_USER_DEFINED} characters of user-defined pieces and more")
        unless = f"(?!(?:{alone})\\z)" if alone else ""
        steps.append(normalizers.Replace(Regex(f"\\A(?=[\\s\\S]){unless}"), space))
    if vocabulary.escape_spaces:
        steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)


def _first_prefix(vocabulary: Vocabulary) -> pre_tokenizers.PreTokenizer | None:
    """The space before the first word alone, not after a special token (tokenizer_config.json's ``legacy: false``)."""
    from tokenizers import pre_tokenizers

    if not vocabulary.add_space_prefix or vocabulary.prefix_every_part:
        return None
    return pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)


def _decoder(vocabulary: Vocabulary) -> decoders.Decoder:
    from tokenizers import decoders

    undo: list[decoders.Decoder] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if vocabulary.add_space_prefix:
        undo.append(decoders.Strip(" ", 1, 0))
    return decoders.Sequence(undo)


def _user_defined(vocabulary: Vocabulary) -> list[str]:
    return [t for t, kind in zip(vocabulary.tokens, vocabulary.types, strict=True) if kind == USER_DEFINED]


def _unsupported(vocabulary: Vocabulary, what: str) -> UnsupportedError:
    return UnsupportedError(
        "E1163",
        f"the tokenizer of {vocabulary.source} uses {what}, which tokenizer.json can't express",
        vocabulary.other_tokenizer,
    )
