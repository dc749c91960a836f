"""Tokenizers of Hugging Face's Rust library, from a `tokenizer.json`, without transformers and torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import WeightsError, require
from ...failures import Code, RowError, Stage
from .cleaning import CLEANERS


class FastTokenizer:
    """A tokenizer from a `tokenizer.json`, with a limit. Thread-safe: its state does not change after construction.

    It can be saved, and created again from its attributes.

    Attributes:
        definition: The text of the `tokenizer.json`.
        context_length: The most ids of one text that the tower reads, special tokens included.
        pad_id: The id that pads shorter rows.
        clean: How texts are cleaned first: a key of `CLEANERS`, or None for not at all.
        blank_id: An id that becomes 0 (CLIPA's towers never saw the separator), or None.
        max_tokens: Texts are cut to this many ids.
    """

    def __init__(
        self,
        definition: str,
        context_length: int,
        pad_id: int,
        clean: str | None = None,
        *,
        blank_id: int | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Read the definition.

        Args:
            definition: The text of a `tokenizer.json`.
            context_length: The most ids of one text, special tokens included.
            pad_id: The id that pads shorter rows.
            clean: A key of `CLEANERS`.
            blank_id: An id that becomes 0.
            max_tokens: Texts are cut to this many ids (on the right, keeping special tokens); the context length by
                default.

        Raises:
            MissingExtraError: If the `tokenizers` package is missing.
            WeightsError: If the definition is invalid, or `clean` is unknown.
        """
        tokenizers = require("tokenizers", "hf", "this model's tokenizer")
        if clean is not None and clean not in CLEANERS:
            raise WeightsError(f"a tokenizer needs the text cleaning {clean!r}; known: {', '.join(CLEANERS)}")
        self.definition = definition
        self.context_length = context_length
        self.pad_id = pad_id
        self.clean = clean
        self.blank_id = blank_id
        self.max_tokens = max_tokens or context_length
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(definition)
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(self.max_tokens)
        except BaseException as err:
            if not _is_of_library(err):
                raise
            raise WeightsError(f"invalid tokenizer.json: {err}") from err

    @classmethod
    def of_file(cls, path: Path, context_length: int, pad_id: int, **options: Any) -> FastTokenizer:
        """Read a `tokenizer.json`.

        Args:
            path: The file.
            context_length: As in the constructor.
            pad_id: As in the constructor.
            **options: As in the constructor.

        Raises:
            WeightsError: As for the constructor, or if there is no such file.
        """
        try:
            return cls(path.read_text(encoding="utf-8"), context_length, pad_id, **options)
        except OSError as err:
            raise WeightsError(f"no tokenizer at {str(path)!r}: {err}") from err

    def __call__(self, text: str) -> tuple[np.ndarray, bool]:
        """Tokenise a text.

        Returns:
            (n,) int64 ids, special tokens included, and whether the text was cut.

        Raises:
            UnicodeEncodeError: If the text is not valid Unicode.
            RowError: If the definition has no ids for it, or a pattern gives up on it.
        """
        text.encode()  # raises with the position of a lone surrogate; the library only says "must be str"
        cleaned = CLEANERS[self.clean](text) if self.clean else text
        try:
            encoding = self._tokenizer.encode(cleaned)
        except BaseException as err:
            if not _is_of_library(err):
                raise
            message = f"the tokenizer cannot read the text: {str(err)[:200]}"
            raise RowError(Stage.TOKENIZE, Code.ENCODE_FAILED, message) from err
        ids = np.array(encoding.ids, np.int64)
        if self.blank_id is not None:
            ids[ids == self.blank_id] = 0
        return ids, bool(encoding.overflowing)


def _is_of_library(error: BaseException) -> bool:
    """Return whether the library raised an error. It raises bare Exceptions, and its panics are no `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"
