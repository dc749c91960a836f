"""Reads a shard as documents. A record that cannot be read becomes a document with a failure; reading continues."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ...encoders.document import Document
from ...encoders.item import Uri, item_of_value
from ...encoders.plans.row_values import MissingColumn, get_by_path, row_name
from ...failures import Code, RowError, Stage
from ...files.json_text import key_text, some_of
from ...media.audio import Waveform
from ...messages import setting
from .file_names import as_they_are, renamed
from .rows import read_rows
from .samples import AUDIO, IMAGE, KEY, LEFT_OUT, MAX_FILE_BYTES, PLACE_COLUMNS, TAGS, TEXT
from .shards import Shard
from .source_row import malformed

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
_ALWAYS = frozenset({"stage", "code", "message", "transient"})
_NESTED = {"matches": "m", "chunks": "c"}
_CAPTION = "caption"


@dataclasses.dataclass(frozen=True, slots=True)
class ReaderOptions:
    """The columns that documents are made of.

    Attributes:
        text: Column of texts (a field in JSON lines).
        uri: Column of URIs; they are fetched only if the spec allows it.
        image: Column of encoded images, of (bytes, path) structs or of Spark's image structs (Parquet).
        audio: Column of encoded audio, of (bytes, path) structs or of structs with samples and a sample rate (Parquet).
        id: Column of the documents' ids.
        tags: Columns that are kept as tags (CSV, Parquet; JSON lines keep all other fields). With types, a job writes
            them as separate columns.
    """

    text: str | None = None
    uri: str | None = None
    image: str | None = None
    audio: str | None = None
    id: str | None = None
    tags: Sequence[str] | Mapping[str, pa.DataType] = ()

    @property
    def columns(self) -> dict[str, str]:
        """The named columns, by the field of the document that they fill; without tags."""
        named = {name: getattr(self, name) for name in CONTENT_AND_ID}
        return {name: column for name, column in named.items() if column}

    def as_dict(self) -> dict[str, Any]:
        """Return the named columns and tags as JSON values."""
        return {**self.columns, "tags": list(self.tags)}


DEFAULT_READER = ReaderOptions()


def read_documents(
    shard: Shard,
    options: ReaderOptions = DEFAULT_READER,
    *,
    to_rank: bool = False,
    max_file_bytes: int = MAX_FILE_BYTES,
    name_of: Callable[[str], str] = as_they_are,
) -> Iterator[Document]:
    """Read a shard as documents, one for each file, line, row or sample.

    The fields of a JSON line are those of a document (`text`, `uri`, `id`, `mime_type`, `tags`, `matches`, `chunks`);
    all other fields become tags. A line that clipmill wrote as a failure is read as the document to retry. For CSV and
    Parquet, `options` names the columns; by default they are found by these names: text, caption; uri, url, path;
    image, blob, bytes; audio, sound; id, key. If `options` names any of `text`, `uri`, `image` and `audio`, no other
    column is content. An empty CSV field is null.

    A file of a folder gets its sidecar files as tags: its caption as `caption`, and its metadata. A sample of a tar is
    its image or audio with the same tags and its place (`archive`, `offset`, `size`); its id is its key, or the field
    of its metadata that `options.id` names.

    The id of a document without one is its location: path, `<path>:<line>`, `<path>:<row>`. Listed files may be local;
    a `uri` inside a file is untrusted.

    Args:
        shard: The shard to read.
        options: The columns that documents are made of.
        to_rank: Refuse lines that clipmill wrote as failures and that hold no matches, since they lack the query.
        max_file_bytes: Maximum bytes of one file in a tar; the sample of a larger one fails.
        name_of: Returns the id for a location, such as `RelativeNames`.

    Yields:
        Documents in order; a document that could not be read has `failures` and no content.
    """
    if shard.kind == "files":
        for row in read_rows(shard, max_file_bytes=max_file_bytes):
            failures = () if row.failure is None else (row.failure,)
            tags = {} if failures else _tags_of_sample(row.values)
            yield Document.from_listed_uri(row.place, id=name_of(row.place), tags=tags, failures=failures)
        return

    def choose(existing: list[str]) -> list[str]:
        chosen = (*choose_columns(existing, options, shard.paths[0]).values(), *options.tags)
        return sorted({name if name in existing else name.split(".")[0] for name in chosen})

    columns = None
    for row in read_rows(shard, choose=choose, max_file_bytes=max_file_bytes):
        row = renamed(row, name_of)
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
            id_name = KEY if shard.kind == "tar" else (columns or options.columns).get("id", "id")
            name = row_name(functools.partial(get_by_path, row.values), id_name) or row.place
            yield Document(id=name, failures=(failure.at(row=row.place),))


def choose_columns(existing: Sequence[str], options: ReaderOptions, path: str) -> dict[str, str]:
    """Return the columns of a table that fill `text`, `uri`, `image`, `audio` and `id` of a document.

    Raises:
        RowError: `missing_column`, if a named column does not exist, or no column can be content.
    """
    chosen = options.columns
    is_content_named = any(field != "id" for field in chosen)
    for field, defaults in _DEFAULTS.items():
        if field not in chosen and (field == "id" or not is_content_named):
            found = [name for name in defaults if name in existing]
            chosen.update({field: found[0]} if found else {})
    named = (*chosen.values(), *options.tags)
    missing = [name for name in named if name not in existing and name.split(".")[0] not in existing]
    listed = ", ".join(map(repr, existing))
    if missing:
        raise RowError(Stage.READ, Code.MISSING_COLUMN, f"{path} has no column {missing[0]!r}; it has {listed}")
    if not any(field in chosen for field in _CONTENT):
        wanted = ", ".join(name for field in _CONTENT for name in _DEFAULTS[field])
        raise RowError(
            Stage.READ,
            Code.MISSING_COLUMN,
            f"{path} has no column named {wanted}; name the column of content ("
            + (setting("text", ...) + ", " + setting("uri", ...) + ", " + setting("image", ...) + " or ")
            + (setting("audio", ...) + f"): {listed}; if it is no input, give a pattern that does not match it"),
        )
    return chosen


# --- one document ----------------------------------------------------------------------------------------------------


def is_failure_line(fields: Mapping[str, Any]) -> bool:
    """Return whether a line was written as a failure by an earlier job."""
    return fields.keys() >= _ALWAYS


def without_failure(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a line that was written as a failure says of the document to retry."""
    return {name: value for name, value in fields.items() if name not in _FAILURE_FIELDS}


def _document_of_json(fields: dict[str, Any], place: str, names: Mapping[str, str], *, to_rank: bool) -> Document:
    if is_failure_line(fields):
        if to_rank and "matches" not in fields:
            message = "the line is the failure of a candidate, or of a line that was not read; rank its source again"
            raise RowError(Stage.READ, Code.MALFORMED, message)
        if not fields.keys() & {*_CONTENT, *names, *_NESTED}:
            message = f"the line is a failure without content ({fields['message']}); embed its source again"
            raise RowError(Stage.READ, Code.MALFORMED, message)
        fields = without_failure(fields)
    if kind := next((kind for kind in ("image", "audio") if kind in names), None):
        message = f"JSON lines cannot hold bytes; give {kind} content as 'uri', for example as a data: URI"
        raise RowError(Stage.READ, Code.UNSUPPORTED, message)
    return Document.from_dict(_with_ids(_renamed(fields, names), place))


def _renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Rename fields to the names that documents use. One field may fill two: content and the id."""
    renames = {field: name for field, name in names.items() if name != field}
    renamed = dict(fields)
    for field, name in renames.items():
        if name not in fields:
            raise RowError(Stage.READ, Code.MISSING_COLUMN, f"the line has no field {name!r}")
        renamed[field] = fields[name]
    for field, name in renames.items():
        # A content field that is also the id stays content. Any other renamed field is removed, or it would be a tag.
        is_kept = name == "id" or (field == "id" and name in _DEFAULTS)
        if name not in renames and not is_kept:
            renamed.pop(name, None)
    return renamed


def _with_ids(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Use the location as the id of a document and its nested documents without one: the same in every run."""
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
    """Return the image or audio of a sample. The caption is a tag, since as `text` it would take precedence."""
    key = values[KEY]
    content = values[IMAGE] if values[IMAGE] is not None else values[AUDIO]
    if content is None:
        endings = values[TAGS].get(LEFT_OUT)
        hint = "to embed its caption, use rows with the column 'text'"
        if endings:
            hint = (
                f"it has files with the endings {some_of(list(map(repr, endings)))}: a name is cut at its first dot, "
                f"as webdataset does; embed rows with a column for each ending, such as --column {endings[0]}=image"
            )
        message = f"the sample {key!r} has no image and no audio; {hint}"
        raise RowError(Stage.READ, Code.EMPTY, message)
    tags = _tags_of_sample(values)
    name = key if id_name in (None, KEY) else _value(tags, str(id_name))
    return Document(blob=content, id=key_text(name) or key, tags=tags)


def _tags_of_sample(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a sample with its caption as `caption`, and its place.

    Of the metadata, a different value of one of these names is kept as `<name>_in_metadata`.
    """
    tags = dict(values[TAGS])
    known = {_CAPTION: values[TEXT], **{name: values.get(name) for name in PLACE_COLUMNS}}
    for name, value in known.items():
        if value is not None:
            if tags.get(name, value) != value:
                tags[f"{name}_in_metadata"] = tags[name]
            tags[name] = value
    return tags


def _document_of_row(
    values: Mapping[str, Any], place: str, columns: Mapping[str, str], tags: Sequence[str]
) -> Document:
    found = {field: _value(values, name) for field, name in columns.items()}
    fields: dict[str, Any] = {"id": key_text(found.get("id")) or place}
    if found.get("text") is not None:
        fields["text"] = _content("text", found["text"], columns["text"])
    if found.get("uri") is not None:
        if not isinstance(found["uri"], str):
            message = f"column {columns['uri']!r} holds a {type(found['uri']).__name__}, not a URI"
            raise RowError(Stage.READ, Code.MALFORMED, message)
        fields["uri"] = found["uri"]
    if found.get("image") is not None:
        content = _content("image", found["image"], columns["image"])
        if isinstance(content, Uri):
            fields.setdefault("uri", content.uri)
        else:
            fields["tensor" if isinstance(content, np.ndarray) else "blob"] = content
    more_tags: dict[str, Any] = {}
    if found.get("audio") is not None and not fields.keys() & {"tensor", "blob"}:
        content = _content("audio", found["audio"], columns["audio"])
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
