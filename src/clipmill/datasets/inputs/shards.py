"""Shards: pieces of a job's input that are processed, written and retried independently. `planning` makes them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, get_args

from ...files.arrow_stream import ArrowStream
from ...files.compression import compression_of
from ...files.file_systems import is_local, open_input, open_location, raise_failing_store
from ...files.json_shape import fits, mismatches
from ...files.json_text import clean_text
from ...files.parquet import check_row_counts
from .lines import csv_delimiter, csv_records, line_starts, open_text
from .listing import Kind, kind_of
from .samples import sample_starts
from .tars import open_tar
from .walking import Listed

ROWS_PER_SHARD = 1024
_MAX_SPLITS, _MAX_SPLITS_OF_SMALL = 16, 64
"""Shards of one row group or batch, at most: each is read from the group's beginning, so many shards are expensive. A
worker passes over a caption in 0.2 µs and over 2.5 GB/s of images on a local disk (docs/scale.md)."""
_READ_AGAIN_BYTES = 8 * 2**30
"""Bytes of a row group that its shards may pass over together before it is cut into fewer of them."""


_SHAPE: dict[str, Any] = {
    "name": lambda name: isinstance(name, str) and re.fullmatch(r"\d{1,18}-[0-9a-z]{1,64}", name) is not None,
    "kind": lambda kind: kind in get_args(Kind),
    "paths": lambda paths: bool(paths) and fits(paths, [str]),
    "start?": int,
    "stop?": (int, None),
    "offset?": int,
    "line?": int,
    "fingerprint?": str,
    "nbytes?": (int, None),
    "beside?": [[str]],
}


@dataclasses.dataclass(frozen=True, slots=True)
class Shard:
    """A piece of a job's input. Small, picklable, and equal whenever the same inputs are planned.

    Attributes:
        name: Name of the shard and of its files in the output: its number and a digest of what it covers.
        kind: How it is read; each of `files` is a document.
        paths: The files, as absolute paths or URLs; exactly one unless the kind is `files`.
        start: Number of the first record, row or sample in the file, from 0 (blank lines count, a header does not).
        stop: Number after the last record; None means the end of the file.
        offset: Byte at which the first record begins (text files and tars; 0 is the beginning of the file).
        line: Line at which the first record begins, from 1 (text files).
        fingerprint: Digest of the paths, sizes and versions (modification time or etag) of the files.
        nbytes: Total bytes of the files; None if unknown.
        beside: For each of `files`, the extensions of its sidecar files; empty if no file has any.
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
    beside: tuple[tuple[str, ...], ...] = ()

    @property
    def rows(self) -> int | None:
        """The number of rows, of which some may be unreadable; None if only reading counts them."""
        if self.kind == "files":
            return len(self.paths)
        return None if self.stop is None else self.stop - self.start

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values, from which `Shard.from_dict` makes the shard again."""
        found = {field: getattr(self, field) for field in self.__slots__}  # `asdict` would copy each path
        return {**found, "paths": list(self.paths), "beside": list(map(list, self.beside))}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Shard:
        """Make a shard from the fields that `as_dict` returned; raise `ValueError` for others.

        The name becomes part of names of files.
        """
        if wrong := mismatches(fields, _SHAPE):
            raise ValueError(f"no shard has such values of {', '.join(wrong)}")
        beside = tuple(map(tuple, fields.get("beside", ())))
        return cls(**{**fields, "paths": tuple(fields["paths"]), "beside": beside})

    def identity(self) -> dict[str, Any]:
        """Return the fields for the shard's manifest, without the paths of a folder's files: those are row ids."""
        fields = self.as_dict()
        paths = fields.pop("paths")
        fields.pop("beside")
        # cleaned like its row's id, because engines that pass manifests on cannot encode other strings
        return {**fields, "first_path": clean_text(paths[0]), "files": len(paths)}


def whole_file(file: str | Listed, kind: Kind | None = None) -> Shard:
    """Return one shard that covers one file, without opening it; for engines that list files themselves."""
    listed = Listed(file) if isinstance(file, str) else file
    return piece(kind or kind_of(listed.path), [listed])


def piece(kind: Kind, files: Sequence[Listed], **span: Any) -> Shard:
    """Make a shard whose name is only the digest; `plan_shards` adds numbers when it has all shards."""
    paths = tuple(file.path for file in files)
    covered = [kind, paths, span.get("start", 0), span.get("stop")]
    sizes = [file.size for file in files if file.size is not None]
    return Shard(
        name=_digest(covered, 8),
        kind=kind,
        paths=paths,
        fingerprint=fingerprint_of(files),
        nbytes=sum(sizes) if len(sizes) == len(files) else None,
        beside=tuple(file.beside for file in files) if any(file.beside for file in files) else (),
        **span,
    )


def fingerprint_of(files: Sequence[Listed]) -> str:
    """Return a digest that changes with the content of files, as far as their file system reports changes."""
    return _digest([(file.path, file.size, file.version) for file in files], 16)


def is_listed(shard: Shard, file: Listed) -> bool:
    """Return whether a file is still as it was when the shard of a table was planned, as far as that is known."""
    of_nothing = fingerprint_of([Listed(shard.paths[0])])  # of engines that list names only
    is_known = shard.fingerprint not in ("", of_nothing) and not shard.beside
    return not is_known or shard.fingerprint == fingerprint_of([file._replace(path=shard.paths[0])])


def _digest(value: Any, length: int) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:length]


def cut(file: Listed, kind: Kind, rows: int) -> list[Shard]:
    """Cut a table into shards of at most `rows` rows, whose names are only digests."""
    spans_of, spans = SPANS[kind], [dict[str, Any]()]
    if file.size != 0:
        try:
            spans = list(spans_of(file.path, rows))
        except Exception as err:  # a worker reads the file again, and reports the error as a failure
            raise_failing_store(err, file.path)
    return [piece(kind, [file], **span) for span in spans]


def _line_spans(path: str, rows: int) -> Iterator[dict[str, Any]]:
    if _is_compressed(path):
        yield {}
        return
    starts = line_starts(path, rows)
    for number, offset in enumerate(starts):
        stop = (number + 1) * rows if number + 1 < len(starts) else None
        yield {"start": number * rows, "stop": stop, "offset": offset, "line": number * rows + 1}


def _csv_spans(path: str, rows: int) -> Iterator[dict[str, Any]]:
    if _is_compressed(path):
        yield {}
        return
    with open_text(path) as file:
        records = csv_records(file, csv_delimiter(path))
        next(records, None)  # the header
        starts = [(r.offset, r.line) for number, r in enumerate(records) if number % rows == 0] or [(0, 1)]
    for number, (offset, line) in enumerate(starts):
        stop = (number + 1) * rows if number + 1 < len(starts) else None
        yield {"start": number * rows, "stop": stop, "offset": offset, "line": line}


def _parquet_spans(path: str, rows: int) -> Iterator[dict[str, Any]]:
    """Cut at row groups."""
    import pyarrow.parquet as pq

    with open_input(path) as file:
        metadata = pq.read_metadata(file)
    check_row_counts(metadata)
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    yield from _spans_of_groups(((group.num_rows, _splits_of(group.total_byte_size)) for group in groups), rows)


def _splits_of(nbytes: int) -> int:
    """Return into how many shards a row group is cut at most: n shards pass over about n / 2 times its bytes."""
    return min(max(2 * _READ_AGAIN_BYTES // max(nbytes, 1), _MAX_SPLITS), _MAX_SPLITS_OF_SMALL)


def _arrow_spans(path: str, rows: int) -> Iterator[dict[str, Any]]:
    """Cut at batches of local files. To begin in the middle, compressed and remote batches would have to be read."""
    headers = []
    if is_local(open_location(path)[0]):
        with ArrowStream(path) as stream:
            headers = list(stream.headers())
    if headers and not any(header.is_compressed for header in headers):
        yield from _spans_of_groups([(header.rows, _MAX_SPLITS) for header in headers], rows)
    else:
        yield {}


def _spans_of_groups(groups: Iterable[tuple[int, int]], rows: int) -> Iterator[dict[str, Any]]:
    """Cut between groups of rows; join small ones and split large ones. A group has its rows, and its most shards."""
    start = stop = 0
    for length, splits in groups:
        if stop > start and stop - start + length > rows:
            yield {"start": start, "stop": stop}
            start = stop
        stop += length
        if length > rows:
            step = max(rows, -(-length // splits))
            yield from ({"start": at, "stop": min(at + step, stop)} for at in range(start, stop, step))
            start = stop
    if stop > start or stop == 0:
        yield {"start": start, "stop": stop}


def _tar_spans(path: str, rows: int) -> Iterator[dict[str, Any]]:
    """Cut local archives between samples. A remote archive is one shard: reading its headers would read all of it."""
    starts = [0]
    if is_local(open_location(path)[0]):
        with open_tar(path) as stream:
            starts = [0] if stream.is_compressed else list(sample_starts(stream, rows)) or [0]
    for number, offset in enumerate(starts):
        stop = (number + 1) * rows if number + 1 < len(starts) else None
        yield {"start": number * rows, "stop": stop, "offset": offset}


def _is_compressed(path: str) -> bool:
    with open_input(path) as file:
        return compression_of(file.read(10)) is not None


SPANS: dict[str, Any] = {
    "jsonl": _line_spans,
    "uris": _line_spans,
    "csv": _csv_spans,
    "parquet": _parquet_spans,
    "arrow": _arrow_spans,
    "tar": _tar_spans,
}
