"""The rows of an index: columns of Parquet files, whose footers are read first and whose rows are read in blocks."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ..datasets.dataset import read_job
from ..datasets.dataset_rows import parquet_paths
from ..datasets.directory import SUCCESS
from ..datasets.formats.clip_retrieval import vectors_beside
from ..datasets.tables.column_types import is_vector_type, plain_batch, plain_type, unified
from ..datasets.tables.provenance import differences, read_provenance
from ..datasets.tables.spark_schema import SPARK_SCHEMA_KEY
from ..errors import DatasetError, SpecError
from ..files.file_systems import dataset_errors, open_input, url_of
from ..files.folder import Folder
from ..files.parquet import parquet_file
from ..messages import setting

_FOOTER_THREADS = 8
"""Footers that are read at the same time; with object stores it is mostly waiting."""
READ_BYTES = 2**20
"""Size of the reads of a column in a Parquet file."""
_RELEASE_BYTES = 8 * 2**20
"""Arrow's allocator releases its free memory each time that rows of this size were read."""
_DEFAULT_COLUMN = "embedding"


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Row groups of one file.

    Attributes:
        path: Path or URL of a Parquet file.
        first: Number of the first row group.
        stop: Number of the one after the last.
        rows: Rows in them.
        start: Number of their first row among all rows of the source.
    """

    path: str
    first: int
    stop: int
    rows: int
    start: int


@dataclasses.dataclass(frozen=True)
class VectorSource:
    """Datasets whose vectors can be in one index.

    Attributes:
        column: The column of vectors.
        dim: Values in each; 0 if it is unknown, because there is neither provenance nor a vector.
        rows: Rows in all files, null vectors included.
        groups: Every row group, in order.
        provenance: The provenance that the files have in common; None where they have none.
        keys: Columns that are kept as metadata: all but vectors and binary ones.
        left_out: Names of the columns that are not kept.
        datasets: Location and identity of each dataset, as plain values.
    """

    column: str
    dim: int
    rows: int
    groups: tuple[Piece, ...]
    provenance: dict[str, Any] | None
    keys: pa.Schema
    left_out: tuple[str, ...]
    datasets: tuple[dict[str, Any], ...]


def open_source(
    datasets: Sequence[str], *, column: str | None = None, partial: bool = False, drop: Collection[str] | None = None
) -> VectorSource:
    """Read the footers of datasets, and check that their vectors can be in one index.

    Args:
        datasets: Directories or files, as paths or URLs.
        column: The column of vectors; needed where there are several.
        partial: Whether a dataset of clipmill whose job has not ended is accepted.
        drop: Columns that are not kept as metadata; None where the caller has no such option.

    Raises:
        DatasetError: If there is no Parquet file, one is cut off, one has no such column, a dataset is not finished,
            or the vectors are of different models or dimensions.
        SpecError: If no dataset is given, or `column` is needed.
    """
    if not datasets:
        raise SpecError("no datasets: give directories that 'clipmill embed' wrote, or Parquet files with vectors")
    files: list[str] = []
    described = []
    for location in datasets:
        found = _files_of(location, partial=partial)
        described.append({"location": Folder.of(location).url, **_identity(location, found)})
        files += found
    unique: dict[bytes, pa.Schema] = {}
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        footers = list(pool.map(functools.partial(_read_footer, schemas=unique), files))
    name = column or _find_column(files[0], footers[0].schema)
    firsts: dict[int, str] = {}
    groups: list[Piece] = []
    start = 0
    for path, file in zip(files, footers, strict=True):
        if id(file.schema) not in firsts:
            firsts[id(file.schema)] = path
            _check_column(path, file.schema, name)
        for number, rows in enumerate(file.rows):
            groups.append(Piece(path, number, number + 1, rows, start))
            start += rows
    by_id = {id(schema): schema for schema in unique.values()}
    different, schemas = list(firsts.values()), [by_id[one] for one in firsts]
    provenance = _common_provenance(different, [read_provenance(schema).get(name) for schema in schemas])
    dim = int(provenance["dim"]) if provenance and provenance.get("dim") else _first_dim(groups, name)
    hint = "leave it out with " + setting("drop", ...) if drop is not None else "write the files with one type"
    keys = _unify_schemas([_key_schema(schema, drop or ()) for schema in schemas], different, hint)
    left_out = {one for schema in schemas for one in schema.names} - set(keys.names) - {name}
    return VectorSource(name, dim, start, tuple(groups), provenance, keys, tuple(sorted(left_out)), tuple(described))


def _common_provenance(files: Sequence[str], provenances: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the provenance that all files have in common, None where none has one; else raise `DatasetError`."""
    first, expected = files[0], provenances[0]
    for path, found in zip(files, provenances, strict=True):
        if (found is None) != (expected is None):
            with_one, without = (first, path) if found is None else (path, first)
            raise DatasetError(
                f"{with_one} has a provenance and {without} has none, so that their vectors may come from different "
                "models; build an index of each"
            )
        if differing := differences(expected or {}, found or {}):
            raise DatasetError(
                f"the vectors of {path} and of {first} come from different models ({', '.join(differing)} differ) and "
                "cannot be compared; build an index of each"
            )
    return expected


def _files_of(location: str, *, partial: bool) -> list[str]:
    folder = Folder.of(location)
    names = folder.list()
    if vectors := vectors_beside(names):
        raise DatasetError(
            f"{folder.url} is in clip-retrieval's layout, with its vectors in {vectors}, from which "
            "'clip-retrieval index' builds an index; for one of clipmill, embed into Parquet (--format parquet)"
        )
    paths = parquet_paths(location)[1]
    try:
        planned: Any = read_job(location).get("shards")
        is_ours = True
    except DatasetError:
        planned, is_ours = None, False
    if is_ours and not partial and SUCCESS not in names:
        raise DatasetError(
            f"{folder.url} is not finished ({len(paths)} of {planned} shards have rows)",
            hint="finish its job with "
            + setting("resume", True)
            + ", or take its present rows with "
            + setting("partial", True),
        )
    return [url_of(folder.fs, path) for path in paths]


def _identity(location: str, files: Sequence[str]) -> dict[str, Any]:
    """Return what identifies this version of a dataset: when its job started, and a digest of its files."""
    folder = Folder.of(location)
    sizes = folder.list() if folder.kind() == "directory" else {location: int(folder.fs.size(folder.path) or 0)}
    parts = sorted((name, size) for name, size in sizes.items() if name.endswith((".parquet", ".json")))
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    try:
        started = read_job(location).get("started")
    except DatasetError:
        started = None
    return {"files": len(files), "started": started, "digest": digest}


class _Footer(NamedTuple):
    """The part of a file's footer that is kept; the whole may be large.

    Attributes:
        schema: The columns; one object for all files with equal schemas.
    """

    rows: tuple[int, ...]
    schema: pa.Schema


def _read_footer(path: str, schemas: dict[bytes, pa.Schema]) -> _Footer:
    """Read the footer of a file; `schemas` has those that were read so far, by serialised form, and gets this one."""
    with dataset_errors("read the Parquet file", path), open_input(path) as file, parquet_file(file) as parquet:
        # Not footer.schema: it keeps the footer alive until Python's garbage collector runs.
        footer, schema = parquet.metadata, parquet.schema_arrow
    # Other metadata is not used and may differ between files: pandas writes the number of rows into it.
    kept = {key: value for key, value in (schema.metadata or {}).items() if key == SPARK_SCHEMA_KEY.encode()}
    schema = schema.with_metadata(kept or None)
    rows = tuple(footer.row_group(number).num_rows for number in range(footer.num_row_groups))
    return _Footer(rows, schemas.setdefault(schema.serialize().to_pybytes(), schema))


def _find_column(path: str, schema: pa.Schema) -> str:
    vectors = [field.name for field in schema if is_vector_type(field.type)]
    with_provenance = [name for name in read_provenance(schema) if name in vectors]
    candidates = with_provenance or vectors
    if not candidates:
        raise DatasetError(
            f"{path} has no column of vectors (lists of floats); it has "
            + ", ".join(f"{field.name!r} ({field.type})" for field in schema)
        )
    if len(candidates) > 1 and _DEFAULT_COLUMN not in candidates:
        raise SpecError(
            f"{path} has vectors in {', '.join(candidates)}", hint="choose one with " + setting("column", ...)
        )
    return _DEFAULT_COLUMN if _DEFAULT_COLUMN in candidates else candidates[0]


def _check_column(path: str, schema: pa.Schema, name: str) -> None:
    if name not in schema.names:
        raise DatasetError(f"{path} has no column {name!r}; it has {', '.join(map(repr, schema.names))}")
    if not is_vector_type(schema.field(name).type):
        raise DatasetError(
            f"column {name!r} of {path} has the type {schema.field(name).type}; vectors are lists of floats"
        )


def _key_schema(schema: pa.Schema, drop: Collection[str]) -> pa.Schema:
    """Return the columns that are kept, without the metadata, which describes the vectors."""
    plain = {field.name: plain_type(field.type) for field in schema if field.name not in drop}
    return pa.schema([(name, kind) for name, kind in plain.items() if not _holds_vectors_or_bytes(kind)])


def _holds_vectors_or_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or is_vector_type(kind):
        return True
    return any(_holds_vectors_or_bytes(kind.field(number).type) for number in range(kind.num_fields))


def _unify_schemas(schemas: Sequence[pa.Schema], files: Sequence[str], hint: str) -> pa.Schema:
    found = schemas[0]
    for schema, path in zip(schemas, files, strict=True):
        try:
            found = unified([found, schema])
        except DatasetError as err:
            said = f"{path} has a column of another type than {files[0]}: {err.args[0]}"  # its hint is that of a job
            raise DatasetError(said, hint=hint) from err
    return found


def _first_dim(groups: Sequence[Piece], column: str) -> int:
    """Return the dimension of the first vector; 0 where there is none."""
    for group in groups:
        for batch in read_piece(group, [column]):
            lengths = pc.list_value_length(batch.column(0)).fill_null(0)
            if len(filled := lengths.filter(pc.greater(lengths, 0))):
                return int(filled[0].as_py())
    return 0


def join_adjacent(groups: Sequence[Piece]) -> list[Piece]:
    """Join pieces of a file that follow one another."""
    found: list[Piece] = []
    for group in groups:
        if found and found[-1].path == group.path and found[-1].stop == group.first:
            found[-1] = dataclasses.replace(found[-1], stop=group.stop, rows=found[-1].rows + group.rows)
        else:
            found.append(group)
    return found


def rows_of_block(dim: int, block_bytes: int) -> int:
    """Return how many vectors of `dim` values are read at a time, in at most `block_bytes`."""
    return max(64, block_bytes // (dim * 4))


def read_piece(piece: Piece, columns: Sequence[str], *, block_rows: int = 4096) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a piece, at most `block_rows` at a time, without columns that the file lacks.

    Their types are plain (see `plain_type`): Arrow cannot take views by number, nor compare dictionaries with texts.
    """
    is_remote = "://" in piece.path
    with dataset_errors("read the Parquet file", piece.path), contextlib.ExitStack() as stack:
        file = stack.enter_context(open_input(piece.path)) if is_remote else piece.path
        # Pre-buffering would hold a whole column of a row group; this reads page by page.
        parquet = stack.enter_context(parquet_file(file, pre_buffer=False, buffer_size=READ_BYTES))
        names = [name for name in columns if name in parquet.schema_arrow.names]
        groups = range(piece.first, piece.stop)
        passed = 0
        for batch in parquet.iter_batches(block_rows, row_groups=groups, columns=names, use_threads=True):
            yield plain_batch(batch)
            passed += batch.nbytes
            if passed >= _RELEASE_BYTES:  # otherwise some 60 MB of freed memory stay resident
                pa.default_memory_pool().release_unused()
                passed = 0
