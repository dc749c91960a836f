"""`Search`: the contract of both engines, windows, batches, what is opened once, and what travels."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.typehints.native_type_compatibility import convert_to_beam_type
from apache_beam.typehints.row_type import RowTypeConstraint
from beam_helpers import Keep, counters, kept, kept_in_time, pipeline
from index_helpers import DIM, clustered, write_dataset
from places import SUPPORT
from search_contract import SearchContract, cloud, index, words  # noqa: F401 - fixtures

from clipmill.errors import SpecError
from clipmill.indexes.corpus import count_corpora_read, forget_corpora
from clipmill.indexes.targets import Target
from clipmill.threads import Cores
from clipmill.transforms import Search
from clipmill.transforms.rows import plain

TYPES: dict[str, Any] = {"id": str, "query": str | None, "photo": bytes | None, "vector": Sequence[float] | None}


def finding(directory, make):
    """Return what finds rows by a pipeline; `make` gives the step from dicts to its rows."""

    def find(rows, searched, *, query="query", **options):
        transform = Search(searched, query=query, **options)
        with pipeline() as p:
            found = p | beam.Create(rows) | make(list(rows[0]) if rows else ["id", query]) | transform
            _ = found.rows | beam.Reshuffle() | "KeepRows" >> Keep(directory / "rows")
            _ = found.failures | "KeepFailures" >> Keep(directory / "failures")
        made = {row["id"]: row["hits"] for row in map(plain, kept(directory / "rows"))}
        failed = kept(directory / "failures")
        for one in failed:
            (failure,) = one.failures
            row = plain(one.row)
            assert (row["hits"], failure.row, failure.column) == (None, row["id"], query)
            made[row["id"]] = str(failure.code)
        assert len(made) == len(rows)
        for path in directory.glob("*/*"):
            path.unlink()  # a test may run more than one
        return made

    return find


def to_dicts(names):
    return beam.Map(dict).with_output_types(dict[str, Any])


def to_rows(names):
    fields = [(name, convert_to_beam_type(TYPES[name])) for name in names]
    return beam.Map(lambda row: beam.Row(**row)).with_output_types(RowTypeConstraint.from_fields(fields))


class TestSearchDicts(SearchContract):
    @pytest.fixture
    def find(self, tmp_path):
        return finding(tmp_path / "kept", to_dicts)


class TestSearchRows(SearchContract):
    @pytest.fixture
    def find(self, tmp_path):
        return finding(tmp_path / "kept", to_rows)


@pytest.fixture
def small(tmp_path) -> tuple[str, np.ndarray]:
    vectors = clustered(200, seed=2)
    return str(write_dataset(tmp_path / "data", list(vectors))), vectors


def test_an_index_is_opened_for_the_cores_of_a_process(small, monkeypatch) -> None:
    directory, vectors = small
    opened, usual = [], Target.open
    monkeypatch.setattr(Target, "open", lambda self, *, cpus=None: opened.append(cpus) or usual(self, cpus=cpus))
    monkeypatch.setattr("clipmill.transforms.encoding.cores_per_process", lambda options, runner: Cores(2))
    monkeypatch.setattr("clipmill.threads.allowed_cpus", lambda: 6)
    with pipeline() as p:
        rows = [{"id": "a", "q": vectors[0].tolist()}]
        _ = p | beam.Create(rows) | to_dicts(["id", "q"]) | Search(directory, query="q", query_kind="vector")
    assert set(opened) == {3}


def test_it_pickles_small_and_names_what_it_is(small) -> None:
    """A dataset's vectors stay where they are: what travels is where they are."""
    directory, _ = small
    transform = Search(directory, query="q", query_kind="vector")
    assert len(pickle.dumps(transform.plan)) < 10_000
    assert transform.default_label() == f"Search({directory}, q)".replace("/", "_")
    assert transform.display_data()["index"] == directory


def test_queries_as_arrays_and_as_lists_are_the_same(small, tmp_path) -> None:
    directory, vectors = small
    rows = [{"id": "array", "q": vectors[3]}, {"id": "list", "q": vectors[3].tolist()}]
    rows += [{"id": "double", "q": vectors[3].astype(np.float64)}, {"id": "half", "q": vectors[3].astype(np.float16)}]
    with pipeline() as p:
        found = p | beam.Create(rows) | Search(directory, query="q", query_kind="vector", top_k=3)
        _ = found.rows | Keep(tmp_path / "kept")
    hits = {row["id"]: row["hits"] for row in kept(tmp_path / "kept")}
    assert hits["array"] == hits["list"] == hits["double"]
    assert [one["position"] for one in hits["half"]] == [one["position"] for one in hits["array"]]


def test_a_dataset_is_read_once_for_all_bundles_and_threads(small, tmp_path) -> None:
    directory, vectors = small
    forget_corpora()
    before = count_corpora_read()
    rows = [{"id": str(number), "q": vectors[number]} for number in range(len(vectors))]
    with pipeline("--direct_num_workers=3", "--direct_running_mode=multi_threading") as p:
        searched = p | beam.Create(rows) | beam.Reshuffle()
        for name in ("one", "two"):
            search = Search(directory, query="q", query_kind="vector", top_k=1)
            found = searched | name >> search
            _ = found.rows | f"Keep{name}" >> Keep(tmp_path / name)
    assert count_corpora_read() == before + 1
    for name in ("one", "two"):
        assert {row["id"]: row["hits"][0]["position"] for row in kept(tmp_path / name)} == {
            str(number): number for number in range(len(vectors))
        }


def test_rows_keep_their_windows(small, tmp_path) -> None:
    """Also where rows of several windows are searched together; failures too."""
    directory, vectors = small
    rows = [TimestampedValue({"id": str(n), "q": vectors[n] if n % 3 else [1.0]}, n * 10) for n in range(12)]
    with pipeline() as p:
        found = (
            p
            | beam.Create(rows)
            | beam.WindowInto(FixedWindows(25))
            | Search(directory, query="q", query_kind="vector", top_k=1)
        )
        _ = found.rows | Keep(tmp_path / "rows")
        _ = found.failures | "KeepFailures" >> Keep(tmp_path / "failures")
    seen = [(element, at, window) for element, at, window in kept_in_time(tmp_path / "rows")]
    seen += [(failed.row, at, window) for failed, at, window in kept_in_time(tmp_path / "failures")]
    assert len(seen) == 12
    for row, at, window in seen:
        assert at == int(row["id"]) * 10
        assert window.start <= at < window.end and window.end - window.start == 25


def test_more_queries_than_a_batch_holds(small, tmp_path) -> None:
    """In one bundle; each has its own hits, and what is counted is what came in."""
    directory, vectors = small
    rows = [{"id": n, "q": vectors[n % 200] if n % 100 else None} for n in range(2500)]
    p = pipeline()
    found = p | beam.Create(rows) | Search(directory, query="q", query_kind="vector", top_k=1)
    _ = (
        found.rows
        | beam.Map(lambda row: (row["id"], row["hits"] and row["hits"][0]["position"]))
        | Keep(tmp_path / "kept")
    )
    result = p.run()
    result.wait_until_finish()
    assert dict(kept(tmp_path / "kept")) == {n: n % 200 if n % 100 else None for n in range(2500)}
    counted = counters(result)
    assert (counted["rows_in"], counted["nulls"]) == (2500, 25)


@pytest.mark.parametrize("max_wait_s", [None, 5], ids=["in the bundle", "across bundles"])
def test_a_stream(max_wait_s, small, tmp_path) -> None:
    """Its elements come out where they went in, whether they wait for each other or not."""
    directory, vectors = small
    stream = test_stream.TestStream()
    for number in range(5):
        row = {"id": str(number), "q": vectors[number] if number != 3 else None}
        stream = stream.add_elements([TimestampedValue(row, number)])
    stream = stream.advance_processing_time(int(time.time()) + 1000).advance_watermark_to_infinity()
    with beam.Pipeline(options=PipelineOptions(["--streaming"])) as p:  # a TestStream decides for its runner by itself
        searched = p | stream | beam.WindowInto(FixedWindows(60))
        found = searched | Search(directory, query="q", query_kind="vector", top_k=1, max_wait_s=max_wait_s)
        _ = found.rows | Keep(tmp_path / "kept")
    seen = {
        (row["id"], at, row["hits"] and row["hits"][0]["position"]) for row, at, _ in kept_in_time(tmp_path / "kept")
    }
    assert seen == {(str(number), float(number), number if number != 3 else None) for number in range(5)}


def test_the_first_failure_may_end_the_job(small) -> None:
    directory, _ = small
    with pytest.raises(Exception, match="wrong_shape"), pipeline() as p:
        _ = (
            p
            | beam.Create([{"id": "a", "q": [1.0]}])
            | Search(directory, query="q", query_kind="vector", on_failure="raise")
        )


def test_a_column_of_that_name_is_not_written_over(small, tmp_path) -> None:
    """With a schema it is refused when the pipeline is made, without one row by row."""
    directory, vectors = small
    rows = [{"id": "a", "q": vectors[0], "hits": 1}]
    with pipeline() as p:
        found = p | beam.Create(rows) | Search(directory, query="q", query_kind="vector")
        _ = found.failures | Keep(tmp_path / "kept")
    (failed,) = kept(tmp_path / "kept")
    assert "column 'hits' exists already; choose a name: output=…" in failed.failures[0].message
    with pytest.raises(SpecError, match="column 'hits' exists already"):
        typed = RowTypeConstraint.from_fields([("q", np.ndarray), ("hits", int)])
        p = pipeline()
        made = p | beam.Create([]) | beam.Map(lambda row: row).with_output_types(typed)
        _ = made | Search(directory, query="q", query_kind="vector")
    with pipeline() as p:
        found = p | beam.Create(rows) | Search(directory, query="q", query_kind="vector", output="near", top_k=1)
        _ = found.rows | Keep(tmp_path / "near")
    assert kept(tmp_path / "near")[0]["near"][0]["position"] == 0


def test_processes_of_their_own(small, tmp_path, monkeypatch) -> None:
    """What travels to them is enough."""
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    directory, vectors = small
    rows = [{"id": n, "q": vectors[n]} for n in range(20)]
    with pipeline("--direct_num_workers=2", "--direct_running_mode=multi_processing") as p:
        found = p | beam.Create(rows) | Search(directory, query="q", query_kind="vector", top_k=1)
        _ = found.rows | Keep(tmp_path / "kept")
    assert {row["id"]: row["hits"][0]["position"] for row in kept(tmp_path / "kept")} == {n: n for n in range(20)}


def test_dimensions_are_what_the_index_has(small) -> None:
    assert Search(small[0], query="q").spec.dim == DIM  # type: ignore[union-attr]
