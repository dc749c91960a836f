"""`classify` as a column expression."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from pyspark.sql import Column, SparkSession

from ..encoders.plans.classify_plan import SUFFIX
from ..encoders.plans.kinds import Kind, check_kind
from ..encoders.plans.labels import LabelSet
from ..encoders.plans.scores import SCALE, Scale, Score
from ..models.spec import DEFAULT_MODEL, EncoderSpec, explains_slips
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
from .schema import LABELS, LABELS_OR_FAILURE
from .score_batches import classify_array

Labels = Sequence[str] | str | os.PathLike[str]
"""Texts, or the path or URL of a file of them, which the driver reads."""


@explains_slips
def classify(
    column: str | Column,
    *,
    labels: Labels,
    templates: Labels | None = None,
    kind: Kind = "auto",
    top_k: int = 5,
    scale: Scale = SCALE,
    score: Score = "softmax",
    min_score: float | None = None,
    model: str | EncoderSpec = DEFAULT_MODEL,
    failures: FailuresOption = "null",
    deterministic: bool = False,
    **spec_options: Any,
) -> Column:
    """Classify a column by the labels that fit it best, without training (zero-shot).

    >>> from clipmill.udfs import classify
    >>> df = spark.createDataFrame([("a red circle",)], ["caption"])
    >>> best = classify("caption", labels=["red circle", "blue square"], model="demo")
    >>> df.select(best).first().caption_labels[0].label
    'red circle'

    Args:
        column: A name, a path into a struct (`page.photo`) or an expression.
        labels: Texts, or a file of them, which is read on the driver and not on the workers: a JSON array
            of strings if it ends in `.json`, else one a line.
        templates: Texts with a `{}`, where the label goes, or such a file; a short set of our own if None.
        kind: What the column holds; see `rank`.
        top_k: Number of best labels returned; all of them if there are fewer.
        scale: What cosines are multiplied by before the softmax over all labels; `model` for what the model learnt.
        score: What `clip_score` is: `softmax` over all labels; or `sigmoid`, that of scale · cosine + bias of each
            label alone, with the scale and the bias that the model learnt, as SigLIP's have them.
        min_score: The least `clip_score` of a label that is returned; None returns the `top_k` best in any case.
        model: A name or a spec.
        failures: What a bad row gives: `null`; `struct`, which makes the result
            struct<labels, failure: struct<stage, code, message>>; or `raise`, which fails the job.
        deterministic: As in `embed_text`.
        **spec_options: Fields of `EncoderSpec`.

    Returns:
        array<struct<label: string, clip_score: double, cosine: double>>, best first, named `<column>_labels`; null
        where the value is null.

    Raises:
        SpecError: If the model or an option cannot work, there are no labels, one is blank or there twice, a template
            has no `{}`, or a file cannot be read.
        TypeError: If an option is unknown or has another name here.
    """
    check_failures_option(failures)
    spec = spec_of(model, spec_options, classify)
    label_set = LabelSet.of(
        labels, templates=templates, top_k=top_k, scale=scale, score=score, min_score=min_score, spec=spec
    )
    warn_without_worker_reuse(SparkSession.getActiveSession(), depth=2)
    classified = applied(classification_udf(spec, kind, label_set, failures, deterministic), as_column(column))
    return classified.alias(output_name(column, SUFFIX))


def classification_udf(spec: EncoderSpec, kind: Kind, labels: LabelSet, failures: str, deterministic: bool) -> Any:
    """Return the UDF behind `classify`, which `register` makes available to SQL."""
    check_kind("kind", kind, spec)
    meter = meter_of(SparkSession.getActiveSession())

    def classify_(column: pa.Array) -> pa.Array:
        return classify_array(column, spec, kind, labels, failures, meter)

    result = LABELS_OR_FAILURE if failures == "struct" else LABELS
    return arrow_udf(classify_, "classify", result, deterministic=deterministic)
