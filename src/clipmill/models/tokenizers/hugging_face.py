"""The tokenizer of a model of transformers, from the files of its repository or directory."""

from __future__ import annotations

from typing import Any

from ...errors import WeightsError, require
from ...files.json_text import parse_json
from ...messages import setting
from ..catalog.hugging_face import ModelConfig
from ..downloads.model_files import find_first, read_json
from .fast import FastTokenizer
from .repository import special_ids, token_id

_FILE = "tokenizer.json"
_CLIP_VOCABULARY, _CLIP_MERGES, _BERT_VOCABULARY = "vocab.json", "merges.txt", "vocab.txt"
_BERT_SETTINGS = ("do_lower_case", "strip_accents", "tokenize_chinese_chars")
_CLEANING = {"Unigram": "siglip", "BPE": "lowercase"}
"""How texts of SigLIP's models are cleaned, by the kind of vocabulary: SigLIP has T5's, SigLIP 2 has Gemma's. Both were
trained so; the code of the first one's tokenizer does it in Python, and that of the second leaves it to the caller."""


def find_tokenizer(place: str, config: ModelConfig, limit: int, cache_dir: str | None) -> FastTokenizer:
    """Return the tokenizer of a model's place.

    Args:
        place: Directory or repository.
        config: The model's configuration, which says how rows are padded.
        limit: Texts are cut to this many ids.
        cache_dir: Folder for copies of a repository's files.

    Raises:
        WeightsError: If there is none, or it cuts texts on the left.
    """
    settings = _read_settings(place, cache_dir)
    definition = find_definition(place, settings, cache_dir)
    context = config.context_length
    match config.kind.padding:
        case "whole":
            try:
                parsed = parse_json(definition)
                pad_id = token_id("pad_token", place, settings, special_ids(parsed))
                cleaning = _CLEANING.get(parsed["model"]["type"])
            except (ValueError, KeyError, TypeError, AttributeError) as err:
                raise WeightsError(f"the {_FILE} of {place!r} is not valid: {err}") from err
            return FastTokenizer(definition, context, pad_id, cleaning, max_tokens=limit)
        case "masked" | "known":
            return FastTokenizer(definition, context, config.pad_id, max_tokens=limit)
        case _:
            # 0, whatever the tokenizer's padding: it is never mistaken for the end of a text, which is at the greatest
            # id or the first end token
            return FastTokenizer(definition, context, 0, max_tokens=limit)


def _read_settings(place: str, cache_dir: str | None) -> dict[str, Any]:
    try:
        path = find_first(place, ("tokenizer_config.json",), cache_dir)
    except WeightsError:  # offline and not in the cache: the file is optional
        return {}
    settings = {} if path is None else read_json(path)
    if settings.get("truncation_side", "right") != "right":
        raise WeightsError(f"{str(path)!r} cuts long texts on the left (truncation_side); it must be 'right'")
    return settings


def find_definition(place: str, settings: dict[str, Any], cache_dir: str | None) -> str:
    """Return a `tokenizer.json`, or the one that transformers makes from the older files of CLIP and BERT.

    Args:
        place: Directory or repository.
        settings: Its `tokenizer_config.json`.
        cache_dir: Folder for copies of a repository's files.

    Raises:
        WeightsError: If there is none.
        MissingExtraError: If transformers is needed, and not installed.
    """
    path = find_first(place, (_FILE, _CLIP_VOCABULARY, _BERT_VOCABULARY), cache_dir)
    name = "" if path is None else path.name
    merges = find_first(place, (_CLIP_MERGES,), cache_dir) if name == _CLIP_VOCABULARY else None
    if path is None or (name == _CLIP_VOCABULARY and merges is None):
        raise WeightsError(
            f"no tokenizer in {place!r}: looked for {_FILE}, for {_CLIP_VOCABULARY} with {_CLIP_MERGES}, and for"
            f" {_BERT_VOCABULARY}",
            hint="name a repository or directory that has one with "
            + setting("base_tokenizer", ...)
            + " (for OpenAI's models: 'openai/clip-vit-base-patch32')",
        )
    if name == _FILE:
        return path.read_text(encoding="utf-8")
    transformers = require("transformers", "hf", f"a tokenizer in {name}")
    try:
        if merges is not None:
            made = transformers.CLIPTokenizer(vocab=str(path), merges=str(merges))
        else:
            given = {key: settings[key] for key in _BERT_SETTINGS if key in settings}
            made = transformers.BertTokenizer(vocab=str(path), **given)
        text: str = made.backend_tokenizer.to_str()
    except Exception as err:  # the Rust library raises bare Exceptions
        files = " and ".join(repr(str(file)) for file in (path, merges) if file is not None)
        raise WeightsError(f"no tokenizer can be made from {files}: {err}") from err
    return text
