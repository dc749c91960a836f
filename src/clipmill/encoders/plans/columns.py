"""Which columns of a row are embedded, as what, and where the vectors go: the same for every engine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self, get_args

from ...errors import SpecError
from ...failures import Code, Failure, RowError, Stage
from ...models.spec import EncoderSpec, Modality
from ..item import Item, is_pair, item_of_value
from ..outcome import Classified, Labelled, Outcome, Vector

if TYPE_CHECKING:
    from ..encoder import Encoder

SUFFIX = "_embedding"
FAILURES_COLUMN = "embedding_failures"


class MissingColumn(LookupError):
    """Raised by a row's getter for a column that the row does not have."""


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """How one column is embedded.

    Attributes:
        modality: `text`, `image` or `audio`.
        output: Name of the column of vectors; `<column>_embedding` if None.
        truncated: Name of a boolean column that flags texts cut to the context length; none if None.
    """

    modality: Modality
    output: str | None = None
    truncated: str | None = None


class Embedded(NamedTuple):
    """What became of one row.

    Attributes:
        values: By output column: a (dim,) float32 vector (a list of labels, where values were classified), None, or for
            an array column a list of those; and flags.
        failures: Why values are missing, each with its column.
        inner: Why parts of a value are missing that is whole all the same, such as candidates of a ranked list.
    """

    values: dict[str, Any]
    failures: Sequence[Failure] = ()
    inner: Sequence[Failure] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class ColumnPlan:
    """The columns of a job, checked.

    Attributes:
        columns: By path (`photo`, or `page.photo` into a struct), with every output named.
        key: Column that names a row in its failures; rows without it are not named.
    """

    columns: dict[str, Column]
    key: str = "id"

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Modality | Column],
        *,
        spec: EncoderSpec | None = None,
        key: str = "id",
        suffix: str = SUFFIX,
    ) -> ColumnPlan:
        """Check the columns of a call.

        Args:
            columns: Kind (or `Column`) by path.
            spec: If given, columns that its model cannot embed are refused.
            key: Column that names a row in its failures.
            suffix: What an output that is not named adds to its column's name.

        Raises:
            SpecError: If there is none, a kind is unknown, an output is named twice, or the model lacks the tower.
        """
        if not (isinstance(columns, Mapping) and all(isinstance(path, str) for path in columns)):
            raise SpecError(f"columns is a mapping such as {{'photo': 'image'}}, got {columns!r}")
        if not columns:
            raise SpecError(
                "columns={} names nothing to embed; give for instance {'caption': 'text', 'photo': 'image'}"
            )
        plan: dict[str, Column] = {}
        for path, given in columns.items():
            column = given if isinstance(given, Column) else Column(given)
            if column.modality not in get_args(Modality):
                raise SpecError(
                    f"column {path!r} is {column.modality!r}, which is none of {', '.join(get_args(Modality))}"
                )
            if spec is not None and column.modality not in spec.modalities:
                raise SpecError(f"column {path!r}: {spec.model} embeds {' and '.join(sorted(spec.modalities))} only")
            plan[path] = dataclasses.replace(column, output=column.output or path.replace(".", "_") + suffix)
        names = [name for column in plan.values() for name in (column.output, column.truncated) if name]
        if len(set(names)) < len(names):
            raise SpecError(f"two columns would be written under one name: {sorted(names)}")
        return cls(plan, key)

    @property
    def outputs(self) -> dict[str, Column]:
        """The columns by the name of their vectors."""
        return {str(column.output): column for column in self.columns.values()}

    @property
    def new_names(self) -> list[str]:
        """Every column that is added, in order: vectors, each followed by its flag where one is asked for."""
        pairs = ((column.output, column.truncated) for column in self.columns.values())
        return [name for pair in pairs for name in pair if name]

    def check_free(self, existing: Sequence[str]) -> None:
        """Refuse to write over columns that are there already.

        Raises:
            SpecError: Naming them, and how to choose other names.
        """
        if taken := sorted(set(self.new_names) & set(existing)):
            raise SpecError(f"column {taken[0]!r} exists already; choose a name: Column('image', output='…')")

    def bound(self, encoder: Encoder) -> Self:
        """Return what gives rows their results: this; see `plans`."""
        return self

    def items(self, get: Callable[[str], Any]) -> list[Item]:
        """Return the items of a row.

        Args:
            get: Returns the value at a path; raises `MissingColumn` for a path that the row does not have.

        Returns:
            One item for each column, or as many as it has elements for an array (a list or tuple), in order. `results`
            needs the same `get`.
        """
        return [item for path, column in self.columns.items() for item in _items(get, path, column)]

    def places(self, get: Callable[[str], Any]) -> list[str]:
        """Return where each of a row's `items` stands: `caption`, or `captions[3]` of an array."""
        found: list[str] = []
        for path, column in self.columns.items():
            length = _array_length(_value(get, path), column.modality)
            found += [path] if length is None else [f"{path}[{number}]" for number in range(length)]
        return found

    def results(self, get: Callable[[str], Any], outcomes: Sequence[Outcome | Classified]) -> Embedded:
        """Give a row its outcomes back, in the order of `items`; those that were classified give lists of labels."""
        values: dict[str, Any] = {}
        failures: list[Failure] = []
        remaining = iter(outcomes)
        for path, column in self.columns.items():
            length = _array_length(_value(get, path), column.modality)
            own = [next(remaining)] if length is None else [next(remaining) for _ in range(length)]
            for number, outcome in enumerate(own):
                if isinstance(outcome, Failure):  # few do: only they ask for the row's name
                    place = path if length is None else f"{path}[{number}]"
                    failures.append(outcome.at(column=place, row=row_name(get, self.key)))
            vectors = [o.values if isinstance(o, Vector | Labelled) else None for o in own]
            values[str(column.output)] = vectors[0] if length is None else vectors
            if column.truncated:
                values[column.truncated] = any(isinstance(o, Vector | Labelled) and o.truncated for o in own)
        return Embedded(values, failures)


def _value(get: Callable[[str], Any], path: str) -> Any:
    try:
        return get(path)
    except MissingColumn:
        return None


def _array_length(value: Any, modality: str) -> int | None:
    """Return how many values an array holds, None for what is one value; numbers alone are one sound's samples."""
    if not isinstance(value, list | tuple):
        return None
    is_sound = modality == "audio" and (is_pair(value) or (value and isinstance(value[0], int | float)))
    return None if is_sound else len(value)


def _items(get: Callable[[str], Any], path: str, column: Column) -> list[Item]:
    try:
        value = get(path)
    except MissingColumn as err:
        missing = RowError(Stage.READ, Code.MISSING_COLUMN, f"the row has no {path!r}: {err}")
        return [Item(column.modality, failure=missing)]
    values = [value] if _array_length(value, column.modality) is None else value
    return [item_of_value(column.modality, element) for element in values]


def row_name(get: Callable[[str], Any], key: str) -> str | None:
    """Return what names a row in its failures; None where it has no such column, or a null in it."""
    value = _value(get, key)
    return None if value is None else str(value)


def get_by_path(row: Mapping[str, Any], path: str) -> Any:
    """Return the value at `a.b.c` of nested mappings; a key that contains the dots itself wins.

    Raises:
        MissingColumn: Naming what is there.
    """
    if path in row:
        return row[path]
    head, dot, rest = path.partition(".")
    if not dot or head not in row:
        raise MissingColumn(f"it has {', '.join(map(repr, row)) or 'no columns'}")
    inner = row[head]
    if inner is None:
        return None
    if not isinstance(inner, Mapping):
        raise MissingColumn(f"{head!r} is {type(inner).__name__}, not a struct")
    return get_by_path(inner, rest)
