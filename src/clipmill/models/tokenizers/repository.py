"""The tokenizer of a Hugging Face repository, as open_clip uses it, from the repository's files."""

from __future__ import annotations

import json
from typing import Any

from ...errors import WeightsError
from ...files.json_text import parse_json
from ..downloads.hub import fetch_optional_file
from .fast import FastTokenizer

_FILE = "tokenizer.json"
_DEFAULT_TOKENS = {"pad_token": ("<pad>", "[PAD]"), "sep_token": ("</s>", "[SEP]")}
"""Defaults of the tokenizers' classes in transformers, if a repository does not name such a token."""

_LANGUAGE_FIRST = "nllb-200"
"""For these models the published file adds the language after the text, transformers' class before it."""
_LANGUAGE = "eng_Latn"


def fetch_tokenizer(
    repository: str, context_length: int, options: dict[str, Any], *, max_tokens: int | None, cache_dir: str | None
) -> FastTokenizer:
    """Return the tokenizer of a repository, fetching its files if they are not cached.

    Args:
        repository: For example `roberta-base`.
        context_length: The most ids of one text.
        options: `tokenizer_kwargs` of an open_clip configuration: `clean` and `strip_sep_token`.
        max_tokens: Texts are cut to this many ids; None means the context length.
        cache_dir: As in `EncoderSpec`.

    Raises:
        WeightsError: If the files are not available, or an option is not supported.
    """
    if unknown := sorted(set(options) - {"clean", "strip_sep_token"}):
        raise WeightsError(
            f"the tokenizer {repository!r} needs the options {', '.join(unknown)}, which are not supported"
        )
    path = fetch_optional_file(repository, _FILE, cache_dir)
    if path is None:
        raise WeightsError(
            f"{repository!r} has no {_FILE}, and sentencepiece models are not supported;"
            f" save a copy with transformers' save_pretrained, which writes one"
        )
    config_path = fetch_optional_file(repository, "tokenizer_config.json", cache_dir)
    try:
        config = parse_json(config_path.read_text(encoding="utf-8")) if config_path else {}
    except ValueError as err:
        raise WeightsError(f"{str(config_path)!r} is not a valid tokenizer_config.json: {err}") from err
    try:
        definition = parse_json(path.read_text(encoding="utf-8"))
        ids = special_ids(definition)
    except (ValueError, KeyError, TypeError) as err:
        raise WeightsError(f"{str(path)!r} is not a valid tokenizer.json: {err}") from err
    if _LANGUAGE_FIRST in repository:
        definition["post_processor"] = _template(_LANGUAGE, "</s>", ids)
    blank = token_id("sep_token", repository, config, ids) if options.get("strip_sep_token") else None
    return FastTokenizer(
        json.dumps(definition, ensure_ascii=False),
        context_length,
        token_id("pad_token", repository, config, ids),
        options.get("clean", "whitespace"),
        blank_id=blank,
        max_tokens=max_tokens,
    )


def special_ids(definition: dict[str, Any]) -> dict[str, int]:
    """Return the ids of all tokens: of the vocabulary and of added (special) tokens."""
    model = definition["model"]
    vocabulary = model.get("vocab", {})
    pairs = vocabulary.items() if isinstance(vocabulary, dict) else ((p[0], n) for n, p in enumerate(vocabulary))
    return {**dict(pairs), **{token["content"]: token["id"] for token in definition.get("added_tokens") or ()}}


def token_id(role: str, repository: str, config: dict[str, Any], ids: dict[str, int]) -> int:
    """Return the id of a special token.

    Args:
        role: `pad_token` or `sep_token`.
        repository: Repository or directory, for the message.
        config: Its `tokenizer_config.json`; it may leave the token out.
        ids: From `special_ids`.

    Raises:
        WeightsError: If there is no such token.
    """
    named = config.get(role)
    if isinstance(named, dict):
        named = named.get("content")
    for token in (named,) if named else _DEFAULT_TOKENS[role]:
        if token in ids:
            return ids[token]
    raise WeightsError(f"the tokenizer {repository!r} has no {role} {named or ' or '.join(_DEFAULT_TOKENS[role])!r}")


def _template(before: str, after: str, ids: dict[str, int]) -> dict[str, Any]:
    """Return a post-processor for tokenizer.json that adds one token before and one after each text."""

    def special(token: str) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": 0}}

    texts = [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"]
    return {
        "type": "TemplateProcessing",
        "single": [special(before), texts[0], special(after)],
        "pair": [special(before), *texts, special(after)],
        "special_tokens": {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in (before, after)},
    }
