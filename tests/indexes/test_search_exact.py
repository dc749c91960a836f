"""Exact search without an index: right to 1e-6, ties in order, whatever the blocks; a dataset held once; the model."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from index_helpers import DIM, SPEC, brute_force, clustered, write_dataset
from list_kinds import every_list

from clipmill.datasets.tables.provenance import check_comparable, provenance_of, spec_of_provenance
from clipmill.encoders import EncoderSpec, score
from clipmill.errors import DatasetError, SpecError
from clipmill.indexes import corpus as corpus_module
from clipmill.indexes import exact
from clipmill.indexes.corpus import count_corpora_read, forget_corpora, open_corpus
from clipmill.indexes.exact import exact_top_k, merge_hits, nearest_of_blocks
from clipmill.indexes.source import open_source
from clipmill.indexes.targets import find_target
from clipmill.indexes.units import to_unit_vectors

TOLERANCE = 1e-6


def opened(folder: Path, column: str | None = None):
    return open_corpus(str(folder), open_source([str(folder)], column=column))


# --- vectors in memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 5, 1023, 1024, 1025, 3000])
@pytest.mark.parametrize("k", [1, 5, 1024])
def test_it_is_what_comparing_all_gives(rows: int, k: int, monkeypatch) -> None:
    """In blocks that end anywhere; also where k is a block, or all there is."""
    monkeypatch.setattr(exact, "_ROWS", 700)
    monkeypatch.setattr(exact, "_QUERIES", 7)
    vectors, queries, k = clustered(rows, seed=1), clustered(20, seed=2), min(k, rows)
    found = exact_top_k(queries, vectors, k)
    scores, positions = brute_force(vectors, queries, k)
    assert (found.scores.dtype, found.positions.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(found.scores, scores, rtol=0, atol=TOLERANCE)
    cosines = score(queries, vectors).cosine
    np.testing.assert_allclose(np.take_along_axis(cosines, found.positions, 1), scores, rtol=0, atol=TOLERANCE)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert all(len(set(row)) == k for row in found.positions.tolist())
    assert (found.positions[:, 0] == positions[:, 0]).all()


@pytest.mark.parametrize("usual", [exact._USUAL_CANDIDATES, 10**6], ids=["dropped", "compared"])
def test_equal_vectors_come_in_their_order_wherever_they_stand(usual: int, monkeypatch) -> None:
    """Thousands of them too, across blocks; their cosines are equal to the last bit."""
    monkeypatch.setattr(exact, "_USUAL_CANDIDATES", usual)
    rng = np.random.default_rng(0)
    different = rng.standard_normal((6, 96)).astype(np.float32)
    numbers = rng.integers(6, size=20_000)
    found = exact_top_k(different * 3.7, different[numbers] * rng.uniform(0.1, 90, (20_000, 1)), 40)
    for query in range(6):
        assert found.positions[query].tolist() == np.flatnonzero(numbers == query)[:40].tolist()
        assert len(set(found.scores[query].tolist())) == 1 and found.scores[query, 0] == 1


def test_vectors_that_come_nearer_from_block_to_block_are_all_found(monkeypatch) -> None:
    """Then the floor of earlier blocks keeps no candidate out."""
    monkeypatch.setattr(exact, "_ROWS", 500)
    monkeypatch.setattr(exact, "_FIRST_ROWS", 100)
    queries = clustered(3, seed=1)
    vectors = clustered(5000, seed=2)
    vectors = vectors[np.argsort(score(queries[0], vectors).cosine)]
    found = exact_top_k(queries, vectors, 12)
    scores, positions = brute_force(vectors, queries, 12)
    assert found.positions[0, 0] == 4999
    np.testing.assert_array_equal(found.positions, positions)
    np.testing.assert_allclose(found.scores, scores, rtol=0, atol=TOLERANCE)


def test_of_many_equal_vectors_few_are_compared_exactly(monkeypatch) -> None:
    compared = []
    exact_cosines = exact.ExactSearch._exact_cosines
    monkeypatch.setattr(
        exact.ExactSearch, "_exact_cosines", lambda *given: compared.append(len(given[1])) or exact_cosines(*given)
    )
    vectors = clustered(40_000, seed=1)
    vectors[np.random.default_rng(0).random(40_000) < 0.6] = vectors[0]
    found = exact_top_k(np.repeat(vectors[:1], 50, axis=0), vectors, 10)
    equal = np.flatnonzero((vectors == vectors[0]).all(axis=1))[:10]
    assert (found.positions == equal).all()
    assert max(compared) <= 50 * 20


def test_blocks_in_any_order_give_what_all_at_once_gives() -> None:
    """An index hands vectors over as they are on the disk: of length 1 within float32's precision."""
    vectors, queries = to_unit_vectors(clustered(3000, 64, seed=5)).vectors, clustered(50, 64, seed=6)
    vectors[2000:2100] = vectors[:100]
    whole = nearest_of_blocks(queries, [(0, vectors)], 20)
    spans = [(start, vectors[start : start + 170]) for start in range(0, 3000, 170)]
    shards = [nearest_of_blocks(queries, some, 20) for some in (spans[:7], spans[7:])]
    for found in (nearest_of_blocks(queries, spans[::-1], 20), merge_hits(shards, 20)):
        np.testing.assert_array_equal(found.positions, whole.positions)
        np.testing.assert_array_equal(found.scores, whole.scores)


def test_the_blocks_change_nothing(monkeypatch) -> None:
    vectors, queries = clustered(4000, 64, seed=5), clustered(50, 64, seed=6)
    vectors[2000:2100] = vectors[:100]
    found = exact_top_k(queries, vectors, 20)
    for rows, first, batch in ((64, 10, 3), (999, 1, 50), (10**6, 10**6, 1)):
        monkeypatch.setattr(exact, "_ROWS", rows)
        monkeypatch.setattr(exact, "_FIRST_ROWS", first)
        monkeypatch.setattr(exact, "_QUERIES", batch)
        again = exact_top_k(queries, vectors, 20)
        np.testing.assert_array_equal(again.positions, found.positions)
        np.testing.assert_array_equal(again.scores, found.scores)


def test_what_has_no_direction_is_never_found_and_finds_nothing() -> None:
    vectors = clustered(100, seed=1)
    vectors[3], vectors[4], vectors[5, 2] = 0, np.nan, np.inf
    queries = clustered(5, seed=2)
    queries[1], queries[3, 0] = 0, np.nan
    found = exact_top_k(queries, vectors, 97)
    for row in (0, 2, 4):
        assert set(found.positions[row]) == set(range(100)) - {3, 4, 5}
    for row in (1, 3):
        assert (found.positions[row] == -1).all() and np.isnan(found.scores[row]).all()
    all_there = exact_top_k(queries[:1], vectors, 100)
    assert (all_there.positions[0, 97:] == -1).all() and np.isnan(all_there.scores[0, 97:]).all()


def test_numbers_too_large_or_small_for_float32() -> None:
    vectors = np.array([[1e200, 0], [0, 1e-200], [1e-300, 1e-300]])
    found = exact_top_k(vectors, vectors, 1)
    assert found.positions[:, 0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("shapes", "k", "message"),
    [
        (((2, 4), (3, 5)), 1, r"queries \(2, 4\) and corpus \(3, 5\) do not fit"),
        (((4,), (3, 4)), 1, "do not fit"),
        (((2, 4), (3, 4)), 4, "top_k=4 is more than the 3 vectors"),
        (((2, 4), (0, 4)), 1, "top_k=1 is more than the 0 vectors"),
        (((2, 4), (3, 4)), 0, "top_k=0 is not an integer of at least 1"),
        (((2, 4), (3, 4)), True, "top_k=True is not an integer"),
    ],
)
def test_what_cannot_be_searched_is_said(shapes, k, message) -> None:
    with pytest.raises(SpecError, match=message):
        exact_top_k(np.ones(shapes[0]), np.ones(shapes[1]), k)


def test_no_queries() -> None:
    assert exact_top_k(np.empty((0, 4)), np.ones((3, 4)), 2).scores.shape == (0, 2)


# --- datasets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [pa.float32(), pa.float16(), pa.float64()], ids=str)
def test_a_dataset_is_searched_with_its_rows(dtype, tmp_path) -> None:
    """Positions are numbers of its rows; metadata and vectors come in the order of the positions."""
    vectors = clustered(500, seed=1)
    rows = [None if n % 50 == 7 else one.astype(dtype.to_pandas_dtype()) for n, one in enumerate(vectors)]
    corpus = opened(write_dataset(tmp_path / "data", rows, dtype=dtype))
    there = [n for n, one in enumerate(rows) if one is not None]
    stored = np.stack([rows[n] for n in there]).astype(np.float32)
    found = corpus.search(clustered(30, seed=2), 12)
    scores, positions = brute_force(stored, clustered(30, seed=2), 12)
    np.testing.assert_allclose(found.scores, scores, rtol=0, atol=TOLERANCE)
    assert found.positions.tolist() == np.array(there)[positions].tolist()
    some = np.array([499, 3, 3, 250])
    assert corpus.rows(some, ["number", "id"]).to_pydict() == {
        "number": some.tolist(),
        "id": [f"r{n}" for n in some],
    }
    assert corpus.rows(some).column_names == ["id", "uri", "number"]
    lengths = np.linalg.norm(corpus.vectors(some).astype(np.float64), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(
        np.einsum("nd,nd->n", corpus.vectors(some), vectors[some].astype(np.float64)),
        np.linalg.norm(vectors[some], axis=1),
        rtol=2e-3,  # of half floats
    )


def test_a_process_reads_a_dataset_once_and_again_when_it_changed(tmp_path) -> None:
    folder = write_dataset(tmp_path / "data", list(clustered(100)))
    forget_corpora()
    before = count_corpora_read()
    start = threading.Barrier(8)

    def look(_: int):
        start.wait()
        return opened(folder)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(look, range(8)))
    assert count_corpora_read() == before + 1 and len({id(one) for one in found}) == 1
    write_dataset(folder, list(clustered(120)))
    assert opened(folder).search(clustered(1), 120).positions.max() == 119
    assert count_corpora_read() == before + 2


def test_a_dataset_that_is_too_large_says_what_to_do(tmp_path, monkeypatch) -> None:
    folder = write_dataset(tmp_path / "data", list(clustered(100)))
    monkeypatch.setattr(corpus_module, "MAX_CORPUS_BYTES", 100 * DIM * 4)
    assert find_target(str(folder)).rows == 100
    monkeypatch.setattr(corpus_module, "MAX_CORPUS_BYTES", 100 * DIM * 4 - 1)
    with pytest.raises(DatasetError, match=r"100 vectors of 16 values are .* build an index of it"):
        find_target(str(folder))


def test_one_column_of_several_has_to_be_named(tmp_path) -> None:
    first, second = clustered(20, seed=1), clustered(20, seed=2)
    lists = {name: pa.array(list(one), pa.list_(pa.float32())) for name, one in (("a", first), ("b", second))}
    pq.write_table(pa.table({"id": [str(n) for n in range(20)], **lists}), tmp_path / "part-0.parquet")
    with pytest.raises(SpecError, match="has vectors in a, b; choose one with column=…"):
        find_target(str(tmp_path))
    for column, vectors in (("a", first), ("b", second)):
        found = find_target(str(tmp_path), column).open().search(vectors[4:5], 1)
        assert (found.positions.item(), found.scores.item()) == (4, pytest.approx(1))


def test_a_dataset_without_a_vector_is_nothing_to_search(tmp_path) -> None:
    """All null, or zeros: seen when they are read, for the files' footers do not say it."""
    for name, vectors in (("null", [None, None]), ("zero", [np.zeros(DIM, np.float32)])):
        target = find_target(str(write_dataset(tmp_path / name, vectors, parts=1)))
        with pytest.raises(DatasetError, match="no vector in the column 'embedding': there is nothing to search"):
            target.open()


def test_rows_that_grew_longer_vectors_are_refused(tmp_path) -> None:
    """Where the files do not say a dimension, it is seen when they are read."""
    vectors = [*clustered(10), *clustered(1, DIM + 1)]
    folder = write_dataset(tmp_path / "data", vectors, spec=None, parts=1)
    with pytest.raises(DatasetError, match="has 17 values and others have 16"):
        find_target(str(folder)).open()


# --- the model that made the vectors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize": True},
        {"apply_exif": True, "decode": "exact"},
        {"preprocess": False},
        {"on_long_text": "fail", "max_text_tokens": 20},
        {"dimensions": 32, "force_dimensions": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("modality", ["auto", "text", "image"])
def test_a_provenance_gives_a_spec_that_fits_it(options, modality) -> None:
    """Of a column of images how texts are prepared is not known, and is as ever."""
    made_by = EncoderSpec("demo", runtime="torch", precision="fp32", **options)
    provenance = provenance_of(made_by, modality)
    spec = spec_of_provenance(provenance, device="cpu")
    check_comparable(spec, provenance)
    told = {"normalize", "dimensions", *(("apply_exif", "preprocess") if modality != "text" else ())}
    told |= {"on_long_text", "max_text_tokens"} if modality != "image" else set()
    for name in told:
        assert getattr(spec, name) == getattr(made_by, name), name
    assert (spec.device, spec.runtime, spec.precision) == ("cpu", "auto", "auto")


def test_another_model_or_preparation_is_refused_with_what_differs() -> None:
    provenance = provenance_of(EncoderSpec("demo"), "auto")
    with pytest.raises(SpecError, match="model is 'fake::dim=8' and was 'demo'"):
        spec_of_provenance(provenance, model="fake::dim=8")
    with pytest.raises(SpecError, match=r"image\.apply_exif is True and was False"):
        spec_of_provenance(provenance, apply_exif=True)
    with pytest.raises(TypeError, match="'batch_size' is called 'max_batch_rows'"):
        spec_of_provenance(provenance, batch_size=3)
    with pytest.raises(SpecError, match="names no model"):
        spec_of_provenance({})
    assert spec_of_provenance(provenance, model="Demo", normalize=True).normalize  # lengths do not matter to a cosine
    assert spec_of_provenance(provenance_of(SPEC, "text")).model == SPEC.model


def test_other_spellings_of_the_same_model_are_the_same() -> None:
    provenance = provenance_of(EncoderSpec("ViT-B-32::openai"), "image")
    assert spec_of_provenance(provenance, model="ViT-B/32").model == "ViT-B-32::openai"


@every_list
def test_vectors_are_found_in_lists_of_every_kind(tmp_path, list_of):
    vectors = pa.array([[3.0, 0.0], [0.0, 2.0]], list_of(pa.float32()))
    pq.write_table(pa.table({"id": ["a", "b"], "embedding": vectors}), tmp_path / "v.parquet")
    source = open_source([str(tmp_path)])
    assert (source.column, source.dim, source.rows) == ("embedding", 2, 2)
    hits = opened(tmp_path).search(np.float32([[0.1, 1.0]]), 2)
    assert hits.positions.tolist() == [[1, 0]]
