"""CLIP's byte-pair encoding, with the same ids as OpenAI's and open_clip's tokenizers, bounded in time and memory.

The algorithm is byte-level BPE on lower-cased text (Sennrich et al. 2016; Radford et al. 2019). Ids: 256 byte symbols,
the same 256 at the end of a word, 48,894 merges, then start and end of text, 49,408 in all. The merges are read from
OpenAI's table, which comes with the demo model. Only the cost differs from the reference: it stops merging when the
context is full, caches a bounded number of short words, and reads only the beginning of an extremely long one.
"""

from __future__ import annotations

import functools
import gzip
import itertools
from pathlib import Path

import numpy as np
import regex

from ..demo import VOCABULARY, demo_directory
from .cleaning import clean_lower

_END_OF_WORD = "</w>"
_START, _END = "<start_of_text>", "<end_of_text>"
_MERGES = 49152 - 256 - 2
_PATTERN = regex.compile(
    rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+", regex.IGNORECASE
)
_CACHED_WORDS, _MAX_CACHED_CHARS = 65_536, 64
_MAX_WORD_BYTES = 4_096
"""Bytes of a word that are read. No id stands for more than 32 bytes, so these exceed a context of 77 tokens."""


def vocabulary_file() -> Path:
    """Return OpenAI's table of merges, which every CLIP uses."""
    return demo_directory() / VOCABULARY


@functools.cache
def _byte_symbols() -> dict[int, str]:
    """Return a printable symbol for every byte: itself if it is printable Latin-1, else the next free code point."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    unprintable = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(unprintable)}


class ClipTokenizer:
    """Turns a text into the token ids of a CLIP text tower.

    Attributes:
        context_length: The most ids of one text that the tower reads, start and end included.
        pad_id: The id that pads shorter rows.
        max_tokens: Texts are cut to this many ids.
        vocabulary: The file of the table of merges.
    """

    pad_id = 0

    def __init__(
        self, context_length: int = 77, vocabulary: Path | None = None, *, max_tokens: int | None = None
    ) -> None:
        """Read the merges.

        Args:
            context_length: The most ids of one text.
            vocabulary: The gzipped table of merges; OpenAI's by default.
            max_tokens: Texts are cut to this many ids; the context length by default.
        """
        self.context_length = context_length
        self.max_tokens = max_tokens or context_length
        self.vocabulary = vocabulary or vocabulary_file()
        lines = gzip.decompress(self.vocabulary.read_bytes()).decode("utf-8").split("\n")
        merges = lines[1 : _MERGES + 1]  # kept as lines: splitting 50,000 of them takes longer than the rest
        symbols = list(_byte_symbols().values())
        words = [*symbols, *(s + _END_OF_WORD for s in symbols), *(m.replace(" ", "") for m in merges), _START, _END]
        self._ids = dict(zip(words, range(len(words)), strict=True))
        self._ranks = dict(zip(merges, range(len(merges)), strict=True))
        self._special = {_START: (self._ids[_START],), _END: (self._ids[_END],)}
        self._encode_word = functools.lru_cache(maxsize=_CACHED_WORDS)(self._split_word)

    def __call__(self, text: str) -> tuple[np.ndarray, bool]:
        """Tokenise a text.

        Args:
            text: Any string.

        Returns:
            (n,) int64: start, tokens, end, n up to `max_tokens`; and whether tokens were cut off (the last is then the
            end token, as in the reference).
        """
        room = self.max_tokens - 2
        tokens: list[int] = []
        for match in _PATTERN.finditer(clean_lower(text)):
            word = match.group()
            tokens.extend(self._encode_word(word) if len(word) <= _MAX_CACHED_CHARS else self._split_word(word))
            if len(tokens) > room:
                break
        ids = np.array([self._ids[_START], *tokens[:room], self._ids[_END]], np.int64)
        return ids, len(tokens) > room

    def _split_word(self, word: str) -> tuple[int, ...]:
        """Merge a word's symbols, always the pair of the lowest rank, until no pair is in the table."""
        if word in self._special:
            return self._special[word]
        symbols = [_byte_symbols()[byte] for byte in word.encode("utf-8")[:_MAX_WORD_BYTES]]
        symbols[-1] += _END_OF_WORD
        unknown = len(self._ranks)
        while len(symbols) > 1:
            pairs = itertools.pairwise(symbols)
            rank, first, second = min((self._ranks.get(f"{a} {b}", unknown), a, b) for a, b in pairs)
            if rank == unknown:
                break
            symbols = _merge(symbols, first, second)
        return tuple(self._ids[symbol] for symbol in symbols)


def _merge(symbols: list[str], first: str, second: str) -> list[str]:
    merged: list[str] = []
    position = 0
    while position < len(symbols):
        if symbols[position] == first and symbols[position + 1 : position + 2] == [second]:
            merged.append(first + second)
            position += 2
        else:
            merged.append(symbols[position])
            position += 1
    return merged
