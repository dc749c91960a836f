"""What a job makes of its input: which columns of tables are embedded as what, and which media are left out."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pyarrow as pa

from ..datasets.inputs.listing import Kind
from ..datasets.inputs.readers import ReaderOptions, choose_columns, is_failure_line, without_failure
from ..datasets.inputs.recognition import InputFile
from ..datasets.inputs.row_schemas import schema_of
from ..datasets.inputs.rows import read_rows
from ..datasets.inputs.samples import AUDIO_EXTENSIONS
from ..datasets.inputs.shards import whole_file
from ..datasets.inputs.sidecars import IMAGE_EXTENSIONS, is_image
from ..datasets.tables.column_types import is_list_type
from ..encoders.item import AUDIO_FIELDS
from ..encoders.plans.kinds import modality_of_struct
from ..encoders.plans.plan import Plan
from ..errors import DatasetError
from ..failures import RowError
from ..media.audio import sniff_audio_type
from ..media.images import sniff_media_type
from .options import JobOptions

TABLES_LOOKED_AT = 20
_ROWS_LOOKED_AT = 64
_OPENERS = 8
_TABLES: tuple[Kind, ...] = ("csv", "jsonl", "parquet", "arrow")
_CONTENT_FIRST = ("text", "image", "audio", "uri")
"""Fields of a document; the first that a document has is embedded."""
_TEXTS_AND_BYTES = (
    *(pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())),
    *(pa.binary(), pa.large_binary(), pa.binary_view()),
)
_NAME = re.compile(r"\S+\.(\w+)(?:\?\S*)?")
"""A path or URI of a file with an ending."""


class InputUse(NamedTuple):
    """What a job makes of files of one kind that have the same columns.

    Attributes:
        kind: How the files are read.
        paths: The first files; none for those with problems.
        embedded: What is embedded: the kind or modality of each column; empty for images and audio clips.
        left_out: The modality of columns that hold images or audio, or name them, and are not embedded.
        otherwise: The modality of columns that are embedded only in rows where the column before them is empty.
        problems: Files that hold nothing to embed, and what they are.
        beside_images: Whether a file lies in a folder of images, where it may be about them.
        others: How many more files there are.
    """

    kind: Kind
    paths: Sequence[str]
    embedded: Mapping[str, str]
    left_out: Mapping[str, str] = {}
    otherwise: Mapping[str, str] = {}
    problems: Mapping[str, str] = {}
    beside_images: bool = False
    others: int = 0

    @property
    def files(self) -> int:
        """How many files there are, without those with problems."""
        return len(self.paths) + self.others


class InputTally:
    """What is kept of the files of an input, which pass by one at a time: their numbers, and the first of each kind."""

    def __init__(self) -> None:
        """Start with no file."""
        self.problems: dict[str, str] = {}
        self.counts: collections.Counter[Kind] = collections.Counter()
        self.firsts: dict[Kind, list[str]] = {}
        self.folders_of_images: set[str] = set()
        self.folders_of_others: dict[Kind, set[str]] = {}
        """Folders of the tables that are counted only."""

    def counted(self, files: Iterable[InputFile]) -> Iterator[InputFile]:
        """Yield the files, each of which is counted."""
        for one in files:
            path = one.file.path
            if one.problem:
                self.problems[path] = one.problem
            else:
                self.counts[one.kind] += 1
                firsts = self.firsts.setdefault(one.kind, [])
                if len(firsts) < TABLES_LOOKED_AT:
                    firsts.append(path)
                elif one.kind in _TABLES:
                    self.folders_of_others.setdefault(one.kind, set()).add(path[: path.rfind("/")])
                if one.kind == "files" and is_image(path):
                    self.folders_of_images.add(path[: path.rfind("/")])
            yield one


def uses_of(files: Iterable[InputFile] | InputTally, options: JobOptions) -> list[InputUse]:
    """Return what a job makes of the files of its input.

    Of each kind of table, the first rows of the first 20 files are read; the others are counted with the first. Nothing
    is known of a table that cannot be read: its columns are empty.
    """
    if isinstance(files, InputTally):
        tally = files
    else:
        tally = InputTally()
        for _ in tally.counted(files):
            pass
    uses: list[InputUse] = []
    for kind, paths in tally.firsts.items():
        if kind in _TABLES:
            for number, use in enumerate(_uses_of_tables(kind, paths, options)):
                folders = {path[: path.rfind("/")] for path in use.paths}
                if number == 0:
                    folders |= tally.folders_of_others.get(kind, set())
                    use = use._replace(others=tally.counts[kind] - len(paths))
                uses.append(use._replace(beside_images=not folders.isdisjoint(tally.folders_of_images)))
        else:
            others = tally.counts[kind] - len(paths)
            uses.append(InputUse(kind, paths, _embedded_of_media(kind, options.plan), others=others))
    return [*uses, *([InputUse("files", (), {}, problems=tally.problems)] if tally.problems else [])]


def _embedded_of_media(kind: Kind, plan: Plan) -> Mapping[str, str]:
    return plan.reads if plan.of_rows else {"uri": "image or audio"} if kind == "uris" else {}


def _uses_of_tables(kind: Kind, looked_at: Sequence[str], options: JobOptions) -> list[InputUse]:
    with ThreadPoolExecutor(_OPENERS) as pool:
        columns = pool.map(lambda path: _use_of_columns(kind, path, options), looked_at)
    groups: dict[Any, tuple[InputUse, list[str]]] = {}
    for path, use in zip(looked_at, columns, strict=True):
        key = tuple(tuple(one.items()) for one in (use.embedded, use.left_out, use.otherwise))
        groups.setdefault(key, (use, []))[1].append(path)
    return [use._replace(paths=members) for use, members in groups.values()]


def _use_of_columns(kind: Kind, path: str, options: JobOptions) -> InputUse:
    """Return what a job makes of the columns of a table."""
    nothing = InputUse(kind, (), {})
    shard = dataclasses.replace(whole_file(path, kind), stop=_ROWS_LOOKED_AT)
    names: list[str] = []
    maybe_media: list[str] = []
    if kind != "jsonl":
        try:
            schema = schema_of([shard])
        except DatasetError:  # its rows fail
            return nothing
        names = schema.names
        maybe_media = [field.name for field in schema if _may_hold_media(field.type)]
    read = read_rows(shard, choose=lambda there: [name for name in maybe_media if name in there])
    rows = [row.values for row in itertools.islice(read, _ROWS_LOOKED_AT) if row.failure is None]
    rows = [without_failure(row) if is_failure_line(row) else row for row in rows]
    names = names or list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    media = {name: modality for name in names if (modality := _modality_of_column(rows, name))}
    plan = options.plan
    if plan.of_rows:
        used = {plan.key, *(one.split(".")[0] for one in plan.reads), *plan.reads, *options.drop}
        left_out = {name: modality for name, modality in media.items() if name not in used}
        return nothing._replace(embedded=plan.reads, left_out=left_out)
    if plan.needs_matches:
        return nothing._replace(embedded={"matches": "candidates"})
    try:
        if kind == "jsonl":
            chosen = _fields_of_lines(names, options.reader)
        else:
            chosen = choose_columns(names, options.reader, path)
    except RowError:  # the job is refused, or its rows fail
        return nothing
    first = next((field for field in _CONTENT_FIRST if field in chosen), None)
    if first is None:
        return nothing
    others = {column: field for field, column in chosen.items() if field not in (first, "id")}
    known = {*chosen.values(), *options.reader.tags}
    return nothing._replace(
        embedded={chosen[first]: _modality_of_field(first)},
        left_out={name: modality for name, modality in media.items() if name not in known},
        otherwise={name: media.get(name) or _modality_of_field(field) for name, field in others.items()},
    )


def _may_hold_media(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_may_hold_media(field.type) for field in kind)
    return _may_hold_media(kind.value_type) if is_list_type(kind) else kind in _TEXTS_AND_BYTES


def _fields_of_lines(names: Sequence[str], reader: ReaderOptions) -> dict[str, str]:
    named = {field: reader.columns.get(field, field) for field in ("text", "uri", "id")}
    return {field: name for field, name in named.items() if name in names}


def _modality_of_field(field: str) -> str:
    return "image or audio" if field == "uri" else field


def _modality_of_column(rows: Sequence[Mapping[str, Any]], name: str) -> str | None:
    """Return the modality of the first value of a column, if it holds media or names a file of them."""
    return _modality_of(next((row[name] for row in rows if row.get(name) is not None), None))


def _modality_of(value: Any) -> str | None:
    if isinstance(value, bytes):
        return "image" if sniff_media_type(value) else "audio" if sniff_audio_type(value[:16]) else None
    if isinstance(value, Mapping):
        if modality := modality_of_struct(value):
            return modality
        is_file = value.keys() <= AUDIO_FIELDS
        return _modality_of(value.get("bytes") or value.get("path")) if is_file else None
    if isinstance(value, list):
        return _modality_of(next((one for one in value if one is not None), None))
    if isinstance(value, str):
        if value.startswith(("data:image/", "data:audio/")):
            return value[5:10]
        match = _NAME.fullmatch(value)
        ending = match[1].lower() if match else ""
        return "image" if ending in IMAGE_EXTENSIONS else "audio" if ending in AUDIO_EXTENSIONS else None
    return None
