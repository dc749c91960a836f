"""One shard of a dataset: its file of rows, its failures and its manifest, written whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa

from ...errors import DatasetError
from ...files.file_systems import Folder, dataset_errors, is_local
from ...files.json_text import json_object, json_text
from ...files.lock import one_at_a_time
from ...messages import for_any_reader
from .base import Format, Part, check_format, part_name
from .part_writers import mismatch_of, open_part

FAILURES, MANIFESTS = "_failures", "_manifest"
_ROW_GROUP_BYTES = 64 * 2**20
_SAME = ("shard", "signature")
"""What manifests of two attempts at the same work have in common: its input, and what was asked for."""


def failures_name(shard: str) -> str:
    """Return the name of a shard's failures."""
    return f"{FAILURES}/part-{shard}.jsonl"


def manifest_name(shard: str) -> str:
    """Return the name of a shard's manifest."""
    return f"{MANIFESTS}/part-{shard}.json"


class ShardWriter:
    """Writes one shard; a context manager that leaves nothing behind unless `commit` was called.

    Rows are held until they make a row group (of rows, or of 64 MiB), so memory does not grow with the shard. A shard
    that was written before under the same name is replaced, its manifest being the first to go and the last to come;
    but not if the same was made of the same input, by another attempt of the engine at it: then that one counts.

    Raises:
        DatasetError: If the directory cannot be written or is full.
    """

    def __init__(
        self, directory: str, name: str, schema: pa.Schema, *, row_group_rows: int = 1024, format: Format = "parquet"
    ) -> None:
        """Say what is written where; nothing happens before the block is entered.

        Args:
            directory: Path or URL of the dataset.
            name: Name of the shard; its files are `part-<name>.…`.
            schema: Columns of every batch.
            row_group_rows: Rows in a row group, and held in memory.
            format: What the files of rows are, one of `FORMATS`.
        """
        check_format(format)
        if not name or "/" in name or name.startswith("."):
            raise DatasetError(f"{name!r} cannot name a shard: it becomes a part of file names")
        self._folder = Folder.of(directory)
        self._name = name
        self._schema = schema
        self._row_group_rows = row_group_rows
        self._buffer: list[pa.RecordBatch] = []
        self._buffered_rows = self._buffered_bytes = 0
        self.mismatch = mismatch_of(format, schema)
        """Says of a row why it has no place in the format; None where every row has one."""
        self._rows = 0
        self._failed = 0
        self._is_closed = False
        self._format = format
        self._part: Part | None = None
        self._failures: Path | None = None
        self._lines: IO[str] | None = None

    def __enter__(self) -> Self:
        self._folder.make()
        with self._errors():
            self._part = open_part(self._folder, self._name, self._schema, self._format)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean_up()

    def write(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Add rows.

        Args:
            batch: Of the schema that was given; metadata may differ.

        Raises:
            DatasetError: If the columns are others, or the file cannot be written.
        """
        if not batch.schema.equals(self._schema):
            raise DatasetError(f"the batch has the columns {batch.schema}, and the dataset {self._schema}")
        for piece in batch.to_batches() if isinstance(batch, pa.Table) else [batch]:
            self._buffer.append(piece)
            self._buffered_rows += piece.num_rows
            self._buffered_bytes += piece.nbytes
            if self._buffered_rows >= self._row_group_rows or self._buffered_bytes >= _ROW_GROUP_BYTES:
                self._flush()

    def fail(self, record: Mapping[str, Any]) -> None:
        """Add a failure: `Failure.as_dict()` and what a second try needs, as plain values."""
        with self._errors():
            if self._lines is None:
                self._failures = self._folder.temporary(failures_name(self._name))
                self._lines = self._failures.open("w", encoding="utf-8")
            self._lines.write(json_text({**record, "message": for_any_reader(record["message"])}) + "\n")
        self._failed += 1

    def commit(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Put the files in place: rows, failures, manifest last.

        Args:
            manifest: What to say about the shard, as plain values; `shard` says what it was made of.

        Returns:
            The manifest as it was written, with `name`, `rows`, `failures` and `files` (name and bytes) added; that of
            the attempt that was first, if there was one.

        Raises:
            DatasetError: If that is not possible; an older shard of the name may have lost its manifest then.
        """
        if self._part is None or self._is_closed:
            raise DatasetError(f"shard {self._name!r}: commit belongs inside the writer's block, once")
        self._flush()
        self._is_closed = True
        with self._errors():
            self._part.close()
            if self._lines is not None:
                self._lines.close()
        with one_at_a_time(self._folder):  # two attempts that end at once would mix their files
            return self._publish(self._part, manifest)

    def _publish(self, part: Part, manifest: Mapping[str, Any]) -> dict[str, Any]:
        folder, name = self._folder, self._name
        standing = self._standing_manifest()
        if standing is not None:
            if manifest.get("shard") is not None and all(standing.get(one) == manifest.get(one) for one in _SAME):
                self._clean_up()
                return standing
            folder.delete(manifest_name(name))
        published = part.publish()
        files = dict(published.files)
        if self._failures is None:
            folder.delete(failures_name(name))
        else:
            folder.make(FAILURES)
            files[failures_name(name)] = folder.publish(self._failures, failures_name(name))
        written = {
            **manifest,
            **published.said,
            "name": name,
            "rows": self._rows,
            "failures": self._failed,
            "files": [{"name": file, "bytes": size} for file, size in files.items()],
        }
        folder.make(MANIFESTS)
        folder.write(manifest_name(name), json_text(written, indent=1).encode())
        return written

    def _standing_manifest(self) -> dict[str, Any] | None:
        """Return the manifest of a shard that was written before under this name; an empty one where it is damaged."""
        try:
            return json_object(self._folder.read(manifest_name(self._name))) or {}
        except FileNotFoundError:
            return None

    def _flush(self) -> None:
        if not self._buffer:
            return
        if self._part is None or self._is_closed:
            raise DatasetError(f"shard {self._name!r}: rows are written inside the writer's block, before commit")
        table = pa.Table.from_batches([b.replace_schema_metadata(None) for b in self._buffer])
        with self._errors():
            self._part.write_table(table.cast(self._schema))
        self._rows += self._buffered_rows
        self._buffer, self._buffered_rows, self._buffered_bytes = [], 0, 0

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        where = f"{self._folder.url}/{part_name(self._name, self._format)}"
        if not is_local(self._folder.fs) and self._part is not None:
            where = f"{self._part.temporary.parent}, the temporary files of {where}"
        return dataset_errors("write", where)

    def _clean_up(self) -> None:
        """Close and remove what was not committed; what fails here must not hide the error that led here."""
        if self._part is not None:
            self._part.discard()
            self._part = None
        if self._lines is not None:
            with contextlib.suppress(Exception):
                self._lines.close()
        if self._failures is not None:
            with contextlib.suppress(OSError):
                self._failures.unlink(missing_ok=True)
        self._buffer = []
