"""Values of rows through a whole pipeline: each type arrives as it was given, or fails its row by name."""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import pathlib
import typing
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from apache_beam.io.fileio import ReadableFile
from apache_beam.io.filesystem import FileMetadata
from apache_beam.utils.timestamp import Duration, Timestamp
from beam_helpers import pipeline
from PIL import Image

from clipmill.datasets import read_dataset, read_failures
from clipmill.errors import SpecError
from clipmill.indexes import push_dataset
from clipmill.transforms import Classify, ClipEmbeddings, Document, Embed, Rank, ReadDocuments, WriteEmbeddings

MODEL = "fake::dim=4"
D, UTC = decimal.Decimal, datetime.UTC
NOON = datetime.datetime(2026, 1, 2, 12, tzinfo=UTC)


class Kind(enum.Enum):
    """An enumeration of a user."""

    A = "a"


class Inner(typing.NamedTuple):
    """A struct in a row."""

    a: int
    b: str | None


GIVEN: dict[str, tuple[pa.DataType, object, object]] = {
    "np_int": (pa.int64(), np.int64(7), 7),
    "np_float": (pa.float32(), np.float32(0.5), 0.5),
    "np_bool": (pa.bool_(), np.bool_(True), True),
    "np_text": (pa.string(), np.str_("x"), "x"),
    "nan_as_int": (pa.int64(), math.nan, None),
    "whole_float": (pa.int64(), 80.0, 80),
    "pandas_na": (pa.string(), pd.NA, None),
    "pandas_nat": (pa.timestamp("us"), pd.NaT, None),
    "pandas_timestamp": (pa.timestamp("us", "UTC"), pd.Timestamp(NOON), NOON),
    "decimal": (pa.decimal128(10, 2), D("1.10"), D("1.10")),
    "bytes": (pa.binary(), b"\0\xff", b"\0\xff"),
    "date": (pa.date32(), datetime.date(2026, 1, 2), datetime.date(2026, 1, 2)),
    "datetime": (pa.timestamp("us", "UTC"), NOON, NOON),
    "time": (pa.time64("us"), datetime.time(1, 2, 3), datetime.time(1, 2, 3)),
    "timedelta": (pa.duration("us"), datetime.timedelta(1, 2, 3), datetime.timedelta(1, 2, 3)),
    "beam_timestamp": (pa.timestamp("us", "UTC"), Timestamp.of(NOON.timestamp()), NOON),
    "beam_duration": (pa.duration("us"), Duration(5), datetime.timedelta(seconds=5)),
    "beam_timestamps": (pa.list_(pa.timestamp("us", "UTC")), [Timestamp.of(NOON.timestamp())], [NOON]),
    "uuid": (pa.uuid(), uuid.UUID(int=5), uuid.UUID(int=5)),
    "uuid_text": (pa.string(), uuid.UUID(int=5), str(uuid.UUID(int=5))),
    "path": (pa.string(), pathlib.PurePosixPath("/a/b"), "/a/b"),
    "mapping": (pa.map_(pa.string(), pa.int64()), {"k": 1}, [("k", 1)]),
    "struct": (pa.struct([("a", pa.int64()), ("b", pa.string())]), Inner(1, None), {"a": 1, "b": None}),
    "structs": (pa.list_(pa.struct([("a", pa.int64())])), [beam.Row(a=1), {"a": None}], [{"a": 1}, {"a": None}]),
    "array": (pa.list_(pa.float32()), np.arange(3, dtype=np.float32), [0, 1, 2]),
    "array_2d": (pa.list_(pa.list_(pa.int64())), np.eye(2, dtype=np.int64), [[1, 0], [0, 1]]),
    "tuple": (pa.list_(pa.int64()), (1, None), [1, None]),
    "null": (pa.null(), None, None),
    "required": (pa.int64(), 1, 1),
    "inner_required": (pa.struct([pa.field("a", pa.int64(), nullable=False)]), {"a": 1}, {"a": 1}),
}
"""Columns: their type, a value, and what comes out."""

UNFIT: dict[str, object] = {
    "np_int": 1.5,
    "np_float": 1e300,
    "np_bool": 1,
    "np_text": b"x",
    "nan_as_int": uuid.UUID(int=5),
    "whole_float": Timestamp(5),
    "decimal": 1.5,
    "bytes": "x",
    "date": NOON,
    "datetime": datetime.datetime(2026, 1, 2),
    "pandas_nat": NOON,
    "time": NOON,
    "timedelta": 5,
    "beam_timestamp": Timestamp.of(10**12),
    "uuid": "00000000-0000-0000-0000-000000000005",
    "path": Kind.A,
    "mapping": [1],
    "struct": {"a": 1, "c": 2},
    "structs": [1],
    "array": {1.0},
    "array_2d": [1],
    "tuple": b"ab",
    "null": 0,
    "required": None,
    "inner_required": {"a": None},
}
"""Values that their columns cannot hold."""

SCHEMA = pa.schema(
    [("id", pa.string()), ("caption", pa.string()), ("choices", pa.list_(pa.string()))]
    + [pa.field(name, kind, name != "required") for name, (kind, _, _) in GIVEN.items()]
)
GOOD = {"id": "good", "caption": "one", "choices": ["x", "y"], **{name: value for name, (_, value, _) in GIVEN.items()}}
ROWS = [GOOD, *({**GOOD, "id": name, name: value} for name, value in UNFIT.items())]
TRANSFORMS = {
    "embed": lambda: Embed(MODEL, columns={"caption": "text"}),
    "rank": lambda: Rank(MODEL, query="caption", candidates="choices"),
    "classify": lambda: Classify(["x", "y"], model=MODEL, columns={"caption": "text"}),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_value_arrives_as_it_was_given_or_fails_its_row_by_name(tmp_path: Path, transform: str) -> None:
    """In dicts and in rows of Beam, after a shuffle too."""
    with pipeline() as p:
        for name, make in {"dict": dict, "row": lambda row: beam.Row(**row)}.items():
            made = p | f"Create {name}" >> beam.Create(ROWS) | f"Make {name}" >> beam.Map(make)
            encoding = TRANSFORMS[transform]()
            done = made | f"Do {name}" >> encoding
            shuffled = done.rows | f"Shuffle {name}" >> beam.Reshuffle()
            _ = shuffled | f"Write {name}" >> WriteEmbeddings(tmp_path / name, embed=encoding, schema=SCHEMA)
    for name in ("dict", "row"):
        (row,) = read_dataset(str(tmp_path / name)).to_pylist()
        assert {column: row[column] for column in GIVEN} == {column: out for column, (_, _, out) in GIVEN.items()}
        failures = {one["row"]: one["message"] for one in read_failures(str(tmp_path / name))}
        assert failures.keys() == UNFIT.keys()
        for column, message in failures.items():
            assert f"column '{column}' is " in message, message


class Declared(typing.NamedTuple):
    """Columns of every type that Beam's schemas have an Arrow type for."""

    id: str
    caption: str | None
    i8: np.int8
    i32: np.int32
    i64: int
    f32: np.float32
    f64: float
    flag: bool
    data: bytes
    maybe: int | None
    mapping: Mapping[str, int]
    numbers: Sequence[float]
    texts: list[str]
    inner: Inner
    maybe_inner: Inner | None
    inners: Sequence[Inner]


def test_declared_columns_need_no_schema(tmp_path: Path) -> None:
    values = {"i8": 100, "i32": 2**31 - 1, "i64": 2**63 - 1, "f32": 0.5, "f64": 0.1, "flag": True}
    values |= {
        "maybe_inner": None,
        "inners": [Inner(2, "x")],
        "data": b"\0",
        "maybe": None,
        "mapping": {"k": 1},
        "numbers": [1.5],
        "texts": ["x"],
    }
    with pipeline() as p:
        made = p | beam.Create([Declared("a", "one", inner=Inner(1, None), **values)]).with_output_types(Declared)
        _ = made | Embed(MODEL, columns={"caption": "text"}) | WriteEmbeddings(tmp_path / "out")
    (row,) = read_dataset(str(tmp_path / "out")).to_pylist()
    expected = {**values, "mapping": [("k", 1)], "inner": {"a": 1, "b": None}, "inners": [{"a": 2, "b": "x"}]}
    assert {name: row[name] for name in expected} == expected


@pytest.mark.parametrize("kind", [D, Timestamp, datetime.datetime, typing.Any, Kind, dict], ids=str)
def test_a_declared_type_without_one_of_arrow_is_refused_when_the_pipeline_is_built(tmp_path: Path, kind: type) -> None:
    row = typing.NamedTuple("row", [("id", str), ("caption", str), ("x", kind)])  # noqa: UP014 - of a given type
    made = beam.Pipeline() | beam.Create([]).with_output_types(row)
    with pytest.raises(SpecError, match=r"column 'x' is .*, which has no type in Arrow; give schema=, or drop it"):
        _ = made | Embed(MODEL, columns={"caption": "text"}) | WriteEmbeddings(tmp_path / "out")


ELEMENTS = {
    "pair": ("k", {"id": "1", "caption": "one"}),
    "batch of a key": ("k", [{"id": "1", "caption": "one"}]),
    "batch": [{"id": "1", "caption": "one"}],
    "text": "a red circle",
    "bytes": b"x",
    "array": np.zeros((2, 2, 3), np.uint8),
    "image": Image.new("RGB", (2, 2)),
    "file": ReadableFile(FileMetadata("/a.png", 3)),
    "listed": FileMetadata("/a.png", 3),
}
ADVICE = {
    "documents": {
        "pair": "put the key into the id of the document",
        "batch of a key": "beam.FlatMapTuple",
        "batch": "beam.FlatMap(",
        "text": "Document(text=element) or Document(uri=element)",
        "bytes": "Document(blob=element)",
        "array": "Document(tensor=element)",
        "image": "Document(tensor=numpy.asarray(element))",
        "file": "Document(blob=file.read(), id=file.metadata.path)",
        "listed": "Document.from_listed_uri(metadata.path)",
    },
    "rows": {
        "pair": "put the key into a column",
        "batch of a key": "beam.FlatMapTuple",
        "batch": "beam.FlatMap(",
        **dict.fromkeys(
            ("text", "bytes", "array", "image", "file", "listed"), "put it into a column: {'name': element}"
        ),
    },
}


@pytest.mark.parametrize("what", ADVICE)
@pytest.mark.parametrize("name", ELEMENTS)
def test_what_is_no_document_or_row_fails_with_the_way_to_make_one(what: str, name: str) -> None:
    columns = {"columns": {"caption": "text"}} if what == "rows" else {}
    _, elements = Embed(MODEL, **columns)._elements(typing.Any)
    failed = elements.read(ELEMENTS[name])
    assert ADVICE[what][name] in failed.failures[0].message


def test_rows_without_columns_and_documents_with_columns_fail_with_the_option(tmp_path: Path) -> None:
    _, documents = Embed(MODEL)._elements(typing.Any)
    assert "for rows give columns=" in documents.read({"caption": "one"}).failures[0].message
    _, rows = Embed(MODEL, columns={"caption": "text"})._elements(typing.Any)
    assert "documents are embedded without columns" in rows.read(Document(text="one")).failures[0].message


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda value: Embed("demo", keep_content=value), "keep_content"),
        (lambda value: Rank("demo", keep_embeddings=value), "keep_embeddings"),
        (lambda value: ClipEmbeddings("demo", columns={"a": "text"}, replace=value), "replace"),
        (lambda value: ReadDocuments("*.jpg", allow_empty=value), "allow_empty"),
        (lambda value: WriteEmbeddings("out", overwrite=value), "overwrite"),
        (lambda value: push_dataset("out", "lancedb:///x", again=value), "again"),
    ],
)
@pytest.mark.parametrize("value", ["false", "no", 0, None])
def test_flags_are_true_or_false(make, option, value):
    """A text of a YAML file such as 'false' would be true: `overwrite` would replace a dataset."""
    with pytest.raises(SpecError) as raised:
        make(value)
    assert raised.value.option == option
