"""How the results of each plan for documents stand in files: what is written beside a document's own fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import pyarrow as pa

from ...encoders.document import AccessPaths, Document
from ...encoders.plans.classify_plan import DocumentClassifyPlan
from ...encoders.plans.document_plan import LABELS_TAG, DocumentPlan
from ...encoders.plans.plan import AnyDocumentPlan
from ...encoders.plans.rank_plan import CLIP_SCORE, COSINE, DocumentRankPlan
from ...errors import SpecError
from ...failures import Failure
from ...models.spec import EncoderSpec
from .layouts import LABELS, REASON, label_provenance, rank_provenance
from .provenance import provenance_of
from .records import failure_records, match_failure_records
from .vectors import vector_type

EMBEDDING, SCORES, FAILURE = "embedding", "scores", "failure"
SCORES_TYPE = pa.struct([(CLIP_SCORE, pa.float64()), (COSINE, pa.float64()), ("position", pa.int32())])
"""Of a match: how it fits its document, and where it stood before."""


class DocumentLayout(Protocol):
    """What a plan adds to documents in files."""

    makes_vectors: bool
    """Whether what is made is vectors; else it is scores."""

    @property
    def paths(self) -> frozenset[str]:
        """Which documents of a tree are written, as steps of `matches` and `chunks`."""
        ...

    @property
    def keep_content(self) -> bool:
        """Whether `blob` and `tensor` are written."""
        ...

    def fields(self, place: str, dtype: str) -> list[pa.Field]:
        """Return the columns that are added to a document's own; `place` says which of a tree, "" being the root."""
        ...

    def provenance(self, spec: EncoderSpec) -> dict[str, Any]:
        """Return where they come from."""
        ...

    def made(self, document: Document) -> list[Any]:
        """Return every vector or score of a document and those in it, None for what is null."""
        ...

    def records(self, document: Document, failures: Sequence[Failure] | None = None) -> list[dict[str, Any]]:
        """Return a document's failures, or those given, as they are written."""
        ...

    def inner_records(self, document: Document) -> list[dict[str, Any]]:
        """Return the failures of parts of a document that is whole, as they are written."""
        ...


def document_layout(plan: AnyDocumentPlan) -> DocumentLayout:
    """Return how a plan's results stand in files."""
    if isinstance(plan, DocumentRankPlan):
        return RankedLayout(plan)
    if isinstance(plan, DocumentClassifyPlan):
        return LabelledLayout(plan)
    if isinstance(plan, DocumentPlan):
        return EmbeddedLayout(plan)
    raise SpecError(f"what a {type(plan).__name__} makes of documents has no place in files")


@dataclasses.dataclass(frozen=True)
class EmbeddedLayout:
    """Documents with vectors."""

    plan: DocumentPlan
    makes_vectors = True

    @property
    def paths(self) -> frozenset[str]:
        """See `DocumentLayout`."""
        return frozenset(AccessPaths.parse(self.plan.access_paths).paths)

    @property
    def keep_content(self) -> bool:
        """See `DocumentLayout`."""
        return self.plan.keep_content

    def fields(self, place: str, dtype: str) -> list[pa.Field]:
        """See `DocumentLayout`."""
        return [pa.field(EMBEDDING, vector_type(dtype))]

    def provenance(self, spec: EncoderSpec) -> dict[str, Any]:
        """See `DocumentLayout`."""
        return provenance_of(spec, "auto")

    def made(self, document: Document) -> list[Any]:
        """See `DocumentLayout`."""
        own = [] if document.embedding is None else [document.embedding]
        return own + [vector for inner in (*document.matches, *document.chunks) for vector in self.made(inner)]

    def records(self, document: Document, failures: Sequence[Failure] | None = None) -> list[dict[str, Any]]:
        """See `DocumentLayout`."""
        return failure_records(document, failures)

    def inner_records(self, document: Document) -> list[dict[str, Any]]:
        """See `DocumentLayout`."""
        return []


@dataclasses.dataclass(frozen=True)
class LabelledLayout:
    """Documents with labels, in a column instead of the tag."""

    plan: DocumentClassifyPlan
    makes_vectors = False

    @property
    def paths(self) -> frozenset[str]:
        """See `DocumentLayout`."""
        return frozenset(AccessPaths.parse(self.plan.documents.access_paths).paths)

    @property
    def keep_content(self) -> bool:
        """See `DocumentLayout`."""
        return self.plan.documents.keep_content

    def fields(self, place: str, dtype: str) -> list[pa.Field]:
        """See `DocumentLayout`."""
        return [pa.field(LABELS_TAG, LABELS)]

    def provenance(self, spec: EncoderSpec) -> dict[str, Any]:
        """See `DocumentLayout`."""
        return label_provenance(spec, "auto", self.plan.labels)

    def made(self, document: Document) -> list[Any]:
        """See `DocumentLayout`; a place that failed has none, whatever tag it came with."""
        failed = {failure.column or "@r" for failure in document.failures}
        paths = AccessPaths.parse(self.plan.documents.access_paths)
        found = [inner.tags.get(LABELS_TAG) for place, inner in paths.select(document) if place not in failed]
        return [labels for labels in found if labels is not None]

    def records(self, document: Document, failures: Sequence[Failure] | None = None) -> list[dict[str, Any]]:
        """See `DocumentLayout`."""
        return failure_records(document, failures)

    def inner_records(self, document: Document) -> list[dict[str, Any]]:
        """See `DocumentLayout`."""
        return []


@dataclasses.dataclass(frozen=True)
class RankedLayout:
    """Documents whose matches are sorted, with their scores."""

    plan: DocumentRankPlan
    makes_vectors = False

    @property
    def paths(self) -> frozenset[str]:
        """See `DocumentLayout`."""
        return frozenset(["", "m"])

    @property
    def keep_content(self) -> bool:
        """See `DocumentLayout`."""
        return self.plan.keep_content

    def fields(self, place: str, dtype: str) -> list[pa.Field]:
        """See `DocumentLayout`."""
        vectors = [pa.field(EMBEDDING, vector_type(dtype))] if self.plan.keep_embeddings else []
        scores = [pa.field(SCORES, SCORES_TYPE), pa.field(FAILURE, REASON)] if place else []
        return [*vectors, *scores]

    def provenance(self, spec: EncoderSpec) -> dict[str, Any]:
        """See `DocumentLayout`."""
        return rank_provenance(spec, self.plan)

    def made(self, document: Document) -> list[Any]:
        """See `DocumentLayout`; one for each match, unless the document could not be ranked."""
        return [] if document.failures else [match.scores.get(CLIP_SCORE) for match in document.matches]

    def records(self, document: Document, failures: Sequence[Failure] | None = None) -> list[dict[str, Any]]:
        """See `DocumentLayout`; with the matches, which a second try ranks."""
        return failure_records(document, failures, with_matches=True)

    def inner_records(self, document: Document) -> list[dict[str, Any]]:
        """See `DocumentLayout`: those of the matches."""
        return [] if document.failures else match_failure_records(document)
