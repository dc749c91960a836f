"""Tokenizers of Hugging Face, as open_clip wraps them: for text towers that do not read CLIP's own encoding."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np


class HubTokenizer:
    """An open_clip `HFTokenizer` or `SigLipTokenizer`, one text at a time.

    Attributes:
        context_length: Ids of one text, padding included.
        pad_id: What rows are filled up with.
    """

    def __init__(self, wrapped: Any) -> None:
        """Wrap.

        Args:
            wrapped: What `open_clip.get_tokenizer` returned.
        """
        self._wrapped = wrapped
        self._lock = threading.Lock()  # the Rust tokenizers keep truncation as state: not for two threads at once
        self.context_length: int = wrapped.context_length
        self.pad_id: int = wrapped.tokenizer.pad_token_id or 0

    def __call__(self, text: str) -> tuple[np.ndarray, bool]:
        """Return (context_length,) int64 ids and whether the text was cut."""
        with self._lock:
            ids = self._wrapped([text])[0].numpy()
            whole = self._wrapped.tokenizer(self._wrapped.clean_fn(text), truncation=False).input_ids
        return ids.astype(np.int64), len(whole) > self.context_length
