"""Which columns of a row, or documents of a tree, are embedded, and where the vectors go."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from ...errors import SpecError
from ...failures import Code, Failure, RowError, Stage
from ...messages import by_surface, setting
from ...models.spec import EncoderSpec, Modality
from ..document import AccessPaths, Document
from ..item import Item, is_pair, item_of_value
from ..outcome import Classified, Labelled, Outcome, Vector
from .plan import DocumentPlan, NewColumn, PlanResult, RowPlan
from .row_values import Getter, MissingColumn, row_name, value_or_none

SUFFIX = "_embedding"
FAILURES_COLUMN = "embedding_failures"
EMBEDDING = "embedding"

TRUNCATED_TAG = "truncated"
"""Tag that is set on documents whose text was cut to the context length."""

LABELS_TAG = "labels"
"""Tag of documents that were classified: their best labels."""


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


@dataclasses.dataclass(frozen=True, slots=True)
class ColumnPlan(RowPlan):
    """The columns of a job, checked.

    Attributes:
        columns: By path (`photo`, or `page.photo` into a struct), with every output named.
        key: Column that names a row in its failures; rows without it are not named.
    """

    columns: dict[str, Column]
    key: str = "id"
    rename_hint = by_surface(
        python="choose a name: Column('image', output=…)", flags="leave the old one out: --drop NAME"
    )

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
                setting("columns", {}) + " names nothing to embed",
                hint="give for instance {'caption': 'text', 'photo': 'image'}",
            )
        plan: dict[str, Column] = {}
        for path, given in columns.items():
            column = given if isinstance(given, Column) else Column(given)
            if column.modality not in get_args(Modality):
                raise SpecError(
                    f"column {path!r} is {column.modality!r}; it must be one of {', '.join(get_args(Modality))}"
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
    def reads(self) -> Mapping[str, str]:
        """See `RowPlan`."""
        return {path: column.modality for path, column in self.columns.items()}

    @property
    def added(self) -> list[NewColumn]:
        """See `RowPlan`: vectors, each followed by its flag where one is asked for."""
        return self.new_columns("vector")

    def new_columns(self, holds: Literal["vector", "labels"]) -> list[NewColumn]:
        """Return the columns that are added, each followed by its flag where one is asked for."""
        added: list[NewColumn] = []
        for path, column in self.columns.items():
            added.append(NewColumn(str(column.output), holds, path, column.modality))
            added += [NewColumn(column.truncated, "flag")] if column.truncated else []
        return added

    def items(self, source: Getter) -> list[Item]:
        """Return the items of a row.

        Args:
            source: Returns the value at a path.

        Returns:
            One item for each column, or as many as it has elements for an array (a list or tuple), in order.
        """
        return [item for path, column in self.columns.items() for item in _items(source, path, column)]

    def places(self, source: Getter) -> list[str]:
        """Return where each of a row's `items` stands: `caption`, or `captions[3]` of an array."""
        found: list[str] = []
        for path, column in self.columns.items():
            length = _array_length(value_or_none(source, path), column.modality)
            found += [path] if length is None else [f"{path}[{number}]" for number in range(length)]
        return found

    def result(self, source: Getter, outcomes: Sequence[Outcome | Classified], tool: Any = None) -> PlanResult:
        """See `Plan`; outcomes that were classified give lists of labels."""
        values: dict[str, Any] = {}
        failures: list[Failure] = []
        remaining = iter(outcomes)
        for path, column in self.columns.items():
            length = _array_length(value_or_none(source, path), column.modality)
            own = [next(remaining)] if length is None else [next(remaining) for _ in range(length)]
            for number, outcome in enumerate(own):
                if isinstance(outcome, Failure):  # few do: only they ask for the row's name
                    place = path if length is None else f"{path}[{number}]"
                    failures.append(outcome.at(column=place, row=row_name(source, self.key)))
            vectors = [o.values if isinstance(o, Vector | Labelled) else None for o in own]
            values[str(column.output)] = vectors[0] if length is None else vectors
            if column.truncated:
                values[column.truncated] = any(isinstance(o, Vector | Labelled) and o.truncated for o in own)
        return PlanResult(values, failures)

    def made(self, value: Mapping[str, Any]) -> list[Any]:
        """See `Plan`; an array column has one for each element."""
        values = [value.get(str(column.output)) for column in self.columns.values()]
        return [vector for one in values for vector in (one if isinstance(one, list) else [one])]

    def description(self) -> dict[str, Any]:
        """See `Plan`."""
        columns = {path: dataclasses.asdict(column) for path, column in self.columns.items()}
        return {"columns": columns, "key": self.key, "access_paths": "@r"}


def _array_length(value: Any, modality: str) -> int | None:
    """Return how many values an array holds, None for what is one value; numbers alone are one sound's samples."""
    if not isinstance(value, list | tuple):
        return None
    is_sound = modality == "audio" and (is_pair(value) or (value and isinstance(value[0], int | float)))
    return None if is_sound else len(value)


def _items(get: Getter, path: str, column: Column) -> list[Item]:
    try:
        value = get(path)
    except MissingColumn as err:
        missing = RowError(Stage.READ, Code.MISSING_COLUMN, f"the row has no {path!r}: {err}")
        return [Item(column.modality, failure=missing)]
    values = [value] if _array_length(value, column.modality) is None else value
    return [item_of_value(column.modality, element) for element in values]


_parse = functools.lru_cache(maxsize=64)(AccessPaths.parse)  # asked for twice for every document


@dataclasses.dataclass(frozen=True, slots=True)
class DocumentEmbedPlan(DocumentPlan):
    """How documents are embedded, checked.

    Attributes:
        access_paths: Which documents of a tree, in docarray's syntax; `@r` is the document itself.
        keep_content: Whether `blob` and `tensor` stay in what comes out.

    Raises:
        SpecError: If `access_paths` is none.
    """

    access_paths: str = "@r"
    keep_content: bool = False

    def __post_init__(self) -> None:
        """Refuse an access path that is none before any worker sees it."""
        _parse(self.access_paths)

    @property
    def tree_paths(self) -> frozenset[str]:
        """See `DocumentPlan`."""
        return frozenset(_parse(self.access_paths).paths)

    def added(self, place: str) -> list[NewColumn]:
        """See `DocumentPlan`."""
        return [NewColumn(EMBEDDING, "vector")]

    def items(self, source: Document) -> list[Item]:
        """Return what of a document is embedded.

        Returns:
            One item for each document that `access_paths` reaches, in order; none where reading it failed already.
        """
        return [] if source.failures else [inner.item() for _, inner in self.select(source)]

    def places(self, source: Document) -> list[str]:
        """Return where each of a document's `items` stands: `@r`, `@m[3]`."""
        return [] if source.failures else [place for place, _ in self.select(source)]

    def result(self, source: Document, outcomes: Sequence[Outcome | Classified], tool: Any = None) -> PlanResult:
        """See `Plan`.

        Returns:
            A copy with `embedding` (the tag `labels`, where it was classified) and, where it was not known, `mime_type`
            set on every document that was embedded; a cut text has the tag `truncated`. `failures` of the root says
            what failed, each with its place (`@m[3]`; None is the root) and the root's key.
        """
        result = source.copy()
        key = source.key() or None
        failures = [failure.at(row=key) for failure in source.failures]
        if not source.failures:
            for (place, inner), outcome in zip(self.select(result), outcomes, strict=True):
                if isinstance(outcome, Failure):
                    failures.append(outcome.at(column=None if place == "@r" else place, row=key))
                elif outcome is not None:
                    _fill(inner, outcome)
        result.failures = tuple(failures)
        if not self.keep_content:
            result.drop_content()
        return PlanResult(result, result.failures)

    def made(self, value: Document) -> list[Any]:
        """See `Plan`; those of matches and chunks too."""
        own = [] if value.embedding is None else [value.embedding]
        return own + [vector for inner in (*value.matches, *value.chunks) for vector in self.made(inner)]

    def description(self) -> dict[str, Any]:
        """See `Plan`."""
        return {"columns": None, "access_paths": self.access_paths}

    def select(self, document: Document) -> list[tuple[str, Document]]:
        """Return the documents that `access_paths` reaches, each with its place (`@m[3]`; `@r` is the root itself)."""
        return list(_parse(self.access_paths).select(document))


def _fill(document: Document, outcome: Vector | Labelled) -> None:
    if isinstance(outcome, Vector):
        document.embedding = outcome.values
    else:
        document.tags[LABELS_TAG] = outcome.values
    document.mime_type = document.mime_type or outcome.media_type
    if outcome.truncated:
        document.tags[TRUNCATED_TAG] = True
