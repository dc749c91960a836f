"""`Rank`: queries and candidates in, the candidates' cosines and clip_scores out, as lists, matches or columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apache_beam.pvalue import PCollection

from ..encoders.plans.kinds import Kind
from ..encoders.plans.pair_plan import PairPlan
from ..encoders.plans.rank_plan import RANKED, DocumentRankPlan, RankPlan
from ..encoders.plans.ranking import described_scoring
from ..encoders.plans.scores import SCALE, Scale, Score
from ..errors import SpecError
from ..messages import setting
from ..models.spec import EncoderSpec, reject_unknown_keywords
from .encoding import Embedded, Encoding, label_of
from .groups import GroupScores, PairElements, scored_type
from .rows import is_array, row_fields
from .templates import with_known_values
from .windowed import OnFailure

_WAYS = (
    "give query= and candidates= (a list column), or query=, candidate= and by= (flat rows),"
    " or none of them (documents with matches)"
)
_OF_DOCUMENTS = {"keep_embeddings", "keep_content"}
_OF_ROWS = {"query_kind", "candidate_kind", "key"}


class Rank(Encoding):
    """Scores candidates against their query. Every element comes out once, as a row or as a failure.

    `cosine` is the cosine of the two vectors. `clip_score` is the softmax of `scale` times the cosines over the
    candidates of one query; with `score="sigmoid"`, it is the probability of each candidate alone. Queries and
    candidates are texts, images, audio clips, a mix of these, or precomputed vectors, which are used unchanged. The
    arguments select one of three inputs:

    - No columns: elements are `Document`s. Their `matches` are sorted by clip_score, ties in input order. Each gets
      `scores`: `clip_score`, `cosine`, and `position`, its index before sorting, from 0. Failed matches come last, with
      their `failures`.
    - `query` and `candidates`: elements are rows with a list of candidates. They get the column `ranked`, a sorted list
      of dicts of `candidate`, `position`, `clip_score`, `cosine` and `failure` (`stage`, `code`, `message`, or None).
      Failures and nulls come last, without scores.
    - `query`, `candidate` and `by`: elements are flat rows with one candidate each. The rows of a window that have the
      same values in `by` are a group. Rows stay flat and get `cosine`, `clip_score` and, with `top_k`, `rank`: the rank
      in the group from 1, shared by equal scores, None below the best. Groups can have any size, because only a few
      numbers are gathered for each. Nulls get nulls.

    A row goes to `failures` if its query cannot be embedded, or, for flat rows, its candidate; see `on_failure`. A
    query without candidates is not a failure: it gets an empty list, or no matches.

    All candidates of a bundle share micro-batches. Equal texts, bytes and URIs are embedded once in each process,
    within `max_cache_bytes`. Windows, timestamps and panes do not change.

    >>> import apache_beam as beam
    >>> from clipmill.transforms import Rank
    >>> with beam.Pipeline() as p:
    ...     rows = p | beam.Create([{"q": "red circle", "c": ["blue square", "red circle"]}])
    ...     ranked = rows | Rank("demo", query="q", candidates="c")
    ...     _ = ranked.rows | beam.Map(lambda row: print([one["candidate"] for one in row["ranked"]]))
    ['red circle', 'blue square']

    Attributes:
        spec: The encoder.
        plan: How rows or documents are ranked, checked.
    """

    plan: RankPlan | PairPlan | DocumentRankPlan
    _row_options = "query= and candidates=, or query=, candidate= and by="

    @with_known_values
    def __init__(
        self,
        model: str | EncoderSpec | None = None,
        *,
        query: str | None = None,
        candidates: str | None = None,
        candidate: str | None = None,
        by: str | Sequence[str] | None = None,
        query_kind: Kind = "auto",
        candidate_kind: Kind = "auto",
        output: str = RANKED,
        top_k: int | None = None,
        scale: Scale = SCALE,
        score: Score = "softmax",
        keep_embeddings: bool = False,
        keep_content: bool = False,
        key: str = "id",
        max_wait_s: float | None = None,
        on_failure: OnFailure = "split",
        **spec_options: Any,
    ) -> None:
        """Check everything that can be checked without weights.

        Args:
            model: Name of a model or a spec; `ViT-B-32::openai` without one.
            query: Column, or path into a struct, of the query.
            candidates: Column of the list of candidates.
            candidate: Column of the one candidate of flat rows.
            by: Column or columns whose values the flat rows of one query share.
            query_kind: `text`, `image`, `audio` (as `Embed` takes such columns: strings in the last two are URIs),
                `vector`, or `auto`: strings are texts, bytes are identified by their content, structs are documents.
            candidate_kind: The same of candidates.
            output: Name of the column of ranked lists.
            top_k: How many of the best are kept of a list or of matches, beside those without scores; in flat rows, how
                many get a `rank`.
            scale: What cosines are multiplied by before the softmax: a number, or `model` for what the model learnt.
            score: What `clip_score` is: `softmax`; or `sigmoid`, that of scale · cosine + bias of each candidate alone,
                with the scale and the bias that the model learnt, as SigLIP's have them.
            keep_embeddings: Whether documents keep the embeddings of themselves and their matches.
            keep_content: Whether documents keep `blob` and `tensor`.
            key: Column that names a row in its failures.
            max_wait_s: Seconds that an element of a stream may wait for others; None waits until the bundle ends.
            on_failure: `split`, or `raise` to end the job at the first failure, one of a single candidate too.
            **spec_options: Fields of `EncoderSpec`, such as `max_batch_rows`.

        Raises:
            SpecError: If something cannot work.
            TypeError: If an option is unknown or has another name here.
        """
        reject_unknown_keywords(spec_options, Rank)
        super().__init__(EncoderSpec.of(model, **spec_options), max_wait_s=max_wait_s, on_failure=on_failure)
        way = _way({"query": query, "candidates": candidates, "candidate": candidate, "by": by})
        given = {"query_kind": query_kind != "auto", "candidate_kind": candidate_kind != "auto", "key": key != "id"}
        given |= {"output": output != RANKED, "keep_embeddings": keep_embeddings, "keep_content": keep_content}
        _refuse_silent({name for name, one in given.items() if one}, way)
        if query is None:
            self.plan = DocumentRankPlan(top_k, keep_embeddings, keep_content, scale, score)
        elif candidates is not None:
            lists = RankPlan(query, candidates, query_kind, candidate_kind, output, top_k, key, scale, score)
            self.plan = lists.checked(self.spec)
        else:
            assert candidate is not None and by is not None
            names = (by,) if isinstance(by, str) or not isinstance(by, Sequence) else tuple(by)
            pairs = PairPlan(query, candidate, names, query_kind, candidate_kind, top_k, key, scale, score)
            self.plan = pairs.checked(self.spec)

    def default_label(self) -> str:
        """Name the model and the columns, so that a pipeline can use two of these."""
        return label_of("Rank", [self.spec.model, *self.plan.reads, *self.plan.by])

    def display_data(self) -> dict[str, Any]:
        """Show the model and what is ranked in the runner's user interface."""
        plan = self.plan
        shown = ", ".join([*plan.reads, *plan.by]) or "documents"
        scoring = {name: str(value) for name, value in described_scoring(plan.scale, plan.score).items()}
        return {"model": self.spec.model, "columns": shown, **scoring, "top_k": str(plan.top_k or "all")}

    def expand(self, pcoll: PCollection) -> Embedded | PCollection:
        """Put the stage into the pipeline, and for flat rows those that combine their groups.

        Raises:
            SpecError: If rows with a schema lack a column, or have one already that would be added; or if the groups of
                flat rows would never be whole.
        """
        if not self.plan.by:
            return super().expand(pcoll)
        plan: Any = self.plan
        _check_groups(pcoll, plan)
        rows_type, _ = self._elements(pcoll.element_type)
        scored = self._encode(pcoll, scored_type(pcoll.element_type), PairElements(plan))
        rows = scored.rows | "Groups" >> GroupScores(plan.top_k, rows_type, plan.score)
        return self._hand_out(Embedded(rows, scored.failures))


def _way(columns: Mapping[str, Any]) -> str:
    """Return which of the three inputs is meant; raise `SpecError` if it is none, or parts of two."""
    given = {name for name, value in columns.items() if value is not None}
    ways = {"documents": set(), "lists": {"query", "candidates"}, "flat rows": {"query", "candidate", "by"}}
    for way, names in ways.items():
        if given == names:
            return way
    shown = ", ".join(f"{name}={columns[name]!r}" for name in columns if name in given)
    raise SpecError(f"{shown} does not select one input: {_WAYS}")


def _refuse_silent(given: set[str], way: str) -> None:
    """Raise `SpecError` for options that would have no effect, saying what they belong to."""
    own = {"documents": _OF_DOCUMENTS, "lists": _OF_ROWS | {"output"}, "flat rows": _OF_ROWS}[way]
    for name in sorted(given - own):
        home = "documents" if name in _OF_DOCUMENTS else "query= with candidates=" if name == "output" else "rows"
        raise SpecError(setting(name) + f" is for {home}; it has no effect on {way}")


def _check_groups(pcoll: PCollection, plan: PairPlan) -> None:
    """Raise `SpecError` for flat rows whose groups would never be whole, or have no name."""
    if not pcoll.is_bounded:
        raise SpecError(
            "the rows of a stream are never all there, so that neither is a group of flat rows;"
            " collect the candidates of a query into a list and give query= and candidates="
        )
    windows = pcoll.windowing.windowfn
    if windows.is_merging():
        raise SpecError(
            f"{type(windows).__name__} windows grow when rows are grouped, and flat rows never are;"
            " put them into fixed or global windows first"
        )
    for name, kind in row_fields(pcoll.element_type) or ():
        if name in plan.by and is_array(kind):
            raise SpecError(
                setting("by", name) + " is an array; rows of a query share a text, a number, bytes or a date"
            )
