"""What all vector databases have in common: the description of a collection, rows for it, and the protocol `Store`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection as Names
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol, Self

import numpy as np
import pyarrow as pa

from ...datasets.tables.provenance import differences, value_at
from ...errors import DatasetError
from ...files.json_shape import fits
from ...files.json_text import json_text, parse_json
from ...messages import setting

KEY = "clipmill"
"""Name under which a database keeps the description of a collection."""
PARTS_SUFFIX = "_clipmill_parts"
"""What the name of a collection gets for the one that remembers what was pushed into it."""
ID, EMBEDDING, METADATA = "id", "embedding", "metadata"
Metric = Literal["cosine", "dot", "l2"]
_FORMAT = "clipmill collection"
_SHAPE = {"format": str, "dim": int, "ids": str, "metric": (str, None), "provenance": ({}, None)}


@dataclasses.dataclass(frozen=True, slots=True)
class Description:
    """What a database keeps about a collection, as its metadata.

    Attributes:
        dim: Values of a vector.
        ids: `text` or `integer`.
        metric: None where the database is told it with each search or index.
        provenance: Of the vectors; None if the dataset has none.
    """

    dim: int
    ids: Literal["text", "integer"]
    metric: Metric | None
    provenance: Mapping[str, Any] | None

    def as_json(self) -> str:
        """Return the text that `of_json` reads."""
        return json_text({"format": _FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def of_json(cls, text: str | None) -> Self | None:
        """Return what a database has kept; None if it is no description."""
        try:
            found = parse_json(text or "")
        except ValueError:
            return None
        if not isinstance(found, dict) or not fits(found, _SHAPE) or found["format"] != _FORMAT:
            return None
        return cls(found["dim"], found["ids"], found["metric"], found["provenance"])


@dataclasses.dataclass(frozen=True, slots=True)
class NewCollection:
    """A collection as the rows of a dataset need it.

    Attributes:
        id_column, vector_column: Their names in the dataset.
        columns: Everything else that rows carry.
    """

    name: str
    description: Description
    id_column: str
    vector_column: str
    columns: pa.Schema


@dataclasses.dataclass(frozen=True, slots=True)
class Rows:
    """Rows to be written.

    Attributes:
        ids: Texts or integers, each once.
        vectors: (n, dim) float32.
        columns: What else the rows carry.
    """

    ids: pa.Array
    vectors: np.ndarray
    columns: pa.Table

    def payloads(self) -> list[str]:
        """Return what the rows carry as JSON objects, in strict JSON."""
        if not self.columns.num_columns:
            return ["{}"] * len(self.ids)
        return list(map(json_text, self.columns.to_pylist()))


class Store(Protocol):
    """A connection to a vector database, for one collection.

    Attributes:
        batch_rows: Rows that are written at a time by default.
        metrics: Metrics of which a collection has one; none where a search or an index tells it.
    """

    batch_rows: int
    metrics: tuple[Metric, ...]

    def exists(self, name: str) -> bool:
        """Return whether there is a collection, whoever made it."""

    def describe(self, name: str) -> Description | None:
        """Return the description of a collection that is there; None if clipmill did not make it."""

    def create(self, new: NewCollection) -> None:
        """Create a collection with its description, and forget what was pushed into an earlier one of its name."""

    def open(self, new: NewCollection) -> None:
        """Prepare for writing into a collection that is there."""

    def pushed(self, parts: Sequence[str]) -> Names[str]:
        """Return which parts were pushed into the collection."""

    def upsert(self, rows: Rows, parts: Sequence[str]) -> None:
        """Write rows, of which there may be none, in place of those with their ids; then remember parts as pushed."""

    def close(self) -> None:
        """Close the connection."""


def open_collection(store: Store, new: NewCollection, where: str) -> bool:
    """Create a collection, or check that rows fit the one that is there.

    Returns:
        Whether it was created.

    Raises:
        DatasetError: If it was made by something else, or with vectors of another model, dimension or metric.
    """
    if not store.exists(new.name):
        store.create(new)
        if store.describe(new.name) is None:
            raise DatasetError(
                f"{where}: the database did not keep the description of the new collection; use a newer version of it"
            )
        store.open(new)
        return True
    found = store.describe(new.name)
    if found is None:
        raise DatasetError(
            f"{where} is there already and was not made by clipmill, so nothing tells what its vectors are",
            hint="choose another name with " + setting("collection", ...),
        )
    if problem := _mismatch(found, new.description):
        raise DatasetError(f"{where}: {problem}", hint="choose another name with " + setting("collection", ...))
    store.open(new)
    return False


def _mismatch(found: Description, wanted: Description) -> str | None:
    if (found.provenance is None) != (wanted.provenance is None):
        who = "the collection" if found.provenance is None else "the dataset"
        return f"{who} has no provenance, so the vectors may come from different models"
    ours, theirs = found.provenance or {}, wanted.provenance or {}
    if differing := differences(ours, theirs):
        values = ", ".join(f"{name}: {value_at(ours, name)!r} and {value_at(theirs, name)!r}" for name in differing)
        return f"its vectors come from another model than those of the dataset ({values})"
    for name in ("dim", "ids", "metric"):
        here, there = getattr(found, name), getattr(wanted, name)
        if here != there:
            said = {"dim": "values in a vector", "ids": "ids of the type", "metric": "the metric"}[name]
            return f"it has {said}: {here}, and the dataset needs {there}"
    return None
