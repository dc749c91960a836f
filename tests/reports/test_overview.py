"""The numbers of a report, against numpy and brute force."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from report_helpers import clustered, look, write_plain

from clipmill.errors import SpecError
from clipmill.reports.histograms import Counted, histogram_of
from clipmill.reports.projection import principal_axes, project
from clipmill.reports.reasons import reasons_of
from clipmill.reports.sample import draw_positions
from clipmill.reports.similarity import likeness_of
from clipmill.reports.vectors import SampleOptions
from clipmill.reports.work import Work

SHARDS = [("fast", 100, 1.0), ("slow", 10, 9.0), ("usual", 100, 2.0), ("small", 1, 0.5)]


def test_a_histogram_counts_as_numpy_does() -> None:
    values = np.random.default_rng(1).normal(size=1000)
    found = histogram_of(values, 20)
    counts, edges = np.histogram(values, 20)
    assert found.counts.tolist() == counts.tolist()
    assert np.allclose(found.edges, edges)


def test_equal_numbers_stand_in_one_bin() -> None:
    found = histogram_of(np.ones(5))
    assert found.total == 5 == found.counts.max()
    assert found.edges[0] < 1 < found.edges[-1]


@pytest.mark.parametrize("pieces", [1, 7])
def test_counting_in_pieces_counts_all_of_them_where_they_are(pieces: int) -> None:
    """The edges that are shown are some of the fine ones, so that numpy counts the same between them."""
    values = np.random.default_rng(2).uniform(-0.2, 0.9, 5000)
    counted = Counted(-1.0, 1.0)
    for piece in np.array_split(values, pieces):
        counted.add(piece)
    found = counted.shown()
    assert found.total == 5000
    assert found.counts.tolist() == np.histogram(values, found.edges)[0].tolist()
    assert 8 <= len(found.counts) <= 48 and np.allclose(np.diff(found.edges), np.diff(found.edges)[0])


def test_what_lies_outside_by_rounding_counts_as_the_edge_and_nan_as_nothing() -> None:
    counted = Counted(-1.0, 1.0)
    counted.add(np.array([1.0000001, -1.0000001, np.nan]))
    assert counted.shown().total == 2


def test_likeness_equals_brute_force() -> None:
    vectors = clustered(700)
    vectors[600], vectors[601] = vectors[3], 2 * vectors[4]
    vectors[10] = 0  # has no direction
    found = likeness_of(vectors, threshold=0.9, most=30)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    cosines = unit.astype(np.float64) @ unit.T.astype(np.float64)
    there = [n for n in range(700) if n != 10]
    pairs = {(a, b): cosines[a, b] for a in there for b in there if a < b}
    values = np.array(list(pairs.values()))
    assert found.vectors == 699
    assert found.pairs.total == len(pairs)
    assert found.mean == pytest.approx(values.mean(), abs=1e-6)
    near = sorted(values[values >= 0.9 + 1e-5])
    assert len(near) <= found.duplicates_found <= len(values[values >= 0.9 - 1e-5])
    assert [pair.cosine for pair in found.duplicates] == pytest.approx(near[::-1][:30], abs=1e-5)
    assert all(pair.cosine == pytest.approx(pairs[pair.first, pair.second], abs=1e-5) for pair in found.duplicates)
    assert {(3, 600), (4, 601)} <= {(pair.first, pair.second) for pair in found.duplicates}
    best = [max(cosines[a, b] for b in there if b != a) for a in there]
    assert found.nearest.total == 699
    assert found.nearest.edges[0] <= min(best) and max(best) <= found.nearest.edges[-1] + 1e-6


def test_principal_axes_are_those_of_the_covariance() -> None:
    vectors = clustered(300)
    points, shares = principal_axes(vectors)
    variances, axes = np.linalg.eigh(np.cov(vectors.T.astype(np.float64)))
    for number in (0, 1):
        expected = (vectors - vectors.mean(axis=0)) @ axes[:, -1 - number]
        assert abs(np.corrcoef(expected, points[:, number])[0, 1]) > 0.9999
        assert shares[number] == pytest.approx(variances[-1 - number] / variances.sum(), rel=1e-4)
    assert np.array_equal(points, principal_axes(vectors)[0])


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_few_vectors_have_a_map_too(rows: int) -> None:
    found = project(clustered(2)[:rows], method="pca")
    assert found.points.shape == (rows, 2) and np.isfinite(found.points).all()


def test_umap_is_taken_where_it_is_and_refused_where_it_is_not(monkeypatch, tmp_path: Path) -> None:
    """A stand-in of its name, as clipmill calls it; the command says how to get the real one."""
    vectors = clustered(40)
    if "umap" not in sys.modules:
        with pytest.raises(SpecError, match="pip install umap-learn"):
            project(vectors, method="umap")
    (tmp_path / "umap.py").write_text(
        "import numpy as np\n"
        "class UMAP:\n"
        "    def __init__(self, **options): self.options = options\n"
        "    def fit_transform(self, vectors): return np.full((len(vectors), 2), self.options['random_state'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = project(vectors, method="auto", seed=7)
    assert (found.method, found.explained) == ("umap", None) and (found.points == 7).all()
    (section,) = look(write_plain(tmp_path / "v.parquet", vectors), seed=9).vectors
    assert section.projection.method == "umap" and (section.projection.points == 9).all()
    assert project(vectors[:5], method="auto").method == "pca"


def manifest(name: str, start: float, stop: float, rows: int, seconds: float, **more: object) -> dict:
    times = {"first_row_at": start, "last_row_at": stop, "seconds": seconds, "input_rows": rows}
    return {"name": name, "shard": {"first_path": f"/in/{name}"}, **times, **more}


def test_throughput_spreads_each_shards_rows_over_its_work() -> None:
    """Two shards beside each other, then one alone; rates times their durations are the rows."""
    work = Work.of(
        [
            manifest("a", 1005.0, 1010.0, 100, 10.0),
            manifest("b", 1001.0, 1010.0, 50, 10.0),
            manifest("c", 1010.0, 1020.0, 100, 4.0),
        ]
    )
    rate = work.rate(bins=20)
    assert rate is not None
    assert (rate.edges[0], rate.edges[-1]) == (1000.0, 1020.0)
    assert rate.per_second[:10] == pytest.approx(15.0)
    assert rate.per_second[10:] == pytest.approx(10.0)
    assert (rate.per_second * np.diff(rate.edges)).sum() == pytest.approx(250)
    assert rate.pauses == []


def test_a_shard_of_one_moment_counts_and_a_pause_is_told() -> None:
    work = Work.of([manifest("a", 1000.0, 1000.0, 7, 0.0), manifest("b", 5000.0, 5010.0, 3, 10.0)])
    rate = work.rate()
    assert rate is not None
    assert (rate.per_second * np.diff(rate.edges)).sum() == pytest.approx(10)
    assert [tuple(pause) for pause in rate.pauses] == [(1000.0, 5000.0)]


def test_manifests_without_times_have_no_throughput_but_the_rest_is_added() -> None:
    found = Work.of(
        [{"batch_rows": {"4": 2}, "encode_msec": 5.0}, {"batch_rows": {"4": 1, "2": 1}, "encode_msec": 1.5}]
    )
    assert found.rate() is None
    assert found.batch_rows == {2: 1, 4: 3}
    assert found.msec == {"fetch": 0.0, "decode": 0.0, "encode": 6.5}


def test_shards_are_counted_by_what_their_workers_resolved() -> None:
    cpu, gpu = {"device": "cpu"}, {"device": "cuda:0"}
    work = Work.of([{"resolved": one} for one in (cpu, gpu, cpu, cpu, {})])
    assert work.resolved == [(cpu, 3), (gpu, 1)]


def test_the_slowest_shards_are_those_with_most_time_for_a_row() -> None:
    work = Work.of([manifest(name, 0.5, 10.0, rows, took) for name, rows, took in SHARDS])
    assert [one.name for one in work.slowest] == ["slow", "small", "usual", "fast"]


def test_failures_are_counted_by_reason_with_different_examples() -> None:
    def failure(code: str, message: str, row: object = "r") -> dict:
        return {"code": code, "stage": "decode", "message": message, "row": row, "transient": code == "fetch_failed"}

    found = reasons_of(
        [*(failure("empty", "same", n) for n in range(9)), failure("empty", "other"), failure("fetch_failed", "late")]
    )
    assert [(one.code, one.count, one.transient) for one in found] == [("empty", 10, 0), ("fetch_failed", 1, 1)]
    assert [example.message for example in found[0].examples] == ["same", "same", "other"]
    long = reasons_of([failure("empty", "x" * 5000, "data:image/png;base64," + "A" * 9000)])[0].examples[0]
    assert len(long.message) <= 300 and len(str(long.row)) <= 120


def test_rows_are_drawn_evenly_once_and_the_same_by_seed() -> None:
    drawn = draw_positions(100_000, 1000, seed=3)
    assert len(set(drawn.tolist())) == 1000 and (np.diff(drawn) > 0).all()
    assert np.array_equal(drawn, draw_positions(100_000, 1000, seed=3))
    assert not np.array_equal(drawn, draw_positions(100_000, 1000, seed=4))
    assert 400 < (drawn < 50_000).sum() < 600
    assert draw_positions(10, 1000, seed=0).tolist() == list(range(10))


@pytest.mark.parametrize("given", [{"rows": 0}, {"rows": 10**6}, {"duplicates_above": 1.5}, {"projection": "tsne"}])
def test_options_out_of_their_range_are_refused(given: dict) -> None:
    with pytest.raises(SpecError, match=next(iter(given))):
        SampleOptions(**given)
