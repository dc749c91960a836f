"""Lance: one dataset, `dataset.lance`. Each shard writes fragments; they are committed when all shards are finished.

Readers see no fragments before the commit, because a Lance dataset consists of the fragments that its last commit
names. Vectors are fixed-size lists, which Lance's vector index requires; Lance supports nulls among them.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...errors import DatasetError, MissingExtraError, SpecError, require
from ...files.file_systems import dataset_errors, is_local
from ...files.folder import Folder
from ...messages import setting
from ..tables.column_types import as_schema, is_list_type
from ..tables.provenance import read_provenance
from .base import LANCE, Published, part_name

FRAGMENTS, SCHEMA = "fragments", "lance_schema"
"""Keys in a shard's manifest: its fragments, as Lance's JSON, and the schema, which all shards share."""
_PURPOSE = "writing Lance datasets"
_SCHEMES = ("az", "abfss", "gs", "s3")
"""Schemes of object stores that Lance opens with the same URLs as fsspec."""
_LATER = ("is_decimal32", "is_decimal64", "is_list_view", "is_large_list_view")  # not in every pyarrow
_UNSUPPORTED = (
    *(getattr(pa.types, name) for name in _LATER if hasattr(pa.types, name)),
    *(pa.types.is_run_end_encoded, pa.types.is_union, pa.types.is_interval),
)
_IN_DICTIONARIES = (
    *(pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string, pa.types.is_large_string),
    *(pa.types.is_binary, pa.types.is_large_binary),
)
"""Types of values that Lance takes in dictionaries."""
_OF_FIXED_SIZE = (pa.types.is_decimal, pa.types.is_fixed_size_binary, pa.types.is_null, pa.types.is_struct)
"""Types of items that Lance takes in fixed-size lists, beside numbers and moments."""


def library() -> Any:
    """Import and return the `lance` module. Never call it in a process that forks: Lance does not survive a fork."""
    return require("lance", "lance", _PURPOSE, package="pylance")


def check_lance(directory: str, schema: pa.Schema) -> None:
    """Check on the driver that Lance is installed, supports the URL, and that the vectors' size is known in advance."""
    if importlib.util.find_spec("lance") is None:  # not imported: engines may start processes by forking this one
        raise MissingExtraError("pylance", "lance", _PURPOSE)
    _location(Folder.of(directory))
    lance_schema(schema)


def lance_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema with vectors as fixed-size lists; raise `SpecError` if their size is not known in advance."""
    fields = []
    for field in schema:
        if (kind := _unsupported(field.type)) is not None:
            raise SpecError(
                setting("format", LANCE) + f" cannot hold {kind}, the type of column {field.name!r}",
                hint="leave the column out: " + setting("drop", field.name),
            )
        provenance = read_provenance(schema).get(field.name)
        if provenance is not None and "scores" not in provenance:
            if not provenance.get("dim"):
                raise SpecError(
                    setting("format", LANCE)
                    + f" needs the size of the vectors, which is unknown for {provenance['model']!r}"
                )
            field = field.with_type(_fixed(field.type, int(provenance["dim"])))
        fields.append(field)
    return pa.schema(fields, metadata=schema.metadata)


def _unsupported(kind: pa.DataType) -> str | None:
    """Return the type, or a type inside it, that Lance rejects or changes; None if there is none."""
    types = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        storage = kind.storage_type
        is_changed = kind.extension_name == "arrow.json" or types.is_null(storage) or _is_view(storage)
        return str(kind) if is_changed else _unsupported(storage)
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    is_rejected = any(one(kind) for one in _UNSUPPORTED) or (types.is_struct(kind) and not inner)
    if types.is_map(kind):
        is_rejected |= kind.keys_sorted
    if types.is_fixed_size_list(kind):
        is_rejected |= not _has_fixed_size(kind.value_type)
    if types.is_dictionary(kind):
        is_rejected |= not any(one(kind.value_type) for one in _IN_DICTIONARIES)
    return str(kind) if is_rejected else next(filter(None, map(_unsupported, inner)), None)


def _is_view(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string_view(kind) or pa.types.is_binary_view(kind))


def _has_fixed_size(kind: pa.DataType) -> bool:
    """Return whether values may be the items of fixed-size lists: neither texts, bytes and lists nor extensions."""
    if isinstance(kind, pa.BaseExtensionType) or pa.types.is_dictionary(kind) or _is_view(kind):
        return False
    if pa.types.is_fixed_size_list(kind):
        return _has_fixed_size(kind.value_type)
    return pa.types.is_primitive(kind) or any(one(kind) for one in _OF_FIXED_SIZE)


def _fixed(kind: pa.DataType, dim: int) -> pa.DataType:
    if not is_list_type(kind):
        return kind
    if pa.types.is_floating(kind.value_type):
        return pa.list_(kind.value_type, dim)
    if pa.types.is_struct(kind.value_type):
        fields = [field.with_type(_fixed(field.type, dim)) for field in kind.value_type]
        return pa.list_(pa.struct(fields))
    return pa.list_(_fixed(kind.value_type, dim))


def _location(folder: Folder) -> str:
    """Return the path or URL of the Lance dataset in a directory; raise `SpecError` if Lance rejects the URL."""
    scheme = folder.url.partition("://")[0]
    if not is_local(folder.fs) and scheme not in _SCHEMES:
        allowed = ", ".join(f"{s}://" for s in _SCHEMES)
        raise SpecError(setting("format", LANCE) + f" writes only to local directories, {allowed}")
    return f"{folder.url}/{part_name('', LANCE)}"


class LancePart:
    """The fragments of one shard; rows are kept in a local file until the shard is complete. See `base.Part`."""

    def __init__(self, folder: Folder, shard: str, schema: pa.Schema) -> None:
        """Open the local file."""
        self._lance = library()
        self._folder = folder
        self._schema = lance_schema(schema)
        self._rows = 0
        self.temporary: Path = folder.temporary(f"{shard}.arrow")
        self._sink = pa.OSFile(str(self.temporary), "wb")
        self._writer = pa.ipc.new_stream(self._sink, self._schema)

    def write_table(self, table: pa.Table) -> None:
        """See `base.Part`."""
        self._writer.write_table(as_schema(table, self._schema))
        self._rows += table.num_rows

    def close(self) -> None:
        """See `base.Part`."""
        self._writer.close()
        self._sink.close()

    def publish(self) -> Published:
        """See `base.Part`; readers see the fragments only after `commit_fragments`."""
        manifest = {FRAGMENTS: [], SCHEMA: base64.b64encode(self._schema.serialize()).decode("ascii")}
        if not self._rows:
            return Published({}, manifest)
        where = _location(self._folder)
        self._folder.make(part_name("", LANCE))
        with dataset_errors("write", where), pa.OSFile(str(self.temporary), "rb") as file:
            # Lance panics at decimals and views in memory that is not aligned, as Arrow's own format leaves it.
            aligned = pa.ipc.IpcReadOptions(ensure_alignment=pa.ipc.Alignment.At64Byte)
            reader = pa.ipc.open_stream(file, options=aligned)
            fragments = self._lance.fragment.write_fragments(reader, where, schema=self._schema, mode="create")
        self.temporary.unlink(missing_ok=True)
        names = [f"{part_name('', LANCE)}/data/{file.path}" for one in fragments for file in one.files]
        manifest[FRAGMENTS] = [one.to_json() for one in fragments]
        return Published({name: self._folder.size(name) or 0 for name in names}, manifest)

    def discard(self) -> None:
        """See `base.Part`."""
        for close in (self._writer.close, self._sink.close, lambda: os.unlink(self.temporary)):
            with contextlib.suppress(Exception):
                close()


def commit_fragments(directory: str, manifests: Sequence[Mapping[str, Any]]) -> None:
    """Commit the fragments of all shards, in their order, as one dataset; repeating it gives the same rows.

    Without manifests, no dataset is made.
    """
    lance = library()
    where = _location(Folder.of(directory))
    if not manifests:
        return
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(manifests[0][SCHEMA])))
    fragments = [
        lance.fragment.FragmentMetadata.from_json(json.dumps(one))
        for manifest in manifests
        for one in manifest.get(FRAGMENTS) or ()
    ]
    try:
        lance.LanceDataset.commit(where, lance.LanceOperation.Overwrite(schema, fragments))
    except Exception as err:  # Lance raises OSError and RuntimeError for problems with its files
        raise DatasetError(f"cannot commit {where}: {str(err)[:300]}") from err
