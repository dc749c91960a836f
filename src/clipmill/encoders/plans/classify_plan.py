"""What of a row or document is classified, and where the labels go: the same for every engine."""

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
from .embed_plan import LABELS_TAG, ColumnPlan, DocumentEmbedPlan
from .kinds import document_item
from .labels import Classifier, LabelSet
from .plan import DocumentPlan, NewColumn, PlanResult, RowPlan
from .row_values import Getter

SUFFIX = "_labels"
"""What the column of labels adds to the name of what was classified."""


@dataclasses.dataclass(frozen=True, slots=True)
class ClassifyPlan(RowPlan):
    """Rows of which columns are classified.

    Attributes:
        columns: Which, as what, and where their labels go.
        labels: What is told apart.
    """

    columns: ColumnPlan
    labels: LabelSet
    makes_vectors = False
    rename_hint = ColumnPlan.rename_hint

    @property
    def key(self) -> str:  # type: ignore[override]
        """Column that names a row in its failures."""
        return self.columns.key

    @property
    def reads(self) -> Mapping[str, str]:
        """See `RowPlan`."""
        return self.columns.reads

    @property
    def added(self) -> list[NewColumn]:
        """See `RowPlan`; of an array a list of labels for each element."""
        return self.columns.new_columns("labels")

    def tool(self, encoder: Encoder) -> Classifier:
        """See `Plan`."""
        return Classifier(self.labels, encoder)

    def items(self, source: Getter) -> list[Item]:
        """See `ColumnPlan`."""
        return self.columns.items(source)

    def result(self, source: Getter, outcomes: Sequence[Outcome], tool: Classifier) -> PlanResult:
        """See `Plan`: of each column a list of `label`, `clip_score`, `cosine`, best first."""
        return self.columns.result(source, [tool.classify(outcome) for outcome in outcomes])

    def made(self, value: Mapping[str, Any]) -> list[Any]:
        """See `Plan`; an array column has one for each element."""
        found: list[Any] = []
        for name in self.columns.outputs:
            labels = value.get(name)
            is_array = labels is not None and (len(labels) == 0 or not isinstance(labels[0], Mapping))
            found += labels or () if is_array else (labels,)
        return found

    def scoring(self) -> dict[str, Any]:
        """See `Plan`."""
        return _scoring(self.labels)


@dataclasses.dataclass(frozen=True, slots=True)
class DocumentClassifyPlan(DocumentPlan):
    """Documents that are classified; in files their labels are a column instead of the tag.

    Attributes:
        documents: Which of a tree, and what stays in them.
        labels: What is told apart.
    """

    documents: DocumentEmbedPlan
    labels: LabelSet
    makes_vectors = False

    @property
    def keep_content(self) -> bool:  # type: ignore[override]
        """Whether `blob` and `tensor` stay in what comes out."""
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
        """Return what is classified: as `DocumentEmbedPlan.items`, but an embedding that is there already is used.

        A document with a tag of the labels' name fails: nothing of its own is written over.
        """
        return [] if source.failures else [_item_of(inner) for inner in self.precomputed(source)]

    def precomputed(self, document: Document) -> list[Document]:
        """See `DocumentPlan`."""
        return [inner for _, inner in self.documents.select(document)]

    def result(self, source: Document, outcomes: Sequence[Outcome], tool: Classifier) -> PlanResult:
        """See `Plan`: labels are the tag `labels`, a list of `label`, `clip_score`, `cosine`, best first."""
        return self.documents.result(source, [tool.classify(outcome) for outcome in outcomes])

    def made(self, value: Document) -> list[Any]:
        """See `Plan`; a place that failed has none, whatever tag it came with."""
        failed = {failure.column or "@r" for failure in value.failures}
        found = [inner.tags.get(LABELS_TAG) for place, inner in self.documents.select(value) if place not in failed]
        return [labels for labels in found if labels is not None]

    def scoring(self) -> dict[str, Any]:
        """See `Plan`."""
        return _scoring(self.labels)


def _item_of(document: Document) -> Item:
    if LABELS_TAG in document.tags:
        message = f"the document has a tag {LABELS_TAG!r}, where its labels go: rename or remove it before"
        return Item("auto", failure=RowError(Stage.READ, Code.MALFORMED, message))
    return document_item(document)


def _scoring(labels: LabelSet) -> dict[str, Any]:
    """Return what made the scores; thousands of labels are identified by their number and their hash."""
    digest = hashlib.sha256(json.dumps(labels.labels).encode()).hexdigest()
    about = {"labels": len(labels.labels), "labels_sha256": digest, "templates": list(labels.templates)}
    return {"scale": labels.scale, "top_k": labels.top_k, **about}
