"""What every engine promises about the kinds of queries and candidates; a part of `rank_contract`."""

from __future__ import annotations

import math

import numpy as np
import pytest
from contract import png, vector_of_png, vector_of_text, vector_of_wav, wav
from rank_expected import (
    BLUE,
    GREEN,
    MODEL,
    RED,
    WITH_SOUNDS,
    Place,
    Scored,
    assert_ranked,
    by_id,
    data_uri,
    document,
    places,
    text_places,
)

from clipmill.encoders.testing import read_log


class KindsContract:
    """What queries and candidates may be; see `rank_contract`."""

    @pytest.fixture
    def rank(self):
        raise NotImplementedError("a subclass gives this fixture")

    def assert_failed(self, result: Scored, expected: dict[str, str], column: str = "query") -> None:
        raise NotImplementedError("`RankContract` has it")

    def test_a_picture_and_texts(self, rank):
        rows = [
            {"id": str(n), "photo": png(n, 60, RED), "candidates": ["red", "blue", "a circle"]} for n in (1, 50, 99)
        ]
        for kind in ("auto", "image"):
            result = rank(rows, query="photo", query_kind=kind, candidate_kind="text")
            texts = [vector_of_text(text) for text in rows[0]["candidates"]]
            assert_ranked(result, {str(n): places(vector_of_png(n, 60, RED), texts) for n in (1, 50, 99)})

    def test_a_text_and_pictures(self, rank):
        photos = [png(9, 60, RED), png(70, 3, GREEN), png(20, 20, BLUE)]
        vectors = [vector_of_png(9, 60, RED), vector_of_png(70, 3, GREEN), vector_of_png(20, 20, BLUE)]
        rows = [
            {"id": "a", "query": "red", "photos": photos},
            {"id": "b", "query": "blue and more", "photos": photos[::-1]},
        ]
        for kind in ("auto", "image"):
            result = rank(rows, candidates="photos", candidate_kind=kind)
            expected = {
                "a": places(vector_of_text("red"), vectors),
                "b": places(vector_of_text("blue and more"), vectors[::-1]),
            }
            assert_ranked(result, expected)
        assert {one["candidate"] for one in by_id(result)["a"]["ranked"]} == set(photos)

    def test_a_picture_and_pictures(self, rank):
        rows = [
            {"id": "a", "photo": png(9, 60, RED), "photos": [png(70, 3, GREEN), png(9, 61, RED), png(20, 20, BLUE)]}
        ]
        vectors = [vector_of_png(70, 3, GREEN), vector_of_png(9, 61, RED), vector_of_png(20, 20, BLUE)]
        result = rank(rows, query="photo", candidates="photos")
        assert_ranked(result, {"a": places(vector_of_png(9, 60, RED), vectors)})

    def test_a_sound_and_everything(self, rank):
        documents = [document(text="red"), document(blob=png(9, 60, RED)), document(blob=wav(900))]
        rows = [{"id": "a", "sound": wav(500), "documents": documents}]
        result = rank(rows, query="sound", candidates="documents", query_kind="audio", model=WITH_SOUNDS)
        vectors = [vector_of_text("red"), vector_of_png(9, 60, RED), vector_of_wav(900)]
        assert_ranked(result, {"a": places(vector_of_wav(500), vectors)})

    def test_documents_of_every_content_on_either_side(self, rank):
        picture, vector = png(9, 60, GREEN), vector_of_png(9, 60, GREEN)
        contents = [
            document(text="words"),
            document(uri=data_uri(picture)),
            document(text="words win", blob=picture),
            document(blob=png(70, 3, BLUE)),
            None,
            document(),
            document(blob=b"junk"),
        ]
        vectors = [vector_of_text("words"), vector, vector_of_text("words win"), vector_of_png(70, 3, BLUE), None]
        vectors += ["empty", "undecodable"]
        rows = [
            {"id": "picture", "document": document(blob=picture), "documents": contents},
            {"id": "text", "document": document(text="asked"), "documents": contents},
        ]
        result = rank(rows, query="document", candidates="documents")
        assert_ranked(result, {"picture": places(vector, vectors), "text": places(vector_of_text("asked"), vectors)})
        for row in result.rows:
            assert all(one["candidate"] == contents[one["position"]] for one in row["ranked"])

    def test_strings_are_uris_where_the_kind_is_image(self, rank):
        uris = [data_uri(png(9, 60, GREEN)), data_uri(png(60, 9, GREEN)), "http://127.0.0.1/x.png", "/etc/hostname"]
        vectors = [vector_of_png(9, 60, GREEN), vector_of_png(60, 9, GREEN), "forbidden_uri", "forbidden_uri"]
        rows = [{"id": "a", "query": "green", "candidates": uris}]
        assert_ranked(rank(rows, candidate_kind="image"), {"a": places(vector_of_text("green"), vectors)})

    def test_unicode(self, rank):
        candidates = [
            "naïve café",
            "日本語のテキスト",
            "emoji 👩‍👩‍👧 👍🏽",
            "\u202eright to left",
            "nul \0 inside",
            " \u3000\t",
        ]
        result = rank([{"id": "ключ", "query": "日本", "candidates": candidates}])
        assert_ranked(result, {"ключ": text_places("日本", candidates)})
        assert {one["candidate"] for one in result.rows[0]["ranked"]} == set(candidates)

    def test_given_vectors_are_used_and_not_made_again(self, rank, tmp_path):
        rng = np.random.default_rng(5)
        draw = lambda: rng.standard_normal(8).astype(np.float32).tolist()  # noqa: E731
        rows = [{"id": str(n), "vector": draw(), "vectors": [draw() for _ in range(7)]} for n in range(6)]
        model = f"{MODEL}&log={tmp_path / 'log'}"
        kinds = {"query_kind": "vector", "candidate_kind": "vector"}
        result = rank(rows, query="vector", candidates="vectors", model=model, **kinds)
        assert_ranked(result, {r["id"]: places(r["vector"], r["vectors"]) for r in rows})
        log = read_log(tmp_path / "log")
        assert log.loads and log.batches == []

    def test_given_vectors_beside_what_is_embedded(self, rank, tmp_path):
        vectors = [[1.0, 2, 3, 4, 5, 6, 7, 8], [8.0, 7, 6, 5, 4, 3, 2, 1]]
        rows = [{"id": str(n), "query": f"query {n}", "vectors": vectors} for n in range(5)]
        model = f"{MODEL}&log={tmp_path / 'log'}"
        result = rank(rows, candidates="vectors", candidate_kind="vector", model=model)
        assert_ranked(result, {r["id"]: places(vector_of_text(r["query"]), vectors) for r in rows})
        assert read_log(tmp_path / "log").rows == 5

    def test_vectors_of_another_model_fail(self, rank):
        good = [1.0, 2, 3, 4, 5, 6, 7, 8]
        vectors = [good, [1.0, 2.0], [math.nan] * 8, [math.inf] + [0.0] * 7, [], None]
        rows = [{"id": "a", "vector": [2.0, 1, 1, 1, 1, 1, 1, 1], "vectors": vectors}]
        kinds = {"query_kind": "vector", "candidate_kind": "vector"}
        result = rank(rows, query="vector", candidates="vectors", **kinds)
        outcomes = [good, "wrong_shape", "out_of_range", "out_of_range", "wrong_shape", None]
        assert_ranked(result, {"a": places(rows[0]["vector"], outcomes)})
        result = rank(
            [{"id": "a", "vector": [1.0, 2.0], "vectors": [good]}], query="vector", candidates="vectors", **kinds
        )
        assert_ranked(result, {"a": [Place(0, code="wrong_shape")]})
        self.assert_failed(result, {"a": "wrong_shape"}, "vector")
