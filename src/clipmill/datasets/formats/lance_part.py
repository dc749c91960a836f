"""Lance: one dataset, `dataset.lance`, whose fragments are written shard by shard and committed when all are there.

Until then nobody sees them: a dataset of Lance is what its last commit names. Vectors are lists of a fixed size in it,
which its vector index needs; Lance keeps nulls among those.
"""

from __future__ import annotations

import base64
import contextlib
import importlib
import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from ...errors import DatasetError, MissingExtraError, SpecError
from ...files.file_systems import Folder, dataset_errors, is_local
from ...messages import setting
from ..tables.column_types import is_list_type
from ..tables.provenance import read_provenance
from .base import LANCE, Published, part_name

FRAGMENTS, SCHEMA = "fragments", "lance_schema"
"""What a shard's manifest calls them, JSON as Lance gives it, and the schema that all have."""
_SCHEMES = ("az", "abfss", "gs", "s3")
"""Object stores that Lance opens by the same URLs as fsspec does."""


def library() -> Any:
    """Return Lance's module; only in processes that fork no others, which it does not survive.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        return importlib.import_module("lance")
    except ImportError as err:
        raise _missing() from err


def _missing() -> MissingExtraError:
    return MissingExtraError("pylance", "lance", "writing Lance datasets")


def check_lance(directory: str, schema: pa.Schema) -> None:
    """Refuse what Lance cannot write, on the driver.

    Raises:
        MissingExtraError: If it is not installed.
        SpecError: If it does not open such URLs, or the size of the vectors is not known before they are made.
    """
    if importlib.util.find_spec("lance") is None:  # not imported: engines may start processes by forking this one
        raise _missing()
    _location(Folder.of(directory))
    lance_schema(schema)


def lance_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema with the lists that hold vectors as lists of a fixed size.

    Raises:
        SpecError: If that size is not known before they are made.
    """
    fields = []
    for field in schema:
        about = read_provenance(schema).get(field.name)
        if about is not None and "scores" not in about:
            if not about.get("dim"):
                raise SpecError(
                    setting("format", LANCE) + f" needs the size of the vectors, which {about['model']!r} does not say"
                )
            field = field.with_type(_fixed(field.type, int(about["dim"])))
        fields.append(field)
    return pa.schema(fields, metadata=schema.metadata)


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
    """Return where Lance finds a dataset's directory.

    Raises:
        SpecError: If it cannot.
    """
    scheme = folder.url.partition("://")[0]
    if not is_local(folder.fs) and scheme not in _SCHEMES:
        allowed = ", ".join(f"{s}://" for s in _SCHEMES)
        raise SpecError(setting("format", LANCE) + f" writes to local directories, {allowed} only")
    return f"{folder.url}/{part_name('', LANCE)}"


class LancePart:
    """One shard's fragments; rows wait in a file of this machine until they are all there. See `base.Part`."""

    def __init__(self, folder: Folder, shard: str, schema: pa.Schema) -> None:
        """Open that file."""
        self._lance = library()
        self._folder = folder
        self._schema = lance_schema(schema)
        self._rows = 0
        self.temporary: Path = folder.temporary(f"{shard}.arrow")
        self._sink = pa.OSFile(str(self.temporary), "wb")
        self._writer = pa.ipc.new_stream(self._sink, self._schema)

    def write_table(self, table: pa.Table) -> None:
        """See `base.Part`."""
        self._writer.write_table(table.cast(self._schema))
        self._rows += table.num_rows

    def close(self) -> None:
        """See `base.Part`."""
        self._writer.close()
        self._sink.close()

    def publish(self) -> Published:
        """See `base.Part`; nobody sees the fragments before `commit_fragments`."""
        said = {FRAGMENTS: [], SCHEMA: base64.b64encode(self._schema.serialize()).decode("ascii")}
        if not self._rows:
            return Published({}, said)
        where = _location(self._folder)
        self._folder.make(part_name("", LANCE))
        with dataset_errors("write", where), pa.OSFile(str(self.temporary), "rb") as file:
            reader = pa.ipc.open_stream(file)
            found = self._lance.fragment.write_fragments(reader, where, schema=self._schema, mode="create")
        self.temporary.unlink(missing_ok=True)
        sizes = self._folder.list(f"{part_name('', LANCE)}/data")
        files = {f"{part_name('', LANCE)}/data/{file.path}": 0 for one in found for file in one.files}
        return Published({name: sizes[name] for name in files}, said | {FRAGMENTS: [one.to_json() for one in found]})

    def discard(self) -> None:
        """See `base.Part`."""
        for close in (self._writer.close, self._sink.close, lambda: os.unlink(self.temporary)):
            with contextlib.suppress(Exception):
                close()


def commit_fragments(directory: str, manifests: Sequence[Mapping[str, Any]]) -> None:
    """Make a dataset of the fragments of all shards, in their order; done again, it has the same rows.

    Args:
        directory: Path or URL of the dataset.
        manifests: Of all shards; without any there is no dataset.

    Raises:
        DatasetError: If Lance refuses them.
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
    except Exception as err:  # Lance raises OSError and RuntimeError for what is wrong with its files
        raise DatasetError(f"cannot commit {where}: {str(err)[:300]}") from err
