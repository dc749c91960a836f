"""Schemas and record batches of finished documents and rows, as files hold them."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...encoders.document import Document
from ...encoders.plans.document_embed_plan import EMBEDDING, LABELS_TAG, DocumentEmbedPlan
from ...encoders.plans.plan import REJECTION, DocumentPlan, RowPlan
from ...errors import DatasetError, SpecError
from ...files.json_text import clean_text, exact_json, json_text
from ...messages import setting
from ...models.spec import EncoderSpec
from .carried import carried_batches, carried_column
from .column_types import REST_KEY, TAGS, as_type, dropped_names, field_names
from .hugging_face_features import with_features
from .new_columns import LABELS, REASON, new_array, new_field, new_provenance, row_fields, row_provenances
from .provenance import with_provenance
from .python_values import value_array
from .vectors import dtype_of, vector_array

_NESTED = {"m": "matches", "c": "chunks"}
_TENSOR = pa.struct([("shape", pa.list_(pa.int32())), ("dtype", pa.string()), ("data", pa.binary())])
_DECLARED_KEY = b"clipmill.tag"
CONTENT_HASH = "content_hash"
"""Column of the content hash of each row that was embedded completely."""


def documents_schema(
    spec: EncoderSpec,
    *,
    access_paths: str = "@r",
    keep_content: bool = False,
    tags: Mapping[str, pa.DataType] | None = None,
    dtype: str = "float32",
    plan: DocumentPlan | None = None,
) -> pa.Schema:
    """Return the schema of finished documents; it depends on the arguments only, never on the documents.

    The columns are `id`, `uri`, `text`, `mime_type`, `tags` (a JSON object as a string) and `embedding`; `matches` and
    `chunks`, lists of structs with the same fields, as deep as `access_paths` goes (deeper documents are not written);
    and with `keep_content` also `blob` and `tensor` (shape, dtype, row-major bytes) of the root.

    Classified documents have `labels` instead of `embedding`. Ranked documents have `matches`; each match has `scores`
    (`clip_score`, `cosine`, `position`) or, without scores, its `failure`. They have embeddings only if the plan keeps
    them.

    Args:
        spec: Encoder of the vectors.
        access_paths: Which documents of a tree are embedded.
        keep_content: Whether `blob` and `tensor` are written.
        tags: Tags that become separate columns, with their types. A value that does not fit its type stays in `tags`.
        dtype: `float32` or `float16`.
        plan: The operation on the documents, if it is not embedding; it replaces `access_paths` and `keep_content`.

    Raises:
        SpecError: If a tag has the name of another column.
    """
    plan = DocumentEmbedPlan(access_paths, keep_content) if plan is None else plan
    fields = _document_fields("", plan, dtype)
    if plan.keep_content:
        fields += [pa.field("blob", pa.binary()), pa.field("tensor", _TENSOR)]
    taken = [field.name for field in fields]
    for name, kind in (tags or {}).items():
        if name in taken:
            raise SpecError(f"the tag {name!r} cannot be a separate column: documents have a column of that name")
        fields.append(pa.field(name, kind, metadata={_DECLARED_KEY: b"1"}))
    made = [name for name in (EMBEDDING, LABELS_TAG, *_NESTED.values()) if name in taken]
    return with_provenance(pa.schema(fields), dict.fromkeys(made, new_provenance(plan, spec)))


def _document_fields(place: str, plan: DocumentPlan, dtype: str) -> list[pa.Field]:
    fields = [pa.field(name, pa.string()) for name in ("id", "uri", "text", "mime_type", "tags")]
    fields += [new_field(column, dtype) for column in plan.added(place)]
    for letter, name in _NESTED.items():
        if any(path.startswith(place + letter) for path in plan.tree_paths):
            inner = _document_fields(place + letter, plan, dtype)
            fields.append(pa.field(name, pa.list_(pa.struct(inner))))
    return fields


def documents_batch(documents: Sequence[Document], schema: pa.Schema, dim: int) -> pa.RecordBatch:
    """Return finished documents as a batch.

    Args:
        documents: Any number of documents; may be empty.
        schema: Schema from `documents_schema`.
        dim: Number of values in a vector.

    Raises:
        DatasetError: If an embedding has another shape.
    """
    declared = {field.name: field for field in schema if _DECLARED_KEY in (field.metadata or {})}
    columns = {name: [_fitting(d.tags.get(name), field.type) for d in documents] for name, field in declared.items()}
    tags = [_remaining_tags(d, {name: columns[name][row] for name in declared}) for row, d in enumerate(documents)]
    plain = [field for field in schema if field.name not in declared]
    made = dict(zip((field.name for field in plain), _document_arrays(documents, plain, dim, tags), strict=True))
    made |= {name: value_array(values, declared[name].type) for name, values in columns.items()}
    return pa.RecordBatch.from_arrays([made[name] for name in schema.names], schema=schema)


def with_content_hash(schema: pa.Schema, *, of_documents: bool) -> pa.Schema:
    """Return the schema with a column for the content hash, a tag in documents; raise `SpecError` if it has one."""
    if CONTENT_HASH in schema.names:
        raise SpecError(
            f"column {CONTENT_HASH!r} exists already, and " + setting("content_hash", True) + " adds one of that name",
            hint="drop the existing column",
        )
    metadata = {_DECLARED_KEY: b"1"} if of_documents else None
    return with_provenance(schema.append(pa.field(CONTENT_HASH, pa.string(), metadata=metadata)), {})


def with_rejection(schema: pa.Schema) -> pa.Schema:
    """Return the schema of rejected rows: that of rows, with a column for the reason."""
    return with_provenance(schema.append(pa.field(REJECTION, pa.string())), {})


def _remaining_tags(document: Document, written: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.tags.items() if written.get(name) is None}


def _fitting(value: Any, kind: pa.DataType) -> Any:
    """Return a value as pyarrow takes it for the type, None if the type cannot hold it without loss."""
    try:
        value_array([value], kind)
    except (pa.ArrowException, ValueError, TypeError, OverflowError):
        return None
    return value


def _document_arrays(
    documents: Sequence[Document], fields: Sequence[pa.Field], dim: int, tags: Sequence[Mapping[str, Any]]
) -> list[pa.Array]:
    labels: Sequence[Any] = [None] * len(documents)
    if any(field.name == LABELS_TAG for field in fields):
        labels = [_fitting(d.tags.get(LABELS_TAG), LABELS) for d in documents]
        tags = [_without(LABELS_TAG, t) if own else t for t, own in zip(tags, labels, strict=True)]
    make: dict[str, Callable[[pa.Field], pa.Array]] = {
        "tags": lambda field: pa.array([_tags_text(t) for t in tags], field.type),
        LABELS_TAG: lambda field: pa.array(labels, field.type),
        "scores": lambda field: pa.array([d.scores or None for d in documents], field.type),
        "failure": lambda field: pa.array([_reason(d) for d in documents], field.type),
        EMBEDDING: lambda field: vector_array([d.embedding for d in documents], dim, dtype_of(field.type)),
        "matches": lambda field: _nested_array([d.matches for d in documents], field.type, dim),
        "chunks": lambda field: _nested_array([d.chunks for d in documents], field.type, dim),
        "blob": lambda field: pa.array([d.blob for d in documents], field.type),
        "tensor": lambda field: pa.array([_tensor(d.tensor) for d in documents], field.type),
    }

    def strings(field: pa.Field) -> pa.Array:
        return pa.array([_string(getattr(d, field.name)) for d in documents], field.type)

    return [make.get(field.name, strings)(field) for field in fields]


def _tags_text(tags: Mapping[str, Any]) -> str | None:
    try:
        return exact_json(tags) if tags else None
    except TypeError as err:
        raise DatasetError(f"the tag {err}; convert it, give its column a type, or leave it out") from err


def _without(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _reason(document: Document) -> dict[str, Any] | None:
    """Return the first failure of a document as a value of the type `REASON`."""
    if not document.failures:
        return None
    failure = document.failures[0].as_dict()
    return {name: clean_text(failure[name]) for name in field_names(REASON)}


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


def rows_schema(
    base: pa.Schema, plan: RowPlan, spec: EncoderSpec, *, drop: Sequence[str] = (), dtype: str = "float32"
) -> pa.Schema:
    """Return the schema of finished rows: the columns of `base` without `drop`, then the columns that the plan adds.

    Args:
        base: The input columns; if one is an array, the new column holds lists of vectors.
        plan: The operation on the rows.
        spec: Encoder of the vectors.
        drop: Columns that are not written, such as images that need not be stored twice.
        dtype: `float32` or `float16`, of vectors.

    Raises:
        SpecError: If a column is missing or has an unsupported type, or a new column would overwrite an existing one.
    """
    holds_rest = any(REST_KEY in (field.metadata or {}) for field in base)
    for name in drop:
        if name not in base.names and not holds_rest:  # JSON lines may hold it undeclared
            raise SpecError(f"drop names {name!r}, and the columns are {', '.join(map(repr, base.names))}")
    fields = [_without_rest(field, drop) for field in base if field.name not in set(drop)]
    plan.check_free([field.name for field in fields])
    fields += row_fields(plan, base, dtype)
    schema = with_features(pa.schema(fields, metadata=base.metadata))
    return with_provenance(schema, row_provenances(plan, spec))


def _without_rest(field: pa.Field, drop: Sequence[str]) -> pa.Field:
    """Add the dropped fields to the metadata of the column that takes undeclared fields."""
    metadata = dict(field.metadata or {})
    if REST_KEY not in metadata or not drop:
        return field
    return field.with_metadata({**metadata, REST_KEY: json.dumps(sorted(set(drop))).encode()})


def rows_batch(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, plan: RowPlan, dim: int) -> pa.RecordBatch:
    """Return finished rows as a batch.

    Args:
        rows: Input and new columns of each row in one mapping. Columns that the schema lacks are dropped, or for JSON
            lines added to `tags` as a JSON object.
        schema: Schema from `rows_schema`.
        plan: The operation on the rows.
        dim: Number of values in a vector.

    Raises:
        DatasetError: If a value does not fit the type of its column, or a vector has another shape.
    """
    added = {column.name: column for column in plan.added}
    batches = carried_batches(rows)
    arrays = []
    for field in schema:
        if REST_KEY in (field.metadata or {}):
            known = {*schema.names, *added, *dropped_names(field)} - {TAGS}
            arrays.append(pa.array([_rest(row, known) for row in rows], field.type))
            continue
        with _column_errors(field):
            column = added.get(field.name)
            if batches is not None and column is None and (carried := carried_column(batches, field)) is not None:
                arrays.append(carried)
                continue
            values = [row.get(field.name) for row in rows]
            array = value_array(values, field.type) if column is None else new_array(column, values, field.type, dim)
            if not field.nullable and array.null_count:
                raise ValueError("null, which the column may not hold")
            arrays.append(array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _rest(row: Mapping[str, Any], known: set[str]) -> str | None:
    rest = {name: value for name, value in row.items() if name not in known and name != TAGS}
    tags = row.get(TAGS)
    if isinstance(tags, Mapping):
        rest = {**tags, **rest}
    elif tags is not None:
        rest = {TAGS: tags, **rest}
    return json_text(rest) if rest else None


@contextlib.contextmanager
def _column_errors(field: pa.Field) -> Iterator[None]:
    """Turn errors of Arrow into a `DatasetError` that names the column."""
    try:
        yield
    except DatasetError:
        raise
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as err:
        raise DatasetError(f"column {field.name!r} is {field.type}, but a row holds another type: {err}") from err


def in_columns(found: pa.RecordBatch | pa.Table, schema: pa.Schema, rows: int) -> pa.Table:
    """Return rows with the columns of a schema; missing columns are null.

    The number of rows is given, since a table without columns does not have one.
    """
    columns = [
        as_type(found.column(field.name), field.type)
        if field.name in found.schema.names
        else pa.nulls(rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
