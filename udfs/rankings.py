"""`rank` and `clip_similarity` as column expressions."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..encoders.plans.kinds import Kind
from ..encoders.plans.rank_plan import RANKED as RANKED_NAME
from ..encoders.plans.rank_plan import RankPlan
from ..encoders.plans.scores import SCALE, PairScore, Scale, Score
from ..encoders.plans.similarity_plan import SimilarityPlan
from ..models.spec import DEFAULT_MODEL, EncoderSpec, explains_slips
from .driver import (
    FailuresOption,
    as_column,
    check_failures_option,
    output_name,
    spec_of,
    warn_without_worker_reuse,
)
from .kind_types import check_shape, shape_of_spark
from .meter import meter_of
from .scalar_udf import applied, arrow_udf
from .schema import RANKED, SIMILARITY_OR_FAILURE, with_candidates
from .score_batches import rank_array, rank_array_with_candidates, similarity_array

SIMILARITY = "clip_similarity"


@explains_slips
def rank(
    query_column: str | Column,
    candidates_column: str | Column,
    *,
    query_kind: Kind = "auto",
    candidate_kind: Kind = "auto",
    model: str | EncoderSpec = DEFAULT_MODEL,
    top_k: int | None = None,
    scale: Scale = SCALE,
    score: Score = "softmax",
    deterministic: bool = False,
    **spec_options: Any,
) -> Column:
    """Rank the candidates of each row by how well they fit its query.

    >>> from clipmill.udfs import rank
    >>> df = spark.createDataFrame([("red circle", ["blue square", "red circle"])], ["q", "c"])
    >>> [one.candidate for one in df.select(rank("q", "c", model="demo")).first().ranked]
    ['red circle', 'blue square']

    Args:
        query_column: A name, a path into a struct (`page.title`) or an expression. What it may hold follows from its
            kind.
        candidates_column: The same, of arrays. An expression is computed twice, once for the scores and once for the
            candidates in the result: so it must give the same both times. A column that is no
            array is refused by Spark when the select is made, with its own `AnalysisException`.
        query_kind: `text` takes strings; `image` and `audio` take what `embed_image` and `embed_audio` do, strings are
            URIs; `vector` takes arrays of numbers, vectors of the same model, and embeds nothing. `auto` takes strings
            for texts, identifies binary by its content, and takes structs for documents, of text, uri, blob (or bytes),
            tensor, embedding: candidates of several kinds in one array are those.
        candidate_kind: What each candidate is.
        model: A name or a spec.
        top_k: How many of the best are kept; all if None. Candidates without scores are kept always.
        scale: What cosines are multiplied by before the softmax; `model` for what the model learnt.
        score: What `clip_score` is: `softmax`; or `sigmoid`, that of scale · cosine + bias of each candidate alone,
            with the scale and the bias that the model learnt, as SigLIP's have them.
        deterministic: As in `embed_text`.
        **spec_options: Fields of `EncoderSpec`.

    Returns:
        array<struct<candidate, position: int, clip_score: double, cosine: double, failure: struct<stage, code,
        message>>>, named `ranked`: by falling clip_score, ties in their order. `candidate` has the type that it had,
        `position` is its place in the array that went in, from 0. Candidates without scores come last: those
        that failed, with their failure, and nulls, without one; where the query failed, all of them say so. Null where
        query or candidates are null; an empty array where there are no candidates.

    Raises:
        SpecError: If the model or an option cannot work.
        TypeError: If an option is unknown or has another name here.
    """
    spec = spec_of(model, spec_options, rank)
    plan = rank_plan(spec, query_kind, candidate_kind, top_k, scale, score)
    warn_without_worker_reuse(SparkSession.getActiveSession(), depth=2)
    meter = meter_of(SparkSession.getActiveSession())

    def rank_(queries: pa.Array, candidates: pa.Array) -> pa.Array:
        return rank_array(queries, candidates, spec, plan, meter)

    candidates = as_column(candidates_column)
    udf = arrow_udf(rank_, "rank", RANKED, deterministic=deterministic)
    ranked = applied(udf, as_column(query_column), candidates)
    return _with_candidates(candidates, ranked).alias(RANKED_NAME)


def _with_candidates(candidates: Column, ranked: Column) -> Column:
    """Put each candidate beside its scores, in Spark: it keeps its type, and never comes back from Python.

    The array of one struct gives names to both, so that neither is computed again for each element.
    """
    # Spark optimises this away. It makes the error for a column that is not an array name that column, on each version:
    # with `get` in its place, or below, the analyser of Spark 4.0 fails with a ClassCastException.
    candidates = F.when(F.lit(True) | F.filter(candidates, lambda _: F.lit(True)).isNull(), candidates)
    fields = [field.name for field in RANKED.elementType.fields]  # type: ignore[attr-defined]

    def whole(row: Column) -> Column:
        return F.transform(
            row["ranked"],
            lambda place: F.struct(
                row["candidates_column"][place["position"]].alias("candidate"),
                *(place[name].alias(name) for name in fields),
            ),
        )

    return F.transform(F.array(F.struct(candidates.alias("candidates_column"), ranked.alias("ranked"))), whole)[0]


def rank_plan(
    spec: EncoderSpec, query_kind: Kind, candidate_kind: Kind, top_k: int | None, scale: Scale, score: Score
) -> RankPlan:
    """Return how the values of two columns are ranked."""
    plan = RankPlan("query", "candidates", query_kind, candidate_kind, RANKED_NAME, top_k, scale=scale, score=score)
    return plan.checked(spec)


def rank_udf_with_candidates(spec: EncoderSpec, plan: RankPlan, candidate: T.DataType, deterministic: bool) -> Any:
    """Return a UDF that returns the candidates itself, for SQL, where no expression can wrap it."""
    check_shape("candidate_type", "candidate_kind", plan.candidate_kind, shape_of_spark(candidate))
    meter = meter_of(SparkSession.getActiveSession())

    def rank_(query: pa.Array, candidates: pa.Array) -> pa.Array:  # SQL can call them by these names
        return rank_array_with_candidates(query, candidates, spec, plan, candidate, meter)

    return arrow_udf(rank_, "clip_rank", with_candidates(candidate), deterministic=deterministic)


@explains_slips
def clip_similarity(
    a: str | Column,
    b: str | Column,
    *,
    a_kind: Kind = "auto",
    b_kind: Kind = "auto",
    score: PairScore = "cosine",
    model: str | EncoderSpec = DEFAULT_MODEL,
    failures: FailuresOption = "null",
    deterministic: bool = False,
    **spec_options: Any,
) -> Column:
    """Compare two columns, row by row, such as images and their captions.

    >>> from clipmill.udfs import clip_similarity
    >>> df = spark.createDataFrame([("red circle", "red circle")], ["a", "b"])
    >>> round(df.select(clip_similarity("a", "b", model="demo")).first().clip_similarity, 3)
    1.0

    Args:
        a: A name, a path into a struct (`page.title`) or an expression.
        b: The same.
        a_kind: What `a` holds; see `rank`.
        b_kind: What `b` holds.
        score: `cosine`; `clip_score`, the metric CLIPScore of Hessel et al. (2021), 2.5 · max(cosine, 0), which is not
            the `clip_score` of `rank`; `logit`, scale · cosine + bias, with what the model learnt, no bias if it has
            none; `sigmoid`, that of the logit, the probability by which SigLIP's models were trained, which needs a
            learnt bias.
        model: A name or a spec.
        failures: What a bad row gives: `null`; `struct`, which makes the result
            struct<similarity, failure: struct<stage, code, message>>; or `raise`, which fails the job.
        deterministic: As in `embed_text`.
        **spec_options: Fields of `EncoderSpec`.

    Returns:
        double, the score, named `clip_similarity`; null where either is null. Filter with
        `where("clip_similarity >= 0.3")`; a filter and its opposite compute the scores twice, unless `persist` keeps
        them in between.

    Raises:
        SpecError: If the model or an option cannot work.
        TypeError: If an option is unknown or has another name here.
    """
    check_failures_option(failures)
    spec = spec_of(model, spec_options, clip_similarity)
    warn_without_worker_reuse(SparkSession.getActiveSession(), depth=2)
    names = output_name(a, ""), output_name(b, "")
    udf = similarity_udf(spec, a_kind, b_kind, score, failures, deterministic, names)
    return applied(udf, as_column(a), as_column(b)).alias(SIMILARITY)


def similarity_udf(
    spec: EncoderSpec,
    a_kind: Kind,
    b_kind: Kind,
    score: PairScore,
    failures: str,
    deterministic: bool,
    names: tuple[str, str] = ("a", "b"),
) -> Any:
    """Return the UDF behind `clip_similarity`, which `register` makes available to SQL; `names` are for errors."""
    plan = SimilarityPlan("a", "b", a_kind, b_kind, score=score).checked(spec)
    meter = meter_of(SparkSession.getActiveSession())

    def similarity(a: pa.Array, b: pa.Array) -> pa.Array:
        return similarity_array(a, b, spec, plan, failures, meter, names)

    result = SIMILARITY_OR_FAILURE if failures == "struct" else T.DoubleType()
    return arrow_udf(similarity, SIMILARITY, result, deterministic=deterministic)
