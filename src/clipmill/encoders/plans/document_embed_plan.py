"""Embedding of documents: which documents of a tree, and where the vectors go."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from ...errors import check_flags
from ...failures import Failure
from ..document import AccessPaths, Document
from ..item import Item
from ..outcome import Classified, Labelled, Outcome, Vector
from .plan import DocumentPlan, NewColumn, PlanResult

EMBEDDING = "embedding"

TRUNCATED_TAG = "truncated"
"""Tag of documents whose text was cut to the context length."""

LABELS_TAG = "labels"
"""Tag of classified documents, with their best labels."""

_parse = functools.lru_cache(maxsize=64)(AccessPaths.parse)  # called twice for every document


@dataclasses.dataclass(frozen=True, slots=True)
class DocumentEmbedPlan(DocumentPlan):
    """Embeds documents.

    Attributes:
        access_paths: The documents of a tree to embed, in docarray's syntax; `@r` is the document itself.
        keep_content: Whether results keep `blob` and `tensor`.

    Raises:
        SpecError: If `access_paths` is invalid.
    """

    access_paths: str = "@r"
    keep_content: bool = False

    def __post_init__(self) -> None:
        """Check the options before the plan is sent to workers."""
        check_flags(keep_content=self.keep_content)
        _parse(self.access_paths)

    @property
    def tree_paths(self) -> frozenset[str]:
        """See `DocumentPlan`."""
        return frozenset(_parse(self.access_paths).paths)

    def added(self, place: str) -> list[NewColumn]:
        """See `DocumentPlan`."""
        return [NewColumn(EMBEDDING, "vector")]

    def items(self, source: Document) -> list[Item]:
        """Return one item for each document `access_paths` selects, in order; None if the root was unreadable."""
        return [] if source.failures else [inner.item() for _, inner in self.select(source)]

    def places(self, source: Document) -> list[str]:
        """Return the place of each of a document's `items`: `@r`, `@m[3]`."""
        return [] if source.failures else [place for place, _ in self.select(source)]

    def result(self, source: Document, outcomes: Sequence[Outcome | Classified], tool: Any = None) -> PlanResult:
        """See `Plan`.

        Returns:
            A copy. Each embedded document in it has `embedding` (the tag `labels` if it was classified) and a
            `mime_type`, and the tag `truncated` if its text was cut. The root's `failures` have the place of what
            failed (`@m[3]`; None is the root) and the root's key.
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
        """See `Plan`. Includes the vectors of matches and chunks."""
        own = [] if value.embedding is None else [value.embedding]
        return own + [vector for inner in (*value.matches, *value.chunks) for vector in self.made(inner)]

    def description(self) -> dict[str, Any]:
        """See `Plan`."""
        return {"columns": None, "access_paths": self.access_paths}

    def select(self, document: Document) -> list[tuple[str, Document]]:
        """Return the documents that `access_paths` selects, each with its place (`@m[3]`; `@r` is the root itself)."""
        return list(_parse(self.access_paths).select(document))


def _fill(document: Document, outcome: Vector | Labelled) -> None:
    if isinstance(outcome, Vector):
        document.embedding = outcome.values
    else:
        document.tags[LABELS_TAG] = outcome.values
    document.mime_type = document.mime_type or outcome.media_type
    if outcome.truncated:
        document.tags[TRUNCATED_TAG] = True
