"""`Plan`: what is done with a row or a document, the same for every engine.

A plan says which items a row has, what is made of their outcomes, which columns that adds, and what these hold in
files. It pickles small and travels to workers. What only a loaded model knows (its learnt scales, the vectors of
labels) is the plan's *tool*: `PlanRunner` makes it once and hands it to `result`.

A new plan is a subclass of `RowPlan` or `DocumentPlan` in a file of its own: see `docs/architecture.md`.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from ...errors import SpecError
from ...failures import Failure
from ..document import Document
from ..encoder import Encoder
from ..item import Item
from ..outcome import Outcome

Holds = Literal["vector", "labels", "ranked", "score", "rank", "flag", "match_scores", "reason"]
"""What a new column holds. `datasets.tables.new_columns` gives each its type in files."""


class NewColumn(NamedTuple):
    """A column that a plan adds.

    Attributes:
        name: Its name.
        holds: What it holds.
        source: Path of the column that it is made of, whose type it depends on: an array gives an array.
        modality: What was embedded, as its provenance says.
    """

    name: str
    holds: Holds
    source: str | None = None
    modality: str = "auto"


class InnerFailure(NamedTuple):
    """A part of a row's value that failed, while the row is whole.

    Attributes:
        place: Column and element, such as `captions[3]`.
        reason: `stage`, `code` and `message`.
        kind: What the part was taken for.
        value: The part.
    """

    place: str
    reason: dict[str, Any]
    kind: str
    value: Any


class PlanResult(NamedTuple):
    """What was made of a row or a document.

    Attributes:
        value: Of a row the new columns by name: a (dim,) float32 vector, a list of labels or candidates, a score, a
            flag, None, or for an array column a list of those. Of a document a copy of it.
        failures: Why values are missing, each with its column.
        inner: Why parts of a value are missing that is whole all the same, such as candidates of a ranked list.
    """

    value: Any
    failures: Sequence[Failure] = ()
    inner: Sequence[Failure] = ()


class Plan(abc.ABC):
    """What rows and documents have in common.

    Attributes:
        of_rows: Whether it is for rows; else it is for documents.
        makes_vectors: Whether it makes vectors; else it makes scores.
        needs_matches: Whether it works on the matches of documents, so that a second try needs them too.
        key: Column that names a row in its failures.
        by: Columns whose values the rows of a group share; () where rows stand alone.
    """

    __slots__ = ()
    of_rows: ClassVar[bool]
    makes_vectors: ClassVar[bool] = True
    needs_matches: ClassVar[bool] = False
    key: str
    by: tuple[str, ...] = ()

    @property
    def reads(self) -> Mapping[str, str]:
        """The columns of rows that are read, by path, and what each is taken for."""
        return {}

    def tool(self, encoder: Encoder) -> Any:
        """Return what makes results of outcomes in a process that has the model; None if nothing is needed.

        Raises:
            SpecError: If the model cannot do it after all.
        """
        return None

    @abc.abstractmethod
    def items(self, source: Any) -> list[Item]:
        """Return the items of a row (its getter) or document, in order."""

    @abc.abstractmethod
    def result(self, source: Any, outcomes: Sequence[Outcome], tool: Any) -> PlanResult:
        """Return what is made of the outcomes of a row or document.

        Args:
            source: As `items` had it; content that was embedded may be gone.
            outcomes: In the order of `items`.
            tool: As `tool` made it.
        """

    def results(self, rows: Sequence[tuple[Any, Sequence[Outcome]]], tool: Any) -> list[PlanResult]:
        """Return the results of several rows, each with its outcomes; a plan may do that faster than one by one."""
        return [self.result(source, outcomes, tool) for source, outcomes in rows]

    def places(self, source: Any) -> list[str]:
        """Return where each of the items stands, such as `caption`, `captions[3]` or `@m[3]`.

        Only plans that make vectors say so: what is ranked or labelled is neither hashed nor skipped.
        """
        return []

    @abc.abstractmethod
    def made(self, value: Any) -> list[Any]:
        """Return every vector or score of a row's columns or of a document, None for what is null."""

    def scoring(self) -> dict[str, Any] | None:
        """Return what made the scores, for their provenance; None where there are none."""
        return None

    def description(self) -> dict[str, Any]:
        """Return the plan as plain values, as a dataset's description has it."""
        return {"plan": {"name": type(self).__name__, **dataclasses.asdict(self)}}  # type: ignore[call-overload]


class RowPlan(Plan):
    """What is done with rows.

    Attributes:
        lists: Columns that hold a list in every row.
        rename_hint: How to choose another name for a new column.
    """

    __slots__ = ()
    of_rows = True
    lists: ClassVar[frozenset[str]] = frozenset()
    rename_hint: ClassVar[str]

    @property
    @abc.abstractmethod
    def added(self) -> list[NewColumn]:
        """The columns that are added, in order."""

    @property
    def new_names(self) -> list[str]:
        """The names of the columns that are added, in order."""
        return [column.name for column in self.added]

    def check_free(self, existing: Sequence[str]) -> None:
        """Refuse to write over columns that are there already.

        Raises:
            SpecError: Naming one, and how to choose another name.
        """
        if taken := [name for name in self.new_names if name in existing]:
            raise SpecError(f"column {taken[0]!r} exists already", hint=self.rename_hint)

    def inner(self, row: Mapping[str, Any]) -> list[InnerFailure]:
        """Return what failed inside the values of a row that is whole, read off its new columns."""
        return []

    def candidates_of(self, path: str) -> tuple[str, str] | None:
        """Return path and kind of the candidates that a second try of the column at `path` needs; None for none."""
        return None


class DocumentPlan(Plan):
    """What is done with documents.

    Attributes:
        keep_content: Whether `blob` and `tensor` stay in what comes out.
    """

    __slots__ = ()
    of_rows = False
    key = "id"
    keep_content: bool

    @property
    @abc.abstractmethod
    def tree_paths(self) -> frozenset[str]:
        """Which documents of a tree are written, as steps of `matches` and `chunks`; "" is the root."""

    @abc.abstractmethod
    def added(self, place: str) -> list[NewColumn]:
        """Return the columns that are added to the document at `place`, one of `tree_paths`."""

    def precomputed(self, document: Document) -> list[Document]:
        """Return the documents of a tree whose vectors are used where they are there already."""
        return []

    def inner_failures(self, document: Document) -> list[Failure]:
        """Return the failures of parts of a document that is whole all the same, such as its matches."""
        return []
