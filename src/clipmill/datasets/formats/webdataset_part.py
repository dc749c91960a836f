"""Writes samples as webdataset reads them: a tar for each shard, and in it the files of each row, which share a name.

Of a row with the id `000000012` these are `000000012.npy` (its vector), `000000012.jpg` (its image, if the row holds
the bytes), `000000012.txt` (its text) and `000000012.json` (all its other columns). Readers group consecutive files
whose names are equal up to their first dot.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from ...encoders.plans.document_embed_plan import EMBEDDING
from ...encoders.plans.plan import Plan
from ...encoders.plans.row_values import get_by_path, row_name
from ...errors import SpecError
from ...files.folder import Folder
from ...files.json_text import json_text
from ...media.audio import sniff_audio_type
from ...media.images import sniff_media_type
from ...messages import setting
from ..tables.column_types import TAGS, is_list_type
from ..tables.scalars import printable_rows
from .base import WEBDATASET, Published, part_name

LAYOUT_KEY = b"clipmill.webdataset"
"""Metadata key of a schema whose rows are written as samples; the value is `Members` as JSON."""
_ENDINGS = {"jpeg": "jpg", "mpeg": "mp3", "x-portable-anymap": "pnm"}
"""Endings that are not the second part of the media type."""
_NOT_IN_KEYS = re.compile(r'[%~.\x00-\x1f\x7f:*?"<>|\\]')
"""Dots end a key; `~` begins what is added to one, so that no id looks like another one's key with something added."""
_NOT_A_PATH = re.compile(r"^/|/$|//")
_MAX_KEY_BYTES = 200
"""Bytes of a name: file systems allow 255, and endings follow."""


@dataclasses.dataclass(frozen=True, slots=True)
class Members:
    """Which columns of a job become files of a sample; all others are in its JSON file.

    Attributes:
        key: Column of the id, or path into a struct; rows need not have it.
        text: Column of the text.
        vectors: Endings of the columns of vectors.
        bytes_: Endings of the columns of bytes, to which the ending of their content is added; "" adds nothing else.
    """

    key: str
    text: str | None
    vectors: dict[str, str]
    bytes_: dict[str, str]

    @classmethod
    def of(cls, schema: pa.Schema) -> Members:
        """Return what `with_members` stored in the schema; raise `SpecError` if there is nothing."""
        stored = (schema.metadata or {}).get(LAYOUT_KEY)
        if stored is None:
            raise SpecError(setting("format", WEBDATASET) + " is for jobs, which know the columns of images and texts")
        return cls(**json.loads(stored))


def with_members(schema: pa.Schema, plan: Plan) -> pa.Schema:
    """Return the schema of a job with the columns of its samples' files in the metadata."""
    if plan.of_rows:
        added = [one for one in plan.added if one.holds == "vector"]  # type: ignore[attr-defined]
        vectors = [one.name for one in added if not is_list_type(schema.field(one.name).type.value_type)]
        texts = [one.source for one in added if one.modality == "text" and one.source in schema.names]
        key = plan.key  # type: ignore[attr-defined]
    else:
        vectors, texts, key = [name for name in schema.names if name == EMBEDDING], [], "id"
    text = next((name for name in (*texts, "text") if name in schema.names and _is_text(schema.field(name).type)), None)
    held = [field.name for field in schema if _is_bytes(field.type)]
    members = Members(
        key,
        text,
        {name: "npy" if len(vectors) == 1 else f"{name}.npy" for name in vectors},
        {name: "" if len(held) == 1 else f"{name}." for name in held},
    )
    stored = json.dumps(dataclasses.asdict(members)).encode()
    return schema.with_metadata({**(schema.metadata or {}), LAYOUT_KEY: stored})


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def key_of(name: str) -> str:
    """Return an id as the name of a sample's files: a relative path without dots; other characters are `%2E` and so on.

    A name of over 200 bytes is cut, and ends in a digest of the whole.
    """
    key = _NOT_IN_KEYS.sub(lambda found: f"%{ord(found[0]):02X}", name)
    if _NOT_A_PATH.search(key):
        key = key.replace("/", "%2F")
    if len(key.encode()) > _MAX_KEY_BYTES:
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        key = key.encode()[: _MAX_KEY_BYTES - len(digest) - 1].decode(errors="ignore") + f"~{digest}"
    return key


class SamplesPart:
    """The archive of one shard; see `base.Part`."""

    def __init__(self, folder: Folder, shard: str, schema: pa.Schema) -> None:
        """Open the archive, under a temporary name."""
        self._folder = folder
        self._members = Members.of(schema)
        self._name = part_name(shard, WEBDATASET)
        self._rows = 0
        self._last_key = ""
        self._equal_keys = 0
        self.temporary = folder.temporary(self._name)
        self._file = self.temporary.open("wb")

    def write_table(self, table: pa.Table) -> None:
        """See `base.Part`."""
        apart = {*self._members.vectors, *self._members.bytes_}
        rest = table.select([name for name in table.column_names if name not in apart])
        columns = {name: table.column(name) for name in apart}
        for number, values in enumerate(printable_rows(rest)):
            key = self._next_key(values)
            for ending, data in self._files(values, {name: column[number] for name, column in columns.items()}):
                header = tarfile.TarInfo(f"{key}.{ending}")
                header.size = len(data)
                # not by `TarFile`, which keeps every header in memory
                self._file.write(header.tobuf(tarfile.PAX_FORMAT) + data + b"\0" * (-len(data) % tarfile.BLOCKSIZE))

    def _next_key(self, values: Mapping[str, Any]) -> str:
        """Return the name of the next row's files: its id, or its number; consecutive samples must differ in name."""
        self._rows += 1
        name = row_name(functools.partial(get_by_path, values), self._members.key)
        key = key_of(name) if name else f"{self._rows - 1:09d}"
        self._equal_keys = self._equal_keys + 1 if key == self._last_key else 0
        self._last_key = key
        return f"{key}~{self._equal_keys + 1}" if self._equal_keys else key

    def _files(self, values: dict[str, Any], apart: Mapping[str, pa.Scalar]) -> Iterator[tuple[str, bytes]]:
        members = self._members
        for name, ending in members.bytes_.items():
            if (data := apart[name].as_py()) is not None:
                yield ending + _ending_of(data), data
        text = None if members.text is None else values.pop(members.text)
        if text is not None:
            yield "txt", text.encode()
        for name, ending in members.vectors.items():
            if (vector := apart[name]).is_valid:
                yield ending, _npy(vector.values.to_numpy(zero_copy_only=False))
        yield "json", json_text(_with_tags_beside(values)).encode()

    def close(self) -> None:
        """See `base.Part`."""
        self._file.write(b"\0" * 2 * tarfile.BLOCKSIZE)
        self._file.close()

    def publish(self) -> Published:
        """See `base.Part`; without rows it publishes nothing: webdataset refuses archives without samples."""
        return Published({self._name: self._folder.publish(self.temporary, self._name)} if self._rows else {})

    def discard(self) -> None:
        """See `base.Part`."""
        with contextlib.suppress(Exception):
            self._file.close()
        with contextlib.suppress(OSError):
            self.temporary.unlink(missing_ok=True)


def _ending_of(data: bytes) -> str:
    """Return the usual ending of encoded images and audio; `bin` for anything else."""
    kind = (sniff_media_type(data) or sniff_audio_type(data) or "/bin").partition("/")[2]
    return _ENDINGS.get(kind, kind)


def _npy(vector: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, vector, allow_pickle=False)
    return out.getvalue()


def _with_tags_beside(values: dict[str, Any]) -> dict[str, Any]:
    """Return the columns with the fields of `tags` beside them, as in the sample that was read.

    `tags` keeps what has the name of a column.
    """
    tags = values.pop(TAGS, None)
    with contextlib.suppress(ValueError):  # a user's own column need not be JSON
        tags = json.loads(tags) if isinstance(tags, str) else tags
    if not isinstance(tags, dict):
        return values if tags is None else {**values, TAGS: tags}
    beside = {name: value for name, value in tags.items() if name not in values}
    inside = {name: value for name, value in tags.items() if name in values}
    return {**values, **beside, **({TAGS: inside} if inside else {})}
