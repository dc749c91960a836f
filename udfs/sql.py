"""`register`: everything that is an expression, for SQL."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Sequence
from typing import Any, get_args

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql import types as T

from ..encoders.plans.kinds import Kind
from ..encoders.plans.labels import LabelSet
from ..encoders.plans.scores import SCALE, PairScore, Scale, Score
from ..errors import SpecError, check_choice
from ..indexes.search_plan import HITS, TOP_K, SearchPlan, spec_of_search
from ..indexes.targets import find_target
from ..messages import setting
from ..models.spec import DEFAULT_MODEL, EncoderSpec, Modality
from .classification import Labels, classification_udf
from .driver import FailuresOption, check_failures_option, spec_of, warn_without_worker_reuse
from .expressions import embedding_udf
from .rankings import rank_plan, rank_udf_with_candidates, similarity_udf
from .scalar_udf import arrow_udf, function_of
from .search import search_udf

_CANDIDATE_TYPES: dict[Kind, T.DataType] = {
    "auto": T.StringType(),
    "text": T.StringType(),
    "image": T.BinaryType(),
    "audio": T.BinaryType(),
    "vector": T.ArrayType(T.FloatType()),
}
_PREFIXES_OF_SPARK = ("dense_", "percent_")
"""With these, `rank` is a window function, which takes precedence over a registered one."""


def register(
    spark: SparkSession,
    *,
    model: str | EncoderSpec = DEFAULT_MODEL,
    prefix: str = "",
    failures: FailuresOption = "null",
    deterministic: bool = False,
    query_kind: Kind = "auto",
    candidate_kind: Kind = "auto",
    candidate_type: str | T.DataType | None = None,
    labels: Labels | None = None,
    templates: Labels | None = None,
    index: str | None = None,
    columns: Sequence[str] = (),
    top_k: int | None = None,
    scale: Scale = SCALE,
    score: Score = "softmax",
    min_score: float | None = None,
    pair_score: PairScore = "cosine",
    **spec_options: Any,
) -> list[str]:
    """Make functions of SQL, bound to one model.

    - `embed_text(column)`, `embed_image(column)`, `embed_audio(column)`: those that the model embeds
    - `clip_rank(query, candidates)`, as `rank`. SQL keeps the name `rank` for its window function.
    - `clip_similarity(a, b)`
    - `clip_classify(column)`, if there are `labels`
    - `clip_search(query)`, as `search`, if there is an `index`

    `rank_groups` has no function: `clip_similarity` and window functions do in SQL what it does; the documentation of
    clipmill on Spark shows how.

    >>> from clipmill.udfs import register
    >>> _ = register(spark, model="demo", prefix="demo_")
    >>> spark.sql("SELECT size(demo_embed_text('a red circle')) AS dim").first().dim
    96

    Args:
        spark: The session that will know them.
        model: A name or a spec.
        prefix: Stands before the functions' names, so that several models can be registered, and for the `clip_` of the
            last four: `prefix="demo_"` gives `demo_embed_text` and `demo_rank`. Letters from a to z, digits and `_`.
        failures: As in `embed_text`; of `clip_similarity` and `clip_classify` too.
        deterministic: As in `embed_text`.
        query_kind: What the query of `clip_rank` is, the first value of `clip_similarity`, and what `clip_classify`
            classifies and `clip_search` searches for; see `rank`.
        candidate_kind: What a candidate of `clip_rank` and the second value of `clip_similarity` is.
        candidate_type: Type of a candidate of `clip_rank`, as SQL writes it (`struct<text: string, uri: string>`): a
            function of SQL has one type of result. `string` if None; by `candidate_kind` it is `binary` for `image` and
            `audio`, and `array<float>` for `vector`.
        labels: As in `classify`.
        templates: As in `classify`.
        index: As in `search`; its model is the `model` that is registered.
        columns: As in `search`.
        top_k: As in `rank`, `classify` and `search`. If None: of `clip_rank` all, of `clip_classify` 5, of
            `clip_search` 10.
        scale: As in `rank` and `classify`.
        score: As in `rank` and `classify`.
        min_score: As in `classify`.
        pair_score: The `score` of `clip_similarity`.
        **spec_options: Fields of `EncoderSpec`.

    Returns:
        The names.

    Raises:
        SpecError: If the model or an option cannot work.
        TypeError: If an option is unknown or has another name here.
    """
    check_failures_option(failures)
    check_choice("pair_score", pair_score, get_args(PairScore))
    _check_prefix(prefix)
    spec = spec_of(model, spec_options, register)
    if labels is None and templates is not None:
        raise SpecError("templates without labels: give labels=… as well, which are what is told apart")
    plan = rank_plan(spec, query_kind, candidate_kind, top_k, scale, score)
    if labels is None and min_score is not None:
        raise SpecError("min_score without labels: it selects labels; give labels=… as well")
    candidate = _type_of(spark, _CANDIDATE_TYPES[candidate_kind] if candidate_type is None else candidate_type)
    warn_without_worker_reuse(spark)
    kinds: tuple[Modality, ...] = ("text", "image", "audio")
    functions = {
        f"{prefix}embed_{kind}": embedding_udf(spec, kind, failures, deterministic)
        for kind in kinds
        if kind in spec.modalities
    }
    own = prefix or "clip_"
    functions[f"{own}rank"] = rank_udf_with_candidates(spec, plan, candidate, deterministic)
    functions[f"{own}similarity"] = similarity_udf(
        spec, query_kind, candidate_kind, pair_score, failures, deterministic
    )
    if labels is not None:
        selected: Any = {"templates": templates, "top_k": top_k or 5, "score": score, "min_score": min_score}
        label_set = LabelSet.of(labels, scale=scale, spec=spec, **selected)
        functions[f"{own}classify"] = classification_udf(spec, query_kind, label_set, failures, deterministic)
    if index is not None:
        functions[f"{own}search"] = _search_udf(index, columns, query_kind, spec, top_k, failures, deterministic)
    elif columns:
        raise SpecError("columns without index: they are columns of what is searched; give index=… as well")
    for name, function in functions.items():
        spark.udf.register(name, _with_counted_arguments(name, function))
    return list(functions)


def _search_udf(
    index: str,
    columns: Sequence[str],
    query_kind: Kind,
    spec: EncoderSpec,
    top_k: int | None,
    failures: FailuresOption,
    deterministic: bool,
) -> Any:
    target = find_target(index)
    of_queries = spec_of_search(target, query_kind, None if query_kind == "vector" else spec)
    plan = SearchPlan(target, HITS, query_kind, top_k or TOP_K, tuple(columns)).checked(of_queries)
    return search_udf(of_queries, plan, failures, deterministic)


def _check_prefix(prefix: str) -> None:
    """Refuse a prefix whose functions SQL could not call."""
    if not isinstance(prefix, str) or not re.fullmatch(r"[A-Za-z0-9_]*", prefix):
        raise SpecError(
            setting("prefix", prefix)
            + " makes names that SQL cannot call: letters from a to z, digits and _ are allowed,"
            " such as prefix='demo_'"
        )
    if prefix.lower() in _PREFIXES_OF_SPARK:
        raise SpecError(
            setting("prefix", prefix) + f" makes {prefix}rank, which is a window function of SQL: choose another"
        )


def _with_counted_arguments(name: str, udf: Any) -> Any:
    """Return a UDF that reports a wrong number of arguments, which Spark does not check."""
    function = function_of(udf)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: pa.Array, **named: pa.Array) -> pa.Array:
        try:
            signature.bind(*args, **named)
        except TypeError:
            given = ", ".join(
                [*(str(column.type) for column in args), *(f"{key} => {named[key].type}" for key in named)]
            )
            raise TypeError(
                f"{name} takes ({', '.join(signature.parameters)}), and was called with ({given}):"
                " options such as model, failures and top_k are given at register(spark, …)"
            ) from None
        return function(*args, **named)

    return arrow_udf(call, name, udf.returnType, deterministic=udf.deterministic)


def _type_of(spark: SparkSession, given: str | T.DataType) -> T.DataType:
    """Return the type that a text of SQL names; Spark itself reads it, which a Connect session can ask as well."""
    if isinstance(given, T.DataType):
        return given
    try:
        (field,) = spark.sql(f"select cast(null as {given})").schema.fields
    except Exception as err:
        said = str(err).strip() or type(err).__name__  # a ParseException begins with an empty line
        raise SpecError(
            setting("candidate_type", given) + f" is no type of Spark's SQL: {said.splitlines()[0]}"
        ) from err
    return field.dataType
