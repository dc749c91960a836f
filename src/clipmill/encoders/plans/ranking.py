"""Scoring outcomes: the ranked candidates of a query, with failed candidates last, and the totals of groups."""

from __future__ import annotations

import bisect
import itertools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ...errors import SpecError, check_integer
from ...failures import Code, Failure, Stage
from ...messages import setting
from ..encoder import Encoder
from ..outcome import Outcome, Vector
from .scores import Scale, check_scale, order, pair_cosines, softmax, unit_cosines, unit_rows


class Ranked(NamedTuple):
    """One candidate of a query.

    Attributes:
        position: Its original index among the candidates, from 0.
        cosine: Cosine to the query. None if it has no scores.
        clip_score: Softmax of the scaled cosines of all candidates of the query that have one.
        failure: Why it has no scores. Also None for a null.
    """

    position: int
    cosine: float | None = None
    clip_score: float | None = None
    failure: Failure | None = None

    def as_dict(self, candidate: Any) -> dict[str, Any]:
        """Return the candidate as it appears in a row: with its scores, and stage, code and message if it failed."""
        failure = self.failure
        reason = failure and {"stage": str(failure.stage), "code": str(failure.code), "message": failure.message}
        return {
            "candidate": candidate,
            "position": self.position,
            "clip_score": self.clip_score,
            "cosine": self.cosine,
            "failure": reason,
        }


class Scorer:
    """Scores outcomes, with the dimension and the learnt scales of a loaded encoder."""

    def __init__(self, encoder: Encoder, scale: Scale) -> None:
        """Read the scales; raise `SpecError` if `scale` is invalid, or `model` and the model learnt none."""
        check_any_scale(scale)
        self._dim = encoder.dim
        self._model = encoder.spec.model
        self._learnt = dict(encoder.learnt_scales) if scale == "model" else {}
        if scale == "model" and not self._learnt:
            raise SpecError(
                f"{self._model} has no learnt scale (" + setting("scale", "model") + "): its files hold none",
                hint="give a number",
            )
        self._only = next(iter(self._learnt.values())) if len(self._learnt) == 1 else None
        self._fixed = None if scale == "model" else float(scale)

    def check(self, outcome: Outcome) -> Outcome:
        """Return the outcome, or a failure if it is a vector that cannot be scored, as precomputed ones may be."""
        if not isinstance(outcome, Vector):
            return outcome
        if outcome.values.shape != (self._dim,):
            shape = Code.WRONG_SHAPE
            return Failure(
                Stage.SCORE, shape, f"the vector has the shape {outcome.values.shape}, {self._model} has ({self._dim},)"
            )
        if not np.isfinite(outcome.values).all():
            return Failure(Stage.SCORE, Code.OUT_OF_RANGE, "the vector is not finite")
        return outcome

    def scale_of(self, query: Vector, candidate: Vector) -> float | Failure:
        """Return the scale for the cosine of a pair, or a failure if there is none for its modalities."""
        if self._fixed is not None:
            return self._fixed
        if self._only is not None:
            return self._only
        pair = frozenset((query.modality or "a vector", candidate.modality or "a vector"))
        if pair in self._learnt:
            return self._learnt[pair]
        given = f"{query.modality or 'a vector'} and {candidate.modality or 'a vector'}"
        known = ", ".join(sorted(" and ".join(sorted(each)) for each in self._learnt))
        message = f"{self._model} has learnt no scale between {given} (" + setting("scale", "model")
        return Failure(Stage.SCORE, Code.UNSUPPORTED, message + f" knows {known}); give a number")

    def rank(self, query: Outcome, candidates: Sequence[Outcome], top_k: int | None = None) -> list[Ranked]:
        """Rank the candidates of a query.

        Args:
            query: The outcome of the query: a vector or a failure.
            candidates: The outcomes of the candidates, in order. None is a null.
            top_k: Number of best candidates to return; all if None. Candidates without scores are always returned.

        Returns:
            Candidates by descending clip_score; ties keep their order. Candidates without scores come last, in their
            order: failures, nulls (without a failure), and all candidates if the query failed.
        """
        query = self.check(query)
        if not isinstance(query, Vector):
            reason = because_of_query(query) if isinstance(query, Failure) else None
            return [Ranked(position, failure=reason) for position in range(len(candidates))]
        scales: list[float | Failure | None] = []
        for candidate in map(self.check, candidates):
            scales.append(self.scale_of(query, candidate) if isinstance(candidate, Vector) else candidate)
        good = [position for position, scale in enumerate(scales) if isinstance(scale, float)]
        rest = [
            Ranked(position, failure=scale if isinstance(scale, Failure) else None)
            for position, scale in enumerate(scales)
            if not isinstance(scale, float)
        ]
        if not good:
            return rest
        vectors = np.stack([candidates[n].values for n in good])  # type: ignore[union-attr]
        cosines = unit_cosines(unit_rows(query.values[None]), unit_rows(vectors))[0]
        logits = cosines * np.array([scales[n] for n in good], np.float64)
        clip_scores = softmax(logits)
        best = order(logits)[:top_k]
        return [Ranked(good[n], float(cosines[n]), float(clip_scores[n])) for n in best] + rest

    def pair(self, query: Vector, candidate: Vector) -> tuple[float, float | Failure]:
        """Return the cosine of two vectors that passed `check`, and the scaled cosine."""
        return self.pairs([query], [candidate])[0]

    def pairs(self, queries: Sequence[Vector], candidates: Sequence[Vector]) -> list[tuple[float, float | Failure]]:
        """Return the results of `pair` for each query and its candidate, faster than a loop."""
        if not queries:
            return []
        cosines = pair_cosines(np.stack([one.values for one in queries]), np.stack([one.values for one in candidates]))
        scales = map(self.scale_of, queries, candidates)
        return [
            (cosine, scale if isinstance(scale, Failure) else scale * cosine)
            for cosine, scale in zip(cosines.tolist(), scales, strict=True)
        ]


class GroupTotals(NamedTuple):
    """Totals from which the clip_scores and ranks of a group are computed.

    They can be merged in any order, so that a group need not be collected in one place.

    Attributes:
        highest: The highest logit; -inf for an empty group.
        total: Sum of exp(logit - highest).
        best: The highest logits in descending order, at most `top_k`.
    """

    highest: float = -np.inf
    total: float = 0.0
    best: tuple[float, ...] = ()

    @classmethod
    def of(cls, logits: Sequence[float], top_k: int | None) -> GroupTotals:
        """Return the totals of some logits of a group."""
        if len(logits) == 0:
            return cls()
        values = np.sort(np.asarray(logits, np.float64))[::-1]
        best = tuple(values[: top_k or 0].tolist())
        with np.errstate(over="ignore"):
            return cls(float(values[0]), float(np.exp(values - values[0]).sum()), best)

    @classmethod
    def merge(cls, totals: Sequence[GroupTotals], top_k: int | None) -> GroupTotals:
        """Merge the totals of parts of a group (log-sum-exp, and the best of the best)."""
        highest = max((each.highest for each in totals), default=-np.inf)
        if highest == -np.inf:
            return cls()
        total = sum(each.total * float(np.exp(each.highest - highest)) for each in totals if each.total)
        best = sorted(itertools.chain.from_iterable(each.best for each in totals), reverse=True)
        return cls(highest, total, tuple(best[: top_k or 0]))

    def clip_score(self, logit: float) -> float:
        """Return the clip_score of a member of the group."""
        return float(np.exp(logit - self.highest)) / self.total

    def rank(self, logit: float) -> int | None:
        """Return a member's rank from 1, or None if it is not among the `top_k` best. Ties share a rank, as in SQL."""
        better = bisect.bisect_left(self.best, -logit, key=operator.neg)
        return better + 1 if better < len(self.best) else None


def because_of_query(failure: Failure) -> Failure:
    """Return the failure of a candidate whose query failed."""
    return Failure(failure.stage, failure.code, "the query: " + failure.message, failure.transient)


def check_any_scale(scale: Any) -> None:
    """Raise `SpecError` for an invalid scale; it may be `model`."""
    if scale != "model":
        check_scale(scale)


def check_top_k(top_k: Any) -> None:
    """Raise `SpecError` if a number of candidates is neither None nor an integer of at least 1."""
    if top_k is not None:
        check_integer("top_k", top_k, hint="None means all")
