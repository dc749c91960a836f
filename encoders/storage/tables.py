"""Schemas and record batches: documents and rows, with their vectors, as they stand in files."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ..columns import Column, ColumnPlan
from ..document import AccessPaths, Document
from ..errors import DatasetError, SpecError
from ..failure import Failure
from ..spec import EncoderSpec
from .plain import clean_text, json_text
from .provenance import provenance_of, with_provenance
from .rows import REST_KEY, TAGS
from .vectors import nested_vector_array, vector_array, vector_type

_NESTED = {"m": "matches", "c": "chunks"}
_TENSOR = pa.struct([("shape", pa.list_(pa.int32())), ("dtype", pa.string()), ("data", pa.binary())])
_DECLARED_KEY = b"clipmill.tag"
_STEP = re.compile(r"([mc])\[(\d+)\]")
_LONGEST_TEXT = 100_000
"""Characters of a text that a failure repeats for the second try."""


def documents_schema(
    spec: EncoderSpec,
    *,
    access_paths: str = "@r",
    keep_content: bool = False,
    tags: Mapping[str, pa.DataType] | None = None,
    dtype: str = "float32",
) -> pa.Schema:
    """Return the schema of embedded documents; it follows from the arguments, never from the documents.

    The columns are `id`, `uri`, `text`, `mime_type`, `tags` (a JSON object as a string) and `embedding`; `matches` and
    `chunks`, lists of structs with the same fields, as deep as `access_paths` goes (what it does not reach is not
    written); with `keep_content` also `blob` and `tensor` (shape, dtype, row-major bytes) of the root.

    Args:
        spec: What makes the vectors.
        access_paths: Which documents of a tree are embedded.
        keep_content: Whether `blob` and `tensor` are written.
        tags: Tags that get columns of their own, with their types. A value that does not fit stays in `tags`.
        dtype: `float32` or `float16`.

    Raises:
        SpecError: If a declared tag would take the name of another column.
    """
    fields = _document_fields(set(AccessPaths.parse(access_paths).paths), dtype)
    if keep_content:
        fields += [pa.field("blob", pa.binary()), pa.field("tensor", _TENSOR)]
    taken = [field.name for field in fields]
    for name, kind in (tags or {}).items():
        if name in taken:
            raise SpecError(f"the tag {name!r} cannot be a column of its own: documents have one of that name")
        fields.append(pa.field(name, kind, metadata={_DECLARED_KEY: b"1"}))
    provenance = provenance_of(spec, "auto")
    vectors = [name for name in ("embedding", *_NESTED.values()) if name in taken]
    return with_provenance(pa.schema(fields), dict.fromkeys(vectors, provenance))


def _document_fields(paths: set[str], dtype: str) -> list[pa.Field]:
    fields = [pa.field(name, pa.string()) for name in ("id", "uri", "text", "mime_type", "tags")]
    fields.append(pa.field("embedding", vector_type(dtype)))
    for letter, name in _NESTED.items():
        if below := {path[1:] for path in paths if path.startswith(letter)}:
            fields.append(pa.field(name, pa.list_(pa.struct(_document_fields(below, dtype)))))
    return fields


def documents_batch(documents: Sequence[Document], schema: pa.Schema, dim: int) -> pa.RecordBatch:
    """Return embedded documents as a batch.

    Args:
        documents: Of any number, also none.
        schema: As `documents_schema` made it.
        dim: Values in a vector.

    Raises:
        DatasetError: If an embedding has another shape.
    """
    declared = {field.name: field for field in schema if _DECLARED_KEY in (field.metadata or {})}
    columns = {name: [_fitting(d.tags.get(name), field.type) for d in documents] for name, field in declared.items()}
    tags = [_remaining_tags(d, {name: columns[name][row] for name in declared}) for row, d in enumerate(documents)]
    plain = [field for field in schema if field.name not in declared]
    made = dict(zip((field.name for field in plain), _document_arrays(documents, plain, dim, tags), strict=True))
    made |= {name: pa.array(values, declared[name].type) for name, values in columns.items()}
    return pa.RecordBatch.from_arrays([made[name] for name in schema.names], schema=schema)


def _remaining_tags(document: Document, written: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.tags.items() if written.get(name) is None}


def _fitting(value: Any, kind: pa.DataType) -> Any:
    """Return a value if Arrow takes it for the type, else None."""
    if isinstance(value, str):
        value = clean_text(value)
    try:
        pa.scalar(value, kind)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return None
    return value


def _document_arrays(
    documents: Sequence[Document], fields: Sequence[pa.Field], dim: int, tags: Sequence[Mapping[str, Any]]
) -> list[pa.Array]:
    make: dict[str, Callable[[pa.Field], pa.Array]] = {
        "tags": lambda field: pa.array([json_text(t) if t else None for t in tags], field.type),
        "embedding": lambda field: vector_array([d.embedding for d in documents], dim, _dtype(field.type)),
        "matches": lambda field: _nested_array([d.matches for d in documents], field.type, dim),
        "chunks": lambda field: _nested_array([d.chunks for d in documents], field.type, dim),
        "blob": lambda field: pa.array([d.blob for d in documents], field.type),
        "tensor": lambda field: pa.array([_tensor(d.tensor) for d in documents], field.type),
    }

    def strings(field: pa.Field) -> pa.Array:
        return pa.array([_string(getattr(d, field.name)) for d in documents], field.type)

    return [make.get(field.name, strings)(field) for field in fields]


def _nested_array(groups: Sequence[Sequence[Document]], kind: pa.DataType, dim: int) -> pa.Array:
    inner = list(itertools.chain.from_iterable(groups))
    fields = list(kind.value_type)
    structs = pa.StructArray.from_arrays(_document_arrays(inner, fields, dim, [d.tags for d in inner]), fields=fields)
    offsets = np.zeros(len(groups) + 1, np.int32)
    np.cumsum([len(group) for group in groups], out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), structs, type=kind)


def _tensor(tensor: np.ndarray | None) -> dict[str, Any] | None:
    if tensor is None:
        return None
    return {"shape": list(tensor.shape), "dtype": str(tensor.dtype), "data": tensor.tobytes()}


def _string(value: Any) -> str | None:
    return None if value is None else clean_text(str(value))


def _dtype(kind: pa.DataType) -> str:
    while pa.types.is_list(kind):
        kind = kind.value_type
    return "float16" if kind == pa.float16() else "float32"


def rows_schema(
    base: pa.Schema, plan: ColumnPlan, spec: EncoderSpec, *, drop: Sequence[str] = (), dtype: str = "float32"
) -> pa.Schema:
    """Return the schema of embedded rows: the columns of `base` without `drop`, then the plan's new ones.

    Args:
        base: Columns of the rows as they come; of arrays the new column holds lists of vectors.
        plan: What is embedded.
        spec: What makes the vectors.
        drop: Columns that are left out, such as photographs that need not be written again.
        dtype: `float32` or `float16`.

    Raises:
        SpecError: If a column is missing, or a new one would be written over an old one.
    """
    for name in drop:
        if name not in base.names:
            raise SpecError(f"drop names {name!r}, and the columns are {', '.join(map(repr, base.names))}")
    has_rest = any(REST_KEY in (field.metadata or {}) for field in base)
    fields = [field for field in base if field.name not in set(drop)]
    plan.check_free([field.name for field in fields])
    provenances = {}
    for path, column in plan.columns.items():
        kind = _type_at(base, path)
        if kind is None and not has_rest:
            raise SpecError(f"there is no column {path!r}; the columns are {', '.join(map(repr, base.names))}")
        fields += _new_fields(column, kind is not None and _is_array(kind), dtype)
        provenances[str(column.output)] = provenance_of(spec, column.modality)
    return with_provenance(pa.schema(fields, metadata=base.metadata), provenances)


def _new_fields(column: Column, nested: bool, dtype: str) -> list[pa.Field]:
    fields = [pa.field(str(column.output), vector_type(dtype, nested=nested))]
    return [*fields, pa.field(column.truncated, pa.bool_())] if column.truncated else fields


def _is_array(kind: pa.DataType) -> bool:
    types = pa.types
    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _type_at(schema: pa.Schema, path: str) -> pa.DataType | None:
    """Return the type at `a.b.c` of nested structs; a column that contains the dots itself wins."""
    if path in schema.names:
        return schema.field(path).type
    head, _, rest = path.partition(".")
    kind = schema.field(head).type if rest and head in schema.names else None
    return _type_at(pa.schema(list(kind)), rest) if kind is not None and pa.types.is_struct(kind) else None


def document_vectors(document: Document) -> list[np.ndarray | None]:
    """Return every vector of a document, those of its matches and chunks too."""
    own = [] if document.embedding is None else [document.embedding]
    return own + [vector for inner in (*document.matches, *document.chunks) for vector in document_vectors(inner)]


def row_vectors(row: Mapping[str, Any], plan: ColumnPlan) -> list[np.ndarray | None]:
    """Return every vector of an embedded row, None where it is null; an array column has one for each element."""
    values = [row.get(name) for name in plan.outputs]
    return [vector for value in values for vector in (value if isinstance(value, list) else [value])]


def rows_batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, plan: ColumnPlan, dim: int) -> pa.RecordBatch:
    """Return embedded rows as a batch.

    Args:
        rows: Old and new columns in one mapping; those that the schema lacks are left out (of JSON lines they go, as a
            JSON object, into `tags`).
        schema: As `rows_schema` made it.
        plan: What was embedded.
        dim: Values in a vector.

    Raises:
        DatasetError: If a value does not fit the type of its column, or a vector has another shape.
    """
    outputs = plan.outputs
    arrays = []
    for field in schema:
        if REST_KEY in (field.metadata or {}):
            known = {*schema.names, *plan.new_names} - {TAGS}
            arrays.append(pa.array([_rest(row, known) for row in rows], field.type))
            continue
        values = [row.get(field.name) for row in rows]
        if field.name not in outputs:
            arrays.append(_column(values, field))
        elif pa.types.is_list(field.type.value_type):
            arrays.append(nested_vector_array(values, dim, _dtype(field.type)))
        else:
            arrays.append(vector_array(values, dim, _dtype(field.type)))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _rest(row: Mapping[str, Any], known: set[str]) -> str | None:
    rest = {name: value for name, value in row.items() if name not in known and name != TAGS}
    tags = row.get(TAGS)
    if isinstance(tags, Mapping):
        rest = {**tags, **rest}
    elif tags is not None:
        rest = {TAGS: tags, **rest}
    return json_text(rest) if rest else None


def _column(values: list[Any], field: pa.Field) -> pa.Array:
    if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
        values = [_text_of(value) for value in values]
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as err:
        raise DatasetError(f"column {field.name!r} is {field.type}, and a row holds something else: {err}") from err


def _text_of(value: Any) -> str | None:
    return _string(value) if value is None or isinstance(value, str) else json_text(value)


# --- failures --------------------------------------------------------------------------------------------------------


def failure_records(document: Document, failures: Sequence[Failure] | None = None) -> list[dict[str, Any]]:
    """Return a document's failures as they are written: why, and what a second try needs.

    Each record stands for the one document that failed (`column` says where it was in the tree), and can be read again
    as a JSON line. Image bytes are never in it, nor in the URI: a data: URI is left out.

    Args:
        document: What was embedded, in part or not at all.
        failures: Its failures, where it does not carry them itself.
    """
    failures = document.failures if failures is None else failures
    return [{**failure.as_dict(), **_second_try(_document_at(document, failure.column))} for failure in failures]


def _document_at(document: Document, place: str | None) -> Document:
    for letter, number in _STEP.findall(place or ""):
        document = getattr(document, _NESTED[letter])[int(number)]
    return document


def _second_try(document: Document) -> dict[str, Any]:
    fields = {"id": document.id, **_content(document.text, document.uri), "mime_type": document.mime_type}
    if document.tags:
        fields["tags"] = document.tags
    return {name: value for name, value in fields.items() if value is not None}


def _content(text: str | None, uri: str | None) -> dict[str, Any]:
    is_short = text is not None and len(text) <= _LONGEST_TEXT
    is_place = uri is not None and not uri.lower().startswith("data:")
    return {**({"text": text} if is_short else {}), **({"uri": uri} if is_place else {})}


def row_failure_records(
    failures: Sequence[Failure], values: Mapping[str, Any], plan: ColumnPlan, get: Callable[[str], Any]
) -> list[dict[str, Any]]:
    """Return a row's failures as they are written: why, and the text or URI of the column for a second try.

    Args:
        failures: Each with its column.
        values: The row.
        plan: What was to be embedded.
        get: Returns the value at a path of the row, None where there is none.
    """
    records = []
    for failure in failures:
        path, _, element = (failure.column or "").partition("[")
        value = get(path) if path in plan.columns else None
        if element and isinstance(value, list | tuple):
            value = value[int(element.rstrip("]"))]
        is_text = path in plan.columns and plan.columns[path].modality == "text"
        value = value if isinstance(value, str) else None
        name = {"id": str(values[plan.key])} if values.get(plan.key) is not None else {}
        records.append({**failure.as_dict(), **name, **(_content(value, None) if is_text else _content(None, value))})
    return records
