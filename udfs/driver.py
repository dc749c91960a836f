"""Work on the driver: checks of the spec and of Spark's settings, and column expressions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, get_args

from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from ..encoders import EncoderSpec
from ..errors import SpecError, check_choice
from ..messages import setting
from ..models.spec import reject_unknown_keywords

FailuresOption = Literal["null", "struct", "raise"]
"""Result of a bad row in an expression."""

_HALVES = ("float16", "fp16", "half")


def spec_of(
    model: str | EncoderSpec, options: dict[str, Any], called: Callable[..., Any], modality: str | None = None
) -> EncoderSpec:
    """Return the spec of a call, whose options win over the fields of a given spec.

    A slip in an option may be meant for one of the keywords of `called`; `modality` is what the model has to embed.

    Raises:
        SpecError: If the model is unknown, a value cannot work, the model lacks the tower, or half floats are wanted.
        TypeError: If an option is unknown or has another name here.
    """
    if any(half in str(options.get("dtype", "")) for half in _HALVES):
        raise SpecError(
            setting("dtype", "float16")
            + " is not to be had on Spark: it has no half type and can't read Parquet files with one;"
            " columns of vectors are array<float> (files of half floats: clipmill.transforms.WriteEmbeddings)"
        )
    reject_unknown_keywords(options, called)
    spec = EncoderSpec.of(model, **options)
    if modality is not None and modality not in spec.modalities:
        raise SpecError(f"{spec.model} embeds {' and '.join(sorted(spec.modalities))}, not {modality}")
    return spec


def check_failures_option(failures: str) -> None:
    """Raise `SpecError` for an unknown `failures` option, naming those that exist."""
    check_choice("failures", failures, get_args(FailuresOption))


def warn_without_worker_reuse(spark: SparkSession | None, *, depth: int = 1) -> None:
    """Warn when every task starts a Python worker of its own, which then loads the model for that task alone.

    Args:
        spark: The session; None warns of nothing.
        depth: Calls between the caller's line, which is the one to blame, and this function.
    """
    if spark is None or str(spark.conf.get("spark.python.worker.reuse", "true")).lower() != "false":
        return
    warnings.warn(
        "spark.python.worker.reuse is false: every task will load the model again; start Spark with it set to true",
        RuntimeWarning,
        stacklevel=depth + 2,
    )


def as_column(column: str | Column) -> Column:
    """Return the column of a name, of a path into a struct, or of an expression."""
    return F.col(column) if isinstance(column, str) else column


def output_name(column: str | Column, suffix: str) -> str:
    """Name a result as functions of whole DataFrames do; of an expression Spark's own words for it are taken."""
    name = column if isinstance(column, str) else str(column).removeprefix("Column<'").removesuffix("'>")
    name = name.rpartition(" AS ")[2]
    return name.replace("`", "").replace(".", "_") + suffix
