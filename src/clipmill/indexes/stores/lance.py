"""LanceDB: a table with the columns of the dataset, the vectors as fixed-size lists, which LanceDB searches.

A table of LanceDB is a Lance dataset, `<folder>/<table>.lance`, and is written by the Lance library.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa

from ...datasets.tables.provenance import with_provenance
from ...datasets.tables.schemas import in_columns
from ...errors import DatasetError, SpecError, require
from ...messages import setting
from .collection import ID, KEY, PARTS_SUFFIX, Description, Metric, NewCollection, Rows
from .target import Target

_PARTS = pa.schema([(ID, pa.string())])


def connect(target: Target) -> LanceStore:
    """Open a folder (`lancedb:///folder`), or one in an object store (`lancedb+s3://bucket/folder`)."""
    lance = require("lance", "lance", "writing into LanceDB", package="pylance")
    target.check_options()
    if target.over:
        return LanceStore(target, lance, f"{target.over}://{target.host}{target.path}".rstrip("/"))
    if target.host is not None:
        raise SpecError(
            setting("to") + f" names the host {target.host!r}; write lancedb:///folder, lancedb:folder or "
            "lancedb+s3://bucket/folder. LanceDB Cloud is not supported"
        )
    return LanceStore(target, lance, target.path.rstrip("/"))


class LanceStore:
    """See `Store`. A table beside the other remembers the parts."""

    batch_rows = 20_000
    metrics: tuple[Metric, ...] = ()

    def __init__(self, target: Target, lance: Any, folder: str) -> None:
        self._target, self._lance, self._folder = target, lance, folder
        self._new: NewCollection | None = None

    def _at(self, name: str) -> str:
        return f"{self._folder}/{name}.lance"

    def exists(self, name: str) -> bool:
        """See `Store`."""
        with self._target.errors("look for the table"):
            return self._exists(self._at(name))

    def _exists(self, place: str) -> bool:
        try:
            self._lance.dataset(place)
        except (FileNotFoundError, ValueError) as err:
            if "not found" in str(err).lower():
                return False
            raise
        return True

    def describe(self, name: str) -> Description | None:
        """See `Store`. The description is in the metadata of the table's schema."""
        with self._target.errors("read the table's schema"):
            kept = (self._lance.dataset(self._at(name)).schema.metadata or {}).get(KEY.encode())
        return Description.of_json(None if kept is None else kept.decode())

    def create(self, new: NewCollection) -> None:
        """See `Store`."""
        described = new.description
        kind = pa.string() if described.ids == "text" else pa.int64()  # as the other databases have them
        vectors = pa.field(new.vector_column, pa.list_(pa.float32(), described.dim))
        schema = pa.schema([pa.field(new.id_column, kind), vectors, *new.columns])
        if described.provenance is not None:
            schema = with_provenance(schema, {new.vector_column: described.provenance})
        schema = schema.with_metadata({KEY: described.as_json()})
        with self._target.errors("create the table"):
            parts = self._at(new.name + PARTS_SUFFIX)
            mode = "overwrite" if self._exists(parts) else "create"  # Lance warns of nothing to overwrite
            self._lance.write_dataset(_PARTS.empty_table(), parts, mode=mode)
            self._lance.write_dataset(schema.empty_table(), self._at(new.name))

    def open(self, new: NewCollection) -> None:
        """See `Store`."""
        self._new = new
        with self._target.errors("open the table"):
            names = self._lance.dataset(self._at(new.name)).schema.names
            if missing := [
                name for name in (new.id_column, new.vector_column, *new.columns.names) if name not in names
            ]:
                raise DatasetError(
                    f"{self._at(new.name)} has no column {missing[0]!r}; the columns are {', '.join(names)}",
                    hint="leave columns out with " + setting("drop", ...) + ", or choose another table",
                )
            if not self._exists(self._at(new.name + PARTS_SUFFIX)):
                self._lance.write_dataset(_PARTS.empty_table(), self._at(new.name + PARTS_SUFFIX))

    def pushed(self, parts: Sequence[str]) -> Collection[str]:
        """See `Store`."""
        assert self._new is not None
        with self._target.errors("read what was pushed"):
            known = self._lance.dataset(self._at(self._new.name + PARTS_SUFFIX)).to_table()
        return set(known.column(ID).to_pylist()).intersection(parts)

    def upsert(self, rows: Rows, parts: Sequence[str]) -> None:
        """See `Store`."""
        assert self._new is not None
        with self._target.errors("write rows"):
            if len(rows.ids):
                table = self._lance.dataset(self._at(self._new.name))
                table.merge_insert(self._new.id_column).when_matched_update_all().when_not_matched_insert_all().execute(
                    self._table_of(rows, table.schema)
                )
            if parts:
                marks = pa.table({ID: pa.array(parts, pa.string())})
                self._lance.write_dataset(marks, self._at(self._new.name + PARTS_SUFFIX), mode="append")

    def _table_of(self, rows: Rows, schema: pa.Schema) -> pa.Table:
        """Return rows as the table has them; columns that they lack are null."""
        assert self._new is not None
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.vectors.ravel()), rows.vectors.shape[1])
        columns: dict[str, Any] = {self._new.id_column: rows.ids, self._new.vector_column: vectors}
        columns |= dict(zip(rows.columns.column_names, rows.columns.columns, strict=True))
        return in_columns(pa.table(columns), schema, len(rows.ids))

    def close(self) -> None:
        """See `Store`: nothing is held open."""
