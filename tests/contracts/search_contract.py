"""What both engines promise about searching, as tests that know no engine.

A module of an engine subclasses `SearchContract` and gives it the fixture `find`:

    def find(rows, searched, *, query="query", **options) -> dict[str, list[dict] | str | None]: ...

Rows are dicts with `id` and one of `query` (a string or None), `photo` (bytes or None), `vector` (a list of numbers or
None). What comes back is by id: a list of hits as dicts, None for null, or the code of the failure.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from contract import png
from index_helpers import DIM, brute_force, clustered, write_dataset

from clipmill.encoders import EncoderSpec, score
from clipmill.encoders.testing import fake_image_vector, fake_text_vector, read_log
from clipmill.errors import DatasetError, SpecError
from clipmill.indexes.build import IndexOptions, build_index

WORDS = [f"{word} {number}" for number in range(20) for word in ("apple", "pear", "a long plum", "fig")]
LARGE = 1500
EXACT = 2e-6


def text_vectors(texts: list[str]) -> np.ndarray:
    return np.stack([fake_text_vector(text, DIM) for text in texts])


def expected(queries: np.ndarray, vectors: np.ndarray, k: int) -> list[list[tuple[int, Any]]]:
    """Return (position, score) of the k nearest of each query, by float64."""
    scores, positions = brute_force(vectors, queries, k)
    pairs = zip(positions.tolist(), scores.tolist(), strict=True)
    return [[(place, pytest.approx(one, abs=EXACT)) for place, one in zip(*both, strict=True)] for both in pairs]


def told(hits: Any) -> list[tuple[int, float]]:
    return [(hit["position"], hit["score"]) for hit in hits]


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    """A dataset of the fake's vectors of texts."""
    return str(write_dataset(tmp_path_factory.mktemp("words") / "data", list(text_vectors(WORDS)), text=WORDS))


@pytest.fixture(scope="module")
def cloud(tmp_path_factory) -> tuple[str, np.ndarray]:
    """A larger dataset of vectors that nothing in particular made, and they."""
    vectors = clustered(LARGE)
    return str(write_dataset(tmp_path_factory.mktemp("cloud") / "data", list(vectors))), vectors


@pytest.fixture(scope="module", params=[None, "IVF16,SQ8", "HNSW16_SQ8", "Flat"])
def index(request, cloud, tmp_path_factory) -> tuple[str, str | None]:
    """The directory of an index of the cloud, and its factory; the dataset itself for None."""
    if request.param is None:
        return cloud[0], None
    directory = str(tmp_path_factory.mktemp("index") / "index")
    build_index([cloud[0]], directory, IndexOptions(factory=request.param, queries=50, target_recall=0.99))
    return directory, request.param


class SearchContract:
    """What a search gives."""

    def test_texts_find_what_is_nearest(self, find, words) -> None:
        """Best first, with the id and the columns asked for; the scores are the cosines of the vectors."""
        texts = ["apple 3", "fig 19", "something else"]
        rows = [{"id": str(number), "query": text} for number, text in enumerate(texts)]
        before = copy.deepcopy(rows)
        found = find(rows, words, top_k=4, columns=["text", "number"])
        assert rows == before
        for number, nearest in enumerate(expected(text_vectors(texts), text_vectors(WORDS), 4)):
            hits = found[str(number)]
            assert [one["score"] for one in hits] == [score for _, score in nearest]
            assert sorted(one["position"] for one in hits) == sorted(place for place, _ in nearest)
            for one in hits:
                assert list(one) == ["position", "id", "score", "text", "number"]
                assert (one["id"], one["text"]) == (f"r{one['position']}", WORDS[one["position"]])
                assert one["number"] == one["position"]
        assert found["0"][0]["text"] == "apple 3" and found["1"][0]["text"] == "fig 19"

    def test_images_find_texts(self, find, words) -> None:
        photo = png(3, 5, (200, 10, 30))
        found = find([{"id": "a", "photo": photo}], words, query="photo", query_kind="image", top_k=3)
        pixels = np.broadcast_to(np.array([200, 10, 30], np.uint8), (3, 5, 3))
        (nearest,) = expected(fake_image_vector(pixels, DIM)[None], text_vectors(WORDS), 3)
        assert told(found["a"]) == nearest

    def test_one_bad_query_among_good_ones(self, find, words) -> None:
        """N in, n out: each that fails says why, null has null, and the others have what they would have alone."""
        rows = [
            {"id": "good", "query": "pear 7"},
            {"id": "null", "query": None},
            {"id": "empty", "query": ""},
            {"id": "better", "query": "fig 2"},
        ]
        found = find(rows, words, top_k=2)
        assert (found["null"], found["empty"]) == (None, "empty")
        alone = find([rows[0], rows[3]], words, top_k=2)
        assert {name: found[name] for name in alone} == alone and found["good"][0]["id"] == f"r{WORDS.index('pear 7')}"

    def test_vectors_that_cannot_be_searched_for_are_failures(self, find, cloud) -> None:
        directory, vectors = cloud
        good = vectors[40].tolist()
        rows = [
            {"id": "short", "vector": [1.0, 2.0]},
            {"id": "nan", "vector": [*good[:-1], float("nan")]},
            {"id": "infinite", "vector": [*good[:-1], float("inf")]},
            {"id": "good", "vector": good},
            {"id": "zero", "vector": [0.0] * DIM},
            {"id": "none", "vector": []},
            {"id": "null", "vector": None},
        ]
        found = find(rows, directory, query="vector", query_kind="vector", top_k=1)
        assert told(found.pop("good")) == [(40, pytest.approx(1, abs=EXACT))]
        wrong, out = "wrong_shape", "out_of_range"
        assert found == {"short": wrong, "none": wrong, "nan": out, "infinite": out, "zero": out, "null": None}

    def test_an_index_gives_what_comparing_all_gives(self, find, index, cloud) -> None:
        """In more than one batch; approximate kinds find nearly all, and what they find has its exact cosine."""
        directory, factory = index
        vectors = cloud[1]
        queries = clustered(60, seed=3)
        rows = [{"id": str(number), "vector": query.tolist()} for number, query in enumerate(queries)]
        found = find(rows, directory, query="vector", query_kind="vector", top_k=10)
        shared = 0
        for number, nearest in enumerate(expected(queries, vectors, 10)):
            hits = told(found[str(number)])
            shared += len({place for place, _ in hits} & {place for place, _ in nearest})
            for place, cosine in hits:
                assert cosine == pytest.approx(float(score(queries[number], vectors[[place]]).cosine[0]), abs=EXACT)
            assert [cosine for _, cosine in hits] == sorted((cosine for _, cosine in hits), reverse=True)
            if factory in (None, "Flat"):
                assert [cosine for _, cosine in hits] == [cosine for _, cosine in nearest]
        assert shared >= (600 if factory in (None, "Flat") else 560)

    def test_rerank_scores_hits_as_rank_does(self, find, index, cloud) -> None:
        """Cosine and clip_score of the hits, the softmax over them; a scale changes the second alone."""
        directory, _ = index
        rows = [{"id": "a", "vector": cloud[1][7].tolist()}]
        options = {"query": "vector", "query_kind": "vector", "top_k": 5, "rerank": True}
        hits = find(rows, directory, **options)["a"]
        assert list(hits[0]) == ["position", "id", "score", "cosine", "clip_score"]
        true = score(cloud[1][7], cloud[1][[hit["position"] for hit in hits]])
        assert [hit["cosine"] for hit in hits] == [pytest.approx(one, abs=EXACT) for one in true.cosine]
        assert [hit["clip_score"] for hit in hits] == [pytest.approx(one, abs=1e-4) for one in true.clip_score]
        assert hits[0]["position"] == 7 and sum(hit["clip_score"] for hit in hits) == pytest.approx(1)
        cooler = find(rows, directory, **options, scale=2.0)["a"]
        assert [hit["cosine"] for hit in cooler] == [hit["cosine"] for hit in hits]
        assert cooler[0]["clip_score"] < hits[0]["clip_score"]

    def test_equal_vectors_come_in_their_order(self, find, tmp_path) -> None:
        vectors = np.repeat(clustered(3, seed=9), 40, axis=0)
        directory = str(write_dataset(tmp_path / "data", list(vectors)))
        found = find([{"id": "a", "vector": vectors[50].tolist()}], directory, query="vector", query_kind="vector")
        assert [hit["position"] for hit in found["a"]] == list(range(40, 50))

    def test_rows_without_a_vector_are_never_found(self, find, tmp_path) -> None:
        """Positions are numbers of rows of the dataset all the same."""
        vectors: list[Any] = list(clustered(30, seed=4))
        vectors[0] = vectors[11] = None
        vectors[12] = np.zeros(DIM, np.float32)
        directory = str(write_dataset(tmp_path / "data", vectors))
        rows = [{"id": "a", "vector": vectors[13].tolist()}]
        hits = find(rows, directory, query="vector", query_kind="vector", top_k=27)["a"]
        assert hits[0]["position"] == 13 and hits[0]["id"] == "r13"
        assert sorted(hit["position"] for hit in hits) == [n for n in range(30) if n not in (0, 11, 12)]

    def test_the_model_is_loaded_once_and_equal_queries_are_embedded_once(self, find, tmp_path) -> None:
        model = f"fake::dim={DIM}&log={tmp_path / 'log'}"
        directory = write_dataset(tmp_path / "data", list(text_vectors(WORDS)), spec=EncoderSpec(model))
        find([{"id": str(n), "query": WORDS[n % 4]} for n in range(40)], str(directory), top_k=1)
        log = read_log(tmp_path / "log")
        assert set(log.loads.values()) == {1} and log.rows <= 4 * len(log.loads)

    def test_no_rows(self, find, words) -> None:
        assert find([], words, top_k=1) == {}

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"top_k": 81}, "top_k=81 is more than the 80 vectors"),
            ({"top_k": 0}, "top_k=0 is not an integer of at least 1"),
            ({"columns": ["nowhere"]}, "has no column 'nowhere'; it has 'id', 'uri', 'number', 'text'"),
            ({"columns": "text"}, "columns is the text 'text'; give several"),
            ({"model": "demo"}, "dim is 96 and was 16; model is 'demo' and was 'fake::dim=16'"),
            ({"on_long_text": "fail"}, "text.on_long_text is 'fail' and was 'truncate'"),
            ({"query_kind": "audio"}, "embeds image and text"),
            ({"query_kind": "vector", "device": "cpu"}, "device has no effect with query_kind='vector'"),
            ({"nprobe": 3}, "nprobe=3 has no effect with a dataset"),
            ({"scale": 7.0}, "only with rerank=True"),
            ({"rerank": True, "scale": "model", "query_kind": "vector"}, "there is none with query_kind='vector'"),
            ({"column": "number"}, "vectors are lists of floats"),
        ],
        ids=str,
    )
    def test_what_cannot_work_is_said_before_anything_is_run(self, find, words, options, message) -> None:
        with pytest.raises((SpecError, DatasetError)) as raised:
            find([{"id": "a", "query": "x"}], words, **options)
        assert message in str(raised.value)

    def test_a_misspelt_option(self, find, words) -> None:
        with pytest.raises(TypeError, match="did you mean 'rerank'"):
            find([{"id": "a", "query": "x"}], words, rerak=True)

    def test_what_is_no_index_and_no_dataset(self, find, words, tmp_path) -> None:
        """Nothing, something else, a dataset cut off, one of several models, one that is not finished."""
        (tmp_path / "empty").mkdir()
        cut = write_dataset(tmp_path / "cut", list(text_vectors(WORDS)))
        part = cut / "part-01.parquet"
        part.write_bytes(part.read_bytes()[:-50])
        mixed = write_dataset(tmp_path / "mixed", list(text_vectors(WORDS)), parts=1)
        other = EncoderSpec(f"fake::dim={DIM}", normalize=True)
        write_dataset(tmp_path / "other", list(text_vectors(WORDS)), parts=1, spec=other)
        Path(tmp_path / "other" / "part-00.parquet").rename(mixed / "part-09.parquet")
        for directory, message in (
            ("/nowhere", "no such file or directory"),
            (tmp_path / "empty", "neither an index (no _index.json) nor a dataset"),
            (cut, "part-01.parquet"),
            (mixed, "normalize differ"),
        ):
            with pytest.raises(DatasetError) as raised:
                find([{"id": "a", "query": "x"}], str(directory), top_k=1)
                raise AssertionError(f"{directory} was searched")
            assert message in str(raised.value)
