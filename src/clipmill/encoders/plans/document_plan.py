"""Which documents of a tree are embedded, and where their vectors go: the same for every engine."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from ...failures import Failure
from ..document import AccessPaths, Document
from ..item import Item
from ..outcome import Classified, Labelled, Outcome, Vector

if TYPE_CHECKING:
    from ..encoder import Encoder

TRUNCATED_TAG = "truncated"
"""Tag that is set on documents whose text was cut to the context length."""

LABELS_TAG = "labels"
"""Tag of documents that were classified: their best labels."""


_parse = functools.lru_cache(maxsize=64)(AccessPaths.parse)  # asked for twice for every document


@dataclasses.dataclass(frozen=True, slots=True)
class DocumentPlan:
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

    def bound(self, encoder: Encoder) -> Self:
        """Return what gives documents their results: this; see `plans`."""
        return self

    def inner_failures(self, result: Document) -> list[Failure]:
        """Return the failures of parts of a document that is whole all the same: none, where documents are embedded."""
        return []

    def items(self, document: Document) -> list[Item]:
        """Return what of a document is embedded.

        Returns:
            One item for each document that `access_paths` reaches, in order; none where reading it failed already.
        """
        return [] if document.failures else [inner.item() for _, inner in self.select(document)]

    def places(self, document: Document) -> list[str]:
        """Return where each of a document's `items` stands: `@r`, `@m[3]`."""
        return [] if document.failures else [place for place, _ in self.select(document)]

    def results(self, document: Document, outcomes: Sequence[Outcome | Classified]) -> Document:
        """Give a document its outcomes back, in the order of `items`.

        Returns:
            A copy with `embedding` (the tag `labels`, where it was classified) and, where it was not known, `mime_type`
            set on every document that was embedded; a cut text has the tag `truncated`. `failures` of the root says
            what failed, each with its place (`@m[3]`; None is the root) and the root's key.
        """
        result = document.copy()
        key = document.key() or None
        failures = [failure.at(row=key) for failure in document.failures]
        if not document.failures:
            for (place, inner), outcome in zip(self.select(result), outcomes, strict=True):
                if isinstance(outcome, Failure):
                    failures.append(outcome.at(column=None if place == "@r" else place, row=key))
                elif outcome is not None:
                    _fill(inner, outcome)
        result.failures = tuple(failures)
        if not self.keep_content:
            result.drop_content()
        return result

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
