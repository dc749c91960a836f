"""The vector cache: equal values are embedded once. It maps content to vectors and is bounded in bytes.

Each encoder has one cache, which its sessions share. Ranking a thousand queries against the same labels therefore
encodes the labels once. The key of a text is the text itself, that of encoded bytes is their digest, and that of a URI
is the URI (for a limited time, since its content may change). Arrays and other objects are not cached, and neither are
files that a job listed itself: each occurs once, and a file that was replaced since the last job needs a new vector.

Sessions that run at the same time in one process may each encode a value that is new to both. If they waited for each
other's incomplete micro-batches, they could deadlock.
"""

from __future__ import annotations

import collections
import hashlib
import threading
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

from .item import Item, Uri
from .outcome import Vector

URI_SECONDS = 300.0
"""Seconds for which the vector of a URI's content is kept."""

_OVERHEAD = 600
"""Bytes of the Python objects around one vector."""
_LONGEST_KEY = 256
"""Characters up to which a text is its own key. For short texts, a digest costs more than it saves."""


class Key(NamedTuple):
    """The cache key of a value.

    Attributes:
        modality: The modality of its item.
        kind: `text`, `bytes` or `uri`.
        content: The text or URI, or its digest if it is long; for bytes their digest.
        media_type: The declared media type.
    """

    modality: str
    kind: str
    content: Hashable
    media_type: str | None


class _Entry(NamedTuple):
    vector: Vector
    nbytes: int
    expires: float | None


def key_of(item: Item) -> Key | None:
    """Return the cache key of a value, or None if it is not cached."""
    content = item.content
    if isinstance(content, str):
        return Key(item.modality, "text", _text_key(content), item.media_type)
    if isinstance(content, bytes):
        return Key(item.modality, "bytes", _digest(content), item.media_type)
    if isinstance(content, Uri) and not content.trusted:
        # a data: URI may be as long as a file
        return Key(item.modality, "uri", _text_key(content.uri), item.media_type)
    return None


def _text_key(text: str) -> str | bytes:
    return text if len(text) <= _LONGEST_KEY else _digest(text.encode("utf-8", "surrogatepass"))


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=20).digest()


def copy_of(vector: Vector) -> Vector:
    """Return a copy of a vector with its own values."""
    # not dataclasses.replace, which takes five times as long
    return Vector(vector.values.copy(), vector.truncated, vector.media_type, vector.modality, vector.content_hash)


class VectorCache:
    """The vectors of an encoder's most recently used values. It may be used by several threads at once."""

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty.

        Args:
            max_bytes: Maximum bytes of vectors, keys and their Python objects together. 0 disables the cache.
            clock: Returns the time in seconds, for the expiry of URIs.
        """
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: collections.OrderedDict[Key, _Entry] = collections.OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    @property
    def enabled(self) -> bool:
        """Whether vectors are kept at all."""
        return self._max_bytes > 0

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Vector | None:
        """Return a copy of the vector of an equal value, or None if there is none."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            if entry.expires is not None and entry.expires <= self._clock():
                self._remove(key)
                return None
            self._entries.move_to_end(key)
        return copy_of(entry.vector)

    def put(self, key: Key, vector: Vector) -> None:
        """Store a copy of a vector, and evict the least recently used ones if necessary."""
        nbytes = int(vector.values.nbytes) + len(vector.content_hash or "") + _key_bytes(key) + _OVERHEAD
        if nbytes > self._max_bytes:
            return
        expires = self._clock() + URI_SECONDS if key.kind == "uri" else None
        entry = _Entry(copy_of(vector), nbytes, expires)  # a view would keep its whole micro-batch alive
        with self._lock:
            if key in self._entries:
                self._remove(key)
            self._entries[key] = entry
            self._nbytes += nbytes
            while self._nbytes > self._max_bytes:
                self._remove(next(iter(self._entries)))

    def _remove(self, key: Key) -> None:
        self._nbytes -= self._entries.pop(key).nbytes


def _key_bytes(key: Key) -> int:
    content = key.content
    return 4 * len(content) if isinstance(content, str) else len(content)  # type: ignore[arg-type]
