"""Writes one shard of a dataset atomically: its rows, rejected ones, its failures and its manifest."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa

from ...errors import DatasetError, check_choice
from ...files.file_systems import dataset_errors, is_local
from ...files.folder import Folder
from ...files.json_text import json_text
from ...files.lock import one_at_a_time
from ...messages import for_any_reader
from ..directory import FAILURES, MANIFESTS, REJECTED, manifest_name
from .base import FORMATS, Format, part_name
from .manifest import manifest_or_none
from .part_writers import FilePart, mismatch_of, open_part
from .row_groups import RowGroups

_SAME = ("shard", "signature")
"""Fields that are equal in the manifests of two attempts at the same shard: its input and the job's arguments."""


def failures_name(shard: str) -> str:
    """Return the name of a shard's file of failures."""
    return f"{FAILURES}/part-{shard}.jsonl"


def rejected_name(shard: str, format: Format) -> str:
    """Return the name of a shard's file of rejected rows: JSON lines if its rows are, else Parquet."""
    return f"{REJECTED}/part-{shard}.{'jsonl' if format == 'jsonl' else 'parquet'}"


def _is_same(existing: Mapping[str, Any], manifest: Mapping[str, Any]) -> bool:
    return manifest.get("shard") is not None and all(existing.get(one) == manifest.get(one) for one in _SAME)


class ShardWriter:
    """Writes one shard; a context manager that leaves no files behind unless `commit` was called.

    The writer buffers rows until they fill a row group (`row_group_rows` rows or 64 MiB), so memory does not grow with
    the shard. An existing shard with the same name is replaced; the manifest is written last. If another attempt of the
    engine has already committed the same shard of the same job, that one is kept.

    On a local file system, publishing a shard is one step for all who ask `one_at_a_time`. On an object store an upload
    may end at any time, also long after another start of the job has finished the dataset. So each start of a job has
    names of its own for files there, and none replaces files of another one.

    Raises:
        DatasetError: If the directory cannot be written or is full.
    """

    def __init__(
        self,
        directory: str,
        name: str,
        schema: pa.Schema,
        *,
        row_group_rows: int = 1024,
        format: Format = "parquet",
        run: str | None = None,
        before_publishing: Callable[[], None] = lambda: None,
    ) -> None:
        """Create a writer; files are opened when the `with` block is entered.

        Args:
            directory: Path or URL of the dataset.
            name: Name of the shard; its files are `part-<name>.…`.
            schema: Columns of every batch.
            row_group_rows: Maximum rows of a row group, and of the buffer.
            format: Format of the files of rows, one of `FORMATS`.
            run: The start of the job, which is part of the names of files on an object store.
            before_publishing: Called before a file of the dataset is replaced, and again before the manifest is; it
                raises an exception if this process may not write there any more.
        """
        check_choice("format", format, FORMATS)
        if not name or "/" in name or name.startswith("."):
            raise DatasetError(f"{name!r} cannot be the name of a shard, because file names contain it")
        self._folder = Folder.of(directory)
        self._name = name
        self._stem = name if run is None or is_local(self._folder.fs) else f"{name}-{run}"
        self._schema = schema
        self._row_group_rows = row_group_rows
        self.mismatch = mismatch_of(format, schema)
        """Returns why a row does not fit the format; None if every row fits."""
        self._failed = 0
        self._is_closed = False
        self._format = format
        self._before_publishing = before_publishing
        self._kept: RowGroups | None = None
        self._rejected: RowGroups | None = None
        self._failures: Path | None = None
        self._lines: IO[str] | None = None

    def __enter__(self) -> Self:
        self._folder.make()
        with self._errors():
            part = open_part(self._folder, self._stem, self._schema, self._format)
        self._kept = RowGroups(part, self._schema, self._row_group_rows)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean_up()

    def write(self, batch: pa.RecordBatch | pa.Table) -> None:
        """Add rows.

        Args:
            batch: Rows with the writer's schema; metadata may differ.

        Raises:
            DatasetError: If the columns differ, or the file cannot be written.
        """
        if not batch.schema.equals(self._schema):
            raise DatasetError(f"the batch has the columns {batch.schema}, but the dataset has {self._schema}")
        for piece in batch.to_batches() if isinstance(batch, pa.Table) else [batch]:
            if self._open.add(piece):
                self._flush(self._open)

    def reject(self, batch: pa.RecordBatch) -> None:
        """Add rejected rows, which have a file of their own; each batch has the same schema."""
        if self._rejected is None:
            name = rejected_name(self._stem, self._format)
            with self._errors():
                part = FilePart(self._folder, name, batch.schema, "jsonl" if name.endswith("jsonl") else "parquet")
            self._rejected = RowGroups(part, batch.schema, self._row_group_rows)
        if self._rejected.add(batch):
            self._flush(self._rejected)

    def fail(self, record: Mapping[str, Any]) -> None:
        """Add a failure: `Failure.as_dict()` and the content for a retry, as JSON values."""
        with self._errors():
            if self._lines is None:
                self._failures = self._folder.temporary(failures_name(self._stem))
                self._lines = self._failures.open("w", encoding="utf-8")
            said = {"message": for_any_reader(record["message"])} if "message" in record else {}
            self._lines.write(json_text({**record, **said}) + "\n")
        self._failed += 1

    def commit(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Publish the files: rows, rejected rows, failures, and the manifest last.

        Args:
            manifest: Fields of the shard's manifest, as JSON values; `shard` identifies its input.

        Returns:
            The written manifest, with `name`, `rows`, `failures` and `files` (name and bytes) added; or the manifest of
            an earlier attempt that is kept.

        Raises:
            DatasetError: If the files cannot be published; an existing shard of that name may then have lost its
                manifest.
        """
        if self._kept is None or self._is_closed:
            raise DatasetError(f"shard {self._name!r}: call commit once, inside the writer's with block")
        opened = [rows for rows in (self._kept, self._rejected) if rows is not None]
        for rows in opened:
            self._flush(rows)
        self._is_closed = True
        with self._errors():
            for rows in opened:
                rows.part.close()
            if self._lines is not None:
                self._lines.close()
        with one_at_a_time(self._folder):  # two attempts that commit at the same time would mix their files
            return self._publish(self._kept, manifest)

    def _publish(self, kept: RowGroups, manifest: Mapping[str, Any]) -> dict[str, Any]:
        folder, failures = self._folder, failures_name(self._stem)
        self._before_publishing()
        existing = self._existing_manifest()
        if existing is not None:
            if _is_same(existing, manifest):
                self._clean_up()
                return existing
            if self._stem == self._name:
                folder.delete(manifest_name(self._name))  # first, because the files that it names are replaced
        published = kept.part.publish()
        files = dict(published.files)
        if self._rejected is not None:
            folder.make(REJECTED)
            files |= self._rejected.part.publish().files
        elif self._stem == self._name:
            folder.delete(rejected_name(self._stem, self._format))
        if self._failures is not None:
            folder.make(FAILURES)
            files[failures] = folder.publish(self._failures, failures)
        elif self._stem == self._name:
            folder.delete(failures)
        written = {
            **manifest,
            **published.manifest,
            "name": self._name,
            "rows": kept.rows,
            "failures": self._failed,
            "files": [{"name": file, "bytes": size} for file, size in files.items()],
        }
        try:
            self._before_publishing()  # uploading the rows may have taken long
            return self._write_manifest(written)
        except DatasetError:
            self._withdraw(files)
            raise

    def _write_manifest(self, written: dict[str, Any]) -> dict[str, Any]:
        """Write the manifest, unless there is one of the same shard, which is kept; return what is there."""
        folder, name, content = self._folder, manifest_name(self._name), json_text(written, indent=1).encode()
        folder.make(MANIFESTS)
        if self._stem != self._name and (there := folder.create(name, content)) is not None:
            existing = written if there == content else manifest_or_none(there) or {}
            if _is_same(existing, written):
                if there != content:
                    self._withdraw(file["name"] for file in written["files"])
                return existing
            self._before_publishing()
        folder.write(name, content)
        return written

    def _withdraw(self, names: Iterable[str]) -> None:
        """Delete published files of this start, unless the shard's manifest names them."""
        if self._stem == self._name:
            return  # another start may have replaced them
        with contextlib.suppress(DatasetError):  # the end of a job deletes them, too
            kept = {str(file["name"]) for file in (self._existing_manifest() or {}).get("files") or ()}
            for name in names:
                if name not in kept:
                    self._folder.delete(name)

    def _existing_manifest(self) -> dict[str, Any] | None:
        """Return the manifest of an existing shard with this name; an empty one if it is damaged."""
        try:
            return manifest_or_none(self._folder.read(manifest_name(self._name))) or {}
        except FileNotFoundError:
            return None

    @property
    def _open(self) -> RowGroups:
        if self._kept is None or self._is_closed:
            raise DatasetError(f"shard {self._name!r}: write rows inside the writer's with block, before commit")
        return self._kept

    def _flush(self, rows: RowGroups) -> None:
        with self._errors():
            rows.flush()

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        name = part_name(self._stem, self._format)
        where = f"{self._folder.url}/{name}"
        if self._kept is not None:
            where = self._folder.written_as(name, self._kept.part.temporary)
        return dataset_errors("write", where)

    def _clean_up(self) -> None:
        """Close and remove uncommitted files; an error here must not hide the error that led here."""
        for rows in (self._kept, self._rejected):
            if rows is not None:
                rows.part.discard()
        self._kept = self._rejected = None
        if self._lines is not None:
            with contextlib.suppress(Exception):
                self._lines.close()
        if self._failures is not None:
            with contextlib.suppress(OSError):
                self._failures.unlink(missing_ok=True)
