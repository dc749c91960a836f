"""`search` as a column expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import Column, SparkSession
from pyspark.sql import types as T
from pyspark.sql.pandas.types import from_arrow_type

from ..encoders.plans.kinds import Kind, item_of_kind
from ..encoders.plans.scores import SCALE, Scale
from ..errors import SpecError
from ..indexes.search_plan import HITS, TOP_K, SearchPlan, spec_of_search
from ..indexes.searcher import Searcher
from ..indexes.targets import find_target
from ..models.spec import EncoderSpec, explains_slips, reject_unknown_keywords
from .batches import with_failures
from .driver import FailuresOption, as_column, check_failures_option, warn_without_worker_reuse
from .kind_types import check_shape, shape_of_arrow
from .meter import NO_DRIVER, PartitionMeter, meter_of
from .scalar_udf import applied, arrow_udf
from .schema import FAILURE
from .values import reader_of
from .worker import encoder_of_task

_DECIMAL_DIGITS = 38
"""Digits of Spark's longest decimals."""


@explains_slips
def search(
    query_column: str | Column,
    *,
    index: str,
    query_kind: Kind = "auto",
    top_k: int = TOP_K,
    columns: Sequence[str] = (),
    column: str | None = None,
    rerank: bool = False,
    scale: Scale = SCALE,
    nprobe: int | None = None,
    ef_search: int | None = None,
    model: str | EncoderSpec | None = None,
    failures: FailuresOption = "null",
    deterministic: bool = False,
    **spec_options: Any,
) -> Column:
    """Find the nearest neighbours of each query in an index or among the vectors of a dataset.

    An index is memory-mapped: a worker opens it once, and the workers of a machine share its pages. Of a dataset every
    worker holds the vectors, which are compared exactly; up to 2 GB are. The queries of an Arrow batch are searched
    together. The driver looks at files too, so that both need the same path or URL.

    >>> from clipmill.udfs import embed_columns, search
    >>> shapes = spark.createDataFrame([("red circle",), ("blue square",)], ["id"])
    >>> folder = str(Path("shapes").resolve())
    >>> embed_columns(shapes, {"id": "text"}, model="demo").drop("embedding_failures").write.parquet(folder)
    >>> df = spark.createDataFrame([("red circle",)], ["q"])
    >>> [hit.id for hit in df.select(search("q", index=folder, top_k=1)).first().hits]
    ['red circle']

    Args:
        query_column: A name, a path into a struct (`page.title`) or an expression. What it may hold follows from its
            kind.
        index: Directory of an index; or of a dataset, or a Parquet file, whose vectors are compared one by one.
        query_kind: As in `rank`; `vector` takes arrays of numbers, vectors of the same model, and embeds nothing.
        top_k: Neighbours per query.
        columns: Columns of the found rows that each hit includes.
        column: The column of vectors of a dataset that has several.
        rerank: Whether hits are scored with the full vectors.
        scale: What cosines are multiplied by before the softmax over a query's hits; `model` for what the model learnt.
        nprobe: Inverted lists to look into, where the index has them; what reached its recall if None.
        ef_search: Rows of the graph to keep in view, where the index is one; what reached its recall if None.
        model: The model that made what is searched; it is known, and another one is refused.
        failures: What a bad query gives: `null`; `struct`, which makes the result
            struct<hits, failure: struct<stage, code, message>>; or `raise`, which fails the job.
        deterministic: As in `embed_text`.
        **spec_options: Fields of `EncoderSpec`.

    Returns:
        array<struct<position: bigint, id: string, score: double, …>>, named `hits`: best first, equal scores in order
        of position; `score` is the cosine. With `rerank` there are `cosine` and `clip_score` too, as `rank` computes
        them, by which they are sorted. Then come the columns. Null where the query is null.

    Raises:
        SpecError: If an option cannot work, or the model is another one; the message says what differs.
        DatasetError: If there is no index and no dataset, or it is damaged.
        TypeError: If an option is unknown or has another name here.
    """
    check_failures_option(failures)
    reject_unknown_keywords(spec_options, search)
    target = find_target(index, column)
    spec = spec_of_search(target, query_kind, model, **spec_options)
    hit_columns: Any = columns if isinstance(columns, str) else tuple(columns)
    plan = SearchPlan(target, HITS, query_kind, top_k, hit_columns, rerank, scale, nprobe, ef_search).checked(spec)
    warn_without_worker_reuse(SparkSession.getActiveSession(), depth=2)
    found = applied(search_udf(spec, plan, failures, deterministic), as_column(query_column))
    return found.alias(HITS)


def search_udf(spec: EncoderSpec | None, plan: SearchPlan, failures: str, deterministic: bool) -> Any:
    """Return the UDF behind `search`; raise `SpecError` if a column of the hits has a type that Spark lacks."""
    meter = meter_of(SparkSession.getActiveSession())

    def search_(query: pa.Array) -> pa.Array:
        return search_array(query, spec, plan, failures, meter)

    hits = T.ArrayType(_spark_type(plan), containsNull=False)
    result = T.StructType([T.StructField(HITS, hits), T.StructField("failure", FAILURE)])
    return arrow_udf(search_, "search", result if failures == "struct" else hits, deterministic=deterministic)


def _spark_type(plan: SearchPlan) -> T.StructType:
    fields = []
    for field in plan.hit_type:
        if (kind := _too_fine(field.type)) is not None:
            raise SpecError(f"column {field.name!r} holds {kind}, which Spark would round: leave it out")
        try:
            fields.append(T.StructField(field.name, from_arrow_type(field.type)))
        except Exception as err:  # pyspark has errors of its own for it, which differ from release to release
            raise SpecError(
                f"column {field.name!r} is {field.type}, which Spark has no type for: leave it out"
            ) from err
    return T.StructType(fields)


def _too_fine(kind: pa.DataType) -> pa.DataType | None:
    """Return the type, or a type inside it, that Spark's types round: nanoseconds, and decimals of over 38 digits."""
    if pa.types.is_timestamp(kind) or pa.types.is_duration(kind) or pa.types.is_time(kind):
        return kind if kind.unit == "ns" else None
    if pa.types.is_decimal(kind):
        return kind if kind.precision > _DECIMAL_DIGITS else None
    return next(filter(None, (_too_fine(kind.field(number).type) for number in range(kind.num_fields))), None)


def search_array(
    queries: pa.Array, spec: EncoderSpec | None, plan: SearchPlan, failures: str, meter: PartitionMeter = NO_DRIVER
) -> pa.Array:
    """Search for the queries of an Arrow batch, all together, and return lists of hits, or structs of hits and failure.

    `spec` is None for vectors.
    """
    check_shape("the query", "query_kind", plan.query_kind, shape_of_arrow(queries.type))
    task = TaskContext.get()
    encoder = encoder_of_task(spec) if spec is not None else None
    searcher = Searcher(plan, encoder, cpus=task.cpus() if task is not None else None)
    read = reader_of(queries.type)
    with meter.counting() as stats:
        found = searcher.find((item_of_kind(plan.query_kind, read(value)) for value in queries), stats)
    return with_failures(HITS, found.hits, found.outcomes, failures)
