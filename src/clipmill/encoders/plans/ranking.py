"""Scoring outcomes: the ranked candidates of a query, with failed candidates last, and the totals of groups."""

from __future__ import annotations

import bisect
import itertools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np

from ...errors import SpecError, check_choice, check_integer
from ...failures import Code, Failure, Stage
from ...messages import setting
from ..encoder import Encoder
from ..outcome import Outcome, Vector
from .scores import (
    ABSOLUTE,
    SCALE,
    PairScore,
    Scale,
    Score,
    check_scale,
    order,
    pair_cosines,
    sigmoid,
    softmax,
    unit_cosines,
    unit_rows,
)


class Ranked(NamedTuple):
    """One candidate of a query.

    Attributes:
        position: Its original index among the candidates, from 0.
        cosine: Cosine to the query. None if it has no scores.
        clip_score: Softmax of the scaled cosines of all candidates of the query that have one; or the sigmoid of its
            own logit.
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


class Factors(NamedTuple):
    """What turns a cosine into a logit, scale * cosine + bias."""

    scale: float
    bias: float = 0.0


class Scorer:
    """Scores outcomes, with the dimension and the learnt scales and biases of a loaded encoder."""

    def __init__(self, encoder: Encoder, scale: Scale, score: Score | PairScore = "softmax") -> None:
        """Read the scales, and for `logit` and `sigmoid`, which are always those of the model, the biases too.

        Raises:
            SpecError: If `scale` is invalid, or the model has not learnt what the scores need.
        """
        check_any_scale(scale)
        self._dim = encoder.dim
        self._modalities = encoder.modalities
        self._model = encoder.spec.model
        self._score = score
        self._absolute = score in ABSOLUTE
        self._learnt = dict(encoder.learnt_scales) if scale == "model" or self._absolute else {}
        self._biases = dict(encoder.learnt_biases) if self._absolute else {}
        if score == "sigmoid" and not self._biases:
            raise SpecError(
                f"{self._model} has no learnt bias, which "
                + setting("score", "sigmoid")
                + " needs: its files hold none",
                hint="models of the SigLIP family have one, such as 'ViT-B-16-SigLIP::webli'; for others leave out "
                + setting("score"),
            )
        if (scale == "model" or self._absolute) and not self._learnt:
            reason = setting("score", score) if self._absolute else setting("scale", "model")
            hint = "leave out " + setting("score") if self._absolute else "give a number"
            raise SpecError(f"{self._model} has no learnt scale (" + reason + "): its files hold none", hint=hint)
        self._only = next(iter(self._learnt.values())) if len(self._learnt) == 1 else None
        self._fixed = None if scale == "model" or self._absolute else float(scale)

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
        pair = _pair_of(query, candidate)
        return self._learnt.get(pair) or Failure(Stage.SCORE, Code.UNSUPPORTED, self._unlearnt(pair))

    def factors_of(self, query: Vector, candidate: Vector) -> Factors | Failure:
        """Return what turns the cosine of a pair into its logit, or a failure if there is none for its modalities.

        Logits and sigmoids mean nothing between modalities for which the model has not learnt them, while cosines of
        these may still be compared with each other: so a scale that is the only one serves for vectors of unknown
        modality, and for no other pair.
        """
        if not self._absolute:
            scale = self.scale_of(query, candidate)
            return scale if isinstance(scale, Failure) else Factors(scale)
        pair = _pair_of(query, candidate)
        if _UNKNOWN in pair and self._only is not None:
            pair = next(iter(self._learnt))
        if not self._has_learnt(pair):
            return Failure(Stage.SCORE, Code.UNSUPPORTED, self._unlearnt(pair))
        return Factors(self._learnt[pair], self._biases.get(pair, 0.0))

    def check_kinds(self, a: str, b: str) -> None:
        """Raise `SpecError` if no pair of these kinds can be scored; kinds other than modalities may hold any."""
        pair = frozenset((a, b))
        if self._absolute and pair <= self._modalities and not self._has_learnt(pair):
            raise SpecError(self._unlearnt(pair), "score")

    def _has_learnt(self, pair: frozenset[str]) -> bool:
        return pair in self._learnt and (self._score != "sigmoid" or pair in self._biases)

    def _unlearnt(self, pair: frozenset[str]) -> str:
        """Return a message about a pair of modalities for which the model has learnt too little."""
        what = "bias" if pair in self._learnt else "scale"
        left, right = min(pair), max(pair)
        known = ", ".join(sorted(" and ".join(sorted(each)) for each in self._learnt if self._has_learnt(each)))
        option = setting("score", self._score) if self._absolute else setting("scale", "model")
        hint = "compare cosines" if self._absolute else "give a number"
        return f"{self._model} has learnt no {what} between {left} and {right} (" + option + f" knows {known}); {hint}"

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
        factors: list[Factors | Failure | None] = []
        for candidate in map(self.check, candidates):
            factors.append(self.factors_of(query, candidate) if isinstance(candidate, Vector) else candidate)
        good = [position for position, each in enumerate(factors) if isinstance(each, Factors)]
        rest = [
            Ranked(position, failure=each if isinstance(each, Failure) else None)
            for position, each in enumerate(factors)
            if not isinstance(each, Factors)
        ]
        if not good:
            return rest
        vectors = np.stack([candidates[n].values for n in good])  # type: ignore[union-attr]
        cosines = unit_cosines(unit_rows(query.values[None]), unit_rows(vectors))[0]
        scales, biases = np.array([factors[n] for n in good], np.float64).T
        logits = scales * cosines + biases
        clip_scores = sigmoid(logits) if self._score == "sigmoid" else softmax(logits)
        best = order(logits)[:top_k]
        return [Ranked(good[n], float(cosines[n]), float(clip_scores[n])) for n in best] + rest

    def pairs(self, queries: Sequence[Vector], candidates: Sequence[Vector]) -> list[tuple[float, float | Failure]]:
        """Return the cosine of each query and its candidate, vectors that passed `check`, and the logit."""
        if not queries:
            return []
        cosines = pair_cosines(np.stack([one.values for one in queries]), np.stack([one.values for one in candidates]))
        factors = map(self.factors_of, queries, candidates)
        return [
            (cosine, each if isinstance(each, Failure) else each.scale * cosine + each.bias)
            for cosine, each in zip(cosines.tolist(), factors, strict=True)
        ]


_UNKNOWN = "a vector"
"""Stands for the modality of precomputed vectors."""


def _pair_of(query: Vector, candidate: Vector) -> frozenset[str]:
    return frozenset((query.modality or _UNKNOWN, candidate.modality or _UNKNOWN))


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

    def clip_score(self, logit: float, score: Score = "softmax") -> float:
        """Return the clip_score of a member of the group; the sigmoid is that of the member alone."""
        return float(sigmoid(logit)) if score == "sigmoid" else float(np.exp(logit - self.highest)) / self.total

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


def check_scoring(scale: Any, score: Any) -> None:
    """Raise `SpecError` for an invalid scale, an unknown score of candidates, or a scale that it would not use."""
    check_any_scale(scale)
    check_choice("score", score, get_args(Score))
    if score == "sigmoid" and scale not in ("model", SCALE):
        raise SpecError(
            setting("scale", scale) + " has no effect with " + setting("score", score) + ", which takes the scale and"
            " the bias that the model learnt",
            hint="leave it out",
        )


def described_scoring(scale: Scale, score: Score) -> dict[str, Any]:
    """Return how clip_scores are computed, for the provenance."""
    return {"score": score, "scale": "model" if score == "sigmoid" else scale}


def check_top_k(top_k: Any) -> None:
    """Raise `SpecError` if a number of candidates is neither None nor an integer of at least 1."""
    if top_k is not None:
        check_integer("top_k", top_k, hint="None means all")
