"""The contact sheet of a search: one page, in one file, with a thumbnail of every hit that is a picture."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .. import __version__
from ..datasets.inputs.samples import PLACE_COLUMNS
from ..files.json_text import clean_text, json_text
from ..indexes.manifest import read_manifest
from ..indexes.targets import Target
from ..media.fetch_policy import Span
from ..media.uri import shown
from .columns import holds_places
from .integrity import trusts_local_files
from .page_file import template_of
from .pictures import Picture, PictureRules, named_content, picture_of
from .words import many

MARK = '<meta name="generator" content="clipmill search">'
"""Marks a page of ours, which may be overwritten."""

_SIDE = 320
"""Pixels of a thumbnail's longer side: sharp in 220 on screens that double them."""
_THREADS = 8
_LONGEST = 600
"""Characters of a text that are shown."""
_CONTENT = ("uri", "text", "mime_type")
"""Columns that describe a hit; the sheet shows them specially."""
_Named = tuple[str, Span | None]
"""A URI, and which part of it is the content."""


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


def content_columns(target: Target) -> list[str]:
    """Return the columns that say what a hit is, of those that there are."""
    places = PLACE_COLUMNS if holds_places(target.schema) else ()
    return [name for name in (*_CONTENT, *places) if name in target.schema.names]


def names_local_files(target: Target) -> bool:
    """Return whether hits name local files that the user allowed a job to read; see `reads_own_files`."""
    if target.dataset is not None:
        return trusts_local_files([target.location])
    return trusts_local_files(str(one.get("location")) for one in read_manifest(target.location).datasets)


def render(target: Target, model: str, asked: Sequence[Asked], columns: Sequence[str], rules: PictureRules) -> str:
    """Return the page.

    What comes out of rows is text and stays text: everything is escaped, and the page forbids itself scripts and
    requests.
    """
    template = template_of("contact_sheet.html", "clipmill search --html")
    pictures = _pictures(asked, rules)
    return template.render(
        mark=MARK,
        location=target.location,
        name=os.path.basename(target.location.rstrip("/")) or target.location,
        rows=many(target.rows, "row"),
        model=model,
        version=__version__,
        queries=[_query(one, columns, pictures) for one in asked],
    )


def _query(asked: Asked, columns: Sequence[str], pictures: Mapping[_Named, Picture]) -> dict[str, Any]:
    names = collections.Counter(_name_of(hit) for hit in asked.hits or ())
    return {
        "kind": asked.kind,
        "value": clean_text(asked.value),
        "picture": pictures[asked.value, None].data_uri if asked.kind == "image" else None,
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
    pictures: Mapping[_Named, Picture],
    *,
    is_like_another: bool,
) -> dict[str, Any]:
    """Return what is shown of a hit; its row too where another has its name, as samples of several tars may."""
    text = hit.get("text")
    seen = pictures.get(_content_of(hit)) if _is_picture(hit) else None
    name, row = _name_of(hit), f" ({_row_of(hit)})" if is_like_another else ""
    scores = [(one, f"{hit[one]:.4f}") for one in ("clip_score", "cosine") if hit.get(one) is not None]
    return {
        "place": place,
        "name": clean_text(shown_text(_last_part(name))) + row,
        "whole_name": clean_text(shown_text(name)) + row,
        "scores": scores or [("score", f"{hit['score']:.4f}")],
        "picture": seen.data_uri if seen else None,
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
    """Return a value of a row as readable text, shortened if it is very long."""
    text = shown(value)[1:-1] if isinstance(value, str) and value[:5].lower() == "data:" else value
    text = text if isinstance(text, str) else json_text(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _is_picture(hit: Mapping[str, Any]) -> bool:
    """Return whether what a hit names may be the content of its vector: not if it has a text, or is audio."""
    kind = str(hit.get("mime_type") or "image/").partition("/")[0]
    return bool(_content_of(hit)[0]) and not hit.get("text") and kind == "image"


def _content_of(hit: Mapping[str, Any]) -> _Named:
    uri, span = named_content(*(hit.get(name) for name in ("uri", *PLACE_COLUMNS)))
    return str(uri or ""), span


def _pictures(asked: Sequence[Asked], rules: PictureRules) -> dict[_Named, Picture]:
    """Make the thumbnails of queries and hits, each once."""
    own: dict[_Named, tuple[int, bool]] = {(one.value, None): (0, True) for one in asked if one.kind == "image"}
    hits = [hit for one in asked for hit in one.hits or () if _is_picture(hit)]
    theirs: dict[_Named, tuple[int, bool]] = {_content_of(hit): (hit["position"], False) for hit in hits}
    wanted, rules = {**theirs, **own}, dataclasses.replace(rules, side=_SIDE)

    def make(named: _Named) -> Picture:
        (uri, span), (position, trusted) = named, wanted[named]
        return picture_of(None, uri, span, position, rules, trusted=trusted)

    with ThreadPoolExecutor(_THREADS) as pool:
        made = pool.map(make, wanted)
        return dict(zip(wanted, made, strict=True))
