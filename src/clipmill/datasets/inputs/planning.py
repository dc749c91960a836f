"""Cuts a job's input into shards. The plan is stored in the dataset, so that a resumed job has the same shards."""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import typing
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from ...errors import DatasetError, check_choice, check_integer
from ...files.file_systems import open_location, raise_failing_store, url_of
from ...files.folder import Folder
from ...files.parted_list import Codec, PartedList, is_stored, open_stored, parted, store
from ...messages import setting
from ..directory import LISTS, PLAN_PARTS
from ..replacing import directory_of
from .kept_files import KeptFiles
from .listing import Kind, listed_again
from .recognition import InputFile, recognised_inputs
from .shards import ROWS_PER_SHARD, Shard, cut, fingerprint_of, piece
from .walking import Listed

_PLANNERS = 8
"""Files that are inspected in parallel; the threads mostly wait for object stores."""

_Numbered = tuple[int | None, Shard]
"""A shard, and its number if it replaces a shard of the previous plan."""


def plan_shards(
    inputs: Sequence[str],
    *,
    kind: Kind | None = None,
    rows_per_shard: int = ROWS_PER_SHARD,
    previous: Sequence[Shard] = (),
) -> list[Shard]:
    """List the inputs of a job and cut them into shards.

    `input_files` decides how each file is read. Planning reads JSON lines, CSV files and lists of URIs once, to find
    where their shards begin. It reads only the footer of Parquet files, and only the headers of local tars and Arrow
    files. A compressed file is one shard, because reading cannot start in its middle, and so is a remote tar or Arrow
    file. A file that cannot be read is a shard too; reading that shard returns a failure.

    With a previous plan, unchanged files keep their shards and are not inspected again: one new image in a folder adds
    one shard and moves no other. A changed table is cut again. A shard of files keeps the files that are still there,
    changed or not.

    Args:
        inputs: Paths and URLs of files and folders, and globs; see `listing.list_inputs`.
        kind: Read every file as this kind, whatever it is.
        rows_per_shard: Maximum number of rows in a shard; a row group of Parquet is cut into at most 64 shards
            (16 if it has over a gigabyte), and a batch of Arrow into 16, which may be larger.
        previous: The plan of the same job's first start. Shards keep its numbers; new shards get the numbers after it.

    Raises:
        DatasetError: If an input has no files, cannot be listed, is a JSON array, or is named and cannot be read.
    """
    return list(cut_inputs(input_files(inputs, kind=kind), rows_per_shard=rows_per_shard, previous=previous))


def input_files(inputs: Sequence[str], *, kind: Kind | None = None) -> Iterator[InputFile]:
    """Yield the files of a job's input, and how each is read; see `recognised_inputs`.

    Raises:
        DatasetError: If an input has no files or cannot be listed, or if one is named by its own path, and its name and
            content are those of nothing that can be embedded. Such a file of a folder or pattern is a row that fails.
    """
    if isinstance(inputs, str):
        inputs = [inputs]
    if not inputs:
        raise DatasetError("no inputs: name files, folders or globs")
    if kind is not None:
        check_choice("kind", kind, typing.get_args(Kind), error=DatasetError)
    named = {url_of(*open_location(given)) for given in inputs}
    for one in recognised_inputs(inputs, kind=kind):
        if one.problem and one.file.path in named:
            raise DatasetError(f"the input {one.file.path} is {one.problem}")
        yield one


def cut_inputs(
    files: Iterable[InputFile], *, rows_per_shard: int = ROWS_PER_SHARD, previous: Sequence[Shard] = ()
) -> PartedList[Shard]:
    """Cut the files of a job's input into shards, whose numbers rise; see `plan_shards`.

    Files are taken one by one. Memory holds one shard of files, and the tables; with a previous plan, also some 50
    bytes for each file.
    """
    check_integer("rows_per_shard", rows_per_shard, error=DatasetError)
    numbered = _continued(files, previous, rows_per_shard) if len(previous) else _anew(files, rows_per_shard)
    return parted((dataclasses.replace(one, name=f"{number:05d}-{one.name}") for number, one in numbered), _CODEC)


def _anew(files: Iterable[InputFile], rows: int) -> Iterator[tuple[int, Shard]]:
    """Yield the shards of files, then those of tables, with their numbers."""
    tables: list[InputFile] = []
    documents = _documents(files, tables)
    yield from enumerate(
        itertools.chain(_cut_files(documents, rows), (one for _, one in _cut_tables(tables, (), rows)))
    )


def _continued(files: Iterable[InputFile], previous: Sequence[Shard], rows: int) -> Iterator[tuple[int, Shard]]:
    """Yield the shards that have a number in the previous plan, by number, then the new ones.

    Files of a previous shard stay together, and new files make new shards.
    """
    tables: list[InputFile] = []
    listed = KeptFiles(_documents(files, tables))
    cut_tables = list(_cut_tables(tables, previous, rows))
    first_new = 0

    def kept_files() -> Iterator[tuple[int, Shard]]:
        nonlocal first_new
        for shard in previous:
            first_new = max(first_new, number_of(shard) + 1)
            if shard.kind == "files" and (kept := listed.take(shard.paths)):
                yield number_of(shard), piece("files", kept)

    kept_tables = [(number, one) for number, one in cut_tables if number is not None]
    yield from heapq.merge(kept_files(), sorted(kept_tables, key=_number), key=_number)
    new_tables = (one for number, one in cut_tables if number is None)
    yield from enumerate(itertools.chain(_cut_files(listed.others(), rows), new_tables), first_new)


def _number(numbered: tuple[int, Shard]) -> int:
    return numbered[0]


def _documents(files: Iterable[InputFile], tables: list[InputFile]) -> Iterator[Listed]:
    """Yield the files that are documents, and add the others to the tables."""
    for one in files:
        if one.kind == "files":
            yield one.file
        else:
            tables.append(one)


def number_of(shard: Shard) -> int:
    """Return the number of a shard in its plan."""
    return int(shard.name.partition("-")[0])


def _cut_files(files: Iterable[Listed], rows: int) -> Iterator[Shard]:
    remaining = iter(files)
    while some := list(itertools.islice(remaining, rows)):
        yield piece("files", some)


def _cut_tables(tables: Sequence[InputFile], previous: Sequence[Shard], rows: int) -> Iterator[_Numbered]:
    """Cut tables into shards; an unchanged table keeps its previous shards."""
    known: dict[str, list[Shard]] = {}
    for shard in previous:
        if shard.kind != "files":
            known.setdefault(shard.paths[0], []).append(shard)

    def cut_one(table: InputFile) -> list[_Numbered]:
        file, kind = table.file, table.kind
        old = known.get(file.path, [])
        numbers = [number_of(shard) for shard in old]

        def is_unchanged(now: Listed) -> bool:
            return bool(old) and (old[0].kind, old[0].fingerprint) == (kind, fingerprint_of([now]))

        if not is_unchanged(file):
            file = _asked_again(file)
        if is_unchanged(file):
            unnumbered = [dataclasses.replace(shard, name=shard.name.partition("-")[2]) for shard in old]
            return list(zip(numbers, unnumbered, strict=True))
        new = cut(file, kind, rows)
        new_numbers: list[int | None] = [*numbers, *[None] * len(new)]
        return list(zip(new_numbers, new, strict=False))

    with ThreadPoolExecutor(_PLANNERS) as pool:
        for shards in pool.map(cut_one, tables):
            yield from shards


def _asked_again(file: Listed) -> Listed:
    """Return a file of a store as `read_rows` will see it: some drivers spell versions otherwise when they list."""
    if "://" in file.path:
        try:
            return listed_again(file.path)._replace(path=file.path)
        except Exception as err:  # its reader reports the error as a failure
            raise_failing_store(err, file.path)
    return file


# --- stored in the dataset -------------------------------------------------------------------------------------------

_CODEC = Codec(
    Shard.as_dict, Shard.from_dict, "start again in another directory, or with " + setting("overwrite", True)
)


def write_plan(folder: Folder, shards: Sequence[Shard]) -> PartedList[Shard]:
    """Store a plan in a dataset's directory, and return it as it is read from there: workers are sent its address."""
    return store(shards, folder, PLAN_PARTS, _CODEC, moved_to=_moved_to(folder))


def read_plan(folder: Folder) -> PartedList[Shard] | None:
    """Return the plan stored in a dataset's directory; None if there is none.

    Its parts are read when they are needed; `DatasetError` if one is damaged.
    """
    return open_stored(folder, PLAN_PARTS, _CODEC, moved_to=_moved_to(folder))


def _moved_to(folder: Folder) -> Folder | None:
    """Return where the plan goes when its dataset replaces an older one."""
    whole = directory_of(folder.url)
    return None if whole == folder else whole


def stored_shards(shards: Sequence[Shard], folder: Folder) -> Sequence[Shard]:
    """Return shards of a job as a list that pickles to its address; `write_plan` and `start_job` return such lists.

    Any other list is stored in the dataset's directory, beside the plan, until the job is finished.
    """
    return shards if is_stored(shards) else store(shards, folder, f"{LISTS}/shards", _CODEC)
