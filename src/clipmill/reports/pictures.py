"""Thumbnails of sampled rows: of the bytes that a row holds, or of the file that it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from ..failures import RowError
from ..media.fetch import fetch
from ..media.fetch_policy import FetchPolicy, Span
from ..media.jpeg import jpeg_size
from ..media.thumbnails import as_data_uri, thumbnail_of
from ..media.uri import scheme_of
from ..threads import allowed_cpus
from .columns import VectorColumn
from .sample import Entry, Rows, shortened, value_at

_ROWS_AT_ONCE = 16
"""Rows whose content is in memory at a time: photographs may be large."""
_LOCAL = (None, "file", "local")


class Picture(NamedTuple):
    """The visible content of a row.

    Attributes:
        jpeg: A thumbnail; None where there is none.
        reason: Why there is none; None where nothing was to be seen, as of texts.
        size: Width and height of the thumbnail in pixels.
    """

    jpeg: bytes | None = None
    reason: str | None = None
    size: tuple[int, int] | None = None

    @property
    def data_uri(self) -> str | None:
        """The thumbnail as pages hold it."""
        return None if self.jpeg is None else as_data_uri(self.jpeg)


@dataclasses.dataclass(frozen=True, slots=True)
class PictureRules:
    """The rules for opening files for thumbnails.

    Attributes:
        remote: Whether what URIs name elsewhere is fetched, within the limits and the checks of `policy`.
        local_files: Says of a row, by its number, whether its local file is opened: whether the job
            that made the dataset listed or was allowed it, or the user allows it now.
        policy: Limits on bytes, time and addresses.
        side: Pixels of a thumbnail's longer side.
    """

    remote: bool = False
    local_files: Callable[[int], bool] = lambda _: False
    policy: FetchPolicy = dataclasses.field(default_factory=lambda: FetchPolicy(timeout_s=10.0))
    side: int = 96


def pictures_of(
    source: Rows, column: VectorColumn, entries: Sequence[Entry], rules: PictureRules
) -> dict[tuple[int, int | None], Picture]:
    """Make thumbnails of sampled rows, a few rows at a time; rows with a text have no picture.

    Returns:
        By `position` and `element` of the entry; rows of which nothing was to be seen are left out.
    """
    content = column.content
    wanted = {entry.position: entry for entry in entries if entry.text is None}
    of_content = (content.blob, content.uri, content.archive, content.offset, content.size)
    columns = [name for name in of_content if name]
    if not wanted or not columns:
        return {}
    made: dict[tuple[int, int | None], Picture] = {}

    def make(given: tuple[Entry, Mapping[str, Any]]) -> Picture:
        entry, values = given
        blob, uri, *place = (value_at(values, path, entry.element) for path in of_content)
        return picture_of(blob, *named_content(uri, *place), entry.position, rules)

    positions = np.array(sorted(wanted), np.int64)
    with ThreadPoolExecutor(8 if rules.remote else allowed_cpus()) as pool:
        for there, batch in source.take(positions, columns, _ROWS_AT_ONCE):
            rows = [wanted[position] for position in there.tolist()]
            pictures = pool.map(make, zip(rows, batch.to_pylist(), strict=True))
            made |= {(entry.position, entry.element): one for entry, one in zip(rows, pictures, strict=True)}
    return {key: one for key, one in made.items() if one != Picture()}


def named_content(uri: Any, archive: Any, offset: Any, size: Any) -> tuple[Any, Span | None]:
    """Return the URI of a row's content, and which part of it that is: a file in an archive, where no URI is given."""
    if not uri and archive and isinstance(offset, int) and isinstance(size, int):
        return archive, (offset, size)
    return uri, None


def picture_of(
    blob: Any, uri: Any, span: Span | None, position: int, rules: PictureRules, *, trusted: bool = False
) -> Picture:
    """Make the thumbnail of what a row holds or names, or say why there is none.

    `uri`, or `span` of it, is opened where `blob` is no encoded picture. `trusted` says that the user named the URI,
    which may then be anything.
    """
    try:
        if isinstance(blob, bytes) and blob:
            return _seen(blob, rules)
        if not isinstance(uri, str) or not uri:
            return Picture()
        scheme = scheme_of(uri)
        is_local = scheme in _LOCAL
        if is_local and not trusted and not rules.local_files(position):
            return Picture(reason="a local file that no job was seen to read: --allow-local-files opens it")
        if not is_local and not trusted and scheme != "data" and not rules.remote:
            return Picture(reason="not on this machine: --fetch-remote fetches it")
        return _seen(fetch(uri, rules.policy, trusted=trusted or is_local, span=span).data, rules)
    except RowError as err:
        return Picture(reason=shortened(f"{err.failure.code}: {err.failure.message}"))


def _seen(data: bytes, rules: PictureRules) -> Picture:
    jpeg = thumbnail_of(data, side=rules.side)
    return Picture(jpeg, None, jpeg_size(jpeg))
