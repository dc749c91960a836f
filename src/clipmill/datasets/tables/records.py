"""Failures as they are written: why, where, and what a second try needs; never the bytes of an image."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...encoders.document import Document
from ...encoders.plans.plan import RowPlan
from ...encoders.plans.rank_plan import RankPlan
from ...failures import Failure
from .layouts import layout_of

_NESTED = {"m": "matches", "c": "chunks"}
_STEP = re.compile(r"([mc])\[(\d+)\]")
_LONGEST_TEXT = 100_000
"""Characters of a text that a failure repeats for the second try."""


def failure_records(
    document: Document, failures: Sequence[Failure] | None = None, *, with_matches: bool = False
) -> list[dict[str, Any]]:
    """Return a document's failures as they are written: why, and what a second try needs.

    Each record stands for the one document that failed (`column` says where it was in the tree), and can be read again
    as a JSON line. Image bytes are never in it, nor in the URI: a data: URI is left out.

    Args:
        document: What was embedded, in part or not at all.
        failures: Its failures, where it does not carry them itself.
        with_matches: Whether a second try needs the matches too, as ranking does.
    """
    failures = document.failures if failures is None else failures
    records = []
    for failure in failures:
        failed = _document_at(document, failure.column)
        matches = [_second_try(match, with_vector=True) for match in failed.matches] if with_matches else []
        content = _second_try(failed, with_vector=with_matches)
        records.append({**failure.as_dict(), **content, **({"matches": matches} if matches else {})})
    return records


def match_failure_records(document: Document) -> list[dict[str, Any]]:
    """Return the failures of a ranked document's matches as they are written.

    They are told by the matches themselves: `column` says where a match stood before the document was ranked.
    """
    return [{**failure.as_dict(), **_second_try(match)} for match in document.matches for failure in match.failures]


def _document_at(document: Document, place: str | None) -> Document:
    for letter, number in _STEP.findall(place or ""):
        document = getattr(document, _NESTED[letter])[int(number)]
    return document


def _second_try(document: Document, *, with_vector: bool = False) -> dict[str, Any]:
    fields = {"id": document.id, **_content(document.text, document.uri), "mime_type": document.mime_type}
    if document.tags:
        fields["tags"] = document.tags
    if with_vector and document.embedding is not None:
        fields["embedding"] = np.asarray(document.embedding).tolist()
    return {name: value for name, value in fields.items() if value is not None}


def _content(text: str | None, uri: str | None) -> dict[str, Any]:
    is_short = text is not None and len(text) <= _LONGEST_TEXT
    is_place = uri is not None and not uri.lower().startswith("data:")
    return {**({"text": text} if is_short else {}), **({"uri": uri} if is_place else {})}


def row_failure_records(
    failures: Sequence[Failure], values: Mapping[str, Any], plan: RowPlan, get: Callable[[str], Any]
) -> list[dict[str, Any]]:
    """Return a row's failures as they are written: why, and the text or URI of the column for a second try.

    Of a ranked row whose query failed it is a document with matches, unless a candidate is neither text nor URI.

    Args:
        failures: Each with its column; `captions[3]` is an element of one.
        values: The row.
        plan: What was to be done.
        get: Returns the value at a path of the row, None where there is none.
    """
    records = []
    kinds = layout_of(plan).kinds
    for failure in failures:
        path, _, element = (failure.column or "").partition("[")
        value = get(path) if path in kinds else None
        if element and isinstance(value, list | tuple):
            value = value[int(element.rstrip("]"))]
        name = {"id": str(values[plan.key])} if values.get(plan.key) is not None else {}
        record = {**failure.as_dict(), **name, **_content_of_kind(kinds.get(path), value)}
        if isinstance(plan, RankPlan) and path == plan.query:
            candidates = get(plan.candidates)
            matches = [_content_of_kind(plan.candidate_kind, one) for one in _listed(candidates)]
            record |= {"matches": matches} if matches and all(matches) else {}
        records.append(record)
    return records


def _listed(candidates: Any) -> Sequence[Any]:
    return candidates if isinstance(candidates, list | tuple) else ()


def candidate_failure_records(row: Mapping[str, Any], plan: RowPlan) -> list[dict[str, Any]]:
    """Return the failures of a ranked row's candidates as they are written, read off the row itself.

    A row does not say whether a second try may help: `transient` is null.

    Args:
        row: With its new columns.
        plan: What was done.
    """
    key = row.get(plan.key)
    name = {} if key is None else {"id": str(key)}
    return [
        {
            "row": None if key is None else str(key),
            "column": inner.place,
            **inner.reason,
            "transient": None,
            **name,
            **_content_of_kind(inner.kind, inner.value),
        }
        for inner in layout_of(plan).inner(row)
    ]


def _content_of_kind(kind: str | None, value: Any) -> dict[str, Any]:
    """Return the text or URI in a value of a column of a kind; `auto` takes a string for a text."""
    if kind == "auto" and isinstance(value, Mapping):
        text, uri = value.get("text"), value.get("uri") or value.get("path")
        return _content(text if isinstance(text, str) else None, uri if isinstance(uri, str) else None)
    if kind in (None, "vector") or not isinstance(value, str):
        return {}
    return _content(value, None) if kind in ("text", "auto") else _content(None, value)
