"""The columns that go in, found and checked in a DataFrame's schema, and the types of those that are added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F
from pyspark.sql import types as T

from ..datasets.tables.new_columns import row_provenances
from ..datasets.tables.provenance import spark_metadata
from ..encoders.item import AUDIO_FIELDS, AUDIO_RATES, AUDIO_SAMPLES, FILE_FIELDS, SPARK_IMAGE_FIELDS
from ..encoders.plans.embed_plan import FAILURES_COLUMN, ColumnPlan
from ..errors import SpecError
from ..models.spec import EncoderSpec

VECTOR = T.ArrayType(T.FloatType(), containsNull=False)
ARROW_VECTOR = pa.list_(pa.float32())

_FAILURE_FIELDS = ("stage", "code", "message")
FAILURE = T.StructType([T.StructField(name, T.StringType()) for name in _FAILURE_FIELDS])
ARROW_FAILURE = pa.struct([(name, pa.string()) for name in _FAILURE_FIELDS])
VECTOR_OR_FAILURE = T.StructType([T.StructField("embedding", VECTOR), T.StructField("failure", FAILURE)])

FAILURES = T.ArrayType(T.StructType([T.StructField("column", T.StringType()), *FAILURE.fields]), containsNull=False)
ARROW_FAILURES = pa.list_(pa.struct([(name, pa.string()) for name in ("column", *_FAILURE_FIELDS)]))

_SCORES = [T.StructField("clip_score", T.DoubleType()), T.StructField("cosine", T.DoubleType())]
_ARROW_SCORES = [("clip_score", pa.float64()), ("cosine", pa.float64())]
_PLACE = [T.StructField("position", T.IntegerType()), *_SCORES, T.StructField("failure", FAILURE)]
RANKED = T.ArrayType(T.StructType(_PLACE), containsNull=False)
ARROW_RANKED = pa.list_(pa.struct([("position", pa.int32()), *_ARROW_SCORES, ("failure", ARROW_FAILURE)]))
SIMILARITY_OR_FAILURE = T.StructType([T.StructField("similarity", T.DoubleType()), T.StructField("failure", FAILURE)])
LABELS = T.ArrayType(T.StructType([T.StructField("label", T.StringType()), *_SCORES]), containsNull=False)
ARROW_LABELS = pa.list_(pa.struct([("label", pa.string()), *_ARROW_SCORES]))
LABELS_OR_FAILURE = T.StructType([T.StructField("labels", LABELS), T.StructField("failure", FAILURE)])

_SAMPLES, _RATES = set(AUDIO_SAMPLES), set(AUDIO_RATES)
_NUMBERS = (T.FloatType, T.DoubleType, T.ShortType)
_WITHOUT_ARROW = tuple(
    getattr(T, name)
    for name in ("YearMonthIntervalType", "CalendarIntervalType", "CharType", "VarcharType")
    if hasattr(T, name)  # older versions of Spark lack some
)
"""Types that Spark cannot convert to Arrow. It declares char and varchar as strings, unless it is set to keep them."""


class InputColumn(NamedTuple):
    """The position of a column's values.

    Attributes:
        steps: Index of the column in the DataFrame, then of the field in each struct on the way.
        is_array: Whether each row holds an array of values.
    """

    path: str
    steps: tuple[int, ...]
    is_array: bool


def find_sources(schema: T.StructType, plan: ColumnPlan) -> list[InputColumn]:
    """Find the columns of a plan; raise `SpecError` if one is missing, ambiguous or not of its kind."""
    sources = []
    for path, column in plan.columns.items():
        steps, found = find_column(schema, path)
        is_array = isinstance(found, T.ArrayType)
        _check_type(path, column.modality, found.elementType if isinstance(found, T.ArrayType) else found, found)
        sources.append(InputColumn(path, steps, is_array))
    return sources


def check_carried(schema: T.StructType) -> None:
    """Raise `SpecError` for the first column, read or not, that Spark cannot hand to Python workers and take back."""
    for field in schema.fields:
        if (problem := _arrow_problem(field.dataType)) is None:
            continue
        drop = f"df.drop({field.name!r})"
        if isinstance(field.dataType, _WITHOUT_ARROW):
            drop = f"cast it to string, or leave it out: {drop}"
        raise SpecError(
            f"column {field.name!r} is {field.dataType.simpleString()}, and Spark cannot convert {problem} to Arrow,"
            " as its Python workers need it",
            hint=drop,
        )


def _arrow_problem(kind: T.DataType) -> str | None:
    """Return what in a type Spark cannot convert to Arrow, None if nothing."""
    if isinstance(kind, T.UserDefinedType):
        return _arrow_problem(kind.sqlType())
    if isinstance(kind, _WITHOUT_ARROW):
        return kind.simpleString()
    if isinstance(kind, T.StructType):
        if twice := [name for name in kind.names if kind.names.count(name) > 1]:
            return f"a struct with {kind.names.count(twice[0])} fields named {twice[0]!r}"
        return next(filter(None, map(_arrow_problem, (field.dataType for field in kind.fields))), None)
    if isinstance(kind, T.MapType):
        if isinstance(kind.keyType, T.NullType):
            return "a map without a type of keys"
        return _arrow_problem(kind.keyType) or _arrow_problem(kind.valueType)
    return _arrow_problem(kind.elementType) if isinstance(kind, T.ArrayType) else None


def find_column(schema: T.StructType, path: str, whole: str | None = None) -> tuple[tuple[int, ...], T.DataType]:
    """Find a column: the steps to it, as in `InputColumn`, and its type; `SpecError` if it is missing or ambiguous.

    A name that contains the dots itself wins over a struct's field. `whole` is the path for messages.
    """
    whole = whole or path
    if schema.names.count(path) > 1:
        raise SpecError(f"there are {schema.names.count(path)} columns named {path!r}: rename one")
    if path in schema.names:
        place = schema.names.index(path)
        return (place,), schema.fields[place].dataType
    head, dot, rest = path.partition(".")
    if not dot or head not in schema.names:
        raise SpecError(f"no column {whole!r}; there are {', '.join(map(repr, schema.names)) or 'none'}")
    steps, inner = find_column(schema, head, whole)
    if not isinstance(inner, T.StructType):
        raise SpecError(f"no column {whole!r}: {head!r} is {inner.simpleString()}, not a struct")
    further, found = find_column(inner, rest, whole)
    return (*steps, *further), found


def column_at(schema: T.StructType, path: str, top: str | None = None) -> Column:
    """Return the column of a path that `find_column` knows; `top` is another name of the column that it begins with."""
    (first, *rest), _ = find_column(schema, path)
    name = (top or schema.names[first]).replace("`", "``")
    column, struct = F.col(f"`{name}`"), schema[first].dataType
    for step in rest:
        assert isinstance(struct, T.StructType)
        column, struct = column.getField(struct.names[step]), struct[step].dataType
    return column


def check_free(schema: T.StructType, new_names: Sequence[str]) -> None:
    """Raise `SpecError` if a column of a new name is there already; Spark ignores case."""
    there = {name.lower() for name in schema.names}
    if taken := [name for name in new_names if name.lower() in there]:
        raise SpecError(f"column {taken[0]!r} exists already; rename it first: df.withColumnRenamed({taken[0]!r}, '…')")


def with_candidates(candidate: T.DataType) -> T.ArrayType:
    """Return the type of ranked candidates that have their values beside them."""
    return T.ArrayType(T.StructType([T.StructField("candidate", candidate), *_PLACE]), containsNull=False)


def _check_type(path: str, modality: str, element: T.DataType, whole: T.DataType) -> None:
    if isinstance(element, T.StringType | T.CharType | T.VarcharType | T.NullType):
        return
    if modality != "text" and isinstance(element, T.BinaryType):
        return
    if modality == "image" and isinstance(element, T.StructType) and _is_image_struct(set(element.names)):
        return
    if modality == "audio" and isinstance(element, T.StructType) and _is_sound_struct(element):
        return
    takes = {
        "text": "strings",
        "image": "binary, strings (URIs), Spark's image struct, or struct<bytes, path>",
        "audio": "binary, strings (URIs), struct<array: array<float>, sampling_rate: int>, or struct<bytes, path>",
    }[modality]
    raise SpecError(f"column {path!r} is {whole.simpleString()}; {modality} columns hold {takes}, or arrays of them")


def _is_image_struct(names: set[str]) -> bool:
    return names >= SPARK_IMAGE_FIELDS or (bool(names) and names <= FILE_FIELDS)


def _is_sound_struct(struct: T.StructType) -> bool:
    """Return whether a struct is audio: samples (a channel, or an array of them) with their rate, or a file."""
    names = set(struct.names)
    samples = [field.dataType for field in struct.fields if field.name in _SAMPLES]
    if not names <= AUDIO_FIELDS or (samples and not names & _RATES):
        return False
    kinds = [kind.elementType if isinstance(kind, T.ArrayType) else None for kind in samples]
    kinds = [kind.elementType if isinstance(kind, T.ArrayType) else kind for kind in kinds]
    return bool(samples or names & FILE_FIELDS) and all(isinstance(kind, _NUMBERS) for kind in kinds)


def embedded_schema(
    schema: T.StructType, plan: ColumnPlan, sources: list[InputColumn], spec: EncoderSpec
) -> T.StructType:
    """Return a DataFrame's schema with the columns that a plan adds, whose metadata is their provenance.

    A column of that name that exists already raises `SpecError`; Spark ignores case.

    `sources` are in the plan's order.
    """
    by_lower_name = {name.lower() for name in schema.names}
    taken = (name for name in plan.new_names if name.lower() in by_lower_name | {FAILURES_COLUMN})
    plan.check_free([*schema.names, *taken])
    if FAILURES_COLUMN in by_lower_name:
        raise SpecError(
            f"column {FAILURES_COLUMN!r} exists already; rename it first:"
            f" df.withColumnRenamed({FAILURES_COLUMN!r}, '…')"
        )
    arrays = {source.path for source in sources if source.is_array}
    plan.check_arrays(arrays)
    provenances = row_provenances(plan, spec)
    added = []
    for column in plan.added:
        type_: T.DataType = T.ArrayType(VECTOR, containsNull=True) if column.source in arrays else VECTOR
        type_ = {"flag": T.BooleanType(), "score": T.DoubleType()}.get(column.holds, type_)
        metadata = spark_metadata(provenances[column.name]) if column.name in provenances else None
        added.append(T.StructField(column.name, type_, True, metadata))
    return T.StructType([*schema.fields, *added, T.StructField(FAILURES_COLUMN, FAILURES, True)])
