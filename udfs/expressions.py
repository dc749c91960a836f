"""`embed_text`, `embed_image` and `embed_audio` as column expressions."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
from pyspark.sql import Column, SparkSession

from ..datasets.tables.provenance import provenance_of, spark_metadata
from ..encoders.plans.embed_plan import SUFFIX
from ..models.spec import DEFAULT_MODEL, EncoderSpec, Modality, explains_slips
from .batches import embed_array
from .driver import (
    FailuresOption,
    as_column,
    check_failures_option,
    output_name,
    spec_of,
    warn_without_worker_reuse,
)
from .meter import meter_of
from .scalar_udf import applied, arrow_udf
from .schema import VECTOR, VECTOR_OR_FAILURE


@explains_slips
def embed_text(
    column: str | Column,
    *,
    model: str | EncoderSpec = DEFAULT_MODEL,
    failures: FailuresOption = "null",
    deterministic: bool = False,
    **spec_options: Any,
) -> Column:
    """Embed a column of texts.

    >>> from clipmill.udfs import embed_text
    >>> df = spark.createDataFrame([("a red circle",), (None,)], ["caption"])
    >>> embedded = df.select(embed_text("caption", model="demo")).collect()
    >>> [row.caption_embedding and len(row.caption_embedding) for row in embedded]
    [96, None]

    Args:
        column: Strings; a name, a path into a struct (`page.title`) or an expression. For arrays use `embed_columns`.
        model: A name or a spec.
        failures: What a bad row gives: `null`; `struct`, which makes the result
            struct<embedding, failure: struct<stage, code, message>>; or `raise`, which fails the job.
        deterministic: Whether Spark may take the expression for one that can be computed twice. If it may, a filter on
            the vector doubles the work; if not, filters on other columns stay behind the embedding, so filter first.
        **spec_options: Fields of `EncoderSpec`.

    Returns:
        array<float>, named `<column>_embedding` with its provenance as metadata; null where the text is null.

    Raises:
        SpecError: If the model or an option cannot work.
        TypeError: If an option is unknown or has another name here.
    """
    return _expression(column, "text", model, failures, deterministic, spec_options)


@explains_slips
def embed_image(
    column: str | Column,
    *,
    model: str | EncoderSpec = DEFAULT_MODEL,
    failures: FailuresOption = "null",
    deterministic: bool = False,
    **spec_options: Any,
) -> Column:
    """Embed a column of images.

    >>> import io
    >>> from PIL import Image
    >>> from clipmill.udfs import embed_image
    >>> png = io.BytesIO()
    >>> Image.new("RGB", (64, 64), "red").save(png, "PNG")
    >>> df = spark.createDataFrame([(png.getvalue(),)], ["photo"])
    >>> len(df.select(embed_image("photo", model="demo")).first().photo_embedding)
    96

    As `embed_text`, for images: the column holds encoded bytes, the struct of Spark's `image` source, struct<bytes,
    path>, or strings, which are URIs. Options are, for example, `allow_local_files=True`.
    """
    return _expression(column, "image", model, failures, deterministic, spec_options)


@explains_slips
def embed_audio(
    column: str | Column,
    *,
    model: str | EncoderSpec = "AudioCLIP",
    failures: FailuresOption = "null",
    deterministic: bool = False,
    **spec_options: Any,
) -> Column:
    """Embed a column of audio.

    As `embed_text`, for audio: the column holds encoded bytes (WAV, FLAC, OGG, MP3), struct<array: array<float>,
    sampling_rate: int> (also named `waveform` and `sample_rate`; array<array<float>> for two channels), struct<bytes,
    path>, or strings, which are URIs. Options are, for example, `max_audio_seconds=120`.
    """
    return _expression(column, "audio", model, failures, deterministic, spec_options)


def _expression(
    column: str | Column,
    modality: Modality,
    model: str | EncoderSpec,
    failures: str,
    deterministic: bool,
    spec_options: dict[str, Any],
) -> Column:
    check_failures_option(failures)
    spec = spec_of(model, spec_options, embed_text, modality)  # all three have the same keywords
    warn_without_worker_reuse(SparkSession.getActiveSession(), depth=3)
    embedded = applied(embedding_udf(spec, modality, failures, deterministic), as_column(column))
    return embedded.alias(output_name(column, SUFFIX), metadata=spark_metadata(provenance_of(spec, modality)))


def embedding_udf(spec: EncoderSpec, modality: Modality, failures: str, deterministic: bool) -> Any:
    """Return the UDF behind an expression, which `register` makes available to SQL."""
    meter = meter_of(SparkSession.getActiveSession())

    def embed(column: pa.Array) -> pa.Array:
        return embed_array(column, spec, modality, failures, meter)

    result = VECTOR_OR_FAILURE if failures == "struct" else VECTOR
    return arrow_udf(embed, f"embed_{modality}", result, deterministic=deterministic)
