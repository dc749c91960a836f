"""`Plan`: an operation on rows or documents, the same for every engine.

A plan defines which items a row has, how their outcomes become its result, which columns the result adds, and what
these columns contain in files. Plans are small when pickled and are sent to workers. What needs a loaded model, such as
learnt scales or the vectors of labels, is the plan's *tool*: `PlanRunner` creates it once and passes it to `result`.

A new plan is a subclass of `RowPlan` or `DocumentPlan` in a file of its own: see `docs/architecture.md`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from ...errors import SpecError
from ...failures import Failure
from ..document import Document
from ..encoder import Encoder
from ..item import Item
from ..outcome import Outcome

Holds = Literal["vector", "labels", "ranked", "score", "rank", "flag", "match_scores", "reason"]
"""The content of a new column. `datasets.tables.new_columns` defines the type of each in files."""


REJECTION = "rejection"
"""Column of rejected rows with the reason."""


class NewColumn(NamedTuple):
    """A column that a plan adds.

    Attributes:
        source: Path of the column that it is computed from. If that is an array, so is the new column.
        modality: The embedded modality, for the provenance.
        provenance: What the provenance says of it besides the encoder and the modality.
    """

    name: str
    holds: Holds
    source: str | None = None
    modality: str = "auto"
    provenance: Mapping[str, Any] | None = None


class InnerFailure(NamedTuple):
    """A failure of one part of a value, such as one candidate, in a row that succeeded otherwise.

    Attributes:
        place: Column and element, such as `captions[3]`.
        kind: The kind that the part was embedded as.
    """

    place: str
    reason: dict[str, Any]
    kind: str
    value: Any


class PlanResult(NamedTuple):
    """The result of a plan for a row or a document.

    Attributes:
        value: For a row, the new columns by name: a (dim,) float32 vector, a list of labels or candidates, a score, a
            flag, None, or for an array column a list of those. For a document, a copy of it.
        failures: Why values are missing, each with its column.
        inner: Failures of parts of a value, such as single candidates of a ranked list.
    """

    value: Any
    failures: Sequence[Failure] = ()
    inner: Sequence[Failure] = ()


class Plan(abc.ABC):
    """Base class of plans for rows and for documents.

    Attributes:
        of_rows: Whether it applies to rows, as opposed to documents.
        makes_vectors: Whether it returns vectors, as opposed to scores.
        needs_matches: Whether it uses the matches of documents, so that a retry of a document needs them too.
        key: Column that identifies a row in its failures.
        by: Columns that identify the group of a row; () if rows are independent.
    """

    __slots__ = ()
    of_rows: ClassVar[bool]
    makes_vectors: ClassVar[bool] = True
    needs_matches: ClassVar[bool] = False
    key: str
    by: tuple[str, ...] = ()

    @property
    def reads(self) -> Mapping[str, str]:
        """The columns that are read, by path, and the kind or modality of each."""
        return {}

    def tool(self, encoder: Encoder) -> Any:
        """Create what `result` needs from the loaded model, or return None if it needs nothing."""
        return None

    @abc.abstractmethod
    def items(self, source: Any) -> list[Item]:
        """Return the items of a row (given as its getter) or document, in order."""

    @abc.abstractmethod
    def result(self, source: Any, outcomes: Sequence[Outcome], tool: Any) -> PlanResult:
        """Return the result for the outcomes of a row or document, in the order of `items`, with what `tool` returned.

        The source may be without the content that was embedded.
        """

    def results(self, rows: Sequence[tuple[Any, Sequence[Outcome]]], tool: Any) -> list[PlanResult]:
        """Return the results of several rows with their outcomes. Plans override it if that is faster than a loop."""
        return [self.result(source, outcomes, tool) for source, outcomes in rows]

    def places(self, source: Any) -> list[str]:
        """Return the place of each of the items, such as `caption`, `captions[3]` or `@m[3]`.

        Only plans that return vectors implement it: ranked and classified rows are neither hashed nor skipped.
        """
        return []

    @abc.abstractmethod
    def made(self, value: Any) -> list[Any]:
        """Return what is counted in a row's new columns or in a document: its vectors; without them, scores or labels.

        None stands for null.
        """

    def holds_results(self, value: Any) -> bool:
        """Return whether a row or document of which something failed has any result, so that it is written."""
        return any(one is not None for one in self.made(value))

    def rejection(self, value: Any) -> str | None:
        """Return why a row is rejected, from its new columns, or a document; None if it is kept. It is no failure."""
        return None

    def scoring(self) -> dict[str, Any] | None:
        """Return the settings that determine the scores, for the provenance. None if there are no scores."""
        return None

    def description(self) -> dict[str, Any]:
        """Return the plan as plain values, for a dataset's description."""
        return {"plan": {"name": type(self).__name__, **dataclasses.asdict(self)}}  # type: ignore[call-overload]


class RowPlan(Plan):
    """Base class of plans for rows.

    Attributes:
        lists: Columns that must contain lists.
    """

    __slots__ = ()
    of_rows = True
    lists: ClassVar[frozenset[str]] = frozenset()
    rename_hint: ClassVar[str]

    @property
    @abc.abstractmethod
    def added(self) -> list[NewColumn]:
        """The new columns, in order."""

    @property
    def new_names(self) -> list[str]:
        """The names of the new columns, in order."""
        return [column.name for column in self.added]

    def check_free(self, existing: Sequence[str]) -> None:
        """Raise `SpecError` if a new column would overwrite an existing one, with a hint for another name."""
        if taken := [name for name in self.new_names if name in existing]:
            raise SpecError(f"column {taken[0]!r} exists already", hint=self.hint_for(taken[0]))

    def hint_for(self, name: str) -> str:
        """Return how a new column gets another name than this one, which exists already."""
        return self.rename_hint

    def check_arrays(self, arrays: Collection[str]) -> None:
        """Raise `SpecError` if one of these columns that are read, which hold arrays, must hold single values."""

    def inner(self, row: Mapping[str, Any]) -> list[InnerFailure]:
        """Return the failures of parts of a row's values, such as candidates, from its new columns."""
        return []

    def candidates_of(self, path: str) -> tuple[str, str] | None:
        """Return path and kind of the candidates that a retry of the column at `path` needs, or None."""
        return None


class DocumentPlan(Plan):
    """Base class of plans for documents; `keep_content` keeps `blob` and `tensor` in results."""

    __slots__ = ()
    of_rows = False
    key = "id"
    keep_content: bool

    @property
    @abc.abstractmethod
    def tree_paths(self) -> frozenset[str]:
        """The documents of a tree that are written, as steps of `matches` and `chunks`; "" is the root."""

    @abc.abstractmethod
    def added(self, place: str) -> list[NewColumn]:
        """Return the new columns of the document at `place`, one of `tree_paths`."""

    def precomputed(self, document: Document) -> list[Document]:
        """Return the documents of a tree whose existing embeddings are used."""
        return []

    def inner_failures(self, document: Document) -> list[Failure]:
        """Return the failures of parts of a document, such as its matches, if the document itself succeeded."""
        return []
