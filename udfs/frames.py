"""`embed_columns`: embeds several columns of a DataFrame in one pass; `stamp_provenance`: adds provenance to fields."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Observation
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..datasets.tables.provenance import provenance_of, spark_metadata
from ..encoders.plans.embed_plan import FAILURES_COLUMN, Column, ColumnPlan
from ..encoders.plans.heads import Head
from ..errors import SpecError
from ..models.spec import DEFAULT_MODEL, EncoderSpec, Modality, explains_slips
from .batches import embed_batches
from .driver import spec_of, warn_without_worker_reuse
from .meter import PartitionMeter, meter_of
from .schema import InputColumn, check_carried, embedded_schema, find_sources


@explains_slips
def embed_columns(
    df: DataFrame,
    columns: Mapping[str, Modality | Column],
    *,
    model: str | EncoderSpec = DEFAULT_MODEL,
    fuse: Mapping[str, Mapping[str, float]] | None = None,
    keep_parts: bool = True,
    heads: Mapping[str, Head | str] | None = None,
    observation: Observation | str | None = None,
    **spec_options: Any,
) -> DataFrame:
    """Embed columns of a DataFrame, texts, images and audio, in one pass and with one model.

    Works in a chain too: `df.transform(embed_columns, {"caption": "text"}, model="ViT-B-32::openai")`.

    >>> from clipmill.udfs import embed_columns
    >>> df = spark.createDataFrame([("a", "a red circle")], ["id", "caption"])
    >>> embed_columns(df, {"caption": "text"}, model="demo").columns
    ['id', 'caption', 'caption_embedding', 'embedding_failures']

    Args:
        df: Rows; a `limit` belongs here, before the embedding.
        columns: Kind (`text`, `image`, `audio`) or `Column` by name or path into a struct (`page.photo`). Texts are
            strings; images are encoded bytes, the struct of Spark's `image` source, struct<bytes, path>, or strings,
            which are URIs; audio is encoded bytes, struct<array: array<float>, sampling_rate: int>,
            struct<bytes, path> or URIs. Arrays of these give arrays of vectors.
        model: A name or a spec.
        fuse: Columns of one vector of several columns: `{"embedding": {"photo": 0.7, "caption": 0.3}}` normalises the
            vectors of both, adds them with these weights, and normalises the sum. It is null if one of them is.
        keep_parts: Whether columns that are fused have a column of their own vectors, too.
        heads: Columns of scores of these vectors: a linear `Head`, or the path of its file, by the column's name.
        observation: Counts `rows`, `embedded` and `failed` (values: a row of two columns has two) of the first action.
            For a stream, give a name: `query.lastProgress.observedMetrics` has the counts of each batch.
        **spec_options: Fields of `EncoderSpec`.

    Returns:
        The rows with `<column>_embedding` for each column, array<float> with its provenance as metadata, null where
        the value is null or failed; the columns of `fuse` and `heads`; and `embedding_failures`,
        array<struct<column, stage, code, message>>, null where all went well. Rows of a partition stay in order.

    Raises:
        SpecError: If a column is missing, holds what can't be embedded, or would be overwritten; if Spark cannot hand a
            column to Python workers (intervals of months, a struct with one field twice); if the model or an option
            cannot work.
        TypeError: If an option is unknown or has another name here.
    """
    spec = spec_of(model, spec_options, embed_columns)
    plan = ColumnPlan.of(columns, spec=spec, fuse=fuse, keep_parts=keep_parts, heads=heads)
    sources, target = check_columns(df.schema, plan, spec)
    if observation is not None and not isinstance(observation, str) and df.isStreaming:
        raise SpecError(
            "an Observation cannot count a stream, which has many batches",
            hint="give a name, such as observation='embedded', and read query.lastProgress.observedMetrics",
        )
    warn_without_worker_reuse(df.sparkSession, depth=2)
    embedded = _with_plain_names(df).mapInArrow(
        _partition_function(spec, plan, sources, meter_of(df.sparkSession)), target
    )
    return embedded if observation is None else embedded.observe(observation, *_counts(plan, sources))


def check_columns(schema: T.StructType, plan: ColumnPlan, spec: EncoderSpec) -> tuple[list[InputColumn], T.StructType]:
    """Find a plan's columns in a schema, and return the schema of the result; `SpecError` if it cannot work."""
    sources = find_sources(schema, plan)
    target = embedded_schema(schema, plan, sources, spec)
    check_carried(schema)
    return sources, target


def _with_plain_names(df: DataFrame) -> DataFrame:
    """Number the columns if `mapInArrow` cannot distinguish them by name; its own schema restores the names."""
    names = df.columns
    if len({name.lower() for name in names}) == len(names) and not any("." in name or "`" in name for name in names):
        return df
    return df.toDF(*(f"_{number}" for number in range(len(names))))


def _partition_function(
    spec: EncoderSpec, plan: ColumnPlan, sources: Sequence[InputColumn], meter: PartitionMeter
) -> Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def embed(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return embed_batches(batches, spec, plan, sources, meter)

    return embed


def _counts(plan: ColumnPlan, sources: Sequence[InputColumn]) -> list[SparkColumn]:
    """Return the aggregates that an observation takes of the finished rows."""
    arrays = {source.path for source in sources if source.is_array}
    vectors = [column for column in plan.added if column.holds == "vector"]
    embedded = [_count_vectors(F.col(f"`{column.name}`"), column.source in arrays) for column in vectors]
    total = embedded[0]
    for count in embedded[1:]:
        total = total + count
    failed = F.coalesce(F.array_size(F.col(FAILURES_COLUMN)), F.lit(0))  # `size` of null is -1 without ANSI mode
    return [
        F.count(F.lit(1)).alias("rows"),
        F.coalesce(F.sum(total), F.lit(0)).alias("embedded"),
        F.coalesce(F.sum(failed), F.lit(0)).alias("failed"),
    ]


def _count_vectors(output: SparkColumn, is_array: bool) -> SparkColumn:
    if not is_array:
        return output.isNotNull().cast("int")
    return F.coalesce(F.array_size(F.filter(output, lambda vector: vector.isNotNull())), F.lit(0))


def stamp_provenance(
    df: DataFrame, column: str, spec: str | EncoderSpec, *, modality: Modality | Literal["auto"] = "auto"
) -> DataFrame:
    """Put the provenance on a column of vectors that has lost it.

    Spark keeps it through select, filter, rename, union, join and `write.parquet`; it is lost in SQL, in aggregates,
    in functions of the column, and on Spark Connect in `withColumn`.

    Args:
        df: Has the column.
        column: Its name.
        spec: What made the vectors: the same model and options.
        modality: What was embedded; `auto` leaves it open.

    Returns:
        The same rows; other metadata of the column stays.

    Raises:
        SpecError: If the column is missing.
    """
    if column not in df.columns:
        raise SpecError(f"no column {column!r}; there are {', '.join(map(repr, df.columns)) or 'none'}")
    made_by = EncoderSpec.of(spec)
    metadata = df.schema[column].metadata | spark_metadata(provenance_of(made_by, modality))
    return df.withMetadata(column, metadata)
