"""What a job reads, found and cut into shards; kept in its dataset, so that a later start cuts in the same places."""

from __future__ import annotations

import dataclasses
import gzip
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from ...errors import DatasetError
from ...files.file_systems import Folder
from ...messages import setting
from ..directory import PLAN
from .listing import Kind, Listed, kind_of, list_inputs
from .shards import ROWS_PER_SHARD, SPANS, Shard, cut, fingerprint_of, piece

_PLANNERS = 8
"""Files that are looked at together: mostly waiting for object stores."""
_FAST = 1
"""How hard a plan is packed: paths repeat each other so much that more would gain little, for millions of them."""

_Numbered = tuple[int | None, Shard]
"""A piece, and its number if it takes the place of an earlier one."""


def plan_shards(
    inputs: Sequence[str],
    *,
    kind: Kind | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
    previous: Sequence[Shard] = (),
) -> list[Shard]:
    """Find the inputs of a job and cut them into shards.

    Each file is read as its name says: `.jsonl`, `.json`, `.ndjson`, `.csv`, `.tsv` (all of them also with `.gz`) and
    `.parquet` are tables, `.tar` (also packed) holds samples, everything else is a document by itself. JSON lines and
    CSV files are read once for it, to find where their shards begin; of Parquet files only the footer, of tars on this
    machine the headers. A packed file is one shard, since nothing can begin in its middle, and so is a tar elsewhere. A
    file that cannot be read is a shard too, and becomes a failure there.

    With an earlier plan, what has not changed is cut where it was, and not looked at again: one new photograph in a
    folder is a shard more, and moves none. A changed table is cut anew, and a chunk of files of which some changed or
    went is a shard of those that are left.

    Args:
        inputs: Paths and URLs of files and folders, and globs; see `listing.list_inputs`.
        kind: Reads every file as this, whatever its name.
        rows_per_shard: Rows in a shard, at most (of a Parquet row group at least a 16th).
        previous: The plan of the same job's first start; shards keep its numbers, and new ones follow.

    Raises:
        DatasetError: If an input names nothing, cannot be listed, or is a JSON array.
    """
    if isinstance(inputs, str):
        inputs = [inputs]
    if not inputs:
        raise DatasetError("no inputs: name files, folders or globs")
    if kind is not None and kind not in ("files", *SPANS):
        raise DatasetError(setting("kind", kind) + f" must be one of 'files', {', '.join(map(repr, SPANS))}")
    if rows_per_shard < 1:
        raise DatasetError(setting("rows_per_shard", rows_per_shard) + " is not at least 1")
    listed = [(file, kind or kind_of(file.path)) for file in list_inputs(inputs)]
    files = [file for file, kind in listed if kind == "files"]
    tables = [(file, kind) for file, kind in listed if kind != "files"]
    pieces = [*_chunks(files, previous, rows_per_shard), *_spans(tables, previous, rows_per_shard)]
    after = max((number_of(shard) for shard in previous), default=-1) + 1
    kept = sorted(((number, one) for number, one in pieces if number is not None), key=lambda pair: pair[0])
    new = enumerate((one for number, one in pieces if number is None), after)
    return [dataclasses.replace(one, name=f"{number:05d}-{one.name}") for number, one in (*kept, *new)]


def number_of(shard: Shard) -> int:
    """Return the number of a shard in its plan."""
    return int(shard.name.partition("-")[0])


def _chunks(files: Sequence[Listed], previous: Sequence[Shard], rows: int) -> Iterator[_Numbered]:
    """Cut files that are documents: those of an earlier chunk stay together, and the others make new ones."""
    left = {file.path: file for file in files}
    for shard in previous:
        if shard.kind == "files" and (there := [left.pop(path) for path in shard.paths if path in left]):
            yield number_of(shard), piece("files", there)
    new = list(left.values())
    for first in range(0, len(new), rows):
        yield None, piece("files", new[first : first + rows])


def _spans(tables: Sequence[tuple[Listed, Kind]], previous: Sequence[Shard], rows: int) -> Iterator[_Numbered]:
    """Cut tables; one that did not change is cut as it was."""
    known: dict[str, list[Shard]] = {}
    for shard in previous:
        if shard.kind != "files":
            known.setdefault(shard.paths[0], []).append(shard)

    def cut_one(table: tuple[Listed, Kind]) -> list[_Numbered]:
        file, kind = table
        old = known.get(file.path, [])
        numbers = [number_of(shard) for shard in old]
        if old and (old[0].kind, old[0].fingerprint) == (kind, fingerprint_of([file])):
            cut_before = [dataclasses.replace(shard, name=shard.name.partition("-")[2]) for shard in old]
            return list(zip(numbers, cut_before, strict=True))
        new = cut(file, kind, rows)
        places: list[int | None] = [*numbers, *[None] * len(new)]
        return list(zip(places, new, strict=False))

    with ThreadPoolExecutor(_PLANNERS) as pool:
        for found in pool.map(cut_one, tables):
            yield from found


# --- kept in the dataset ---------------------------------------------------------------------------------------------


def write_plan(folder: Folder, shards: Sequence[Shard]) -> None:
    """Keep a plan in a dataset's directory: JSON lines, packed, since it names every file of the input.

    Raises:
        DatasetError: If it cannot be written.
    """
    lines = "".join(json.dumps(shard.as_dict()) + "\n" for shard in shards)
    folder.write(PLAN, gzip.compress(lines.encode("ascii"), _FAST, mtime=0))


def read_plan(folder: Folder) -> list[Shard] | None:
    """Return the plan that is kept in a dataset's directory, None if there is none.

    Raises:
        DatasetError: If it cannot be read.
    """
    try:
        packed = folder.read(PLAN)
    except FileNotFoundError:
        return None
    try:
        return [Shard.from_dict(json.loads(line)) for line in gzip.decompress(packed).splitlines()]
    except (OSError, EOFError, ValueError, TypeError, KeyError) as err:
        raise DatasetError(
            f"{folder.url}/{PLAN} is damaged ({err}), so nobody knows which shards there were",
            hint="begin anew in another directory, or with " + setting("overwrite", True),
        ) from err
