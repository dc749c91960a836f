"""Tokenizers of Hugging Face's Rust library, from their `tokenizer.json`: no transformers, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MissingExtraError, WeightsError
from .cleaning import CLEANERS


class FastTokenizer:
    """One `tokenizer.json` with a limit. Safe for many threads: nothing is set after it is made.

    All that makes it is plain, so that it can be stored and made again from its attributes.

    Attributes:
        definition: The text of the `tokenizer.json`.
        context_length: The most ids of one text that its tower reads, special tokens included.
        pad_id: What fills up rows of ids of unequal length.
        clean: What is done to a text first: a name of `CLEANERS`, or None for nothing.
        blank_id: An id that becomes 0 (CLIPA's towers never saw the separator), or None.
        max_tokens: Where texts are cut.
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
            pad_id: What fills up rows.
            clean: A name of `CLEANERS`.
            blank_id: An id that becomes 0.
            max_tokens: Where texts are cut (on the right, special tokens kept); the context length by default.

        Raises:
            MissingExtraError: If the `tokenizers` package is missing.
            WeightsError: If this is no definition of one, or `clean` is unknown.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as err:
            raise MissingExtraError("tokenizers", "hf", "this model's tokenizer") from err
        if clean is not None and clean not in CLEANERS:
            raise WeightsError(f"a tokenizer wants texts cleaned by {clean!r}; known: {', '.join(CLEANERS)}")
        self.definition = definition
        self.context_length = context_length
        self.pad_id = pad_id
        self.clean = clean
        self.blank_id = blank_id
        self.max_tokens = max_tokens or context_length
        try:
            self._tokenizer: Any = Tokenizer.from_str(definition)
        except Exception as err:  # the library raises bare Exceptions
            raise WeightsError(f"this is no tokenizer.json: {err}") from err
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.max_tokens)

    @classmethod
    def of_file(cls, path: Path, context_length: int, pad_id: int, **options: Any) -> FastTokenizer:
        """Read a `tokenizer.json`.

        Args:
            path: The file.
            context_length: As in the constructor.
            pad_id: As in the constructor.
            **options: As in the constructor.

        Raises:
            WeightsError: As the constructor does, or if there is no such file.
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
        """
        text.encode()  # raises on half a surrogate pair with its position; the library only says "must be str"
        encoding = self._tokenizer.encode(CLEANERS[self.clean](text) if self.clean else text)
        ids = np.array(encoding.ids, np.int64)
        if self.blank_id is not None:
            ids[ids == self.blank_id] = 0
        return ids, bool(encoding.overflowing)
