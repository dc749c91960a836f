"""`rank_groups`: rows of one candidate each, scored among the rows of their query."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Observation, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..encoders.plans.embed_plan import FAILURES_COLUMN
from ..encoders.plans.kinds import Kind
from ..encoders.plans.pair_plan import LOGIT, PairPlan
from ..encoders.plans.rank_plan import CLIP_SCORE, COSINE, RANK
from ..encoders.plans.scores import SCALE, Scale, Score
from ..errors import SpecError
from ..models.spec import DEFAULT_MODEL, EncoderSpec, explains_slips
from .driver import spec_of, warn_without_worker_reuse
from .kind_types import check_shape, shape_of_spark
from .meter import PartitionMeter, meter_of
from .schema import FAILURES, InputColumn, check_carried, check_free, column_at, find_column
from .score_batches import score_batches

_HIGHEST, _TOTAL, _PLACE = "highest", "total", "place"


@explains_slips
def rank_groups(
    df: DataFrame,
    *,
    by: str | Sequence[str],
    query: str = "query",
    candidate: str = "candidate",
    query_kind: Kind = "auto",
    candidate_kind: Kind = "auto",
    top_k: int | None = None,
    scale: Scale = SCALE,
    score: Score = "softmax",
    model: str | EncoderSpec = DEFAULT_MODEL,
    observation: Observation | None = None,
    **spec_options: Any,
) -> DataFrame:
    """Score rows that hold a query and one candidate each, among the rows of the same query.

    Rows stay flat, and a group may have any number of them: Spark's window functions, which spill to disk, do what
    concerns a whole group. Works in a chain too: `df.transform(rank_groups, by="query_id")`.

    >>> from clipmill.udfs import rank_groups
    >>> rows = [(1, "red circle", "blue square"), (1, "red circle", "red circle")]
    >>> df = spark.createDataFrame(rows, ["number", "q", "c"])
    >>> ranked = rank_groups(df, by="number", query="q", candidate="c", top_k=1, model="demo")
    >>> [(row.c, row["rank"]) for row in ranked.collect() if row["rank"]]
    [('red circle', 1)]

    Args:
        df: Rows.
        by: Column, or columns, whose values the rows of one query share; names or paths into structs. A null is a value
            like any other, as in SQL.
        query: Column of the query: a name or a path into a struct.
        candidate: Column of the candidate.
        query_kind: What the query is; see `rank`.
        candidate_kind: What the candidate is.
        top_k: The best of each group get a `rank`; none if None. All rows are kept.
        scale: What cosines are multiplied by before the softmax; `model` for what the model learnt.
        score: What `clip_score` is: `softmax`; or `sigmoid`, that of scale · cosine + bias of each candidate alone,
            with the scale and the bias that the model learnt, as SigLIP's have them.
        model: A name or a spec.
        observation: Counts `rows`, `scored` and `failed` (rows) of the first action; the others have a null.
        **spec_options: Fields of `EncoderSpec`.

    Returns:
        The rows with `cosine` and `clip_score`, double, null where either value is null or failed; with `top_k` also
        `rank`, int from 1, null below the best: equal scores share one, as in SQL; and `embedding_failures` as
        `embed_columns` has them. They come in another order.

    Raises:
        SpecError: If a column is missing, holds what its kind does not take, or would be overwritten; if the model
            or an option cannot work.
        TypeError: If an option is unknown or has another name here.
    """
    spec = spec_of(model, spec_options, rank_groups)
    names = (by,) if isinstance(by, str) else tuple(by)
    plan = PairPlan(query, candidate, names, query_kind, candidate_kind, top_k, scale=scale, score=score).checked(spec)
    if df.isStreaming:
        raise SpecError(
            "rank_groups scores rows among all rows of their query, and a stream never has all of them",
            hint="call it in foreachBatch, on each batch; for candidates in one array, rank works in streams",
        )
    schema = df.schema
    sources = _find_pair(schema, plan)
    keys = [_key(schema, name) for name in names]
    check_free(schema, [*plan.new_names, FAILURES_COLUMN])
    check_carried(schema)
    warn_without_worker_reuse(df.sparkSession, depth=2)
    numbers = [f"_{number}" for number in range(len(schema))]  # names may come twice, or have dots
    scored = df.toDF(*numbers).mapInArrow(
        _partition_function(spec, plan, sources, meter_of(df.sparkSession)), _scored_schema(schema, numbers)
    )
    if observation is not None:
        scored = scored.observe(observation, *_counts())
    return _with_scores_of_groups(scored, keys, top_k, score).select(
        *(F.col(number).alias(name) for number, name in zip(numbers, schema.names, strict=True)),
        *plan.new_names,
        FAILURES_COLUMN,
    )


def _find_pair(schema: T.StructType, plan: PairPlan) -> list[InputColumn]:
    """Find query and candidate, and refuse types that cannot be of their kind."""
    sources = {}
    pair: tuple[tuple[str, str, Kind], ...] = (
        (plan.query, "query_kind", plan.query_kind),
        (plan.candidate, "candidate_kind", plan.candidate_kind),
    )
    for path, option, kind in pair:
        steps, found = find_column(schema, path)
        check_shape(f"column {path!r}", option, kind, shape_of_spark(found))
        sources[path] = InputColumn(path, steps, is_array=False)
    return list(sources.values())


def _key(schema: T.StructType, path: str) -> Column:
    """Return the columns to group by, in a DataFrame with numbered columns."""
    steps, found = find_column(schema, path)
    if not _can_be_grouped(found):
        raise SpecError(f"by: column {path!r} is {found.simpleString()}, whose values Spark cannot group by")
    return column_at(schema, path, top=f"_{steps[0]}")


def _can_be_grouped(kind: T.DataType) -> bool:
    """Return whether Spark can order values of a type, as its windows require."""
    if isinstance(kind, T.StructType):
        return all(_can_be_grouped(field.dataType) for field in kind.fields)
    if isinstance(kind, T.ArrayType):
        return _can_be_grouped(kind.elementType)
    return not isinstance(kind, T.MapType) and kind.typeName() != "variant"  # Spark 3.5 has no such type


def _scored_schema(schema: T.StructType, numbers: Sequence[str]) -> T.StructType:
    kept = [
        T.StructField(number, field.dataType, field.nullable, field.metadata)
        for number, field in zip(numbers, schema.fields, strict=True)
    ]
    scores = [T.StructField(COSINE, T.DoubleType()), T.StructField(LOGIT, T.DoubleType())]
    return T.StructType([*kept, *scores, T.StructField(FAILURES_COLUMN, FAILURES)])


def _partition_function(
    spec: EncoderSpec, plan: PairPlan, sources: Sequence[InputColumn], meter: PartitionMeter
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def score(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return score_batches(batches, spec, plan, sources, meter)

    return score


def _counts() -> list[Column]:
    """Return the aggregates that an observation takes of the scored rows."""
    return [
        F.count(F.lit(1)).alias("rows"),
        F.count(F.col(COSINE)).alias("scored"),
        F.count(F.col(FAILURES_COLUMN)).alias("failed"),
    ]


def _with_scores_of_groups(scored: DataFrame, keys: Sequence[Column], top_k: int | None, score: Score) -> DataFrame:
    """Add the softmax over each group, or the sigmoid of each row, and the places of a group's best."""
    group = Window.partitionBy(*keys)
    logit, power = F.col(LOGIT), F.exp(F.col(LOGIT) - F.col(_HIGHEST))
    if score == "sigmoid":
        whole = scored.select("*", (F.lit(1.0) / (F.lit(1.0) + F.exp(-logit))).alias(CLIP_SCORE))
    else:
        whole = scored.select("*", F.max(logit).over(group).alias(_HIGHEST))
        whole = whole.select("*", F.sum(power).over(group).alias(_TOTAL))
        whole = whole.select("*", (power / F.col(_TOTAL)).alias(CLIP_SCORE))
    if top_k is None:
        return whole
    whole = whole.select("*", F.rank().over(group.orderBy(logit.desc_nulls_last())).alias(_PLACE))
    return whole.select("*", F.when(logit.isNotNull() & (F.col(_PLACE) <= top_k), F.col(_PLACE)).alias(RANK))
