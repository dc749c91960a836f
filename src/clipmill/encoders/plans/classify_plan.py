"""Zero-shot classification of rows and documents: which values are classified, and where the labels go."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ...failures import Code, RowError, Stage
from ..document import Document
from ..encoder import Encoder
from ..item import Item
from ..outcome import Outcome
from .document_embed_plan import LABELS_TAG, DocumentEmbedPlan
from .embed_plan import ColumnPlan
from .kinds import document_item
from .labels import Classifier, LabelSet
from .plan import DocumentPlan, NewColumn, PlanResult, RowPlan
from .row_values import Getter

SUFFIX = "_labels"
"""Suffix of the columns of labels, after the name of the classified column."""


@dataclasses.dataclass(frozen=True, slots=True)
class ClassifyPlan(RowPlan):
    """Classifies columns of rows."""

    columns: ColumnPlan
    labels: LabelSet
    makes_vectors = False
    rename_hint = ColumnPlan.rename_hint

    @property
    def key(self) -> str:  # type: ignore[override]
        """Column that identifies a row in its failures."""
        return self.columns.key

    @property
    def reads(self) -> Mapping[str, str]:
        """See `RowPlan`."""
        return self.columns.reads

    @property
    def added(self) -> list[NewColumn]:
        """See `RowPlan`. An array column gets a list of labels for each element."""
        return self.columns.new_columns("labels")

    def tool(self, encoder: Encoder) -> Classifier:
        """See `Plan`."""
        return Classifier(self.labels, encoder)

    def items(self, source: Getter) -> list[Item]:
        """See `ColumnPlan`."""
        return self.columns.items(source)

    def result(self, source: Getter, outcomes: Sequence[Outcome], tool: Classifier) -> PlanResult:
        """See `Plan`. Each column gets a list of `label`, `clip_score` and `cosine`, best first."""
        return self.columns.result(source, [tool.classify(outcome) for outcome in outcomes])

    def made(self, value: Mapping[str, Any]) -> list[Any]:
        """See `Plan`. An array column has one value for each element.

        With a least score, an empty list is that of a value without a label, which is a result; without one, only an
        array without elements is empty.
        """
        found: list[Any] = []
        for name in self.columns.outputs:
            labels = value.get(name)
            if labels is None or _is_of_one_value(labels, self.labels):
                found.append(labels)
            else:
                found += labels
        return found

    def scoring(self) -> dict[str, Any]:
        """See `Plan`."""
        return _scoring(self.labels)


@dataclasses.dataclass(frozen=True, slots=True)
class DocumentClassifyPlan(DocumentPlan):
    """Classifies documents. Their labels become a tag; in files, they become a column instead."""

    documents: DocumentEmbedPlan
    labels: LabelSet
    makes_vectors = False

    @property
    def keep_content(self) -> bool:  # type: ignore[override]
        """Whether results keep `blob` and `tensor`."""
        return self.documents.keep_content

    @property
    def tree_paths(self) -> frozenset[str]:
        """See `DocumentPlan`."""
        return self.documents.tree_paths

    def added(self, place: str) -> list[NewColumn]:
        """See `DocumentPlan`."""
        return [NewColumn(LABELS_TAG, "labels")]

    def tool(self, encoder: Encoder) -> Classifier:
        """See `Plan`."""
        return Classifier(self.labels, encoder)

    def items(self, source: Document) -> list[Item]:
        """Return the items to classify: those of `DocumentEmbedPlan.items`, but existing embeddings are used.

        A document that already has a tag `labels` fails, since its own tag would be overwritten.
        """
        return [] if source.failures else [_item_of(inner) for inner in self.precomputed(source)]

    def precomputed(self, document: Document) -> list[Document]:
        """See `DocumentPlan`."""
        return [inner for _, inner in self.documents.select(document)]

    def result(self, source: Document, outcomes: Sequence[Outcome], tool: Classifier) -> PlanResult:
        """See `Plan`. The tag `labels` is a list of `label`, `clip_score` and `cosine`, best first."""
        return self.documents.result(source, [tool.classify(outcome) for outcome in outcomes])

    def made(self, value: Document) -> list[Any]:
        """See `Plan`. A document that failed has no labels, even if it came with such a tag."""
        failed = {failure.column or "@r" for failure in value.failures}
        found = [inner.tags.get(LABELS_TAG) for place, inner in self.documents.select(value) if place not in failed]
        return [labels for labels in found if labels is not None]

    def scoring(self) -> dict[str, Any]:
        """See `Plan`."""
        return _scoring(self.labels)


def _is_of_one_value(labels: Sequence[Any], options: LabelSet) -> bool:
    return isinstance(labels[0], Mapping) if len(labels) else options.min_score is not None


def _item_of(document: Document) -> Item:
    if LABELS_TAG in document.tags:
        message = (
            f"the document already has a tag {LABELS_TAG!r}, which the labels would overwrite: rename or remove it"
        )
        return Item("auto", failure=RowError(Stage.READ, Code.MALFORMED, message))
    return document_item(document)


def _scoring(labels: LabelSet) -> dict[str, Any]:
    """Return the settings that determine the scores. Labels are identified by their number and hash."""
    digest = hashlib.sha256(json.dumps(labels.labels).encode()).hexdigest()
    about = {"labels": len(labels.labels), "labels_sha256": digest, "templates": list(labels.templates)}
    return {**labels.scoring(), **about}
