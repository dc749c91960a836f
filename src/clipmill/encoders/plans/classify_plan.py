"""What of a row or document is classified, and where the labels go: the same for every engine; see `plans`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ...failures import Code, Failure, RowError, Stage
from ..document import Document
from ..encoder import Encoder
from ..item import Item
from ..outcome import Outcome
from .columns import ColumnPlan, Embedded
from .document_plan import LABELS_TAG, DocumentPlan
from .kinds import document_item
from .labels import Classifier, LabelSet
from .plan import Getter

SUFFIX = "_labels"
"""What the column of labels adds to the name of what was classified."""


@dataclasses.dataclass(frozen=True, slots=True)
class ClassifyPlan:
    """Rows of which columns are classified.

    Attributes:
        columns: Which, as what, and where their labels go.
        labels: What is told apart.
    """

    columns: ColumnPlan
    labels: LabelSet

    @property
    def key(self) -> str:
        """Column that names a row in its failures."""
        return self.columns.key

    @property
    def new_names(self) -> list[str]:
        """The columns that are added."""
        return self.columns.new_names

    def bound(self, encoder: Encoder) -> BoundClassify:
        """See `plans.RowPlan`."""
        return BoundClassify(self.columns, Classifier(self.labels, encoder))


@dataclasses.dataclass(frozen=True, slots=True)
class BoundClassify:
    """A `ClassifyPlan` with what tells labels; see `plans`."""

    columns: ColumnPlan
    classifier: Classifier

    def items(self, get: Getter) -> list[Item]:
        """See `ColumnPlan.items`."""
        return self.columns.items(get)

    def results(self, get: Getter, outcomes: Sequence[Outcome]) -> Embedded:
        """Give a row its labels: of each column a list of `label`, `clip_score`, `cosine`, best first."""
        return self.columns.results(get, [self.classifier.classify(outcome) for outcome in outcomes])


@dataclasses.dataclass(frozen=True, slots=True)
class DocumentClassifyPlan:
    """Documents that are classified.

    Attributes:
        documents: Which of a tree, and what stays in them.
        labels: What is told apart.
    """

    documents: DocumentPlan
    labels: LabelSet

    def bound(self, encoder: Encoder) -> BoundDocumentClassify:
        """See `plans.AnyDocumentPlan`."""
        return BoundDocumentClassify(self.documents, Classifier(self.labels, encoder))


@dataclasses.dataclass(frozen=True, slots=True)
class BoundDocumentClassify:
    """A `DocumentClassifyPlan` with what tells labels; see `plans`."""

    documents: DocumentPlan
    classifier: Classifier

    def items(self, document: Document) -> list[Item]:
        """Return what is classified: as `DocumentPlan.items`, but an embedding that is there already is used.

        A document with a tag of the labels' name fails: nothing of its own is written over.
        """
        return [] if document.failures else [_item_of(inner) for _, inner in self.documents.select(document)]

    def results(self, document: Document, outcomes: Sequence[Outcome]) -> Document:
        """Give a document its labels, as the tag `labels`: a list of `label`, `clip_score`, `cosine`, best first."""
        return self.documents.results(document, [self.classifier.classify(outcome) for outcome in outcomes])

    def inner_failures(self, result: Document) -> list[Failure]:
        """See `DocumentPlan.inner_failures`."""
        return self.documents.inner_failures(result)


def _item_of(document: Document) -> Item:
    if LABELS_TAG in document.tags:
        message = f"the document has a tag {LABELS_TAG!r}, where its labels go: rename or remove it before"
        return Item("auto", failure=RowError(Stage.READ, Code.MALFORMED, message))
    return document_item(document)
