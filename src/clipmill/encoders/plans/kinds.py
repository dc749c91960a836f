"""What values of a row are to be ranked as: a modality, a vector that is there already, or what they look like."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np

from ...errors import SpecError
from ...failures import Code, RowError, Stage
from ...messages import setting
from ...models.spec import EncoderSpec
from ..document import Document
from ..item import AUDIO_FIELDS, AUDIO_RATES, AUDIO_SAMPLES, Item, is_pair, item_of_value
from ..outcome import Vector

Kind = Literal["auto", "text", "image", "audio", "vector"]
KINDS: tuple[Kind, ...] = ("auto", "text", "image", "audio", "vector")
"""`text`, `image` and `audio` are columns as `embed` takes them: strings in the last two are URIs. `vector` is a vector
of the same model. `auto` takes a string for a text, tells bytes and arrays by their content, and takes a struct for a
document: of `text`, `uri`, `blob` (or `bytes`), `tensor`, `embedding`, `mime_type`. A struct of Spark's `image` source
is the image, and one of samples and their rate is the sound."""

CONTENT = ("text", "uri", "blob", "bytes", "path", "tensor", "embedding")
"""Fields of which a struct that is ranked as a document has at least one."""

_SPARK_IMAGE = frozenset({"height", "width", "nChannels", "data"})


def check_kind(name: str, kind: Any, spec: EncoderSpec) -> None:
    """Refuse a kind that there is not, or that the model cannot embed.

    Args:
        name: The option that it was given as.
        kind: What was given.
        spec: The encoder.

    Raises:
        SpecError: Saying what is allowed.
    """
    if kind not in KINDS:
        raise SpecError(setting(name, kind) + f" must be one of {', '.join(map(repr, KINDS))}")
    if kind not in ("auto", "vector") and kind not in spec.modalities:
        raise SpecError(setting(name, kind) + f": {spec.model} embeds {' and '.join(sorted(spec.modalities))}")


def check_names(names: dict[str, object]) -> None:
    """Refuse names of columns that are none.

    Args:
        names: What was given, by option.

    Raises:
        SpecError: Naming the option.
    """
    for option, name in names.items():
        if not isinstance(name, str) or not name:
            raise SpecError(setting(option, name) + " names no column")


def item_of_kind(kind: Kind, value: Any) -> Item:
    """Make an item of a query or a candidate.

    Args:
        kind: What it is.
        value: As `KINDS` says. None is null; a `RowError` is a value that could not be read.

    Returns:
        The item; a value that fits no kind becomes an item that fails.
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
    """Make an item of a vector that is there already.

    Args:
        value: (dim,) numbers.
        modality: What it was made of, where that is known.

    Raises:
        RowError: If it is no list of numbers.
    """
    try:
        with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and fails as such
            values = np.asarray(value, np.float32)
    except (TypeError, ValueError, OverflowError) as err:  # the last: a whole number that no float holds
        # not numpy's own words: they repeat the content
        given = f"a vector is a flat list of numbers, got {type(value).__name__}"
        raise RowError(Stage.READ, Code.UNSUPPORTED, given) from err
    return Item("auto", Vector(values, modality=modality))


def document_item(document: Document) -> Item:
    """Return what of a document is ranked: its embedding if it has one, else its content; what could not be read fails.

    Returns:
        The item.
    """
    if document.failures or document.embedding is None:
        return document.item()
    modality = document.item().modality
    try:
        return vector_item(document.embedding, None if modality == "auto" else modality)
    except RowError as err:
        return Item("auto", failure=err)


def modality_of_struct(fields: Collection[str]) -> Literal["image", "audio"] | None:
    """Return what a struct is that holds decoded content: Spark's image, or a sound's samples with their rate.

    Args:
        fields: Their names.

    Returns:
        None for other structs, such as documents.
    """
    names = set(fields)
    if names >= _SPARK_IMAGE:
        return "image"
    is_sound = names <= AUDIO_FIELDS and not names.isdisjoint(AUDIO_SAMPLES) and not names.isdisjoint(AUDIO_RATES)
    return "audio" if is_sound else None


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
            "of kind 'auto' a value is a string (a text), bytes, an array of pixels, or a struct of text, uri, blob, …;"
            f" got {type(value).__name__}; vectors that were made before are of kind 'vector'",
        )
    return Item("auto", bytes(value) if isinstance(value, bytearray | memoryview) else value)


def _document_of(struct: Mapping[str, Any]) -> Document:
    if not struct.keys() & set(CONTENT):
        raise RowError(
            Stage.READ,
            Code.UNSUPPORTED,
            f"a struct that is ranked as a document has one of {', '.join(CONTENT)}; got {sorted(map(str, struct))}",
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
