"""Thumbnails of sampled rows: of the bytes that a row holds, or of the file that it names."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from ..failures import Code, RowError
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
_JPEG_BEGINS, _JPEG_ENDS = b"\xff\xd8\xff", b"\xff\xd9"
"""Markers of JPEG files; a decoder that meets the second one early leaves the rest of the image grey."""


class Picture(NamedTuple):
    """The visible content of a row.

    Attributes:
        jpeg: A thumbnail; None where there is none.
        reason: Why there is none, or not all of it; None where nothing was to be seen, as of texts.
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
        cut_off: Whether JPEG files that are cut off are drawn as far as they go.
    """

    remote: bool = False
    local_files: Callable[[int], bool] = lambda _: False
    policy: FetchPolicy = dataclasses.field(default_factory=lambda: FetchPolicy(timeout_s=10.0))
    side: int = 96
    cut_off: bool = False


def pictures_of(
    source: Rows, column: VectorColumn, entries: Sequence[Entry], rules: PictureRules
) -> dict[tuple[int, int | None], Picture]:
    """Make thumbnails of rows, a few rows at a time; rows with a text, or a file that is no image, have no picture.

    Returns:
        By `position` and `element` of the entry; rows of which nothing was to be seen are left out.
    """
    content = column.content
    wanted = {entry.position: entry for entry in entries if entry.text is None}
    of_content = (content.blob, content.uri, content.archive, content.offset, content.size)
    columns = [name for name in (*of_content, content.media_type) if name]
    if not wanted or not any(of_content):
        return {}
    made: dict[tuple[int, int | None], Picture] = {}

    def make(given: tuple[Entry, Mapping[str, Any]]) -> Picture:
        entry, values = given
        if not _is_image(value_at(values, content.media_type, entry.element)):
            return Picture()
        blob, uri, *place = (value_at(values, path, entry.element) for path in of_content)
        return picture_of(blob, *named_content(uri, *place), entry.position, rules)

    positions = np.array(sorted(wanted), np.int64)
    with ThreadPoolExecutor(8 if rules.remote else allowed_cpus()) as pool:
        for there, batch in source.take(positions, columns, _ROWS_AT_ONCE):
            rows = [wanted[position] for position in there.tolist()]
            pictures = pool.map(make, zip(rows, batch.to_pylist(), strict=True))
            made |= {(entry.position, entry.element): one for entry, one in zip(rows, pictures, strict=True)}
    return {key: one for key, one in made.items() if one != Picture()}


def _is_image(media_type: Any) -> bool:
    """Return whether content may be an image: not if its row says that it is a text, audio or video."""
    return not isinstance(media_type, str) or media_type.partition("/")[0].lower() not in ("text", "audio", "video")


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
        has_uri = isinstance(uri, str) and uri != ""
        if isinstance(blob, bytes) and blob:
            with contextlib.suppress(RowError) if has_uri else contextlib.nullcontext():
                return _seen(blob, rules)
        if not has_uri:
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
    reason = None
    try:
        jpeg = thumbnail_of(data, side=rules.side)
    except RowError as err:
        if not (rules.cut_off and err.failure.code is Code.UNDECODABLE and data.startswith(_JPEG_BEGINS)):
            raise
        jpeg, reason = thumbnail_of(data + _JPEG_ENDS, side=rules.side), "cut off: drawn as far as it goes"
    return Picture(jpeg, reason, jpeg_size(jpeg))
