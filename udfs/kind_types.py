"""The types of columns that can be ranked as each kind, for Spark's types and for Arrow's."""

from __future__ import annotations

from typing import Literal, NamedTuple

import pyarrow as pa
from pyspark.sql import types as T

from ..datasets.tables.column_types import field_names, is_list_type
from ..encoders.item import FILE_FIELDS
from ..encoders.plans.kinds import CONTENT, Kind, modality_of_struct
from ..errors import SpecError
from .values import is_number

_TAKES = {
    "auto": "strings (texts), binary, or structs: documents (text, uri, blob, embedding, …), images or audio of Spark",
    "text": "strings",
    "image": "binary, strings (URIs), Spark's image struct or struct<bytes, path>",
    "audio": "binary, strings (URIs), struct<array, sampling_rate> or struct<bytes, path>",
    "vector": "arrays of numbers",
}

_FLAT = "rows of one candidate each are for rank_groups and clip_similarity"


class Shape(NamedTuple):
    """The relevant properties of a type.

    Attributes:
        family: What values of it are; `numbers` is a list of them, `list` one of anything else.
        fields: Names of a struct's fields.
        shown: The type as its owner writes it.
    """

    family: Literal["null", "string", "binary", "struct", "numbers", "list", "other"]
    fields: tuple[str, ...]
    shown: str


def shape_of_spark(kind: T.DataType) -> Shape:
    """Return the shape of a type of Spark."""
    shown = kind.simpleString()
    if isinstance(kind, T.ArrayType):
        numbers = isinstance(kind.elementType, T.IntegralType | T.FractionalType)
        numbers = numbers and not isinstance(kind.elementType, T.DecimalType)
        return Shape("numbers" if numbers else "list", (), shown)
    if isinstance(kind, T.StructType):
        return Shape("struct", tuple(kind.names), shown)
    if isinstance(kind, T.StringType | T.CharType | T.VarcharType):
        return Shape("string", (), shown)
    if isinstance(kind, T.BinaryType):
        return Shape("binary", (), shown)
    return Shape("null" if isinstance(kind, T.NullType) else "other", (), shown)


def shape_of_arrow(kind: pa.DataType) -> Shape:
    """Return the shape of a type of Arrow."""
    shown, types = str(kind), pa.types
    if is_list_type(kind):
        return Shape("numbers" if is_number(kind.value_type) else "list", (), shown)
    if types.is_struct(kind):
        return Shape("struct", tuple(field_names(kind)), shown)
    if types.is_string(kind) or types.is_large_string(kind):
        return Shape("string", (), shown)
    if types.is_binary(kind) or types.is_large_binary(kind):
        return Shape("binary", (), shown)
    return Shape("null" if types.is_null(kind) else "other", (), shown)


def check_shape(what: str, option: str, kind: Kind, shape: Shape) -> None:
    """Raise `SpecError` for a column that cannot be of its kind, saying what the kind takes and what fits."""
    if shape.family == "null" or _fits(kind, shape):
        return
    hint = ""
    if shape.family == "numbers":
        hint = f"; precomputed vectors are {option}='vector'"
    raise SpecError(f"{what} is {shape.shown}, and {option}={kind!r} takes {_TAKES[kind]}{hint}")


def check_candidates(option: str, kind: Kind, candidates: pa.DataType) -> None:
    """Refuse a column that is no list of candidates of its kind; see `check_shape`."""
    if pa.types.is_null(candidates):
        return
    if not is_list_type(candidates):
        raise SpecError(f"the column of candidates is {candidates}, not an array; {_FLAT}")
    check_shape("a candidate", option, kind, shape_of_arrow(candidates.value_type))


def check_array(path: str, found: T.DataType) -> T.DataType:
    """Return the type of one candidate; refuse a column of Spark that is no array of them."""
    if isinstance(found, T.NullType):
        return found
    if not isinstance(found, T.ArrayType):
        raise SpecError(f"column {path!r} is {found.simpleString()}, not an array; {_FLAT}")
    return found.elementType


def _fits(kind: Kind, shape: Shape) -> bool:
    if shape.family == "struct":
        modality = modality_of_struct(shape.fields)
        if kind == "auto":
            return modality is not None or not set(CONTENT).isdisjoint(shape.fields)
        return kind == modality or (kind in ("image", "audio") and set(shape.fields) <= FILE_FIELDS)
    return shape.family in {
        "auto": ("string", "binary"),
        "text": ("string",),
        "image": ("string", "binary"),
        "audio": ("string", "binary"),
        "vector": ("numbers",),
    }.get(kind, ())
