"""Types of the input columns: finds a column by its path, and marks the column that takes undeclared fields."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from ...errors import DatasetError, SpecError
from ...messages import setting

REST_KEY = b"clipmill.rest"
"""Metadata key of the column that takes all undeclared fields of JSON lines, as a JSON object. The value is a JSON
array of the fields that are dropped."""
TAGS = "tags"
LIST_OF_TEXTS = pa.list_(pa.string())
_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_EXTENSION_PARAMETERS = ("type_name", "vendor_name", "shape", "dim_names", "permutation")
"""Attributes of Arrow's own extension types: of opaque types and of tensors with a fixed shape."""


def column_type(base: pa.Schema, path: str) -> pa.DataType | None:
    """Return the type of an input column; None if JSON lines may hold it undeclared.

    A path is a column, or `a.b.c` into nested structs; a column whose own name contains the dots takes precedence. If
    there is no such column, it raises `SpecError`.
    """
    kind = type_at(base, path)
    if kind is None and not any(REST_KEY in (field.metadata or {}) for field in base):
        raise SpecError(f"there is no column {path!r}; the columns are {', '.join(map(repr, base.names))}")
    return kind


def dropped_names(rest: pa.Field) -> list[str]:
    """Return the fields of JSON lines that are dropped; `rest` is the column with `REST_KEY` in its metadata."""
    names: list[str] = json.loads((rest.metadata or {})[REST_KEY])
    return names


def is_list_type(kind: pa.DataType) -> bool:
    """Return whether a type is any of Arrow's list types: 32-bit or 64-bit offsets, fixed-size, or a view."""
    return any(one(kind) for one in _LISTS)


def is_vector_type(kind: pa.DataType) -> bool:
    """Return whether a type is a list of floats."""
    return is_list_type(kind) and pa.types.is_floating(kind.value_type)


def is_text_type(kind: pa.DataType) -> bool:
    """Return whether a type is one of texts, in any of Arrow's layouts."""
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_bytes_type(kind: pa.DataType) -> bool:
    """Return whether a type is one of bytes, in any of Arrow's layouts."""
    types = pa.types
    is_variable = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return bool(is_variable or types.is_fixed_size_binary(kind))


# Not in every pyarrow; nothing is an instance of ().
_UUID: Any = getattr(pa, "UuidType", ())
JSON: Any = getattr(pa, "JsonType", ())
BOOL8: Any = getattr(pa, "Bool8Type", ())


def is_uuid(kind: pa.DataType) -> bool:
    """Return whether a type is Arrow's one of UUIDs."""
    return isinstance(kind, _UUID)


def field_names(kind: pa.StructType) -> list[str]:
    """Return the names of the fields of a struct, as `names` does in newer versions of pyarrow."""
    return [field.name for field in kind]


def holds_bytes(kind: pa.DataType) -> bool:
    """Return whether a type is, or contains, bytes."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return not is_uuid(kind) and holds_bytes(kind.storage_type)
    if types.is_dictionary(kind):
        return holds_bytes(kind.value_type)
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return is_bytes_type(kind) or any(map(holds_bytes, inner))


def unified(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return a schema whose types hold the values of all schemas; raise `DatasetError` if there is no such type."""
    try:
        return pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException:
        types: dict[str, set[pa.DataType]] = {}
        for field in itertools.chain.from_iterable(schemas):
            types.setdefault(field.name, set()).add(field.type)
        differ = {name for name, some in types.items() if len(some) > 1}
        plain = [
            pa.schema([_as_plain(one) if one.name in differ else one for one in schema], schema.metadata)
            for schema in schemas
        ]
    try:
        return pa.unify_schemas(plain, promote_options="permissive")
    except pa.ArrowException as err:
        raise DatasetError(
            f"the inputs have columns with the same name and different types: {err}",
            hint="leave such a column out with " + setting("drop", ...) + ", or give the files to jobs of their own",
        ) from err


def _as_plain(field: pa.Field) -> pa.Field:
    return field.with_type(plain_type(field.type))


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type without encodings that hold the same values: dictionaries, runs, and views of texts and bytes.

    Views of lists stay: Arrow 25 makes invalid arrays when it casts them to lists.
    """
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return pa.string() if pa.types.is_string_view(kind) else pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct(list(map(_as_plain, kind)))
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_as_plain(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_as_plain(kind.value_field))
    return pa.list_(_as_plain(kind.value_field)) if pa.types.is_list(kind) else kind


def variable_lists(kind: pa.DataType) -> pa.DataType:
    """Return the type with lists of variable size for those of a fixed size, which Parquet cannot hold beside a null.

    pyarrow before 26 writes such files, and cannot read them.
    """
    if not _holds_fixed_lists(kind):
        return kind
    if isinstance(kind, pa.BaseExtensionType):
        return variable_lists(kind.storage_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(variable_lists(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(variable_lists(kind.key_type), variable_lists(kind.item_type))
    make = pa.large_list if pa.types.is_large_list(kind) else pa.list_
    return make(kind.value_field.with_type(variable_lists(kind.value_type)))


def _holds_fixed_lists(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _holds_fixed_lists(kind.storage_type)
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    return pa.types.is_fixed_size_list(kind) or any(map(_holds_fixed_lists, inner))


def as_type(column: Any, kind: pa.DataType) -> Any:
    """Return an array or chunked array of a type. Arrow 25 crashes at casts of some types to themselves."""
    return column if column.type.equals(kind) else column.cast(kind)


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the columns of a table, in their order, with the types and the metadata of a schema."""
    columns = [as_type(column, kind) for column, kind in zip(table.columns, schema.types, strict=True)]
    return pa.Table.from_arrays(columns, schema=schema)


def plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return rows with columns of plain types; see `plain_type`."""
    types = [plain_type(field.type) for field in batch.schema]
    if types == batch.schema.types:
        return batch
    columns = [as_type(column, kind) for column, kind in zip(batch.columns, types, strict=True)]
    return pa.record_batch(columns, batch.schema.names)


def top_level(paths: Iterable[str], there: Sequence[str]) -> list[str]:
    """Return the top-level columns of a table that contain the values at some paths."""
    names = [path if path in there else path.partition(".")[0] for path in paths]
    return [name for name in dict.fromkeys(names) if name in there]


def type_key(kind: pa.DataType) -> list[Any]:
    """Return JSON values that are equal for equal types, in every process, and differ for others.

    `str` of a type is no such key: it shows names of inner fields that are no data, which pickling and file formats
    change. They are not part of the key, nor is what pickling loses: whether a map's keys are sorted, and whether items
    of lists and maps may be null.
    """
    if isinstance(kind, pa.BaseExtensionType):
        own = kind.__arrow_ext_serialize__().hex() if isinstance(kind, pa.ExtensionType) else None
        parameters = [own, *(getattr(kind, name, None) for name in _EXTENSION_PARAMETERS)]
        return ["extension", kind.extension_name, parameters, type_key(kind.storage_type)]
    if pa.types.is_map(kind):
        return ["map", type_key(kind.key_type), type_key(kind.item_type)]
    if is_list_type(kind):
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else None
        name = str(kind).partition("<")[0]
        return [name, size, type_key(kind.value_type)]
    if pa.types.is_dictionary(kind):
        return ["dictionary", kind.ordered, type_key(kind.index_type), type_key(kind.value_type)]
    if pa.types.is_run_end_encoded(kind):
        return ["run_end_encoded", type_key(kind.run_end_type), type_key(kind.value_type)]
    if pa.types.is_struct(kind) or pa.types.is_union(kind):
        fields = [kind.field(number) for number in range(kind.num_fields)]
        codes = list(kind.type_codes) if pa.types.is_union(kind) else []
        name = str(kind).partition("<")[0]
        return [name, codes, *([field.name, field.nullable, type_key(field.type)] for field in fields)]
    return [str(kind)]


def type_at(schema: pa.Schema, path: str) -> pa.DataType | None:
    """Return the type of a column, or of a field of a struct (`page.photo`); None where there is none."""
    if path in schema.names:
        return schema.field(path).type
    head, _, rest = path.partition(".")
    kind = schema.field(head).type if rest and head in schema.names else None
    return type_at(pa.schema(list(kind)), rest) if kind is not None and pa.types.is_struct(kind) else None
