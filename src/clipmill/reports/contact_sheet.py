"""The contact sheet of a search: one page, in one file, with a thumbnail of every hit that is a picture."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .. import __version__
from ..datasets.dataset import read_job
from ..datasets.inputs.samples import PLACE_COLUMNS
from ..errors import DatasetError
from ..files.json_text import json_text
from ..indexes import open_index
from ..indexes.manifest import read_manifest
from ..indexes.targets import Target
from ..media.uri import readable_uri, scheme_of
from .columns import VectorColumn, content_of, holds_places
from .indexes import IndexRows, job_of_index
from .integrity import trusts_local_files
from .page_file import template_of
from .parts import open_parts
from .pictures import Picture, PictureRules, picture_of, pictures_of
from .sample import Entry, Rows, entries_at, last_part, readable
from .words import many

MARK = '<meta name="generator" content="clipmill search">'
"""Marks a page of ours, which may be overwritten."""

_SIDE = 320
"""Pixels of a thumbnail's longer side: sharp in 220 on screens that double them."""
_LONGEST = 600
"""Characters of a text that are shown."""
_CONTENT = ("uri", "text", "mime_type")
"""Columns that describe a hit; the sheet shows them specially."""
_NOTHING = "no text or image in its row, and no file named"
_NOTHING_KEPT = "an index keeps no bytes of images: search the dataset to see them"


class _Content(NamedTuple):
    """The content of a row, as the page shows it; `otherwise` is said where there is nothing to show."""

    entry: Entry
    picture: Picture
    otherwise: str


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
    rules = dataclasses.replace(rules, side=_SIDE)
    found = _contents_of(target, asked, rules)
    return template.render(
        mark=MARK,
        location=target.location,
        name=os.path.basename(target.location.rstrip("/")) or target.location,
        rows=many(target.rows, "row"),
        model=model,
        version=__version__,
        queries=[_query(one, columns, found, rules) for one in asked],
    )


def _contents_of(target: Target, asked: Sequence[Asked], rules: PictureRules) -> dict[int, _Content]:
    """Return the content of the hits' rows, by position; each row is read and drawn once."""
    source, column = _rows_of(target)
    positions = sorted({hit["position"] for one in asked for hit in one.hits or ()})
    entries = entries_at(source, column, positions)
    pictures = pictures_of(source, column, list(entries.values()), rules)
    otherwise = _NOTHING_KEPT if target.dataset is None else _NOTHING
    return {
        position: _Content(entry, pictures.get((position, entry.element), Picture()), otherwise)
        for position, entry in entries.items()
    }


def _rows_of(target: Target) -> tuple[Rows, VectorColumn]:
    """Return the rows of a target, with the columns that hold the content of its vectors."""
    if target.dataset is None:
        index = open_index(target.location)
        source: Rows = IndexRows(index)
        name, job = index.manifest.column, job_of_index(index.manifest)
    else:
        source, name, job = open_parts(target.location), target.dataset.column, None
        with contextlib.suppress(DatasetError):  # files of another origin
            job = read_job(target.location)
    return source, VectorColumn(name, content=content_of(name, source.schema, job))


def _query(asked: Asked, columns: Sequence[str], found: Mapping[int, _Content], rules: PictureRules) -> dict[str, Any]:
    names = collections.Counter(_name_of(hit) for hit in asked.hits or ())
    own = picture_of(None, asked.value, None, 0, rules, trusted=True) if asked.kind == "image" else Picture()
    value = name = asked.value
    if asked.kind != "text":
        value = readable(asked.value)
        name = last_part(value) if scheme_of(value) else os.path.basename(value) or value
    return {
        "kind": asked.kind,
        "value": value,
        "name": name,
        "picture": own.data_uri,
        "reason": asked.reason,
        "cards": [
            _card(place, hit, columns, found[hit["position"]], is_like_another=names[_name_of(hit)] > 1)
            for place, hit in enumerate(asked.hits or (), 1)
        ],
    }


def _name_of(hit: Mapping[str, Any]) -> str:
    return str(hit.get("id") or hit.get("uri") or _row_of(hit))


def _row_of(hit: Mapping[str, Any]) -> str:
    return f"row {hit['position']}"


def _card(
    place: int, hit: Mapping[str, Any], columns: Sequence[str], content: _Content, *, is_like_another: bool
) -> dict[str, Any]:
    """Return what is shown of a hit; its row too where another has its name, as samples of several tars may."""
    text, seen = content.entry.text or hit.get("text"), content.picture
    name, row = readable(_name_of(hit)), f" ({_row_of(hit)})" if is_like_another else ""
    scores = [(one, f"{hit[one]:.4f}") for one in ("clip_score", "cosine") if hit.get(one) is not None]
    return {
        "place": place,
        "name": last_part(name) + row,
        "whole_name": name + row,
        "scores": scores or [("score", f"{hit['score']:.4f}")],
        "picture": seen.data_uri,
        "reason": seen.reason,
        "text": shown_text(text) if text else None,
        "otherwise": hit.get("mime_type") or content.otherwise,
        "columns": [(one, shown_text(hit[one])) for one in columns if hit.get(one) is not None],
    }


def shown_text(value: Any) -> str:
    """Return a value of a row as readable text, shortened if it is very long."""
    text = readable_uri(value) if isinstance(value, str) and value[:5].lower() == "data:" else value
    text = text if isinstance(text, str) else json_text(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
