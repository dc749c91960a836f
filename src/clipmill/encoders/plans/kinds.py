"""Kinds of queries and candidates: a modality, a precomputed vector, or `auto`, and their conversion to items."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np

from ...errors import SpecError, check_choice
from ...failures import Code, RowError, Stage
from ...messages import setting
from ...models.spec import EncoderSpec
from ..document import Document
from ..item import AUDIO_FIELDS, AUDIO_RATES, AUDIO_SAMPLES, SPARK_IMAGE_FIELDS, Item, is_pair, item_of_value
from ..outcome import Vector

Kind = Literal["auto", "text", "image", "audio", "vector"]
KINDS: tuple[Kind, ...] = ("auto", "text", "image", "audio", "vector")
"""`text`, `image` and `audio` accept the same values as in `embed`: a string in the last two is a URI. `vector` is a
vector of the same model. With `auto`, a string is a text, bytes and arrays are identified by their content, and a
struct is a document with `text`, `uri`, `blob` (or `bytes`), `tensor`, `embedding` or `mime_type`. However, a struct of
Spark's `image` source is an image, and a struct of samples and sample rate is an audio clip."""

CONTENT = ("text", "uri", "blob", "bytes", "path", "tensor", "embedding")
"""A struct that is ranked as a document has at least one of these fields."""


def check_kind(name: str, kind: Any, spec: EncoderSpec) -> None:
    """Raise `SpecError` if the kind that option `name` has is unknown, or the model cannot embed it."""
    check_choice(name, kind, KINDS)
    if kind not in ("auto", "vector") and kind not in spec.modalities:
        raise SpecError(setting(name, kind) + f": {spec.model} embeds {' and '.join(sorted(spec.modalities))}")


def check_names(names: dict[str, object]) -> None:
    """Raise `SpecError`, naming the option, if a given name of a column is not a non-empty string."""
    for option, name in names.items():
        if not isinstance(name, str) or not name:
            raise SpecError(setting(option, name) + " names no column")


def item_of_kind(kind: Kind, value: Any) -> Item:
    """Convert a query or a candidate, a value of its kind (see `KINDS`), to an item.

    None is null; a `RowError` is a value that could not be read.

    Returns:
        The item. A value that is not of that kind becomes an item with a failure.
    """
    if value is None:
        return Item("auto")
    if isinstance(value, RowError):
        return Item("auto", failure=value)
    try:
        if kind == "vector":
            return vector_item(value)
        if kind != "auto":
            return item_of_value(kind, value)
        return _item_of_any(value)
    except RowError as err:
        return Item("auto", failure=err)


def vector_item(value: Any, modality: str | None = None) -> Item:
    """Convert a precomputed vector, (dim,) numbers, to an item; raise `RowError` if it is not a list of numbers."""
    try:
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, and the vector fails later
            values = np.asarray(value, np.float32)
    except (TypeError, ValueError, OverflowError) as err:  # OverflowError: an integer beyond the range of floats
        # without numpy's message, which quotes the content
        given = f"a vector is a flat list of numbers, got {type(value).__name__}"
        raise RowError(Stage.READ, Code.UNSUPPORTED, given) from err
    return Item("auto", Vector(values, modality=modality))


def document_item(document: Document) -> Item:
    """Return the item by which a document is ranked: its embedding if it has one, else its content.

    A document that could not be read gives an item with the same failure.
    """
    if document.failures or document.embedding is None:
        return document.item()
    modality = document.item().modality
    try:
        return vector_item(document.embedding, None if modality == "auto" else modality)
    except RowError as err:
        return Item("auto", failure=err)


def modality_of_struct(fields: Collection[str]) -> Literal["image", "audio"] | None:
    """Return the modality of a struct with these fields: Spark's image, or samples and their rate; else None."""
    names = set(fields)
    if names >= SPARK_IMAGE_FIELDS:
        return "image"
    is_audio = names <= AUDIO_FIELDS and not names.isdisjoint(AUDIO_SAMPLES) and not names.isdisjoint(AUDIO_RATES)
    return "audio" if is_audio else None


def _item_of_any(value: Any) -> Item:
    if isinstance(value, str):
        return Item("text", value)
    if isinstance(value, Document):
        return document_item(value)
    if isinstance(value, Mapping):
        modality = modality_of_struct(value.keys())
        return document_item(_document_of(value)) if modality is None else item_of_value(modality, value)
    if isinstance(value, numbers.Number | np.generic | list) or (isinstance(value, tuple) and not is_pair(value)):
        raise RowError(
            Stage.READ,
            Code.UNSUPPORTED,
            "a value of kind 'auto' is a string (a text), bytes, an array of pixels, or a struct of text, uri, blob, …;"
            f" got {type(value).__name__}; precomputed vectors are of kind 'vector'",
        )
    return Item("auto", bytes(value) if isinstance(value, bytearray | memoryview) else value)


def _document_of(struct: Mapping[str, Any]) -> Document:
    if not struct.keys() & set(CONTENT):
        raise RowError(
            Stage.READ,
            Code.UNSUPPORTED,
            f"a struct ranked as a document needs one of {', '.join(CONTENT)}; got {sorted(map(str, struct))}",
        )
    plain = {name: struct[name] for name in ("text", "uri", "mime_type") if struct.get(name) is not None}
    if "uri" not in plain and struct.get("path") is not None:
        plain["uri"] = struct["path"]
    tags = struct.get("tags")
    document = Document.from_dict({**plain, "tags": tags if isinstance(tags, Mapping) else {}})
    blob = struct.get("blob") if struct.get("blob") is not None else struct.get("bytes")
    if blob is not None:
        if not isinstance(blob, bytes | bytearray | memoryview | np.ndarray):
            raise RowError(Stage.READ, Code.UNSUPPORTED, f"blob is bytes, got {type(blob).__name__}")
        document.blob = blob if isinstance(blob, bytes) else None if isinstance(blob, np.ndarray) else bytes(blob)
        document.tensor = blob if isinstance(blob, np.ndarray) else None
    if struct.get("tensor") is not None:
        document.tensor = struct["tensor"]
    document.embedding = struct.get("embedding")
    return document
