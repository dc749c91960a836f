"""`embed_text`, `embed_image` and `embed_audio` as column expressions, and `register` for SQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from ..encoders.columns import SUFFIX
from ..encoders.spec import DEFAULT_MODEL, EncoderSpec, Modality
from ..encoders.storage.provenance import provenance_of, spark_metadata
from .batches import embed_array
from .driver import FailuresOption, check_failures_option, spec_of, warn_without_worker_reuse
from .schema import VECTOR, VECTOR_OR_FAILURE


def embed_text(
    column: str | Column,
    *,
    model: str | EncoderSpec = DEFAULT_MODEL,
    failures: FailuresOption = "null",
    deterministic: bool = False,
    **spec_options: Any,
) -> Column:
    """Embed a column of texts.

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


def embed_image(
    column: str | Column,
    *,
    model: str | EncoderSpec = DEFAULT_MODEL,
    failures: FailuresOption = "null",
    deterministic: bool = False,
    **spec_options: Any,
) -> Column:
    """Embed a column of images.

    Args:
        column: Encoded bytes, the struct of Spark's `image` source, struct<bytes, path>, or strings, which are URIs;
            a name, a path into a struct (`page.photo`) or an expression. For arrays use `embed_columns`.
        model: A name or a spec.
        failures: As in `embed_text`.
        deterministic: As in `embed_text`.
        **spec_options: Fields of `EncoderSpec`, such as `allow_local_files=True`.

    Returns:
        array<float>, named `<column>_embedding` with its provenance as metadata; null where the image is null.

    Raises:
        SpecError: If the model or an option cannot work.
        TypeError: If an option is unknown or has another name here.
    """
    return _expression(column, "image", model, failures, deterministic, spec_options)


def embed_audio(
    column: str | Column,
    *,
    model: str | EncoderSpec = "AudioCLIP",
    failures: FailuresOption = "null",
    deterministic: bool = False,
    **spec_options: Any,
) -> Column:
    """Embed a column of sounds.

    Args:
        column: Encoded bytes (WAV, FLAC, OGG, MP3), struct<array: array<float>, sampling_rate: int> (also named
            `waveform` and `sample_rate`; array<array<float>> for two channels), struct<bytes, path>, or strings, which
            are URIs; a name, a path into a struct or an expression. For arrays of sounds use `embed_columns`.
        model: A name or a spec.
        failures: As in `embed_text`.
        deterministic: As in `embed_text`.
        **spec_options: Fields of `EncoderSpec`, such as `max_audio_seconds=120`.

    Returns:
        array<float>, named `<column>_embedding` with its provenance as metadata; null where the sound is null.

    Raises:
        SpecError: If the model or an option cannot work.
        TypeError: If an option is unknown or has another name here.
    """
    return _expression(column, "audio", model, failures, deterministic, spec_options)


def register(
    spark: SparkSession,
    *,
    model: str | EncoderSpec = DEFAULT_MODEL,
    prefix: str = "",
    failures: FailuresOption = "null",
    deterministic: bool = False,
    **spec_options: Any,
) -> list[str]:
    """Make `embed_text`, `embed_image` and `embed_audio` functions of SQL, bound to one model.

    Args:
        spark: The session that will know them.
        model: A name or a spec.
        prefix: Stands before the functions' names, so that several models can be registered.
        failures: As in `embed_text`.
        deterministic: As in `embed_text`.
        **spec_options: Fields of `EncoderSpec`.

    Returns:
        The names, one for each kind that the model embeds.

    Raises:
        SpecError: If the model or an option cannot work.
        TypeError: If an option is unknown or has another name here.
    """
    check_failures_option(failures)
    spec = spec_of(model, spec_options)
    warn_without_worker_reuse(spark)
    kinds: tuple[Modality, ...] = ("text", "image", "audio")
    functions = {f"{prefix}embed_{kind}": _udf(spec, kind, failures, deterministic) for kind in kinds}
    names = [name for name, kind in zip(functions, kinds, strict=True) if kind in spec.modalities]
    for name in names:
        spark.udf.register(name, functions[name])
    return names


def _expression(
    column: str | Column,
    modality: Modality,
    model: str | EncoderSpec,
    failures: str,
    deterministic: bool,
    spec_options: dict[str, Any],
) -> Column:
    check_failures_option(failures)
    spec = spec_of(model, spec_options, modality)
    warn_without_worker_reuse(SparkSession.getActiveSession(), depth=2)
    value = F.col(column) if isinstance(column, str) else column
    embedded = _udf(spec, modality, failures, deterministic)(value)
    return embedded.alias(_output_name(column), metadata=spark_metadata(provenance_of(spec, modality)))


def _udf(spec: EncoderSpec, modality: Modality, failures: str, deterministic: bool) -> Any:
    """Return a scalar Arrow UDF: those in one select share a Python worker, which iterator UDFs don't."""
    result = VECTOR_OR_FAILURE if failures == "struct" else VECTOR
    udf: Any = F.arrow_udf(_arrow_function(spec, modality, failures), result)  # type: ignore[attr-defined]
    return udf if deterministic else udf.asNondeterministic()


def _arrow_function(spec: EncoderSpec, modality: Modality, failures: str) -> Callable[[pa.Array], pa.Array]:
    def embed(values: pa.Array) -> pa.Array:
        return embed_array(values, spec, modality, failures)

    embed.__name__ = f"embed_{modality}"
    return embed


def _output_name(column: str | Column) -> str:
    """Name the result as `embed_columns` does; of an expression Spark's own words for it are taken."""
    name = column if isinstance(column, str) else str(column).removeprefix("Column<'").removesuffix("'>")
    name = name.rpartition(" AS ")[2]
    return name.replace("`", "").replace(".", "_") + SUFFIX
