"""Columns of Spark of every type, drawn at random, and the check that they travel along unchanged."""

from __future__ import annotations

import random

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

from clipmill.udfs import classify, embed_columns, embed_text, rank, rank_groups

MODEL = "fake::dim=4"

SIMPLE = {
    "boolean": "true",
    "tinyint": "-128Y",
    "smallint": "32767S",
    "int": "-2147483648",
    "bigint": "9223372036854775807L",
    "float": "float('1.4E-45')",
    "float nan": "float('nan')",
    "double": "-0.0D",
    "double infinite": "double('-inf')",
    "decimal": "cast(-99999999999999999999999999999999999.99 as decimal(38, 2))",
    "decimal small": "cast(1.50 as decimal(4, 2))",
    "string": "'ü🙂\\0'",
    "string empty": "''",
    "collated": "'Ü' collate UNICODE_CI",
    "char": "cast('ab' as char(5))",
    "varchar": "cast('ab' as varchar(5))",
    "binary": "x'00ff'",
    "date": "date'0001-01-01'",
    "timestamp": "timestamp'2026-10-25 02:30:00.000001 Europe/Berlin'",
    "timestamp_ntz": "timestamp_ntz'9999-12-31 23:59:59.999999'",
    "time": "time'23:59:59.999999'",
    "day-time interval": "interval '-1 02:03:04.000005' day to second",
    "day interval": "interval '3' day",
    "void": "null",
    "variant": 'parse_json(\'{"a": [1, "x", null]}\')',
    "geometry": "st_geomfromwkb(x'0101000000000000000000F03F0000000000000040')",
    "geography": "st_geogfromwkb(x'0101000000000000000000F03F0000000000000040')",
}
"""An expression of a value of each type."""

if not hasattr(T, "GeometryType"):  # before Spark 4.1
    SIMPLE = {name: value for name, value in SIMPLE.items() if name not in ("time", "geometry", "geography")}
if not hasattr(T, "VariantType"):  # before Spark 4.0
    SIMPLE = {name: value for name, value in SIMPLE.items() if name not in ("collated", "variant")}

BEYOND_PYTHON = {
    "date": "date_add(date'1970-01-01', 100000000)",
    "date before": "date'-2000-01-01'",
    "timestamp": "timestamp_micros(9000000000000000000)",
    "timestamp_ntz": "timestamp_ntz'0000-01-01 00:00:00'",
    "string": "cast(x'ff' as string)",
    "array": "array(date_add(date'1970-01-01', 100000000), null)",
}
"""Values that Python cannot hold; compared as Spark's own bytes or text."""

_KEYS = [name for name in ("int", "string", "date", "decimal small", "boolean", "time") if name in SIMPLE]


def drawn_expression(draw: random.Random, depth: int) -> str:
    """Return an expression of a random value with arrays, structs and maps to a depth, and nulls in them."""
    if depth == 0 or draw.random() < 0.2:
        return draw.choice(list(SIMPLE.values()))

    def inner() -> str:
        return drawn_expression(draw, depth - 1)

    def array() -> str:
        value = inner()
        return draw.choice([f"array({value}, null)", f"array(null, {value}, {value})", f"slice(array({value}), 1, 0)"])

    def struct() -> str:
        fields = [f"'{name}', {inner()}" for name in draw.sample("abAé ", draw.randint(0, 3))]
        return f"named_struct({', '.join(fields)})"

    def map_() -> str:
        return f"map({SIMPLE[draw.choice(_KEYS)]}, {draw.choice([inner(), 'nullif(1, 1)'])})"

    return draw.choice([array, struct, map_])()


def frame_of(spark: SparkSession, expressions: list[str]) -> DataFrame:
    """Return three rows with a column for each expression, null in the second row; their captions and candidates."""
    columns = [f"case id when 'b' then null else {one} end as c{number}" for number, one in enumerate(expressions)]
    rows = spark.createDataFrame([("a", "one"), ("b", ""), ("c", None)], "id string, caption string").coalesce(1)
    return rows.selectExpr("id", "caption", "array('x', 'y') as candidates", "'x' as candidate", *columns)


def assert_carried(spark: SparkSession, expressions: list[str], *, as_text: bool = False) -> None:
    """Assert that columns come out of every function unchanged, their types too, beside the new columns."""
    df = frame_of(spark, expressions)

    def values(of: DataFrame) -> list[list[str]]:
        names = [f"c{number}" for number in range(len(expressions))]
        shown = of.selectExpr("id", *(f"hex(cast({name} as string))" for name in names)) if as_text else of
        return sorted([repr(one) for one in row] for row in shown.select("id", *shown.columns[-len(names) :]).collect())

    given = df.select("id", *df.columns[4:])
    outputs = {
        "embed_columns": embed_columns(df, {"caption": "text", "candidates": "text"}, model=MODEL),
        "rank_groups": rank_groups(df, by="id", query="caption", candidate="candidate", model=MODEL),
        "expressions": df.select(
            "*",
            embed_text("caption", model=MODEL),
            rank("caption", "candidates", model=MODEL),
            classify("caption", labels=["x", "y"], kind="text", model=MODEL),
        ),
    }
    expected = values(given)
    for name, output in outputs.items():
        carried = output.select("id", *given.columns[1:])
        assert [field.dataType for field in carried.schema] == [field.dataType for field in given.schema], name
        found = values(carried)
        differ = [
            expressions[number]
            for number in range(len(expressions))
            if [row[number + 1] for row in found] != [row[number + 1] for row in expected]
        ]
        assert not differ, (name, differ)


def drawn_type(draw: random.Random, depth: int) -> T.DataType:
    """Return a random type of Spark, also of kinds that it cannot convert to Arrow."""
    if depth == 0 or draw.random() < 0.3:
        simple = [T.StringType(), T.TimestampType(), T.NullType(), T.DecimalType(5, 2), T.CharType(3)]
        newer = ("VariantType", "TimeType", "CalendarIntervalType", "YearMonthIntervalType")
        return draw.choice([*simple, *(getattr(T, name)() for name in newer if hasattr(T, name))])
    make = draw.choice(["array", "map", "struct", "struct"])
    if make == "array":
        return T.ArrayType(drawn_type(draw, depth - 1))
    if make == "map":
        return T.MapType(drawn_type(draw, depth - 1), drawn_type(draw, depth - 1))
    names = draw.choices("abcdef", k=draw.randint(0, 3))
    return T.StructType([T.StructField(name, drawn_type(draw, depth - 1)) for name in names])
