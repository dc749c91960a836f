"""What is checked where a job is planned: the spec, and settings of Spark that would make it slow."""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

from pyspark.sql import SparkSession

from ..encoders import EncoderSpec
from ..encoders.errors import SpecError

FailuresOption = Literal["null", "struct", "raise"]
"""What becomes of a bad row in an expression."""

_HALVES = ("float16", "fp16", "half")


def spec_of(model: str | EncoderSpec, options: dict[str, Any], modality: str | None = None) -> EncoderSpec:
    """Return the spec of a call.

    Args:
        model: A name or a spec.
        options: Fields of the spec, which win over the spec's own.
        modality: What its model has to embed.

    Raises:
        SpecError: If the model is unknown, a value cannot work, the model lacks the tower, or half floats are wanted.
        TypeError: If an option is unknown or has another name here.
    """
    if any(half in str(options.get("dtype", "")) for half in _HALVES):
        raise SpecError(
            "dtype='float16' is not to be had on Spark: it has no half type and can't read Parquet files with one;"
            " columns of vectors are array<float> (files of half floats: clipmill.transforms.WriteEmbeddings)"
        )
    spec = EncoderSpec.of(model, **options)
    if modality is not None and modality not in spec.modalities:
        raise SpecError(f"{spec.model} embeds {' and '.join(sorted(spec.modalities))}, not {modality}")
    return spec


def check_failures_option(failures: str) -> None:
    """Refuse what is none of the things that can be done with a bad row.

    Raises:
        SpecError: Naming them.
    """
    allowed = get_args(FailuresOption)
    if failures not in allowed:
        raise SpecError(f"failures={failures!r} is none of {', '.join(map(repr, allowed))}")


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
