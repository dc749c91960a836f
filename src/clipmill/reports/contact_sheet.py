"""The contact sheet of a search: one page, in one file, with a thumbnail of every hit that is a picture."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .. import __version__
from ..errors import MissingExtraError
from ..failures import RowError
from ..files.file_systems import Folder
from ..files.plain import clean_text, json_text
from ..indexes.manifest import read_manifest
from ..indexes.targets import Target
from ..media.fetch import fetch
from ..media.fetch_policy import FetchPolicy
from ..media.thumbnails import as_data_uri, thumbnail_of
from ..media.uri import scheme_of, shown
from .integrity import trusts_local_files
from .page_file import page_file
from .words import many

MARK = '<meta name="generator" content="clipmill search">'
"""Tells a page that may be written over from a stranger's file."""

_SIDE = 320
"""Pixels of a thumbnail's longer side: sharp in 220 on screens that double them."""
_THREADS = 8
_LONGEST = 600
"""Characters of a text that are shown."""
_LOCAL = (None, "file", "local")
_CONTENT = ("uri", "text", "mime_type")
"""Columns that say what a hit is; the sheet shows them in their own way."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """A query with what it found.

    Attributes:
        kind: `text`, `image` or `audio`.
        value: The text, or the path or URL of a file.
        hits: Best first, each with its scores and columns; None where it failed.
        reason: Why it failed.
    """

    kind: str
    value: str
    hits: Sequence[Mapping[str, Any]] | None
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class PictureRules:
    """Which pictures are opened.

    Attributes:
        policy: Limits on bytes, time and addresses.
        local: Whether local files that hits name are opened.
        remote: Whether what they name elsewhere is fetched.
    """

    policy: FetchPolicy
    local: bool = False
    remote: bool = False


def content_columns(target: Target) -> list[str]:
    """Return the columns that say what a hit is, of those that there are."""
    return [name for name in _CONTENT if name in target.schema.names]


def names_local_files(target: Target) -> bool:
    """Tell whether the local files that hits name are ones that the user let a job read; see `reads_own_files`."""
    if target.dataset is not None:
        return trusts_local_files([target.location])
    return trusts_local_files(str(one.get("location")) for one in read_manifest(target.location).datasets)


def check_page(path: str, *, overwrite: bool = False) -> tuple[Folder, str]:
    """Return the folder and the name of the page to write.

    Raises:
        DatasetError: If something stands there that is no contact sheet, unless `overwrite`.
    """
    return page_file(path, "contact sheet", MARK, overwrite=overwrite)


def render(target: Target, model: str, asked: Sequence[Asked], columns: Sequence[str], rules: PictureRules) -> str:
    """Return the page.

    What comes out of rows is text and stays text: everything is escaped, and the page forbids itself scripts and
    requests.

    Args:
        target: What was searched.
        model: What embedded the queries.
        asked: The queries.
        columns: Those that the user asked for.
        rules: Which pictures are opened.

    Raises:
        MissingExtraError: If jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as err:
        raise MissingExtraError("jinja2", "report", "clipmill search --html") from err
    pictures = _pictures(asked, rules)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("contact_sheet.html").render(
        mark=MARK,
        location=target.location,
        name=os.path.basename(target.location.rstrip("/")) or target.location,
        rows=many(target.rows, "row"),
        model=model,
        version=__version__,
        queries=[_query(one, columns, pictures) for one in asked],
    )


def _query(asked: Asked, columns: Sequence[str], pictures: Mapping[str, _Picture]) -> dict[str, Any]:
    names = collections.Counter(_name_of(hit) for hit in asked.hits or ())
    return {
        "kind": asked.kind,
        "value": clean_text(asked.value),
        "picture": pictures[asked.value].uri if asked.kind == "image" else None,
        "reason": asked.reason,
        "cards": [
            _card(place, hit, columns, pictures, is_like_another=names[_name_of(hit)] > 1)
            for place, hit in enumerate(asked.hits or (), 1)
        ],
    }


def _name_of(hit: Mapping[str, Any]) -> str:
    return str(hit.get("id") or hit.get("uri") or _row_of(hit))


def _row_of(hit: Mapping[str, Any]) -> str:
    return f"row {hit['position']}"


def _card(
    place: int,
    hit: Mapping[str, Any],
    columns: Sequence[str],
    pictures: Mapping[str, _Picture],
    *,
    is_like_another: bool,
) -> dict[str, Any]:
    """Return what is shown of a hit; its row too where another has its name, as samples of several tars may."""
    uri, text = hit.get("uri"), hit.get("text")
    seen = pictures.get(str(uri)) if _is_picture(hit) else None
    name, row = _name_of(hit), f" ({_row_of(hit)})" if is_like_another else ""
    scores = [(one, f"{hit[one]:.4f}") for one in ("clip_score", "cosine") if hit.get(one) is not None]
    return {
        "place": place,
        "name": clean_text(shown_text(_last_part(name))) + row,
        "whole_name": clean_text(shown_text(name)) + row,
        "scores": scores or [("score", f"{hit['score']:.4f}")],
        "picture": seen.uri if seen else None,
        "reason": clean_text(seen.reason) if seen and seen.reason else None,
        "text": clean_text(shown_text(text)) if text else None,
        "otherwise": hit.get("mime_type") or "its row has no text and names no file",
        "columns": [(one, clean_text(shown_text(hit[one]))) for one in columns if hit.get(one) is not None],
    }


def _last_part(name: str) -> str:
    """Return the file's name of a path or URL, anything else as it is."""
    is_path = name.startswith("/") or "://" in name
    return (os.path.basename(name.rstrip("/")) or name) if is_path else name


def shown_text(value: Any) -> str:
    """Return a value of a row as people read it, cut where it is very long."""
    text = shown(value)[1:-1] if isinstance(value, str) and value[:5].lower() == "data:" else value
    text = text if isinstance(text, str) else json_text(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _is_picture(hit: Mapping[str, Any]) -> bool:
    """Tell whether a hit's URI may name what its vector was made of: a text wins over it, and a sound is none."""
    kind = str(hit.get("mime_type") or "image/").partition("/")[0]
    return bool(hit.get("uri")) and not hit.get("text") and kind == "image"


@dataclasses.dataclass(frozen=True)
class _Picture:
    """A thumbnail as a data: URI, or the reason why there is none."""

    uri: str | None = None
    reason: str | None = None


def _pictures(asked: Sequence[Asked], rules: PictureRules) -> dict[str, _Picture]:
    """Make the thumbnails of queries and hits, each once."""
    own = {one.value: (one.value, True) for one in asked if one.kind == "image"}
    theirs = {hit["uri"]: (hit["uri"], False) for one in asked for hit in one.hits or () if _is_picture(hit)}
    wanted = {**theirs, **own}
    make: Callable[[tuple[str, bool]], _Picture] = lambda given: _picture(*given, rules)  # noqa: E731 - types the map
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(wanted, pool.map(make, wanted.values()), strict=True))


def _picture(uri: str, is_own: bool, rules: PictureRules) -> _Picture:
    scheme = scheme_of(uri)
    is_local = scheme in _LOCAL
    if not is_own and is_local and not rules.local:
        return _Picture(reason="a local file that no job was seen to read: --allow-local-files opens it")
    if not is_own and not is_local and scheme != "data" and not rules.remote:
        return _Picture(reason="not on this machine: --fetch-remote fetches it")
    try:
        data = fetch(uri, rules.policy, trusted=is_own or is_local).data
        return _Picture(as_data_uri(thumbnail_of(data, side=_SIDE)))
    except RowError as err:
        return _Picture(reason=f"{err.failure.code}: {err.failure.message}")
