"""Vectors of rows drawn at random and their content; memory does not grow with the dataset."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..encoders.plans.row_values import MissingColumn, get_by_path
from ..media.uri import readable_uri
from .columns import VectorColumn
from .indexes import IndexRows
from .parts import Parts

LONGEST_TEXT = 300
"""Characters of a text or name that are kept."""

Rows = Parts | IndexRows
"""Rows that are read by number."""


class Entry(NamedTuple):
    """One vector's row.

    Attributes:
        position: Number of the row.
        element: Which of the row's vectors it is, where it has several.
        name: What names the row: its id, else its number.
        text: The text that was embedded, or its beginning; None where it was none.
        uri: The URI, as messages show it; None where there is none.
    """

    position: int
    element: int | None
    name: str
    text: str | None
    uri: str | None


@dataclasses.dataclass
class RowSample:
    """Vectors of rows drawn at random.

    Attributes:
        vectors: (n, dim) float32, finite; dim is 0 where there is none.
        entries: n rows, in the order of the dataset.
        rows: Rows in the files.
        drawn: Rows that were drawn.
        nulls: Of these, rows without a vector.
        not_finite: Of these, rows whose vector holds NaN or an infinity.
        other_dims: Of these, how many have vectors of other lengths, by length.
    """

    vectors: np.ndarray
    entries: list[Entry]
    rows: int
    drawn: int
    nulls: int
    not_finite: int
    other_dims: dict[int, int]


def draw_positions(rows: int, count: int, seed: int) -> np.ndarray:
    """Draw min(rows, count) row numbers, equally likely, none twice: ascending int64, the same for a seed."""
    if rows <= count:
        return np.arange(rows, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(rows, count, replace=False, shuffle=False)).astype(np.int64)


def draw_sample(source: Rows, column: VectorColumn, *, count: int, seed: int) -> RowSample:
    """Read the vectors of rows drawn at random.

    Of a row that has a list of vectors one is drawn.
    """
    positions = draw_positions(source.rows, count, seed)
    rng = np.random.default_rng(seed)
    content = column.content
    beside = [name for name in (content.name, content.text, content.uri) if name]
    found: list[np.ndarray] = []
    entries: list[Entry] = []
    seen = nulls = not_finite = 0
    for there, batch in source.take(positions, [column.name, *beside]):
        seen += len(there)
        if column.name not in batch.schema.names:
            nulls += len(there)
            continue
        vectors = batch.column(column.name)
        values = batch.drop_columns([column.name]).to_pylist() if beside else [{}] * len(there)
        for row, position in enumerate(there.tolist()):
            vector, element = _vector(vectors[row], column.is_nested, rng)
            if vector is None:
                nulls += 1
            elif not np.isfinite(vector).all():
                not_finite += 1
            else:
                found.append(vector)
                entries.append(entry_of(position, element, values[row], column))
    dims = collections.Counter(len(vector) for vector in found)
    most = max(dims, key=lambda one: (dims[one], -one), default=0)
    dim = column.dim if column.dim is not None and column.dim in dims else most
    kept = [number for number, vector in enumerate(found) if len(vector) == dim]
    vectors_kept = np.stack([found[n] for n in kept]) if kept else np.zeros((0, dim), np.float32)
    others = {length: rows for length, rows in sorted(dims.items()) if length != dim}
    return RowSample(vectors_kept, [entries[n] for n in kept], source.rows, seen, nulls, not_finite, others)


def _vector(cell: Any, is_nested: bool, rng: np.random.Generator) -> tuple[np.ndarray | None, int | None]:
    """Return a row's vector as float32, and which of its list it is."""
    element = None
    if is_nested and cell.is_valid:
        there = np.flatnonzero(cell.values.is_valid().to_numpy(zero_copy_only=False))
        if not there.size:
            return None, None
        element = int(rng.choice(there))
        cell = cell.values[element]
    if not cell.is_valid or not len(cell.values):
        return None, None
    return cell.values.to_numpy(zero_copy_only=False).astype(np.float32), element


def entries_at(source: Rows, column: VectorColumn, positions: list[int]) -> dict[int, Entry]:
    """Return the entries of certain rows, ascending, by their numbers; without which of a list of vectors is meant."""
    content = column.content
    columns = [name for name in (content.name, content.text, content.uri) if name]
    found = {position: entry_of(position, None, {}, column) for position in positions}
    if columns:
        for there, batch in source.take(np.array(positions, np.int64), columns):
            for position, values in zip(there.tolist(), batch.to_pylist(), strict=True):
                found[position] = entry_of(position, None, values, column)
    return found


def entry_of(position: int, element: int | None, values: Mapping[str, Any], column: VectorColumn) -> Entry:
    """Return the parts of a row that are shown."""
    content = column.content
    name = value_at(values, content.name, None)
    text, uri = value_at(values, content.text, element), value_at(values, content.uri, element)
    label = readable(str(name)) if name not in (None, "") else f"row {position}"
    return Entry(
        position,
        element,
        label if element is None else f"{label}[{element}]",
        shortened(text) if isinstance(text, str) and text else None,
        readable(uri) if isinstance(uri, str) and uri else None,
    )


def value_at(values: Mapping[str, Any], path: str | None, element: int | None) -> Any:
    """Return a value of a row, or of a list the element; None where there is none."""
    if path is None:
        return None
    try:
        value = get_by_path(values, path)
    except MissingColumn:
        return None
    if isinstance(value, list) and element is not None:
        return value[element] if element < len(value) else None
    return value


def shortened(text: str, longest: int = LONGEST_TEXT) -> str:
    """Return a text, or its beginning and an ellipsis."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def last_part(name: str) -> str:
    """Return the file's name of a path, that of a URL with its query, anything else as it is."""
    if "://" in name:
        path, mark, query = name.partition("?")
        return (os.path.basename(path.rstrip("/")) or path) + mark + query
    return (os.path.basename(name.rstrip("/")) or name) if name.startswith("/") else name


def readable(name: str) -> str:
    """Return a name as readable text: a URI without passwords and signatures, long names shortened."""
    is_uri = "://" in name or name[:5].lower() == "data:"
    return shortened(readable_uri(name) if is_uri else name)
