"""A shard as documents; what cannot be read is a document with a failure in its place, and the rest goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...encoders.document import Document
from ...encoders.item import Uri, item_of_value
from ...encoders.plans.row_values import MissingColumn, get_by_path
from ...failures import Code, RowError, Stage
from ...media.audio import Waveform
from ...messages import setting
from .rows import malformed, read_table
from .samples import AUDIO, IMAGE, KEY, MAX_FILE_BYTES, TAGS, TEXT
from .shards import Shard

_DEFAULTS = {
    "text": ("text", "caption"),
    "uri": ("uri", "url", "path"),
    "image": ("image", "blob", "bytes"),
    "audio": ("audio", "sound"),
    "id": ("id", "key"),
}
_CONTENT = ("text", "uri", "image", "audio")
CONTENT_AND_ID = (*_CONTENT, "id")
_FAILURE_FIELDS = frozenset({"row", "column", "stage", "code", "message", "transient"})
_NESTED = {"matches": "m", "chunks": "c"}
_CAPTION = "caption"


@dataclasses.dataclass(frozen=True, slots=True)
class ReaderOptions:
    """Which columns make documents.

    Attributes:
        text: Column of texts (of JSON lines: field).
        uri: Column of URIs; what they name is read only as far as the spec allows it.
        image: Column of encoded images, of (bytes, path) structs or of Spark's image structs (Parquet).
        audio: Column of encoded sounds, of (bytes, path) structs or of structs of samples and their rate (Parquet).
        id: Column that names the documents.
        tags: Columns that travel along (CSV, Parquet; of JSON lines all other fields do). With types, a job writes them
            as columns of their own.
    """

    text: str | None = None
    uri: str | None = None
    image: str | None = None
    audio: str | None = None
    id: str | None = None
    tags: Sequence[str] | Mapping[str, pa.DataType] = ()

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are named, by what they are of a document; without tags."""
        named = {name: getattr(self, name) for name in CONTENT_AND_ID}
        return {name: column for name, column in named.items() if column}

    def as_dict(self) -> dict[str, Any]:
        """Return what is given as plain values."""
        return {**self.columns, "tags": list(self.tags)}


DEFAULT_READER = ReaderOptions()


def read_documents(
    shard: Shard,
    options: ReaderOptions = DEFAULT_READER,
    *,
    to_rank: bool = False,
    max_file_bytes: int = MAX_FILE_BYTES,
) -> Iterator[Document]:
    """Read a shard as documents, one for each file, line, row or sample.

    JSON lines are documents by their own fields (`text`, `uri`, `id`, `mime_type`, `tags`, `matches`, `chunks`; all
    others become tags); a line that clipmill wrote as a failure is the document to try again. Of CSV and Parquet the
    columns are given, or have these names: text, caption; uri, url, path; image, blob, bytes; audio, sound; id,
    key. As soon as one of `text`, `uri`, `image` and `audio` is given, no other column is content. An empty CSV field
    is null.

    A file of a folder has as tags what stands beside it: its caption as `caption`, and its metadata. A sample of a tar
    is its image, or its sound, with the same tags; its key is the id, or the field of its metadata that `id` names.

    Documents without an id are named after their place: path, `<path>:<line>`, `<path>:<row>`. Files that were listed
    may be local; a `uri` inside a file is a stranger's.

    Args:
        shard: What to read.
        options: Which columns make documents.
        to_rank: Refuse lines that clipmill wrote as failures and that hold no matches: the query is not in them.
        max_file_bytes: Bytes of one file in a tar; the sample of a larger one fails.

    Yields:
        Documents in order; those that could not be read have `failures`, and no content.
    """
    if shard.kind == "files":
        for row in read_table(shard, max_file_bytes=max_file_bytes):
            failures = () if row.failure is None else (row.failure,)
            carried = {} if failures else _tags_of_sample(row.values)
            yield Document.from_listed_uri(row.place, id=row.place, tags=carried, failures=failures)
        return

    def choose(there: list[str]) -> list[str]:
        chosen = (*choose_columns(there, options, shard.paths[0]).values(), *options.tags)
        return sorted({name if name in there else name.split(".")[0] for name in chosen})

    columns = None
    for row in read_table(shard, choose, max_file_bytes=max_file_bytes):
        if row.failure is not None:
            yield Document(id=row.values.get(KEY) or row.place, failures=(row.failure,))
            continue
        try:
            if shard.kind == "tar":
                yield _document_of_sample(row.values, options.id)
            elif shard.kind == "jsonl":
                yield _document_of_json(row.values, row.place, options.columns, to_rank=to_rank)
            else:
                columns = columns or choose_columns(list(row.values), options, shard.paths[0])
                yield _document_of_row(row.values, row.place, columns, list(options.tags))
        except (RowError, RecursionError) as err:
            failure = err.failure if isinstance(err, RowError) else malformed("nested too deeply")
            name = row.values.get(KEY if shard.kind == "tar" else options.id or "id")
            yield Document(id=str(name or row.place), failures=(failure.at(row=row.place),))


def choose_columns(there: Sequence[str], options: ReaderOptions, path: str) -> dict[str, str]:
    """Return which column of a table is `text`, `uri`, `image`, `audio` and `id` of a document.

    Raises:
        RowError: `missing_column`, if one that was named is not there, or none that could be content.
    """
    asked = options.columns
    is_content_named = any(field != "id" for field in asked)
    for field, defaults in _DEFAULTS.items():
        if field not in asked and (field == "id" or not is_content_named):
            found = [name for name in defaults if name in there]
            asked.update({field: found[0]} if found else {})
    named = (*asked.values(), *options.tags)
    missing = [name for name in named if name not in there and name.split(".")[0] not in there]
    listed = ", ".join(map(repr, there))
    if missing:
        raise RowError(Stage.READ, Code.MISSING_COLUMN, f"{path} has no column {missing[0]!r}; it has {listed}")
    if not any(field in asked for field in _CONTENT):
        wanted = ", ".join(name for field in _CONTENT for name in _DEFAULTS[field])
        raise RowError(
            Stage.READ,
            Code.MISSING_COLUMN,
            f"{path} has no column named {wanted}; say which one it is ("
            + (setting("text", ...) + ", " + setting("uri", ...) + ", " + setting("image", ...) + " or ")
            + (setting("audio", ...) + f"): {listed}"),
        )
    return asked


# --- one document ----------------------------------------------------------------------------------------------------


def _document_of_json(fields: dict[str, Any], place: str, names: Mapping[str, str], *, to_rank: bool) -> Document:
    if fields.keys() >= {"stage", "code", "message", "transient"}:
        if to_rank and "matches" not in fields:
            message = "the line is the failure of a candidate, or of a line that was not read: rank its source again"
            raise RowError(Stage.READ, Code.MALFORMED, message)
        fields = {name: value for name, value in fields.items() if name not in _FAILURE_FIELDS}
    if kind := next((kind for kind in ("image", "audio") if kind in names), None):
        message = f"JSON lines hold no bytes: give {kind} files as 'uri', data: URIs too"
        raise RowError(Stage.READ, Code.UNSUPPORTED, message)
    return Document.from_dict(_with_ids(_renamed(fields, names), place))


def _renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return fields under the names that documents have for them; one may be two: content, and the id."""
    asked = {field: name for field, name in names.items() if name != field}
    renamed = dict(fields)
    for field, name in asked.items():
        if name not in fields:
            raise RowError(Stage.READ, Code.MISSING_COLUMN, f"the line has no field {name!r}")
        renamed[field] = fields[name]
    for field, name in asked.items():
        # What is content as it is stays so when it is the id too; what was renamed does not become a tag besides.
        is_kept = name == "id" or (field == "id" and name in _DEFAULTS)
        if name not in asked and not is_kept:
            renamed.pop(name, None)
    return renamed


def _with_ids(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Name a document, and those in it, after their place where they have no id: the same in every run."""
    named = dict(fields)
    if named.get("id") in (None, ""):
        named["id"] = name
    for field, letter in _NESTED.items():
        inner = named.get(field)
        if isinstance(inner, list):
            named[field] = [
                _with_ids(one, f"{named['id']}@{letter}[{number}]") if isinstance(one, Mapping) else one
                for number, one in enumerate(inner)
            ]
        elif inner is None:
            named.pop(field, None)
    return named


def _document_of_sample(values: Mapping[str, Any], id_name: str | None) -> Document:
    """Return the image or sound of a sample; its caption would win over both as `text`, so it is a tag."""
    key = values[KEY]
    content = values[IMAGE] if values[IMAGE] is not None else values[AUDIO]
    if content is None:
        message = f"the sample {key!r} has no image and no sound; captions are embedded as the column 'text' of rows"
        raise RowError(Stage.READ, Code.EMPTY, message)
    tags = _tags_of_sample(values)
    name = key if id_name in (None, KEY) else _value(tags, str(id_name))
    return Document(blob=content, id=key if name in (None, "") else str(name), tags=tags)


def _tags_of_sample(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a sample, and its caption as `caption`; another one in the metadata is kept too."""
    caption, tags = values[TEXT], dict(values[TAGS])
    if caption is not None:
        if tags.get(_CAPTION, caption) != caption:
            tags[f"{_CAPTION}_in_metadata"] = tags[_CAPTION]
        tags[_CAPTION] = caption
    return tags


def _document_of_row(
    values: Mapping[str, Any], place: str, columns: Mapping[str, str], tags: Sequence[str]
) -> Document:
    got = {field: _value(values, name) for field, name in columns.items()}
    fields: dict[str, Any] = {"id": place if got.get("id") in (None, "") else str(got["id"])}
    if got.get("text") is not None:
        fields["text"] = _content("text", got["text"], columns["text"])
    if got.get("uri") is not None:
        if not isinstance(got["uri"], str):
            raise RowError(
                Stage.READ, Code.MALFORMED, f"column {columns['uri']!r} holds a {type(got['uri']).__name__}, not a URI"
            )
        fields["uri"] = got["uri"]
    if got.get("image") is not None:
        content = _content("image", got["image"], columns["image"])
        if isinstance(content, Uri):
            fields.setdefault("uri", content.uri)
        else:
            fields["tensor" if isinstance(content, np.ndarray) else "blob"] = content
    more_tags: dict[str, Any] = {}
    if got.get("audio") is not None and not fields.keys() & {"tensor", "blob"}:
        content = _content("audio", got["audio"], columns["audio"])
        if isinstance(content, Uri):
            fields.setdefault("uri", content.uri)
        elif isinstance(content, Waveform):
            fields["tensor"], more_tags["sample_rate"] = _samples(content, columns["audio"]), content.sample_rate
        else:
            fields["blob"] = content
    return Document(**fields, tags={name: _value(values, name) for name in tags} | more_tags)


def _content(modality: Any, value: Any, column: str) -> Any:
    item = item_of_value(modality, value)
    if item.failure is not None:
        failure = item.failure.failure
        raise RowError(failure.stage, failure.code, f"column {column!r}: " + failure.message)
    return item.content


def _samples(waveform: Waveform, column: str) -> np.ndarray:
    try:
        return np.asarray(waveform.samples)
    except ValueError as err:
        raise RowError(Stage.READ, Code.WRONG_SHAPE, f"column {column!r}: {err}") from err


def _value(values: Mapping[str, Any], name: str) -> Any:
    try:
        return get_by_path(values, name)
    except MissingColumn as err:
        raise RowError(Stage.READ, Code.MISSING_COLUMN, f"no {name!r}: {err}") from err
