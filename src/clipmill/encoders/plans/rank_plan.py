"""What of a row or document is ranked, and where the scores go: the same for every engine; see `plans`.

The items of a row are its query, then its candidates; a vector that is there already is an item too and passes through.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from ...errors import SpecError
from ...failures import Code, Failure, Stage
from ...models.spec import EncoderSpec
from ..document import Document
from ..encoder import Encoder
from ..item import Item
from ..outcome import Outcome, Vector
from .columns import Embedded, MissingColumn, row_name
from .document_plan import TRUNCATED_TAG
from .kinds import Kind, check_kind, document_item, item_of_kind
from .plan import Getter
from .ranking import Ranked, Scorer, check_any_scale, check_top_k
from .scores import SCALE, Scale

RANKED = "ranked"
COSINE, CLIP_SCORE, RANK = "cosine", "clip_score", "rank"

LOGIT = "logit"


@dataclasses.dataclass(frozen=True, slots=True)
class RankPlan:
    """Rows with a query and a list of candidates.

    Attributes:
        query: Path of the query's column.
        candidates: Path of the column with the list.
        query_kind: What the query is.
        candidate_kind: What each candidate is.
        output: Name of the column that is added.
        top_k: How many of the best are kept; all if None. Candidates without scores are kept always.
        key: Column that names a row in its failures.
        scale: What cosines are multiplied by before the softmax.
    """

    query: str
    candidates: str
    query_kind: Kind = "auto"
    candidate_kind: Kind = "auto"
    output: str = RANKED
    top_k: int | None = None
    key: str = "id"
    scale: Scale = SCALE

    def checked(self, spec: EncoderSpec) -> Self:
        """Return the plan, which this model can do.

        Raises:
            SpecError: If something of it cannot work.
        """
        _check_names({"query": self.query, "candidates": self.candidates, "output": self.output, "key": self.key})
        check_kind("query_kind", self.query_kind, spec)
        check_kind("candidate_kind", self.candidate_kind, spec)
        check_top_k(self.top_k)
        check_any_scale(self.scale)
        return self

    @property
    def new_names(self) -> list[str]:
        """The columns that are added."""
        return [self.output]

    def bound(self, encoder: Encoder) -> BoundRank:
        """See `plans.RowPlan`."""
        return BoundRank(self, Scorer(encoder, self.scale))

    def items(self, get: Getter) -> list[Item]:
        """Return the items of a row: the query, then its candidates; none where there is nothing to rank.

        Args:
            get: Returns the value at a path. `results` needs the same.
        """
        query, candidates, failure = self._read(get)
        if failure is not None or query is None or not candidates:
            return []
        return [item_of_kind(self.query_kind, query), *(item_of_kind(self.candidate_kind, one) for one in candidates)]

    def results(self, get: Getter, outcomes: Sequence[Outcome], scorer: Scorer) -> Embedded:
        """Give a row its outcomes back, in the order of `items`.

        Returns:
            In the column `output` the candidates as `Ranked.as_dict` says them; None where query or candidates are null
            or no list, and [] where there are no candidates. Of a query that failed, all candidates without scores.
        """
        query, candidates, failure = self._read(get)
        row = row_name(get, self.key)
        if failure is not None:
            return Embedded({self.output: None}, [failure.at(row=row)])
        if query is None or candidates is None:
            return Embedded({self.output: None})
        if not candidates:
            return Embedded({self.output: []})
        asked, *found = outcomes
        if asked is None:  # a struct whose fields are all null
            return Embedded({self.output: None})
        asked = scorer.check(asked)
        ranked = scorer.rank(asked, found, self.top_k)
        values = {self.output: [one.as_dict(candidates[one.position]) for one in ranked]}
        if isinstance(asked, Failure):
            return Embedded(values, [asked.at(column=self.query, row=row)])
        failed = [one.failure.at(column=f"{self.candidates}[{one.position}]", row=row) for one in ranked if one.failure]
        return Embedded(values, inner=failed)

    def _read(self, get: Getter) -> tuple[Any, Sequence[Any] | None, Failure | None]:
        """Return query, candidates, and what is wrong with either column."""
        if missing := _missing(get, (self.query, self.candidates)):
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
class PairPlan:
    """Flat rows: a query and one candidate in each; the rows of one query are a group.

    Attributes:
        query: Path of the query's column.
        candidate: Path of the candidate's column.
        by: Columns that name the group; a null in them is a value like any other, as in SQL.
        query_kind: What the query is.
        candidate_kind: What the candidate is.
        top_k: The best of each group that get a `rank`; none if None.
        key: Column that names a row in its failures.
        scale: What cosines are multiplied by before the softmax.
    """

    query: str
    candidate: str
    by: tuple[str, ...]
    query_kind: Kind = "auto"
    candidate_kind: Kind = "auto"
    top_k: int | None = None
    key: str = "id"
    scale: Scale = SCALE

    def checked(self, spec: EncoderSpec) -> Self:
        """Return the plan, which this model can do.

        Raises:
            SpecError: If something of it cannot work.
        """
        _check_names({"query": self.query, "candidate": self.candidate, "key": self.key})
        if isinstance(self.by, str) or not self.by or not all(isinstance(name, str) and name for name in self.by):
            raise SpecError(f"by={self.by!r} names no columns; give the one whose value the rows of a query share")
        check_kind("query_kind", self.query_kind, spec)
        check_kind("candidate_kind", self.candidate_kind, spec)
        check_top_k(self.top_k)
        check_any_scale(self.scale)
        return self

    @property
    def new_names(self) -> list[str]:
        """The columns that are added."""
        return [COSINE, CLIP_SCORE] + ([RANK] if self.top_k else [])

    def bound(self, encoder: Encoder) -> BoundRank:
        """See `plans.RowPlan`."""
        return BoundRank(self, Scorer(encoder, self.scale))

    def items(self, get: Getter) -> list[Item]:
        """Return the items of a row: query and candidate; none where one of them is null or a column is not there."""
        if _missing(get, (self.query, self.candidate, *self.by)):
            return []
        query, candidate = get(self.query), get(self.candidate)
        if query is None or candidate is None:
            return []
        return [item_of_kind(self.query_kind, query), item_of_kind(self.candidate_kind, candidate)]

    def results(self, get: Getter, outcomes: Sequence[Outcome], scorer: Scorer) -> Embedded:
        """Give a row its outcomes back, in the order of `items`.

        Returns:
            `cosine` and `logit`, the scaled cosine whose softmax over the group is the clip_score; both None where
            there are none.
        """
        row = row_name(get, self.key)
        nothing: dict[str, Any] = {COSINE: None, LOGIT: None}
        if missing := _missing(get, (self.query, self.candidate, *self.by)):
            return Embedded(nothing, [missing.at(row=row)])
        if not outcomes:
            return Embedded(nothing)
        query, candidate = map(scorer.check, outcomes)
        if not isinstance(query, Vector) or not isinstance(candidate, Vector):
            named = ((self.query, query), (self.candidate, candidate))
            return Embedded(nothing, [one.at(column=path, row=row) for path, one in named if isinstance(one, Failure)])
        cosine, logit = scorer.pair(query, candidate)
        if isinstance(logit, Failure):
            return Embedded(nothing, [logit.at(column=self.candidate, row=row)])
        return Embedded({COSINE: cosine, LOGIT: logit})


@dataclasses.dataclass(frozen=True, slots=True)
class DocumentRankPlan:
    """Documents, whose candidates are their `matches`.

    Attributes:
        top_k: How many of the best matches are kept; all if None. Matches without scores are kept always.
        keep_embeddings: Whether the embeddings stay in what comes out.
        keep_content: Whether `blob` and `tensor` stay in what comes out.
        scale: What cosines are multiplied by before the softmax.
    """

    top_k: int | None = None
    keep_embeddings: bool = False
    keep_content: bool = False
    scale: Scale = SCALE

    def __post_init__(self) -> None:
        """Refuse a `top_k` or a scale that is none."""
        check_top_k(self.top_k)
        check_any_scale(self.scale)

    def bound(self, encoder: Encoder) -> BoundDocumentRank:
        """See `plans.AnyDocumentPlan`."""
        return BoundDocumentRank(self, Scorer(encoder, self.scale))

    def items(self, document: Document) -> list[Item]:
        """Return the items of a document: itself, then its matches; none where it has no matches or was not read.

        An embedding that is there already is used, and its content is not looked at.
        """
        if document.failures or not document.matches:
            return []
        return [document_item(document), *map(document_item, document.matches)]

    def results(self, document: Document, outcomes: Sequence[Outcome], scorer: Scorer) -> Document:
        """Give a document its outcomes back, in the order of `items`.

        Returns:
            A copy whose `matches` are sorted, each with `scores`: `clip_score`, `cosine` and `position`, its place
            among the matches before. Those that failed stand at the end, with their `failures` and no scores.
            `failures` of the document itself say that it could not be ranked at all: its matches stand as they stood.
        """
        result = document.copy()
        if not self.keep_content:
            result.drop_content()
        key = document.key() or None
        result.failures = tuple(failure.at(row=key) for failure in document.failures)
        if not outcomes:
            return result
        query = scorer.check(outcomes[0])
        if isinstance(query, Failure):
            result.failures = (query.at(row=key),)
            for match in result.matches:
                match.scores = {}
            return result
        before, given = result.matches, document.embedding is not None
        result.matches = []
        for ranked in scorer.rank(query, outcomes[1:], self.top_k):
            match = before[ranked.position]
            _fill(match, ranked, outcomes[1 + ranked.position], key, keep_embedding=self.keep_embeddings)
            result.matches.append(match)
        if isinstance(query, Vector):
            result.mime_type = result.mime_type or query.media_type
            _flag(result, query)
            result.embedding = query.values if self.keep_embeddings or given else None
        return result


@dataclasses.dataclass(frozen=True, slots=True)
class BoundRank:
    """A plan for rows with what scores; see `plans.BoundRowPlan`."""

    plan: RankPlan | PairPlan
    scorer: Scorer

    def items(self, get: Getter) -> list[Item]:
        """Return the items of a row."""
        return self.plan.items(get)

    def results(self, get: Getter, outcomes: Sequence[Outcome]) -> Embedded:
        """Give a row its outcomes back."""
        return self.plan.results(get, outcomes, self.scorer)


@dataclasses.dataclass(frozen=True, slots=True)
class BoundDocumentRank:
    """A plan for documents with what scores; see `plans.BoundDocumentPlan`."""

    plan: DocumentRankPlan
    scorer: Scorer

    def items(self, document: Document) -> list[Item]:
        """Return the items of a document."""
        return self.plan.items(document)

    def results(self, document: Document, outcomes: Sequence[Outcome]) -> Document:
        """Give a document its outcomes back."""
        return self.plan.results(document, outcomes, self.scorer)

    def inner_failures(self, result: Document) -> list[Failure]:
        """Return the failures of matches, unless the document could not be ranked at all."""
        return [] if result.failures else [failure for match in result.matches for failure in match.failures]


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


def _missing(get: Getter, paths: Sequence[str]) -> Failure | None:
    """Say which of the columns is not there, None if all are."""
    for path in paths:
        try:
            get(path)
        except MissingColumn as err:
            return Failure(Stage.READ, Code.MISSING_COLUMN, f"the row has no {path!r}: {err}", column=path)
    return None


def _check_names(names: dict[str, object]) -> None:
    for option, name in names.items():
        if not isinstance(name, str) or not name:
            raise SpecError(f"{option}={name!r} names no column")
