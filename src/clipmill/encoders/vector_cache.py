"""Equal values are embedded once: a cache of vectors by what they were made of, bounded in bytes.

Each encoder of a process has one, shared by its sessions: whoever ranks a thousand queries against the same labels
encodes the labels once. Texts are known by themselves, encoded bytes by their digest, URIs by their spelling (and for a
while only: what they name may change). Arrays and other objects are never looked up, nor are files that a job listed
itself: each comes once, and one that was replaced since the last job must not get its old vector.

Sessions that run at the same moment in one process may each encode a value that is new to both: waiting for each
other's half-filled micro-batches could go on for ever.
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
"""How long the vector of a URI's content is believed."""

_OVERHEAD = 600
"""Bytes of the Python objects around one vector."""
_LONGEST_KEY = 256
"""Characters up to which a text is its own key; a digest costs more time than it saves memory below."""


class Key(NamedTuple):
    """What a value is known by.

    Attributes:
        modality: What it is embedded as.
        kind: `text`, `bytes` or `uri`.
        content: The text or URI (its digest if it is long), the bytes' digest.
        media_type: What the owner says it is.
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
    """Return what a value is known by, None for what is not looked up."""
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
    """Return a vector whose values are the caller's own."""
    # not dataclasses.replace, which takes five times as long
    return Vector(vector.values.copy(), vector.truncated, vector.media_type, vector.modality, vector.content_hash)


class VectorCache:
    """The vectors of an encoder's most recent values. Safe for many threads."""

    def __init__(self, max_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Start empty.

        Args:
            max_bytes: What vectors, keys and their objects may take together; 0 keeps nothing.
            clock: Tells the seconds by which URIs grow old.
        """
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: collections.OrderedDict[Key, _Entry] = collections.OrderedDict()
        self._nbytes = 0
        self._lock = threading.Lock()

    @property
    def enabled(self) -> bool:
        """Whether anything is ever kept."""
        return self._max_bytes > 0

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return self._nbytes

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Key) -> Vector | None:
        """Return the vector of an equal value, the caller's own copy; None if there is none."""
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
        """Keep a copy of a vector, and let go of those that were not asked for longest."""
        nbytes = int(vector.values.nbytes) + len(vector.content_hash or "") + _key_bytes(key) + _OVERHEAD
        if nbytes > self._max_bytes:
            return
        expires = self._clock() + URI_SECONDS if key.kind == "uri" else None
        entry = _Entry(copy_of(vector), nbytes, expires)  # a view would keep all of its micro-batch
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
