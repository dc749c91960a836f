"""`text_udf`, `image_udf` and `audio_udf`: pandas UDFs for those who compose them.

Arrow's column expressions are faster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from ..encoders.outcome import Vector
from ..errors import SpecError, check_flags
from ..failures import Failure
from ..models.spec import DEFAULT_MODEL, EncoderSpec, Modality
from .batches import failure_struct, raise_failures
from .driver import FailuresOption, check_failures_option, spec_of, warn_without_worker_reuse
from .meter import NO_DRIVER, PartitionMeter, meter_of
from .schema import VECTOR, VECTOR_OR_FAILURE
from .worker import encoder_of_task

if TYPE_CHECKING:
    import pandas as pd


def text_udf(
    *,
    model: str | EncoderSpec = DEFAULT_MODEL,
    failures: FailuresOption = "null",
    deterministic: bool = False,
    **spec_options: Any,
) -> Any:
    """Return a pandas UDF that embeds texts: `df.select(text_udf(model=…)("caption"))`.

    Args:
        model: A name or a spec.
        failures: As in `embed_text`; with `struct` a null gives a struct of nulls, since pandas has no null for it.
        deterministic: As in `embed_text`.
        **spec_options: Fields of `EncoderSpec`.

    Returns:
        A scalar pandas UDF from strings to array<float> (or the struct). It carries no
        provenance: see `stamp_provenance`.

    Raises:
        SpecError: If the model or an option cannot work.
        TypeError: If an option is unknown or has another name here.
    """
    return _pandas_udf("text", model, failures, deterministic, spec_options)


def image_udf(
    *,
    model: str | EncoderSpec = DEFAULT_MODEL,
    failures: FailuresOption = "null",
    deterministic: bool = False,
    **spec_options: Any,
) -> Any:
    """Return a pandas UDF that embeds images: `df.select(image_udf(model=…)("photo"))`.

    As `text_udf`, for what `embed_image` takes.
    """
    return _pandas_udf("image", model, failures, deterministic, spec_options)


def audio_udf(
    *,
    model: str | EncoderSpec = "AudioCLIP",
    failures: FailuresOption = "null",
    deterministic: bool = False,
    **spec_options: Any,
) -> Any:
    """Return a pandas UDF that embeds audio: `df.select(audio_udf(model=…)("sound"))`.

    As `text_udf`, for what `embed_audio` takes.
    """
    return _pandas_udf("audio", model, failures, deterministic, spec_options)


def _pandas_udf(
    modality: Modality, model: str | EncoderSpec, failures: str, deterministic: bool, spec_options: dict[str, Any]
) -> Any:
    import pandas as pd  # takes as long to import as Spark, and only these functions need it

    check_failures_option(failures)
    spec = spec_of(model, spec_options, text_udf, modality)  # all three have the same keywords
    warn_without_worker_reuse(SparkSession.getActiveSession(), depth=2)
    check_flags(deterministic=deterministic)
    meter = meter_of(SparkSession.getActiveSession())

    def embed(values: pd.Series) -> pd.Series | pd.DataFrame:
        return embed_series(values, spec, modality, failures, meter)

    embed.__name__ = f"{modality}_udf"
    # Spark infers the kind of UDF from these objects and cannot resolve their names.
    embed.__annotations__ = {"values": pd.Series, "return": pd.DataFrame if failures == "struct" else pd.Series}
    result = VECTOR_OR_FAILURE if failures == "struct" else VECTOR
    udf: Any = F.pandas_udf(embed, result)  # type: ignore[attr-defined]
    return udf if deterministic else udf.asNondeterministic()


def embed_series(
    values: pd.Series | pd.DataFrame,
    spec: EncoderSpec,
    modality: Modality,
    failures: str,
    meter: PartitionMeter = NO_DRIVER,
) -> pd.Series | pd.DataFrame:
    """Embed one column of a batch, as Spark passes it to a pandas UDF: (dim,) float32 arrays or Nones, in order.

    A struct comes as a DataFrame with a column for each field. With `failures="struct"` the result has the columns
    `embedding` and `failure`. A column of arrays raises `SpecError`.
    """
    import pandas as pd

    with meter.counting() as stats:
        outcomes = encoder_of_task(spec).embed(modality, _plain_values(values, modality), stats)
    if failures == "raise":
        raise_failures(outcomes)
    vectors = pd.Series([o.values if isinstance(o, Vector) else None for o in outcomes], dtype=object)
    if failures != "struct":
        return vectors
    reasons = [failure_struct(o) if isinstance(o, Failure) else None for o in outcomes]
    return pd.DataFrame({"embedding": vectors, "failure": pd.Series(reasons, dtype=object)})


def _plain_values(values: pd.Series | pd.DataFrame, modality: Modality) -> list[Any]:
    """Return values with None for pandas' missing values; a struct is null if all of its fields are."""
    if hasattr(values, "columns"):
        missing = values.isna().all(axis=1)
        # A null among integers is a NaN here, and no value of a struct's own fields is one on purpose.
        fields = values.astype(object).where(values.notna(), None)
        plain: list[Any] = fields.to_dict("records")
    else:
        missing = values.isna()
        plain = list(values)
    if any(isinstance(value, np.ndarray | list) for value in plain):
        raise SpecError(f"{modality}_udf takes a column of single values, not of arrays; use embed_columns")
    return [None if is_missing else value for value, is_missing in zip(plain, missing, strict=True)]
