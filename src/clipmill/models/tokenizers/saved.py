"""Save tokenizers to a directory, and load them without the libraries that they came from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import WeightsError
from ..frontend import Tokenizer
from .clip_bpe import ClipTokenizer, vocabulary_file
from .fast import FastTokenizer

CLIP_FILE = "bpe_simple_vocab_16e6.txt.gz"
FAST_FILE = "tokenizer.json"


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """Save a tokenizer's tables.

    Args:
        tokenizer: A `ClipTokenizer` or `FastTokenizer`.
        folder: The folder for the files.

    Returns:
        The settings for `load_tokenizer`, as plain values.

    Raises:
        WeightsError: If it is of another class.
    """
    if isinstance(tokenizer, ClipTokenizer):
        shutil.copyfile(tokenizer.vocabulary, folder / CLIP_FILE)
        settings: dict[str, Any] = {"kind": "clip", "file": CLIP_FILE}
    elif isinstance(tokenizer, FastTokenizer):
        (folder / FAST_FILE).write_text(tokenizer.definition, encoding="utf-8")
        settings = {"kind": "fast", "file": FAST_FILE, "pad_id": tokenizer.pad_id}
        settings |= {"clean": tokenizer.clean, "blank_id": tokenizer.blank_id}
    else:
        raise WeightsError(f"a {type(tokenizer).__name__} cannot be saved to a directory")
    return {**settings, "context_length": tokenizer.context_length, "max_tokens": tokenizer.max_tokens}


def load_tokenizer(settings: Mapping[str, Any], folder: Path, max_tokens: int | None = None) -> Tokenizer:
    """Load a tokenizer from its files.

    Args:
        settings: From `save_tokenizer`.
        folder: The folder with the files.
        max_tokens: Texts are cut to this many ids; None means the limit at saving.

    Raises:
        WeightsError: If a file is missing or unreadable.
        MissingExtraError: If it needs a package that is not installed.
    """
    path = folder / Path(settings["file"]).name  # the settings are untrusted: no files outside the folder
    if not path.is_file():
        raise WeightsError(f"no tokenizer at {str(path)!r}")
    limit = max_tokens or settings["max_tokens"]
    if settings["kind"] == "clip":
        return clip_tokenizer(path, settings["context_length"], limit)
    if settings["kind"] == "fast":
        options = {name: settings[name] for name in ("clean", "blank_id")}
        return FastTokenizer.of_file(path, settings["context_length"], settings["pad_id"], max_tokens=limit, **options)
    raise WeightsError(f"{str(folder)!r} has a tokenizer of the unknown kind {settings['kind']!r}")


def clip_tokenizer(path: Path, context_length: int, max_tokens: int) -> ClipTokenizer:
    """Load CLIP's tokenizer from a table of merges.

    Args:
        path: The table. If there is none, OpenAI's is used.
        context_length: The most ids of one text.
        max_tokens: Texts are cut to this many ids.

    Raises:
        WeightsError: If the table is invalid.
    """
    if not path.is_file():
        path = vocabulary_file()
    try:
        return ClipTokenizer(context_length, path, max_tokens=max_tokens)
    except (OSError, EOFError, ValueError, KeyError) as err:  # from gzip, zlib and utf-8
        raise WeightsError(f"{str(path)!r} is not a table of CLIP's merges: {err}") from err
