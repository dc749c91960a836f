"""The columns of a dataset that hold vectors or scores, and the columns of their content."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..datasets.inputs.samples import PLACE_COLUMNS
from ..datasets.tables.column_types import is_list_type, type_at
from ..datasets.tables.provenance import read_provenance
from ..encoders.plans.rank_plan import CLIP_SCORE, COSINE
from ..errors import DatasetError

_DOCUMENTS_VECTORS = "embedding"
_NAMES = ("id", "key", "uri", "url")
"""Columns that name a row, where nobody says one."""
_IN_STRUCTS = (("uri", "path"), ("blob", "bytes"))
"""Fields of a struct that hold an image's URI and its bytes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Content:
    """The columns of a row's name and of the content of its vector.

    Attributes:
        name: Column that names the row; None where there is none.
        text: Column, or path into a struct, of a text.
        uri: Of a URI.
        blob: Of encoded bytes.
        media_type: Column with the media type of what the URI names.
        archive: Of the tar that holds the content, `offset` and `size` of the content in it.
    """

    name: str | None = None
    text: str | None = None
    uri: str | None = None
    blob: str | None = None
    media_type: str | None = None
    archive: str | None = None
    offset: str | None = None
    size: str | None = None

    def given(self) -> list[str]:
        """Return the columns that there are."""
        return list(dict.fromkeys(name for name in dataclasses.astuple(self) if name))


@dataclasses.dataclass(frozen=True, slots=True)
class VectorColumn:
    """A column of vectors.

    Attributes:
        is_nested: Whether a row has a list of vectors.
        provenance: Where they come from, as `provenance_of` says it; None where the file does not.
    """

    name: str
    is_nested: bool = False
    provenance: Mapping[str, Any] | None = None
    content: Content = Content()

    @property
    def dim(self) -> int | None:
        """Values in a vector, where the provenance says it."""
        return int(self.provenance["dim"]) if self.provenance and self.provenance.get("dim") else None


@dataclasses.dataclass(frozen=True, slots=True)
class ScoreColumn:
    """A column of scores.

    Attributes:
        is_list: Whether a row has a list of them, best first.
    """

    name: str
    is_list: bool
    labels: bool = False


def vector_columns(
    schema: pa.Schema,
    job: Mapping[str, Any] | None = None,
    *,
    names: Sequence[str] = (),
    content: Content | None = None,
) -> list[VectorColumn]:
    """Find the columns of vectors.

    Where the file says of some columns where their vectors come from, it is those; else all lists of floats.

    Args:
        schema: Of the files.
        job: What made them (`_job.json`), if that is known: it says which column was embedded.
        names: Takes these alone.
        content: The columns of their content, if the user names them.

    Raises:
        DatasetError: If one of `names` is no column of vectors, or `content` names a column that there is not.
    """
    check_content(schema, content)
    provenances = read_provenance(schema)
    there = {field.name: depth for field in schema if (depth := _depth(field.type))}
    if unknown := [name for name in names if name not in there]:
        raise DatasetError(
            f"{unknown[0]!r} is no column of vectors; those are {', '.join(map(repr, there)) or 'none'}, of the "
            f"columns {', '.join(map(repr, schema.names))}"
        )
    chosen = list(names) or [name for name in there if name in provenances] or list(there)
    return [
        VectorColumn(name, there[name] > 1, provenances.get(name), content or content_of(name, schema, job))
        for name in chosen
    ]


def check_content(schema: pa.Schema, content: Content | None) -> None:
    """Raise `DatasetError` for columns that there are not, naming one, and those that there are."""
    for name in content.given() if content else ():
        if type_at(schema, name) is None:
            raise DatasetError(f"there is no column {name!r}; the columns are {', '.join(map(repr, schema.names))}")


def _depth(kind: pa.DataType) -> int:
    """Return 1 for vectors, 2 for lists of them, 0 for all else."""
    depth = 0
    while is_list_type(kind):
        kind, depth = kind.value_type, depth + 1
    return depth if pa.types.is_floating(kind) and depth <= 2 else 0


def content_of(name: str, schema: pa.Schema, job: Mapping[str, Any] | None) -> Content:
    """Return the columns of the rows' names and of a column's content, from the job that made the files, if known."""
    names = schema.names
    key = next((one for one in _NAMES if one in names and type_at(schema, one) is not None), None)
    place = {name: name for name in PLACE_COLUMNS} if holds_places(schema) else {}
    for path, column in ((job or {}).get("columns") or {}).items():
        if column.get("output") == name:
            kind = type_at(schema, path)
            if kind is None:  # it was left out of the output
                return Content(key, **(place if column.get("modality") == "image" else {}))
            while is_list_type(kind):
                kind = kind.value_type
            is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind)
            if column.get("modality") == "text":
                return Content(key, text=path if is_string else None)
            if column.get("modality") == "image":
                return _image_content(key, path, kind)
            return Content(key)
    if name != _DOCUMENTS_VECTORS and job is not None:
        return Content(key)
    plain = {one: one for one in ("text", "uri", "url", "blob", "mime_type") if one in names}
    uri = plain.get("uri") or plain.get("url")
    return Content(key, plain.get("text"), uri, plain.get("blob"), plain.get("mime_type"), **place)


def _image_content(key: str | None, path: str, kind: pa.DataType) -> Content:
    """Return the columns of an image: a column of URIs, of bytes, or of structs with one or both."""
    if pa.types.is_struct(kind):
        inner = {field.name for field in kind}
        uri, blob = (next((name for name in names if name in inner), None) for names in _IN_STRUCTS)
        return Content(key, uri=uri and f"{path}.{uri}", blob=blob and f"{path}.{blob}")
    is_string = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return Content(key, uri=path if is_string else None, blob=path if _is_binary(kind) else None)


def holds_places(schema: pa.Schema) -> bool:
    """Return whether rows say where in a tar their content is."""
    return all(name in schema.names and schema.field(name).type == kind for name, kind in PLACE_COLUMNS.items())


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def score_columns(schema: pa.Schema) -> list[ScoreColumn]:
    """Find the columns of scores: ranked candidates, labels, ranked matches, and flat rows' `cosine`."""
    found = []
    for field in schema:
        is_list = is_list_type(field.type) and pa.types.is_struct(field.type.value_type)
        inner = [one.name for one in field.type.value_type] if is_list else []
        if COSINE in inner or "scores" in inner:
            found.append(ScoreColumn(field.name, True, "label" in inner))
        elif field.name == COSINE and pa.types.is_floating(field.type) and CLIP_SCORE in schema.names:
            found.append(ScoreColumn(COSINE, False))
    return found
