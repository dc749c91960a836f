"""`summary`: two tables with the content of documents or of a written dataset.

The tables are those of docarray's `summary()`: which attributes how many documents have, and for each attribute its
types, its number of different values, and whether a document lacks it.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ..encoders.document import Document
from .console import printable

_ATTRIBUTES = tuple(field.name for field in dataclasses.fields(Document) if not field.name.startswith("_"))


@dataclasses.dataclass
class Attribute:
    """One attribute of a collection.

    Attributes:
        digests: One short digest for each different value.
    """

    types: set[str] = dataclasses.field(default_factory=set)
    digests: set[bytes] = dataclasses.field(default_factory=set)
    present: int = 0


@dataclasses.dataclass
class Summary:
    """The kinds and attributes of a collection.

    Attributes:
        kinds: How many documents have just these attributes.
    """

    length: int
    kinds: dict[tuple[str, ...], int]
    attributes: dict[str, Attribute]

    def __rich__(self) -> Group:
        return Group(
            Panel(self._documents(), title="Documents Summary", expand=False),
            Panel(self._attributes(), title="Attributes Summary", expand=False),
        )

    def _documents(self) -> Table:
        table = Table(box=None, show_header=False)
        table.add_row("Length", str(self.length))
        table.add_row("Homogenous Documents", str(len(self.kinds) <= 1))
        for kind, count in sorted(self.kinds.items(), key=lambda pair: (-pair[1], pair[0])):
            who = "1 Document has" if count == 1 else f"{count} Documents have"
            table.add_row(f"{who} attributes", Text(printable(repr(kind))))
        return table

    def _attributes(self) -> Table:
        table = Table(box=None)
        table.add_column("Attribute")
        table.add_column("Data type")
        table.add_column("#Unique values", justify="right")
        table.add_column("Has empty value")
        for name, found in sorted(self.attributes.items()):
            empty = str(found.present < self.length)
            table.add_row(Text(printable(name)), repr(tuple(sorted(found.types))), str(len(found.digests)), empty)
        return table


def summary(documents: Iterable[Document | Mapping[str, Any]]) -> Summary:
    """Count the attributes of documents or rows (mappings); print the result with `rich.print`, or use `print_summary`.

    Null and empty values count as absent.
    """
    kinds: collections.Counter[tuple[str, ...]] = collections.Counter()
    attributes: dict[str, Attribute] = {}
    length = 0
    for document in documents:
        length += 1
        values = {name: value for name, value in _values(document) if not _is_empty(value)}
        kinds[tuple(values)] += 1
        for name, value in values.items():
            found = attributes.setdefault(name, Attribute())
            found.types.add(type(value).__name__)
            found.digests.add(_digest(value))
            found.present += 1
    return Summary(length, dict(kinds), attributes)


def summarise_dataset(path: str) -> Summary:
    """Count the attributes of a written dataset, batch by batch; raise `DatasetError` if there is none."""
    return summary(_rows(path))


def missing_of(path: str) -> str | None:
    """Return what an unfinished dataset lacks; None for a complete one, or one that clipmill did not write."""
    from ..datasets.dataset import read_job, summarise
    from ..errors import DatasetError
    from ..reports.integrity import missing_of as missing

    try:
        return missing(read_job(path), summarise(path))
    except DatasetError:
        return None


def vectors_elsewhere(path: str) -> str | None:
    """Return where a dataset in clip-retrieval's layout has its vectors; None if they are in the rows."""
    from ..datasets.formats.clip_retrieval import vectors_beside
    from ..files.folder import Folder

    return vectors_beside(Folder.of(path).list())


def _rows(path: str) -> Iterator[dict[str, Any]]:
    from ..datasets.dataset_rows import read_batches

    for batch in read_batches(path):
        columns = {name: _cells(batch.column(name)) for name in batch.schema.names}
        for row in zip(*columns.values(), strict=True):
            yield dict(zip(columns, row, strict=True))


def _cells(column: Any) -> list[Any]:
    """Return a column's values, with vectors as arrays, because lists of Python floats would be slow."""
    from ..datasets.tables.column_types import is_vector_type
    from ..datasets.tables.scalars import printable_values

    if not is_vector_type(column.type):
        return printable_values(column)
    return [cell.values.to_numpy(zero_copy_only=False) if cell.is_valid else None for cell in column]


def _values(document: Document | Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(document, Document):
        return ((name, getattr(document, name)) for name in _ATTRIBUTES)
    return iter(document.items())


def _is_empty(value: Any) -> bool:
    return value is None or (hasattr(value, "__len__") and len(value) == 0) or value is False


def _digest(value: Any) -> bytes:
    data = (
        value.tobytes()
        if isinstance(value, np.ndarray)
        else value
        if isinstance(value, bytes)
        else repr(value).encode()
    )
    return hashlib.blake2b(data, digest_size=8).digest()


def print_summary(documents: Iterable[Document | Mapping[str, Any]]) -> None:
    """Print the two tables of `summary`."""
    from .console import out

    out.print(summary(documents))
