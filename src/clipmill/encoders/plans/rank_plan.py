"""Ranking of rows with a list of candidates, and of documents with matches.

The items of a row are its query and then its candidates. Precomputed vectors are items too, and are passed through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from ...errors import check_flags
from ...failures import Code, Failure, Stage
from ...messages import setting
from ...models.spec import EncoderSpec
from ..document import Document
from ..encoder import Encoder
from ..item import Item
from ..outcome import Outcome, Vector
from .document_embed_plan import EMBEDDING, TRUNCATED_TAG
from .kinds import Kind, check_kind, check_names, document_item, item_of_kind
from .plan import DocumentPlan, InnerFailure, NewColumn, PlanResult, RowPlan
from .ranking import Ranked, Scorer, check_scoring, check_top_k, described_scoring
from .row_values import Getter, missing_column, row_name
from .scores import SCALE, Scale, Score

RANKED = "ranked"
COSINE, CLIP_SCORE, RANK = "cosine", "clip_score", "rank"


class RowRanking(RowPlan):
    """The common part of plans that rank rows, with one candidate or a list of candidates in each."""

    __slots__ = ()
    makes_vectors = False
    query_kind: Kind
    candidate_kind: Kind
    top_k: int | None
    scale: Scale
    score: Score

    def check_options(self, spec: EncoderSpec) -> None:
        """Raise `SpecError` if an option is invalid, or the model cannot embed a kind."""
        check_kind("query_kind", self.query_kind, spec)
        check_kind("candidate_kind", self.candidate_kind, spec)
        check_top_k(self.top_k)
        check_scoring(self.scale, self.score)

    def tool(self, encoder: Encoder) -> Scorer:
        """See `Plan`."""
        return Scorer(encoder, self.scale, self.score)

    def scoring(self) -> dict[str, Any]:
        """See `Plan`."""
        kinds = {"query_kind": self.query_kind, "candidate_kind": self.candidate_kind}
        return {**described_scoring(self.scale, self.score), "top_k": self.top_k, **kinds}


@dataclasses.dataclass(frozen=True, slots=True)
class RankPlan(RowRanking):
    """Ranks rows with a query and a list of candidates.

    Attributes:
        top_k: Number of best candidates to keep; all if None. Candidates without scores are always kept.
        key: Column that identifies a row in its failures.
    """

    query: str
    candidates: str
    query_kind: Kind = "auto"
    candidate_kind: Kind = "auto"
    output: str = RANKED
    top_k: int | None = None
    key: str = "id"
    scale: Scale = SCALE
    score: Score = "softmax"
    rename_hint = "choose a name: " + setting("output", ...)

    def checked(self, spec: EncoderSpec) -> Self:
        """Return the plan; raise `SpecError` if an option is invalid, or the model cannot embed a kind."""
        check_names({"query": self.query, "candidates": self.candidates, "output": self.output, "key": self.key})
        self.check_options(spec)
        return self

    @property
    def reads(self) -> Mapping[str, str]:
        """See `RowPlan`."""
        return {self.query: self.query_kind, self.candidates: self.candidate_kind}

    @property
    def lists(self) -> frozenset[str]:  # type: ignore[override]
        """See `RowPlan`."""
        return frozenset([self.candidates])

    @property
    def added(self) -> list[NewColumn]:
        """See `RowPlan`. The new column has the sorted candidates with their scores."""
        return [NewColumn(self.output, "ranked", self.candidates)]

    def items(self, source: Getter) -> list[Item]:
        """Return the items of a row: the query, then its candidates. No items if there is nothing to rank."""
        query, candidates, failure = self._read(source)
        if failure is not None or query is None or not candidates:
            return []
        return [item_of_kind(self.query_kind, query), *(item_of_kind(self.candidate_kind, one) for one in candidates)]

    def result(self, source: Getter, outcomes: Sequence[Outcome], tool: Scorer) -> PlanResult:
        """See `Plan`.

        Returns:
            The column `output` with the candidates in the form of `Ranked.as_dict`. It is None if the query or the
            candidates are null, or the candidates are not a list, and [] if there are no candidates. If the query
            failed, it has all candidates without scores.
        """
        query, candidates, failure = self._read(source)
        row = row_name(source, self.key)
        if failure is not None:
            return PlanResult({self.output: None}, [failure.at(row=row)])
        if query is None or candidates is None:
            return PlanResult({self.output: None})
        if not candidates:
            return PlanResult({self.output: []})
        query_outcome, *candidate_outcomes = outcomes
        if query_outcome is None:  # a struct whose fields are all null
            return PlanResult({self.output: None})
        query_outcome = tool.check(query_outcome)
        ranked = tool.rank(query_outcome, candidate_outcomes, self.top_k)
        values = {self.output: [one.as_dict(candidates[one.position]) for one in ranked]}
        if isinstance(query_outcome, Failure):
            return PlanResult(values, [query_outcome.at(column=self.query, row=row)])
        failed = [one.failure.at(column=f"{self.candidates}[{one.position}]", row=row) for one in ranked if one.failure]
        return PlanResult(values, inner=failed)

    def made(self, value: Mapping[str, Any]) -> list[Any]:
        """See `Plan`. One score for each candidate."""
        return [one[CLIP_SCORE] for one in value.get(self.output) or ()]

    def inner(self, row: Mapping[str, Any]) -> list[InnerFailure]:
        """See `RowPlan`. Returns the candidates that failed."""
        return [
            InnerFailure(
                f"{self.candidates}[{one['position']}]",
                {name: one["failure"][name] for name in ("stage", "code", "message")},
                self.candidate_kind,
                one["candidate"],
            )
            for one in row.get(self.output) or ()
            if one["failure"] is not None
        ]

    def candidates_of(self, path: str) -> tuple[str, str] | None:
        """See `RowPlan`. A query is retried together with its candidates."""
        return (self.candidates, self.candidate_kind) if path == self.query else None

    def _read(self, get: Getter) -> tuple[Any, Sequence[Any] | None, Failure | None]:
        """Return the query, the candidates, and the failure if one of their columns is missing or malformed."""
        if missing := missing_column(get, (self.query, self.candidates)):
            return None, None, missing
        query, candidates = get(self.query), get(self.candidates)
        if isinstance(candidates, np.ndarray) and candidates.ndim:
            candidates = list(candidates)
        if candidates is not None and not isinstance(candidates, list | tuple):
            message = f"the column of candidates holds a {type(candidates).__name__}, not a list"
            failure = Failure(Stage.READ, Code.MALFORMED, message, column=self.candidates)
            return None, None, failure
        return query, candidates, None


@dataclasses.dataclass(frozen=True, slots=True)
class DocumentRankPlan(DocumentPlan):
    """Ranks the `matches` of documents.

    Attributes:
        top_k: Number of best matches to keep; all if None. Matches without scores are always kept.
        keep_embeddings: Whether results keep the embeddings.
        keep_content: Whether results keep `blob` and `tensor`.
    """

    top_k: int | None = None
    keep_embeddings: bool = False
    keep_content: bool = False
    scale: Scale = SCALE
    score: Score = "softmax"
    makes_vectors = False
    needs_matches = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_flags(keep_embeddings=self.keep_embeddings, keep_content=self.keep_content)
        check_top_k(self.top_k)
        check_scoring(self.scale, self.score)

    @property
    def tree_paths(self) -> frozenset[str]:
        """See `DocumentPlan`."""
        return frozenset(["", "m"])

    def added(self, place: str) -> list[NewColumn]:
        """See `DocumentPlan`. Matches get their scores, and the reason if they failed."""
        vectors = [NewColumn(EMBEDDING, "vector")] if self.keep_embeddings else []
        scores = [NewColumn("scores", "match_scores"), NewColumn("failure", "reason")] if place else []
        return [*vectors, *scores]

    def tool(self, encoder: Encoder) -> Scorer:
        """See `Plan`."""
        return Scorer(encoder, self.scale, self.score)

    def items(self, source: Document) -> list[Item]:
        """Return the items of a document: itself, then its matches.

        There are no items if it has no matches or could not be read. If a document has an embedding, that is used, and
        its content is ignored.
        """
        if source.failures or not source.matches:
            return []
        return [document_item(source), *map(document_item, source.matches)]

    def precomputed(self, document: Document) -> list[Document]:
        """See `DocumentPlan`."""
        return [document, *document.matches]

    def result(self, source: Document, outcomes: Sequence[Outcome], tool: Scorer) -> PlanResult:
        """See `Plan`.

        Returns:
            A copy with sorted `matches`. Each has `scores` with `clip_score`, `cosine` and `position`, its original
            index. Matches that failed come last, with `failures` and without scores. If the document itself has
            `failures`, it could not be ranked, and its matches keep their order.
        """
        result = source.copy()
        if not self.keep_content:
            result.drop_content()
        key = source.key() or None
        result.failures = tuple(failure.at(row=key) for failure in source.failures)
        if not outcomes:
            return PlanResult(result, result.failures)
        query = tool.check(outcomes[0])
        if isinstance(query, Failure):
            result.failures = (query.at(row=key),)
            for match in result.matches:
                match.scores = {}
            return PlanResult(result, result.failures)
        before, given = result.matches, source.embedding is not None
        result.matches = []
        for ranked in tool.rank(query, outcomes[1:], self.top_k):
            match = before[ranked.position]
            _fill(match, ranked, outcomes[1 + ranked.position], key, keep_embedding=self.keep_embeddings)
            result.matches.append(match)
        if isinstance(query, Vector):
            result.mime_type = result.mime_type or query.media_type
            _flag(result, query)
            result.embedding = query.values if self.keep_embeddings or given else None
        return PlanResult(result, result.failures, self.inner_failures(result))

    def inner_failures(self, document: Document) -> list[Failure]:
        """See `DocumentPlan`. Returns those of its matches, unless the document could not be ranked at all."""
        return [] if document.failures else [failure for match in document.matches for failure in match.failures]

    def made(self, value: Document) -> list[Any]:
        """See `Plan`. One score for each match, unless the document could not be ranked."""
        return [] if value.failures else [match.scores.get(CLIP_SCORE) for match in value.matches]

    def scoring(self) -> dict[str, Any]:
        """See `Plan`."""
        return {**described_scoring(self.scale, self.score), "top_k": self.top_k}


def _fill(match: Document, ranked: Ranked, outcome: Outcome, key: str | None, *, keep_embedding: bool) -> None:
    match.embedding = None
    match.scores = {}
    if ranked.failure is not None:
        match.failures = (ranked.failure.at(column=f"@m[{ranked.position}]", row=key),)
        return
    assert isinstance(outcome, Vector)
    match.mime_type = match.mime_type or outcome.media_type
    _flag(match, outcome)
    match.embedding = outcome.values if keep_embedding else None
    assert ranked.clip_score is not None and ranked.cosine is not None
    match.scores = {"clip_score": ranked.clip_score, "cosine": ranked.cosine, "position": ranked.position}


def _flag(document: Document, vector: Vector) -> None:
    if vector.truncated:
        document.tags[TRUNCATED_TAG] = True
