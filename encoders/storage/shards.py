"""What a job reads, cut into pieces that are worked on, written and retried on their own."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import DatasetError
from .files import open_input
from .lines import check_json_lines, csv_records, line_starts, open_text
from .listing import Kind, Listed, kind_of, list_inputs

ROWS_PER_SHARD = 1024
_MAX_SPLITS = 16
"""Pieces of one Parquet row group: each is read from the group's beginning, which costs more the more there are."""
_PLANNERS = 8
"""Files that are looked at together: mostly waiting for object stores."""


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """A piece of a job's input. Small, picklable, and the same whenever the same inputs are planned.

    Attributes:
        name: Names the piece and its files in the output: its number and a digest of what it covers.
        kind: How it is read: `files` (each a document), `jsonl`, `csv`, `parquet`.
        paths: The files, as absolute paths or URLs; exactly one unless the kind is `files`.
        start: Number of the file's first record (blank lines count, a header does not) or row, from 0.
        stop: Number of the one after the last; None is the end of the file.
        offset: Byte at which the first record begins (text files; 0 is the beginning of the file).
        line: Line at which the first record begins, from 1 (text files).
        fingerprint: Digest of the paths, sizes and versions (time or etag) of the files: what changes with them.
        nbytes: Bytes of the files together, None where that is not known.
    """

    name: str
    kind: Kind
    paths: tuple[str, ...]
    start: int = 0
    stop: int | None = None
    offset: int = 0
    line: int = 1
    fingerprint: str = ""
    nbytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values; `Shard.from_dict` makes the shard of them again."""
        return {**dataclasses.asdict(self), "paths": list(self.paths)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Shard:
        """Make a shard of what `as_dict` returned."""
        return cls(**{**fields, "paths": tuple(fields["paths"])})

    def identity(self) -> dict[str, Any]:
        """Return what its manifest says of it: without the paths of a folder's files, which are the rows' own ids."""
        fields = self.as_dict()
        paths = fields.pop("paths")
        return {**fields, "first_path": paths[0], "files": len(paths)}


def plan_shards(
    inputs: Sequence[str], *, kind: Kind | None = None, rows_per_shard: int = ROWS_PER_SHARD
) -> list[Shard]:
    """Find the inputs of a job and cut them into shards.

    Each file is read as its name says: `.jsonl`, `.json`, `.ndjson`, `.csv`, `.tsv` (all of them also with `.gz`) and
    `.parquet` are tables, everything else is a document by itself. JSON lines and CSV files are read once for it, to
    find where their shards begin; of Parquet files only the footer. A packed file is one shard, since nothing can begin
    in its middle. A file that cannot be read is a shard too, and becomes a failure there.

    Args:
        inputs: Paths and URLs of files and folders, and globs; see `listing.list_inputs`.
        kind: Reads every file as this, whatever its name.
        rows_per_shard: Rows in a shard, at most (of a Parquet row group at least a 16th).

    Raises:
        DatasetError: If an input names nothing, cannot be listed, or is a JSON array.
    """
    if isinstance(inputs, str):
        inputs = [inputs]
    if not inputs:
        raise DatasetError("no inputs: name files, folders or globs")
    if kind is not None and kind not in ("files", *_SPANS):
        raise DatasetError(f"kind={kind!r} is none of 'files', {', '.join(map(repr, _SPANS))}")
    if rows_per_shard < 1:
        raise DatasetError(f"rows_per_shard={rows_per_shard} is not at least 1")
    listed = list_inputs(inputs)
    files = [file for file in listed if (kind or kind_of(file.path)) == "files"]
    tables = [file for file in listed if (kind or kind_of(file.path)) != "files"]
    pieces = [_piece("files", files[first : first + rows_per_shard]) for first in range(0, len(files), rows_per_shard)]
    with ThreadPoolExecutor(_PLANNERS) as pool:
        cut = pool.map(lambda file: _cut(file, kind or kind_of(file.path), rows_per_shard), tables)
        pieces += list(itertools.chain.from_iterable(cut))
    return [dataclasses.replace(piece, name=f"{number:05d}-{piece.name}") for number, piece in enumerate(pieces)]


def whole_file(path: str, kind: Kind | None = None) -> Shard:
    """Return one shard that covers one file, without looking at it: for engines that list files themselves."""
    return _piece(kind or kind_of(path), [Listed(path)])


def _piece(kind: Kind, files: Sequence[Listed], **span: Any) -> Shard:
    """Make a shard whose name is the digest alone: numbers are given when all of them are known."""
    paths = tuple(file.path for file in files)
    covered = [kind, paths, span.get("start", 0), span.get("stop")]
    sizes = [file.size for file in files if file.size is not None]
    return Shard(
        name=_digest(covered, 8),
        kind=kind,
        paths=paths,
        fingerprint=_digest([(file.path, file.size, file.version) for file in files], 16),
        nbytes=sum(sizes) if len(sizes) == len(files) else None,
        **span,
    )


def _digest(value: Any, length: int) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:length]


def _cut(file: Listed, kind: Kind, rows: int) -> list[Shard]:
    if kind == "jsonl":
        check_json_lines(file.path)
    spans: list[dict[str, Any]] = [{}]
    if not file.path.lower().endswith(".gz") and file.size != 0:
        with contextlib.suppress(Exception):  # reading it again, on a worker, says what is wrong, as a failure
            spans = list(_SPANS[kind](file.path, rows))
    return [_piece(kind, [file], **span) for span in spans]


def _line_spans(path: str, rows: int) -> Iterator[dict[str, Any]]:
    starts = line_starts(path, rows)
    for number, offset in enumerate(starts):
        stop = (number + 1) * rows if number + 1 < len(starts) else None
        yield {"start": number * rows, "stop": stop, "offset": offset, "line": number * rows + 1}


def _csv_spans(path: str, rows: int) -> Iterator[dict[str, Any]]:
    with open_text(path) as file:
        records = csv_records(file, csv_delimiter(path))
        next(records, None)  # the header
        starts = [(r.offset, r.line) for number, r in enumerate(records) if number % rows == 0] or [(0, 1)]
    for number, (offset, line) in enumerate(starts):
        stop = (number + 1) * rows if number + 1 < len(starts) else None
        yield {"start": number * rows, "stop": stop, "offset": offset, "line": line}


def csv_delimiter(path: str) -> str:
    """Return what stands between the fields of a file: a tab in `.tsv`, else a comma."""
    return "\t" if path.lower().removesuffix(".gz").endswith(".tsv") else ","


def _parquet_spans(path: str, rows: int) -> Iterator[dict[str, Any]]:
    """Cut at row groups: small ones are joined, and large ones split."""
    import pyarrow.parquet as pq

    with open_input(path) as file:
        metadata = pq.read_metadata(file)
    start = stop = 0
    for number in range(metadata.num_row_groups):
        length = metadata.row_group(number).num_rows
        if stop > start and stop - start + length > rows:
            yield {"start": start, "stop": stop}
            start = stop
        stop += length
        if length > rows:
            step = max(rows, -(-length // _MAX_SPLITS))
            yield from ({"start": at, "stop": min(at + step, stop)} for at in range(start, stop, step))
            start = stop
    if stop > start or stop == 0:
        yield {"start": start, "stop": stop}


_SPANS = {"jsonl": _line_spans, "csv": _csv_spans, "parquet": _parquet_spans}
