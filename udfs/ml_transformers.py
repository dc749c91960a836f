"""`ClipEmbedder`, `ClipRanker` and `ClipClassifier`: `embed_columns`, `rank` and `classify` in Spark ML pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pyspark.ml.param import Param, Params
from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame
from pyspark.sql import types as T

from ..encoders.plans.classify_plan import SUFFIX
from ..encoders.plans.embed_plan import FAILURES_COLUMN, Column, ColumnPlan
from ..encoders.plans.kinds import Kind, check_kind, check_names
from ..encoders.plans.labels import LabelSet
from ..encoders.plans.rank_plan import RANKED
from ..encoders.plans.scores import SCALE, Scale, Score
from ..models.spec import EncoderSpec, Modality, explains_slips, reject_unknown_options
from .classification import Labels, classify
from .driver import FailuresOption, check_failures_option, output_name
from .frames import check_columns, embed_columns
from .kind_types import check_array, check_shape, shape_of_spark
from .ml_params import ClipTransformer, plain
from .rankings import rank, rank_plan
from .schema import LABELS, LABELS_OR_FAILURE, check_free, column_at, find_column, with_candidates


def _param(name: str, text: str) -> Param[Any]:
    return Param(Params._dummy(), name, text, plain)


class ClipEmbedder(ClipTransformer):
    """Embeds columns of texts, images and audio in a Spark ML pipeline, as `embed_columns` does.

    >>> from pyspark.ml import PipelineModel
    >>> from clipmill.udfs import ClipEmbedder
    >>> df = spark.createDataFrame([("a", "a red circle")], ["id", "caption"])
    >>> pipeline = PipelineModel([ClipEmbedder("demo", columns={"caption": "text"})])
    >>> pipeline.transform(df).columns
    ['id', 'caption', 'caption_embedding', 'embedding_failures']

    Each option is a Param, and `save` stores them all and no weights: a loaded stage embeds with the same model. Of two
    embedders in a pipeline, the first needs another `failures_column`. It has no `fuse`, `keep_parts`, `heads` and
    `observation`, which `embed_columns` has.
    """

    __module__ = "clipmill.udfs"  # the name that is saved
    columns = _param("columns", "Kind (text, image, audio), or the fields of a Column, by column or path.")
    failures_column = _param("failures_column", "Name of the column of reasons.")
    _own: ClassVar[Mapping[str, Any]] = {"failures_column": FAILURES_COLUMN}

    @explains_slips
    def __init__(
        self,
        model: str | EncoderSpec | None = None,
        *,
        columns: Mapping[str, Modality | Column] | None = None,
        failures_column: str = FAILURES_COLUMN,
        **spec_options: Any,
    ) -> None:
        """Check the model, its options and what the columns hold.

        Args:
            model: A name or a spec; `ViT-B-32::openai` without one.
            columns: As in `embed_columns`. May be set later.
            failures_column: Name of the column of reasons, as `embed_columns` describes it.
            **spec_options: Fields of `EncoderSpec`.

        Raises:
            SpecError: If the model or an option cannot work.
            TypeError: If an option is unknown or has another name here.
        """
        super().__init__()
        own = {} if columns is None else {"columns": columns}
        self.setParams(model=model, failures_column=failures_column, **own, **spec_options)

    def transformSchema(self, schema: T.StructType) -> T.StructType:
        """See `ClipTransformer`."""
        spec = self.spec()
        made = check_columns(schema, ColumnPlan.of(self._columns(), spec=spec), spec)[1]
        *others, failures = made.fields
        name = self.getOrDefault(self.failures_column)
        if name != failures.name:
            check_free(T.StructType(others), [name])
        return T.StructType([*others, T.StructField(name, failures.dataType, failures.nullable, failures.metadata)])

    def _columns(self) -> dict[str, Modality | Column]:
        columns = self._required("columns")
        if not isinstance(columns, dict):
            return columns  # type: ignore[no-any-return]  # `ColumnPlan.of` refuses it by name
        return {path: _column(one) if isinstance(one, dict) else one for path, one in columns.items()}

    def _checked(self, spec: EncoderSpec) -> dict[str, Any]:
        check_names(self._values("failures_column"))
        if self.isSet(self.columns):
            ColumnPlan.of(self._columns(), spec=spec)
        return {}

    def _transform(self, dataset: DataFrame) -> DataFrame:
        self.transformSchema(dataset.schema)
        embedded = embed_columns(dataset, self._columns(), model=self.spec())
        return embedded.withColumnRenamed(FAILURES_COLUMN, self.getOrDefault(self.failures_column))


def _column(fields: dict[str, Any]) -> Column:
    reject_unknown_options(fields, Column.__dataclass_fields__)
    return Column(**fields)


class ClipRanker(ClipTransformer):
    """Ranks the candidates of each row by how well they fit its query in a Spark ML pipeline, as `rank` does.

    >>> from clipmill.udfs import ClipRanker
    >>> df = spark.createDataFrame([("red circle", ["blue square", "red circle"])], ["q", "c"])
    >>> ranked = ClipRanker("demo", query="q", candidates="c", top_k=1).transform(df)
    >>> [one.candidate for one in ranked.first().ranked]
    ['red circle']

    Unlike `rank`, it checks the types of both columns before the job.
    """

    __module__ = "clipmill.udfs"
    query = _param("query", "Column of the query, or path into a struct.")
    candidates = _param("candidates", "Column of arrays of candidates, or path into a struct.")
    query_kind = _param("query_kind", "What the query is: auto, text, image, audio, vector.")
    candidate_kind = _param("candidate_kind", "What each candidate is: auto, text, image, audio, vector.")
    top_k = _param("top_k", "How many of the best are kept; all if None.")
    scale = _param("scale", "What cosines are multiplied by before the softmax; 'model' for what the model learnt.")
    score = _param("score", "What clip_scores are: softmax; or sigmoid, by the model's own scale and bias.")
    output = _param("output", "Name of the new column.")
    _own: ClassVar[Mapping[str, Any]] = {
        "query": "query",
        "candidates": "candidates",
        "query_kind": "auto",
        "candidate_kind": "auto",
        "top_k": None,
        "scale": SCALE,
        "score": "softmax",
        "output": RANKED,
    }

    @explains_slips
    def __init__(
        self,
        model: str | EncoderSpec | None = None,
        *,
        query: str = "query",
        candidates: str = "candidates",
        query_kind: Kind = "auto",
        candidate_kind: Kind = "auto",
        top_k: int | None = None,
        scale: Scale = SCALE,
        score: Score = "softmax",
        output: str = RANKED,
        **spec_options: Any,
    ) -> None:
        """Check everything that needs no columns; the arguments are those of `rank`, with columns by name.

        Raises:
            SpecError: If the model or an option cannot work.
            TypeError: If an option is unknown or has another name here.
        """
        super().__init__()
        own: dict[str, Any] = {"query": query, "candidates": candidates}
        own |= {"query_kind": query_kind, "candidate_kind": candidate_kind}
        own |= {"top_k": top_k, "scale": scale, "score": score, "output": output}
        self.setParams(model=model, **own, **spec_options)

    def transformSchema(self, schema: T.StructType) -> T.StructType:
        """See `ClipTransformer`."""
        query, candidates = self.getOrDefault(self.query), self.getOrDefault(self.candidates)
        found = find_column(schema, query)[1]
        check_shape(f"column {query!r}", "query_kind", self.getOrDefault(self.query_kind), shape_of_spark(found))
        element = check_array(candidates, find_column(schema, candidates)[1])
        kind = self.getOrDefault(self.candidate_kind)
        check_shape(f"a candidate in {candidates!r}", "candidate_kind", kind, shape_of_spark(element))
        return _with_column(schema, self.getOrDefault(self.output), with_candidates(element))

    def _checked(self, spec: EncoderSpec) -> dict[str, Any]:
        check_names(self._values("query", "candidates", "output"))
        rank_plan(spec, **self._values("query_kind", "candidate_kind", "top_k", "scale", "score"))
        return {}

    def _transform(self, dataset: DataFrame) -> DataFrame:
        schema = dataset.schema
        self.transformSchema(schema)
        columns = (column_at(schema, self.getOrDefault(name)) for name in ("query", "candidates"))
        options = self._values("query_kind", "candidate_kind", "top_k", "scale", "score")
        return _selected(dataset, rank(*columns, model=self.spec(), **options), self.getOrDefault(self.output))


class ClipClassifier(ClipTransformer):
    """Classifies a column by the labels that fit it best in a Spark ML pipeline, as `classify` does.

    >>> from clipmill.udfs import ClipClassifier
    >>> df = spark.createDataFrame([("a red circle",)], ["caption"])
    >>> stage = ClipClassifier("demo", column="caption", labels=["red circle", "blue square"])
    >>> stage.transform(df).first().caption_labels[0].label
    'red circle'

    It is trained on nothing, so it is a Transformer and no Estimator. Files of labels and templates are read when they
    are set, and their lines are saved.
    """

    __module__ = "clipmill.udfs"
    column = _param("column", "Column, or path into a struct.")
    labels = _param("labels", "The labels.")
    templates = _param("templates", "Texts with a {}, where the label goes; a short set of our own if None.")
    kind = _param("kind", "What the column holds: auto, text, image, audio, vector.")
    top_k = _param("top_k", "Number of best labels returned; all of them if there are fewer.")
    scale = _param("scale", "What cosines are multiplied by before the softmax; 'model' for what the model learnt.")
    score = _param("score", "What clip_scores are: softmax; or sigmoid, by the model's own scale and bias.")
    min_score = _param("min_score", "The least clip_score of a label that is returned; None for no such limit.")
    failures = _param("failures", "What a bad row gives: null, struct or raise.")
    output = _param("output", "Name of the new column; <column>_labels if None.")
    _own: ClassVar[Mapping[str, Any]] = {
        "templates": None,
        "kind": "auto",
        "top_k": 5,
        "scale": SCALE,
        "score": "softmax",
        "min_score": None,
        "failures": "null",
        "output": None,
    }

    @explains_slips
    def __init__(
        self,
        model: str | EncoderSpec | None = None,
        *,
        column: str | None = None,
        labels: Labels | None = None,
        templates: Labels | None = None,
        kind: Kind = "auto",
        top_k: int = 5,
        scale: Scale = SCALE,
        score: Score = "softmax",
        min_score: float | None = None,
        failures: FailuresOption = "null",
        output: str | None = None,
        **spec_options: Any,
    ) -> None:
        """Check everything that needs no columns; the arguments are those of `classify`, with the column by name.

        Raises:
            SpecError: If the model or an option cannot work, or a file cannot be read.
            TypeError: If an option is unknown or has another name here.
        """
        super().__init__()
        own: dict[str, Any] = {
            name: value for name, value in {"column": column, "labels": labels}.items() if value is not None
        }
        own |= {"templates": templates, "kind": kind, "top_k": top_k, "scale": scale, "failures": failures}
        own |= {"score": score, "min_score": min_score}
        self.setParams(model=model, **own, output=output, **spec_options)

    def transformSchema(self, schema: T.StructType) -> T.StructType:
        """See `ClipTransformer`."""
        column, kind = self._required("column"), self.getOrDefault(self.kind)
        check_shape(f"column {column!r}", "kind", kind, shape_of_spark(find_column(schema, column)[1]))
        result = LABELS_OR_FAILURE if self.getOrDefault(self.failures) == "struct" else LABELS
        return _with_column(schema, self._output(), result)

    def _output(self) -> str:
        return self.getOrDefault(self.output) or output_name(self._required("column"), SUFFIX)

    def _checked(self, spec: EncoderSpec) -> dict[str, Any]:
        check_names(self._values(*filter(self._is_given, ("column", "output"))))
        check_kind("kind", self.getOrDefault(self.kind), spec)
        check_failures_option(self.getOrDefault(self.failures))
        if not self._is_given("labels"):
            return {}
        labels = self._label_set(spec)
        read = {"labels": labels.labels}
        return read | {"templates": labels.templates} if self._is_given("templates") else read

    def _is_given(self, name: str) -> bool:
        return self.isDefined(name) and self.getOrDefault(name) is not None

    def _label_set(self, spec: EncoderSpec) -> LabelSet:
        options = self._values("templates", "top_k", "scale", "score", "min_score")
        return LabelSet.of(self._required("labels"), spec=spec, **options)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        schema = dataset.schema
        self.transformSchema(schema)
        options = self._values("templates", "kind", "top_k", "scale", "score", "min_score", "failures")
        column = column_at(schema, self._required("column"))
        classified = classify(column, labels=self._required("labels"), model=self.spec(), **options)
        return _selected(dataset, classified, self._output())


def _with_column(schema: T.StructType, name: str, kind: T.DataType) -> T.StructType:
    check_free(schema, [name])
    return T.StructType([*schema.fields, T.StructField(name, kind)])


def _selected(dataset: DataFrame, column: SparkColumn, name: str) -> DataFrame:
    """Add a column. On Spark Connect, `withColumn` would lose the provenance of the others."""
    return dataset.select("*", column.alias(name))
