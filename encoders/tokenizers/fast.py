"""Tokenizers of Hugging Face's Rust library, from their `tokenizer.json`: no transformers, no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import WeightsError


class FastTokenizer:
    """One `tokenizer.json` with a limit. Safe for many threads: nothing is set after it is made.

    Attributes:
        context_length: The most ids of one text, special tokens included.
        pad_id: What fills up rows of ids of unequal length.
    """

    def __init__(
        self, definition: str, context_length: int, pad_id: int, clean: Callable[[str], str] | None = None
    ) -> None:
        """Read the definition.

        Args:
            definition: The text of a `tokenizer.json`.
            context_length: The most ids of one text, special tokens included; longer ones are cut on the right.
            pad_id: What fills up rows.
            clean: Applied to each text first.

        Raises:
            WeightsError: If the `tokenizers` package is missing, or this is no definition of one.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError as err:
            raise WeightsError("this model's tokenizer needs: pip install 'clipmill[hf]'") from err
        self.definition = definition
        self.context_length = context_length
        self.pad_id = pad_id
        self._clean = clean
        try:
            self._tokenizer: Any = Tokenizer.from_str(definition)
        except Exception as err:  # the library raises bare Exceptions
            raise WeightsError(f"this is no tokenizer.json: {err}") from err
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(context_length)

    @classmethod
    def of_file(cls, path: Path, context_length: int, pad_id: int) -> FastTokenizer:
        """Read a `tokenizer.json`.

        Raises:
            WeightsError: As the constructor does, or if there is no such file.
        """
        try:
            return cls(path.read_text(encoding="utf-8"), context_length, pad_id)
        except OSError as err:
            raise WeightsError(f"no tokenizer at {str(path)!r}: {err}") from err

    def __call__(self, text: str) -> tuple[np.ndarray, bool]:
        """Return (n,) int64 ids, special tokens included, and whether the text was cut."""
        encoding = self._tokenizer.encode(self._clean(text) if self._clean else text)
        return np.array(encoding.ids, np.int64), bool(encoding.overflowing)
