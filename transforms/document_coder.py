"""The coder of a `Document` between workers: arrays as bytes, the rest as one tuple.

Beam would take the dataclass for a row and ask for a schema, which arrays, tags and nested documents do not have.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from apache_beam.coders import Coder
from apache_beam.coders.typecoders import registry

from ..encoders.document import Document


class DocumentCoder(Coder):
    """Encodes documents; registered for `Document`. Decoded documents own their arrays, which may be changed."""

    def encode(self, value: Document) -> bytes:
        """Return the document as bytes."""
        return pickle.dumps(_pack(value), protocol=5)

    def decode(self, encoded: bytes) -> Document:
        """Return the document that `encode` got."""
        return _unpack(pickle.loads(encoded))

    def is_deterministic(self) -> bool:
        """Return False: equal tags may stand in another order, so documents are no keys."""
        return False

    def to_type_hint(self) -> type[Document]:
        """Return `Document`."""
        return Document

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


def _pack(document: Document) -> tuple[Any, ...]:
    return (
        document.text,
        document.uri,
        document.blob,
        _pack_array(document.tensor),
        document.id,
        document.tags,
        document.matches and [_pack(inner) for inner in document.matches],
        document.chunks and [_pack(inner) for inner in document.chunks],
        document.mime_type,
        _pack_array(document.embedding),
        document.scores,
        document.failures,
        document._trusted_uri,
    )


def _unpack(packed: tuple[Any, ...]) -> Document:
    text, uri, blob, tensor, id, tags, matches, chunks, mime_type, embedding, scores, failures, trusted = packed
    document = Document(
        text,
        uri,
        blob,
        _unpack_array(tensor),
        id,
        tags,
        matches and [_unpack(inner) for inner in matches],
        chunks and [_unpack(inner) for inner in chunks],
        mime_type,
        _unpack_array(embedding),
        scores,
        failures,
    )
    document._trusted_uri = trusted
    return document


def _pack_array(array: Any) -> Any:
    """Return the bytes of a vector, bytes with dtype and shape of other arrays, and other values unchanged."""
    if not isinstance(array, np.ndarray) or array.dtype.hasobject:
        return array  # None, or something whose failure is for `Embed` to say
    if array.dtype == np.float32 and array.ndim == 1:
        return array.tobytes()
    return array.dtype.str, array.shape, array.tobytes()


def _unpack_array(packed: Any) -> Any:
    # Copied, since a view of the message would be read-only.
    if isinstance(packed, bytes):
        return np.frombuffer(packed, np.float32).copy()
    if isinstance(packed, tuple) and len(packed) == 3:
        dtype, shape, data = packed
        return np.frombuffer(data, dtype).reshape(shape).copy()
    return packed


registry.register_coder(Document, DocumentCoder)
