"""Where vectors come from, as rows of a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .words import count

_FIRST = ("model", "weights", "modality", "dim", "normalize", "runtime", "precision", "mode")
_MEANT = {
    "dim": "values in a vector",
    "normalize": "normalised to length 1",
    "runtime": "requested runtime",
    "precision": "requested precision",
    "clipmill": "clipmill",
}


def provenance_rows(provenance: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return a column's provenance as names and values, the model first."""
    if provenance is None:
        return []
    order = [name for name in _FIRST if name in provenance]
    order += [name for name in provenance if name not in {*_FIRST, "versions"}] + ["versions"]
    return [pair for name in order if name in provenance for pair in _rows(name, provenance[name])]


def _rows(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if name == "versions" and isinstance(value, Mapping):
        yield "versions", ", ".join(f"{library} {version}" for library, version in value.items())
    elif isinstance(value, Mapping):
        said = ", ".join(f"{inner} {plain(one)}" for inner, one in value.items())
        yield f"{name} preprocessing", said
    else:
        yield _MEANT.get(name, name), plain(value)


def plain(value: Any) -> str:
    """Return a value as readable text, with long digests shortened."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "(" + ", ".join(plain(one) for one in value) + ")"
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def resolved_rows(resolved: Sequence[tuple[Mapping[str, Any], int]]) -> tuple[list[str], list[list[str]]]:
    """Return what workers decided at load as a table: the names of its columns, and a row for each different answer."""
    names = list(dict.fromkeys(name for found, _ in resolved for name in found))
    return [*names, "shards"], [
        [*(plain(found.get(name)) for name in names), count(shards)] for found, shards in resolved
    ]
