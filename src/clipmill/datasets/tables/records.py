"""Failures as they are written: the reason, the location, and the content for a retry, but never image bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...encoders.document import Document
from ...encoders.item import Uri
from ...encoders.plans.plan import Plan, RowPlan
from ...encoders.plans.row_values import Getter, row_name, value_or_none
from ...failures import Failure
from ...files.json_text import key_text

_NESTED = {"m": "matches", "c": "chunks"}
_STEP = re.compile(r"([mc])\[(\d+)\]")
_MAX_TEXT_CHARS = 100_000
"""Characters of the longest text that a failure repeats for a retry."""


def failure_records(plan: Plan, source: Any, failures: Sequence[Failure]) -> list[dict[str, Any]]:
    """Return failures of a row or document as they are written: the reason, and the content for a retry.

    A record never holds the bytes of images; data: URIs are omitted too.

    Args:
        plan: The plan that failed.
        source: The row's getter, or the document.
        failures: The failures, each with its location.
    """
    if plan.of_rows:
        return [_row_record(failure, source, plan) for failure in failures]  # type: ignore[arg-type]
    return [_document_record(failure, source, with_matches=plan.needs_matches) for failure in failures]


def inner_failure_records(plan: Plan, value: Any) -> list[dict[str, Any]]:
    """Return the failures that a successful row or document holds in its parts, as they are written."""
    if plan.of_rows:
        return _candidate_records(value, plan)  # type: ignore[arg-type]
    # a match has an id of its own; `column` is its position before the document was ranked
    failed = plan.inner_failures(value)  # type: ignore[attr-defined]
    pairs = [(match, failure) for match in value.matches for failure in match.failures] if failed else []
    return [{**failure.as_dict(), **_retry_fields(match)} for match, failure in pairs]


def _document_record(failure: Failure, document: Document, *, with_matches: bool) -> dict[str, Any]:
    """Return the failure of the document in a tree that `failure.column` names; it can be read as a JSON line."""
    failed = _document_at(document, failure.column)
    matches = [_retry_fields(match, with_vector=True) for match in failed.matches] if with_matches else []
    content = _retry_fields(failed, with_vector=with_matches)
    return {**failure.at(row=document.id).as_dict(), **content, **({"matches": matches} if matches else {})}


def _document_at(document: Document, place: str | None) -> Document:
    for letter, number in _STEP.findall(place or ""):
        document = getattr(document, _NESTED[letter])[int(number)]
    return document


def _retry_fields(document: Document, *, with_vector: bool = False) -> dict[str, Any]:
    fields = {"id": document.id, **_content(document.text, document.uri), "mime_type": document.mime_type}
    if document.tags:
        fields["tags"] = document.tags
    if with_vector and document.embedding is not None:
        fields["embedding"] = np.asarray(document.embedding).tolist()
    return {name: value for name, value in fields.items() if value is not None}


def _content(text: str | None, uri: str | None) -> dict[str, Any]:
    is_short = text is not None and len(text) <= _MAX_TEXT_CHARS
    is_location = uri is not None and not uri.lower().startswith("data:")
    return {**({"text": text} if is_short else {}), **({"uri": uri} if is_location else {})}


def _row_record(failure: Failure, get: Getter, plan: RowPlan) -> dict[str, Any]:
    """Return a failure with the text or URI of its column, or of one element for a column such as `captions[3]`.

    For a ranked row whose query failed, the record is a document with matches, unless a candidate is neither a text nor
    a URI.
    """
    path, _, element = (failure.column or "").partition("[")
    value = value_or_none(get, path) if path in plan.reads else None
    if element and isinstance(value, list | tuple):
        value = value[int(element.rstrip("]"))]
    key = row_name(get, plan.key)
    name = {} if key is None else {"id": key}
    record = {**failure.at(row=key).as_dict(), **name, **_content_of_kind(plan.reads.get(path), value)}
    if candidates := plan.candidates_of(path):
        matches = [_content_of_kind(candidates[1], one) for one in _listed(value_or_none(get, candidates[0]))]
        record |= {"matches": matches} if matches and all(matches) else {}
    return record


def _listed(candidates: Any) -> Sequence[Any]:
    return candidates if isinstance(candidates, list | tuple) else ()


def _candidate_records(row: Mapping[str, Any], plan: RowPlan) -> list[dict[str, Any]]:
    """Return the failures of a row's candidates; a row does not hold whether a failure is transient."""
    key = key_text(row.get(plan.key))
    name = {} if key is None else {"id": key}
    return [
        {
            "row": key,
            "column": inner.place,
            **inner.reason,
            "transient": None,
            **name,
            **_content_of_kind(inner.kind, inner.value),
        }
        for inner in plan.inner(row)
    ]


def _content_of_kind(kind: str | None, value: Any) -> dict[str, Any]:
    """Return the text or URI in a value of a column of the given kind; `auto` treats a string as text."""
    if kind == "auto" and isinstance(value, Mapping):
        text, uri = value.get("text"), value.get("uri") or value.get("path")
        return _content(text if isinstance(text, str) else None, uri if isinstance(uri, str) else None)
    if isinstance(value, Uri):  # a file that the job's own reader listed
        value = value.uri
    if kind in (None, "vector") or not isinstance(value, str):
        return {}
    return _content(value, None) if kind in ("text", "auto") else _content(None, value)
