"""Scores of pairs: rows with two columns, such as an image and its caption, get the score of the pair.

With a least score, this is the filter by which LAION-400M (Schuhmann et al. 2021, arXiv:2111.02114) and DataComp (Gadre
et al. 2023, arXiv:2304.14108) were selected: a row below it is rejected, which is no failure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self, get_args

from ...errors import SpecError, check_choice
from ...messages import by_surface, setting
from ...models.spec import EncoderSpec
from ..encoder import Encoder
from .kinds import Kind, check_kind, check_names
from .pairs import PairRows
from .plan import REJECTION, NewColumn
from .ranking import Scorer
from .scores import CLIP_SCORE_WEIGHT, SCALE, PairScore, checked_min_score, sigmoid

SIMILARITY = "similarity"
BELOW, WITHOUT = "below_min_score", "no_score"
"""Why a row is rejected: its score is too low, or it has none, because one of its values is null."""


@dataclasses.dataclass(frozen=True, slots=True)
class SimilarityPlan(PairRows):
    """Scores rows with a pair of values.

    Attributes:
        a: Column of one value; `b` is that of the other. No score depends on their order.
        output: Name of the new column.
        score: `cosine`; `clip_score`, 2.5 · max(cosine, 0), the metric CLIPScore; `logit`, scale · cosine + bias, with
            the scale and the bias that the model learnt for the pair, the bias 0 if it has none; `sigmoid`, that of the
            logit: SigLIP's probability that the pair matches.
        min_score: Rows with a lower score, or none, are rejected; None keeps all rows.
        key: Column that identifies a row in its failures.
    """

    a: str
    b: str
    a_kind: Kind = "auto"
    b_kind: Kind = "auto"
    output: str = SIMILARITY
    score: PairScore = "cosine"
    min_score: float | None = None
    key: str = "id"
    rename_hint = "choose another name: " + by_surface(python="output='…'", flags="--score-column NAME")

    def checked(self, spec: EncoderSpec) -> Self:
        """Return the plan; raise `SpecError` if an option is invalid, or the model cannot embed a kind."""
        check_names({"a": self.a, "b": self.b, "output": self.output, "key": self.key})
        if self.a == self.b:
            raise SpecError(
                setting("a", self.a) + " and " + setting("b", self.b) + " are the same column",
                hint="give the two columns whose values are compared in each row",
            )
        check_kind("a_kind", self.a_kind, spec)
        check_kind("b_kind", self.b_kind, spec)
        check_choice("score", self.score, get_args(PairScore))
        least = checked_min_score(self.min_score, self.score)
        if self.min_score is not None and self.output == REJECTION:
            raise SpecError(
                f"{self.output!r} is the name of the column with the reason of rejected rows",
                "output",
                self.rename_hint,
            )
        return dataclasses.replace(self, min_score=least)

    @property
    def sides(self) -> tuple[tuple[str, Kind], tuple[str, Kind]]:
        """See `PairRows`."""
        return (self.a, self.a_kind), (self.b, self.b_kind)

    @property
    def added(self) -> list[NewColumn]:
        """See `RowPlan`. Rejected rows have the column `rejection` too."""
        return [NewColumn(self.output, "score")]

    @property
    def new_names(self) -> list[str]:
        """See `RowPlan`."""
        return [self.output, *([] if self.min_score is None else [REJECTION])]

    def tool(self, encoder: Encoder) -> Scorer:
        """See `Plan`; raise `SpecError` if the model has learnt no logits between two given kinds."""
        scorer = Scorer(encoder, SCALE, self.score)
        scorer.check_kinds(self.a_kind, self.b_kind)
        return scorer

    def values(self, cosine: float | None, logit: float | None) -> dict[str, Any]:
        """Return the new column, and for a rejected row the reason."""
        score = None if cosine is None or logit is None else score_of_pair(self.score, cosine, logit)
        values: dict[str, Any] = {self.output: score}
        if self.min_score is not None and (score is None or score < self.min_score):
            values[REJECTION] = WITHOUT if score is None else BELOW
        return values

    def _nothing(self) -> dict[str, Any]:
        return {self.output: None}

    def rejection(self, value: Mapping[str, Any]) -> str | None:
        """See `Plan`."""
        return None if self.min_score is None else value.get(REJECTION)

    def made(self, value: Mapping[str, Any]) -> list[Any]:
        """See `Plan`."""
        return [value.get(self.output)]

    def scoring(self) -> dict[str, Any]:
        """See `Plan`."""
        return {
            "score": self.score,
            "min_score": self.min_score,
            **{"a": self.a, "b": self.b, "a_kind": self.a_kind, "b_kind": self.b_kind},
        }


def score_of_pair(score: PairScore, cosine: float, logit: float) -> float:
    """Return the score of a pair from its cosine and its logit."""
    match score:
        case "cosine":
            return cosine
        case "clip_score":
            return CLIP_SCORE_WEIGHT * max(cosine, 0.0)
        case "logit":
            return logit
    return float(sigmoid(logit))
