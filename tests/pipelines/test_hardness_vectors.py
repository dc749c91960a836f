"""No Python number per dimension: vectors stay arrays and buffers from the model to whatever takes them.

Told twice. What comes out is walked through, every object of it, for numbers that a vector was taken apart into. And
the memory that a step takes is measured on vectors of 250,000 values: as float32 they have four bytes for each, as
Python floats in a list 32, so that a step which makes them, and lets them go again, is seen as well.
"""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from apache_beam.coders.coders import Coder
from apache_beam.coders.typecoders import registry
from beam_helpers import Keep, kept, pipeline

from clipmill.datasets.formats.shard_writer import ShardWriter
from clipmill.datasets.tables.schemas import documents_batch, documents_schema, rows_batch, rows_schema
from clipmill.encoders import Document, EncoderSpec, Failure, Vector, unload_all
from clipmill.encoders.plans.document_embed_plan import DocumentEmbedPlan
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.encoders.testing import FakeModel, fake_text_vector
from clipmill.failures import Code, Stage
from clipmill.transforms import Embed, FailedRow
from clipmill.transforms.rows import as_lists, planned_type
from clipmill.udfs.batches import embed_array, embed_batches, outcomes_array
from clipmill.udfs.pandas_functions import embed_series
from clipmill.udfs.schema import InputColumn

DIM = 64
LONG = 250_000
FLOATS = 24 + 8
"""Bytes of a Python float, and of its place in a list."""
ALLOWED = 16
"""Bytes for each dimension that a step may take at the worst moment: four copies as float32."""


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()
    yield
    unload_all()


# --- what comes out --------------------------------------------------------------------------------------------------


class Page(NamedTuple):
    id: str
    caption: str | None
    captions: Sequence[str]


PAGES = [Page("a", "one", ["two", "three"]), Page("b", None, ["four", " "]), Page("c", " ", ["five"])]


def numbers_in(value: Any, path: str = "") -> Iterator[str]:
    """Yield the places of floats, and of lists of numbers, in whatever a pipeline gave out."""
    if isinstance(value, float | np.floating):
        yield f"{path}: {type(value).__name__}"
    elif isinstance(value, np.ndarray):
        if value.dtype != np.float32 or value.shape != (DIM,):
            yield f"{path}: an array of {value.dtype}, {value.shape}"
    elif isinstance(value, beam.Row) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        yield from numbers_in(value._asdict(), path)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from numbers_in({f.name: getattr(value, f.name) for f in dataclasses.fields(value)}, path)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from numbers_in(inner, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from numbers_in(inner, f"{path}[{place}]")
    else:
        assert value is None or isinstance(value, str | bytes | bool | int), f"{path}: {type(value).__name__}"


def arrays_in(value: Any) -> int:
    """Return how many arrays there are."""
    if isinstance(value, np.ndarray):
        return 1
    if isinstance(value, beam.Row):
        value = value._asdict()
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(arrays_in, inner))


def emitted(directory: Any, made: Any, *, shuffled: bool, **options: Any) -> list[Any]:
    """Return rows and failures as the step behind `Embed` sees them, next to it or behind a shuffle."""
    with pipeline() as p:
        embedded = p | made | Embed(f"fake::dim={DIM}", **options)
        for name, pcoll in zip(embedded._fields, embedded, strict=True):
            behind = pcoll | f"Shuffle {name}" >> beam.Reshuffle() if shuffled else pcoll
            _ = behind | f"Keep {name}" >> Keep(directory)
    return kept(directory)


INPUTS: dict[str, Callable[[], beam.PTransform]] = {
    "dicts": lambda: beam.Create([page._asdict() for page in PAGES]),
    "rows": lambda: beam.Create([beam.Row(**page._asdict()) for page in PAGES[:1]]),
    "named tuples": lambda: beam.Create(PAGES).with_output_types(Page),
}


@pytest.mark.parametrize("shuffled", [False, True], ids=["fused", "shuffled"])
@pytest.mark.parametrize("kind", INPUTS)
def test_rows_of_beam_hold_arrays(tmp_path, kind, shuffled):
    found = emitted(tmp_path, INPUTS[kind](), shuffled=shuffled, columns={"caption": "text", "captions": "text"})
    assert [place for one in found for place in numbers_in(one)] == []
    assert sum(map(arrays_in, found)) == (3 if kind == "rows" else 5)
    assert sum(isinstance(one, FailedRow) for one in found) == (0 if kind == "rows" else 2)


@pytest.mark.parametrize("shuffled", [False, True], ids=["fused", "shuffled"])
def test_documents_of_beam_hold_arrays(tmp_path, shuffled):
    tree = Document("one", matches=[Document("two"), Document(" ")], chunks=[Document("three")])
    made = beam.Create([Document("four"), tree])
    found = emitted(tmp_path, made, shuffled=shuffled, access_paths="@r,m,c")
    assert [place for one in found for place in numbers_in(one)] == []
    assert sum(map(arrays_in, found)) == 4
    assert sum(isinstance(one, FailedRow) for one in found) == 1


@pytest.mark.parametrize("shuffled", [False, True], ids=["fused", "shuffled"])
def test_lists_that_were_asked_for_are_found(tmp_path, shuffled):
    """The control: what other languages want are numbers, and the walk sees each of them."""
    made = INPUTS["named tuples"]()
    found = emitted(tmp_path, made, shuffled=shuffled, columns={"captions": "text"}, vectors="list")
    assert len([place for one in found for place in numbers_in(one)]) == 4 * DIM


# --- what a step takes -----------------------------------------------------------------------------------------------


def bytes_taken(step: Callable[[], Any]) -> float:
    """Return the most bytes that a step held at a time, for each dimension of its vectors.

    Arrow's memory is not among them, in which there are no Python numbers.
    """
    step()  # what is made once: coders, types, models
    tracemalloc.start()
    try:
        result = step()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result is not None
    return peak / LONG


def vector(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(LONG, np.float32)


def passed(coder: Coder, value: Any) -> Any:
    """Return a value as it is behind a shuffle."""
    return coder.decode(coder.encode(value))


ROW_TYPE = planned_type(Page, ColumnPlan.of({"caption": "text", "captions": "text"}), "array")
FAILURE = Failure(Stage.ENCODE, Code.ENCODE_FAILED, "why")


@pytest.mark.parametrize(
    ("element_type", "element", "count"),
    [
        (Document, Document(embedding=vector()), 1),
        (Document, Document(matches=[Document(embedding=vector(1))], chunks=[Document(embedding=vector(2))]), 2),
        (beam.typehints.Dict[str, Any], {"id": "a", "caption_embedding": vector()}, 1),
        (ROW_TYPE, beam.Row(id="a", caption="b", captions=["c"], caption_embedding=vector(), captions_embedding=[]), 1),
        (
            ROW_TYPE,
            beam.Row(id="a", caption=None, captions=["c"], caption_embedding=None, captions_embedding=[vector(), None]),
            1,
        ),
        (FailedRow, FailedRow({"id": "a", "caption_embedding": vector()}, (FAILURE,)), 1),
        (FailedRow, FailedRow(Document(embedding=vector()), (FAILURE,)), 1),
    ],
    ids=["document", "tree of documents", "dict", "row", "row of arrays", "failed row", "failed document"],
)
def test_coders_make_no_numbers(element_type, element, count):
    coder = registry.get_coder(element_type)
    assert arrays_in(passed(coder, element)) == arrays_in(element) == count
    assert bytes_taken(lambda: passed(coder, element)) < ALLOWED * count


def test_coders_of_lists_make_numbers():
    """The control: declared as a sequence of numbers a vector costs what the limit forbids."""
    kind = planned_type(Page, ColumnPlan.of({"caption": "text"}), "list")
    row = beam.Row(id="a", caption="b", captions=["c"], caption_embedding=vector())
    assert bytes_taken(lambda: passed(registry.get_coder(kind), row)) > FLOATS
    assert bytes_taken(lambda: as_lists(vector())) > FLOATS


@pytest.fixture
def long_vectors(monkeypatch):
    """Let the fake give vectors of 250,000 values without making numbers itself."""

    def encode(self, modality, payloads):
        return np.stack([np.full(LONG, len(payload), np.float32) for payload in payloads])

    monkeypatch.setattr(FakeModel, "encode", encode)
    monkeypatch.setattr(FakeModel, "__init__", _with_dim(FakeModel.__init__))
    return EncoderSpec("fake::dim=8", max_cache_bytes=0)


def _with_dim(init: Callable[..., None]) -> Callable[..., None]:
    def __init__(self, options):
        init(self, options)
        self.dim = LONG

    return __init__


TEXTS = pa.array(["one", None, "three", " "])
BATCH = pa.RecordBatch.from_arrays([TEXTS, pa.array([["a", "bc"], None, [], [None, " "]])], ["caption", "captions"])
PLAN = ColumnPlan.of({"caption": "text", "captions": "text"})
SOURCES = [InputColumn("caption", (0,), False), InputColumn("captions", (1,), True)]


@pytest.mark.parametrize(
    ("step", "vectors"),
    [
        (lambda spec: embed_array(TEXTS, spec, "text", "null"), 2),
        (lambda spec: embed_array(TEXTS, spec, "text", "struct"), 2),
        (lambda spec: list(embed_batches([BATCH], spec, PLAN, SOURCES)), 4),
        (lambda spec: embed_series(pd.Series(["one", None, "three"]), spec, "text", "null"), 2),
    ],
    ids=["embed_text", "embed_text with failures", "embed_columns", "text_udf"],
)
def test_what_spark_calls_makes_no_numbers(long_vectors, step, vectors):
    assert bytes_taken(lambda: step(long_vectors)) < ALLOWED * vectors


def test_vectors_reach_spark_as_buffers():
    """Of a column in which something is null or failed too; the floats are those of the model."""
    spec = EncoderSpec(f"fake::dim={DIM}")
    expected = [fake_text_vector("one", DIM), fake_text_vector("three", DIM)]
    for failures in ("null", "struct"):
        column = embed_array(TEXTS, spec, "text", failures)
        column = column.field("embedding") if failures == "struct" else column
        assert column.type == pa.list_(pa.float32())
        assert column.null_count == 2
        np.testing.assert_array_equal(column.flatten().to_numpy(zero_copy_only=True), np.concatenate(expected))


def test_an_arrow_array_of_lists_would_be_seen():
    """The control: the same column, made of lists."""
    outcomes = [Vector(vector(seed)) for seed in range(2)]
    assert bytes_taken(lambda: outcomes_array(outcomes, LONG, "null")) < ALLOWED * 2
    assert bytes_taken(lambda: pa.array([outcome.values.tolist() for outcome in outcomes])) > FLOATS


def test_files_are_written_without_numbers(tmp_path):
    spec = EncoderSpec("fake::dim=8")
    plan = ColumnPlan.of({"caption": "text"}, spec=spec)
    columns = rows_schema(pa.schema({"id": pa.string(), "caption": pa.string()}), plan, spec)
    rows = [{"id": str(n), "caption": "x", "caption_embedding": vector(n)} for n in range(2)]
    documents = [Document(embedding=vector(n), matches=[Document(embedding=vector(n))]) for n in range(2)]
    trees = documents_schema(spec, plan=DocumentEmbedPlan("@r,m"))
    batches = {
        "rows": (columns, lambda: rows_batch(rows, columns, plan, LONG), 2),
        "documents": (trees, lambda: documents_batch(documents, trees, LONG), 4),
    }
    for name, (schema, make, vectors) in batches.items():

        def write(name: str = name, schema: pa.Schema = schema, make: Callable[[], pa.RecordBatch] = make) -> Any:
            with ShardWriter(str(tmp_path / name), "shard", schema) as writer:
                writer.write(make())
                return writer.commit({})

        assert bytes_taken(write) < ALLOWED * vectors, name
