"""tokenizer.json of a folder as transformers' AutoTokenizer has it in the end.

The file is only the beginning: tokens of the files beside it are added, special tokens become special, and some classes
build everything but the vocabulary anew (`xamc.compiler.frontends.tokenizers.tokenizer_class`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xamc.compiler.frontends.tokenizers.special_tokens import SpecialTokens, text_of
from xamc.compiler.frontends.tokenizers.tokenizer_class import REBUILT, Rebuilt
from xamc.errors import InputError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.normalizers import Normalizer


def ready_tokenizer(
    path: Path, content: Mapping[str, Any], class_name: str, tokens: SpecialTokens
) -> tuple[bytes | Path, dict[str, int]]:
    """The artifact's tokenizer.json and its tokens' ids.

    Args:
        path: of tokenizer.json.
        content: what it holds, checked: a vocabulary and ids that are numbers.
        class_name: see `tokenizer_class`.
        tokens: what the folder says beside it.

    Returns:
        The path itself where nothing changes, else the new file; token → id.

    Raises:
        InputError: E1134, parts that don't fit each other.
    """
    from tokenizers import Tokenizer, models

    rebuilt = REBUILT.get(class_name)
    vocabulary = _vocabulary(path, content["model"]["vocab"])
    # Ids follow from the vocabulary alone, so that the model itself, with its merges, is not built.
    table = Tokenizer(models.WordLevel(vocabulary, unk_token=""))
    changed = {} if rebuilt is None else _rebuilt_parts(content, vocabulary, rebuilt, tokens)
    try:
        # the library looks at tokens as the normalizer leaves them
        table.normalizer = _normalizer({**content, **changed})
        if rebuilt is None:
            table.add_tokens(_own_tokens(content))
        table.add_tokens(tokens.to_add([token.content for token in table.get_added_tokens_decoder().values()]))
        if rebuilt is not None and rebuilt.specials_again:
            table.add_special_tokens(tokens.all_texts())
        changed |= _post_processor(table, rebuilt, tokens)
    except Exception as error:  # the library raises plain Exception
        raise InputError(
            "E1134", f"the tokenizer of {path.parent} is invalid: {error}", "download the tokenizer files again"
        ) from error
    added = table.get_added_tokens_decoder()
    changed["added_tokens"] = [
        {
            "id": number,
            "content": token.content,
            "single_word": token.single_word,
            "lstrip": token.lstrip,
            "rstrip": token.rstrip,
            "normalized": token.normalized,
            "special": _is_special(table, number, token),
        }
        for number, token in sorted(added.items())
    ]
    ids = {**vocabulary, **{token.content: number for number, token in added.items()}}
    if all(content.get(key) == value for key, value in changed.items()):
        return path, ids
    return json.dumps({**content, **changed}, ensure_ascii=False, separators=(",", ":")).encode(), ids


def _vocabulary(path: Path, vocabulary: Any) -> dict[str, int]:
    """Token → id of the model alone; a Unigram model has a list of (token, score)."""
    if isinstance(vocabulary, dict):
        return dict(vocabulary)
    pieces = [entry[0] if isinstance(entry, list) and entry else entry for entry in vocabulary]
    if not all(isinstance(piece, str) for piece in pieces):
        raise InputError("E1134", f"{path} has no vocabulary", "download the tokenizer files again")
    return {piece: number for number, piece in enumerate(pieces)}


def _is_special(table: Tokenizer, number: int, token: AddedToken) -> bool:
    """Whether decoding leaves the token out; of one text that was added twice its own flag doesn't tell.

    A token that is looked for in the normalized text is left out or not by the library's own rules, loaded again too.
    """
    hidden = not table.decode([number], skip_special_tokens=True)
    return hidden or (token.special and token.normalized)


def _normalizer(content: Mapping[str, Any]) -> Normalizer | None:
    """The normalizer of a tokenizer.json."""
    from tokenizers import Tokenizer, models

    parts = json.loads(Tokenizer(models.BPE()).to_str())
    made = Tokenizer.from_str(json.dumps({**parts, "normalizer": content.get("normalizer")}))
    found: Normalizer | None = made.normalizer
    return found


def _own_tokens(content: Mapping[str, Any]) -> list[AddedToken]:
    """The file's own added tokens; the library adds them in their order, whatever ids they have there."""
    from tokenizers import AddedToken

    entries = content.get("added_tokens") or []
    return [AddedToken(**{key: value for key, value in entry.items() if key != "id"}) for entry in entries]


def _rebuilt_parts(
    content: Mapping[str, Any], vocabulary: Mapping[str, int], rebuilt: Rebuilt, tokens: SpecialTokens
) -> dict[str, Any]:
    """Normalizer, splitting, model and decoder of the class, with the file's vocabulary and merges."""
    unk = tokens.named.get("unk_token")
    made = json.loads(rebuilt.build(tokens.settings, None if unk is None else text_of(unk)).to_str())
    merges = content["model"].get("merges") or []
    model = {**made["model"], "vocab": dict(vocabulary), "merges": merges}
    return {"model": model, **{key: made[key] for key in ("normalizer", "pre_tokenizer", "decoder")}}


def _post_processor(table: Tokenizer, rebuilt: Rebuilt | None, tokens: SpecialTokens) -> dict[str, Any]:
    """What stands round a text, where something says so beside tokenizer.json's own post-processor."""
    from tokenizers import Tokenizer, models, processors

    flags = {key: tokens.settings.get(key) for key in ("add_bos_token", "add_eos_token")}
    if rebuilt is not None and rebuilt.add_bos is not None and flags["add_bos_token"] is None:
        flags["add_bos_token"] = rebuilt.add_bos
    if all(flag is None for flag in flags.values()):
        return {}
    texts = tokens.texts()
    bos = texts.get("bos_token") if flags["add_bos_token"] else None
    eos = texts.get("eos_token") if flags["add_eos_token"] else None
    if bos is None and eos is None:
        return {"post_processor": None}
    single = [*([bos] if bos else []), "$A", *([eos] if eos else [])]
    pair = [*single, *([f"{bos}:1"] if bos else []), "$B:1", *([f"{eos}:1"] if eos else [])]
    # any tokenizer will do: what counts is how the library writes the template
    writer = Tokenizer(models.BPE())
    writer.post_processor = processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=[(text, table.token_to_id(text)) for text in (bos, eos) if text]
    )
    return {"post_processor": json.loads(writer.to_str())["post_processor"]}
