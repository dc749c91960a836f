"""What every engine promises about ranking and classifying, as tests that know no engine: Beam and Spark both run them.

A module of an engine subclasses `RankContract`, `FlatContract` and `ClassifyContract` and gives each its fixture:

    from rank_contract import MODEL, ClassifyContract, FlatContract, RankContract, Scored

    class TestRank(RankContract):
        splits = True

        @pytest.fixture
        def rank(self):
            def rank(rows, *, query="query", candidates="candidates", model=MODEL, **options) -> Scored: ...
            return rank

`rank_groups(rows, *, by="group", query="query", candidate="candidate", model=MODEL, **options)` and
`classify(rows, columns, *, labels, model=MODEL, **options)` are the other two fixtures. Options are those of the
transforms: `query_kind`, `candidate_kind`, `top_k`, `scale`, `templates`, and those of a spec.

Rows are dicts of one shape for each call. What a column holds follows from its name:

- `id`, `note`: a string
- `query`, `candidate`, `caption`, `group`: a string or None
- `number`: a whole number or None
- `photo`, `sound`: bytes or None
- `vector`: a list of floats or None
- `document`: a dict of `text`, `uri` (strings or None) and `blob` (bytes or None), or None
- `candidates`, `photos`, `vectors`, `documents`: None, or lists of what `candidate`, `photo`, `vector`, `document` hold

What comes out is plain too: dicts, lists, bytes, numbers. Floats of vectors are exact in float32. `Scored.rows` holds
*all* rows that came out, failed ones too, in any order.
"""

from __future__ import annotations

import copy
import math

import pytest
from classify_contract import ClassifyContract
from contract import png, vector_of_png, vector_of_text, vector_of_wav, wav
from flat_rank_contract import FlatContract
from rank_expected import (
    BLUE,
    GREEN,
    MODEL,
    RED,
    TOLERANCE,
    WITH_SOUNDS,
    Place,
    Scored,
    assert_ranked,
    by_id,
    cosine_of,
    document,
    places,
    questions,
    softmax_of,
    text_places,
    words,
)
from rank_kinds_contract import KindsContract

from clipmill.encoders.testing import read_log
from clipmill.errors import SpecError

__all__ = ["MODEL", "WITH_SOUNDS", "ClassifyContract", "FlatContract", "RankContract", "Scored"]


class RankContract(KindsContract):
    """Rows with a query and a list of candidates; see the module."""

    splits = False
    """Whether a row whose query failed stands among the failures too, besides saying so at its candidates."""

    @pytest.fixture
    def rank(self):
        raise NotImplementedError("a subclass gives this fixture")

    def assert_failed(self, result: Scored, expected: dict[str, str], column: str = "query") -> None:
        """Assert which rows' queries failed: at their candidates, and among the failures where the engine splits."""
        rows = by_id(result)
        for name, code in expected.items():
            for one in rows[name]["ranked"]:
                assert one["failure"]["code"] == code
                assert one["failure"]["message"].startswith("the query: ")
        wanted = sorted((name, column, code) for name, code in expected.items()) if self.splits else []
        assert sorted(result.failures) == wanted

    # --- scores and order ---------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("max_batch_rows", [1, 3, 32])
    def test_scores_and_order_whatever_the_batch_size(self, rank, max_batch_rows):
        rows = questions(20)
        result = rank(rows, max_batch_rows=max_batch_rows)
        assert_ranked(result, {r["id"]: text_places(r["query"], r["candidates"]) for r in rows})
        assert result.failures == []

    def test_clip_scores_of_a_query_sum_to_one(self, rank):
        rows = questions(5)
        for row in rank(rows, top_k=6).rows:
            assert math.fsum(one["clip_score"] for one in row["ranked"]) == pytest.approx(1, abs=1e-6)

    def test_what_went_in_comes_out_with_its_candidates(self, rank):
        rows = [{"id": "a", "query": "red", "candidates": ["green", "reddish"], "note": "kept"}]
        (row,) = rank(rows).rows
        assert set(row) == {"id", "query", "candidates", "note", "ranked"}
        assert {name: row[name] for name in rows[0]} == rows[0]
        for one in row["ranked"]:
            assert one["candidate"] == rows[0]["candidates"][one["position"]]

    def test_ties_stand_in_their_order(self, rank):
        candidates = ["two", "red", "two", "red", "red", "two"]
        result = rank([{"id": "ties", "query": "red!", "candidates": candidates}])
        assert_ranked(result, {"ties": text_places("red!", candidates)})
        (row,) = result.rows
        assert [one["position"] for one in row["ranked"]] in ([1, 3, 4, 0, 2, 5], [0, 2, 5, 1, 3, 4])
        assert len({one["clip_score"] for one in row["ranked"]}) == 2

    def test_one_candidate_has_the_clip_score_one(self, rank):
        (row,) = rank([{"id": "one", "query": "red", "candidates": ["nothing like it"]}]).rows
        assert row["ranked"][0]["clip_score"] == 1

    def test_a_vector_of_zeros_has_the_cosine_zero(self, rank):
        vectors = [[0.0] * 8, [1.0] + [0.0] * 7, [-1.0] + [0.0] * 7]
        result = rank([{"id": "z", "query": "red", "vectors": vectors}], candidates="vectors", candidate_kind="vector")
        assert_ranked(result, {"z": places(vector_of_text("red"), vectors)})
        assert [one["cosine"] for one in result.rows[0]["ranked"]][1] == 0

    # --- top_k and scale ----------------------------------------------------------------------------------------------

    def test_top_k_keeps_the_best_and_what_has_no_scores(self, rank):
        rows = [
            {"id": "many", "query": "red", "candidates": ["redder", "", "blue", None, "red", "green and long"]},
            {"id": "few", "query": "red", "candidates": ["red"]},
        ]
        result = rank(rows, top_k=2)
        many = text_places("red", rows[0]["candidates"])
        assert_ranked(result, {"many": many[:2] + many[4:], "few": text_places("red", ["red"])})

    @pytest.mark.parametrize("scale", [1, 0.01, 250.5])
    def test_a_scale_that_is_a_number(self, rank, scale):
        rows = questions(5)
        result = rank(rows, scale=scale)
        assert_ranked(
            result,
            {
                r["id"]: [
                    place._replace(clip_score=clip_score)
                    for place, clip_score in zip(
                        text_places(r["query"], r["candidates"]),
                        softmax_of([scale * place.cosine for place in text_places(r["query"], r["candidates"])]),
                        strict=True,
                    )
                ]
                for r in rows
            },
        )

    def test_the_scale_that_the_model_learnt(self, rank):
        rows = questions(5)
        result = rank(rows, model=f"{MODEL}&scale=7.5", scale="model")
        assert_ranked(result, {r["id"]: text_places(r["query"], r["candidates"], scale=7.5) for r in rows})

    def test_each_pair_of_modalities_has_its_scale(self, rank):
        """Of a model of three modalities: another scale for each pair, and none between two texts."""
        model = f"{WITH_SOUNDS}&scale=7.5&scale_ai=3&scale_at=20"
        documents = [
            document(blob=png(2, 3, RED)),
            document(blob=wav(50)),
            document(text="red"),
            document(blob=png(50, 9, BLUE)),
            document(blob=wav(70, 2)),
        ]
        vectors = [vector_of_png(2, 3, RED), vector_of_wav(50), "unsupported", vector_of_png(50, 9, BLUE)]
        vectors.append(vector_of_wav(70, 2))
        result = rank(
            [{"id": "a", "query": "red", "documents": documents}], candidates="documents", scale="model", model=model
        )
        expected = places(vector_of_text("red"), vectors, scales=[7.5, 20.0, None, 7.5, 20.0])
        assert_ranked(result, {"a": expected})
        assert "scale" in result.rows[0]["ranked"][-1]["failure"]["message"]

    def test_sigmoids_of_each_candidate_alone(self, rank):
        """Not normalised over the candidates, in the order of the cosines; nulls and failures last as ever."""
        photo, candidates = png(9, 60, RED), ["a red circle", "green", None, "", "two and more of it"]
        rows = [{"id": "a", "photo": photo, "candidates": candidates}]
        options = {"query": "photo", "query_kind": "image", "score": "sigmoid"}
        (row,) = rank(rows, model=f"{MODEL}&scale=4.5&bias=-2.25", **options).rows
        vector = vector_of_png(9, 60, RED)
        cosines = {n: cosine_of(vector, vector_of_text(candidates[n])) for n in (0, 1, 4)}
        best = sorted(cosines, key=lambda n: -cosines[n])
        assert [one["position"] for one in row["ranked"]] == [*best, 2, 3]
        for one in row["ranked"][:3]:
            expected = 1 / (1 + math.exp(2.25 - 4.5 * cosines[one["position"]]))
            assert one["clip_score"] == pytest.approx(expected, abs=TOLERANCE)
            assert one["cosine"] == pytest.approx(cosines[one["position"]], abs=TOLERANCE)
        assert abs(math.fsum(one["clip_score"] for one in row["ranked"][:3]) - 1) > 0.1, "they sum to no 1"
        assert rank(rows, model=f"{MODEL}&scale=4.5&bias=-2.25", scale="model", **options).rows == [row]

    def test_sigmoids_of_a_pair_that_the_model_has_not_learnt(self, rank):
        (row,) = rank(questions(1), score="sigmoid", model=f"{MODEL}&scale=4.5&bias=-2.25").rows
        assert {one["failure"]["code"] for one in row["ranked"]} == {"unsupported"}
        assert "learnt no scale between text and text" in row["ranked"][0]["failure"]["message"]

    def test_a_model_that_learnt_no_bias_says_so(self, rank):
        with pytest.raises(Exception, match=r"has no learnt bias.*SigLIP"):
            rank(questions(2), score="sigmoid", model=f"{MODEL}&scale=7")

    def test_a_model_that_learnt_no_scale_says_so(self, rank):
        with pytest.raises(Exception, match=r"fake::dim=8 has no learnt scale"):
            rank(questions(2), scale="model")

    # --- bad input ----------------------------------------------------------------------------------------------------

    def test_a_query_without_candidates(self, rank):
        rows = [
            {"id": "none", "query": "red", "candidates": []},
            {"id": "null", "query": "red", "candidates": None},
            {"id": "no query", "query": None, "candidates": ["red"]},
            {"id": "nothing", "query": None, "candidates": None},
            {"id": "bad, and none", "query": " ", "candidates": []},
            {"id": "good", "query": "red", "candidates": ["red"]},
        ]
        result = rank(rows)
        expected = {"none": [], "null": None, "no query": None, "nothing": None, "bad, and none": []}
        assert_ranked(result, expected | {"good": text_places("red", ["red"])})
        assert result.failures == []

    def test_candidates_that_fail_stand_at_the_end_and_the_rest_is_ranked(self, rank):
        photos = [b"no picture", png(9, 60, RED), None, b"", png(70, 3, GREEN)[:50], png(70, 3, GREEN)]
        vectors = ["undecodable", vector_of_png(9, 60, RED), None, "empty", "undecodable", vector_of_png(70, 3, GREEN)]
        rows = [{"id": "a", "query": "red", "photos": photos}]
        result = rank(rows, candidates="photos", candidate_kind="image")
        assert_ranked(result, {"a": places(vector_of_text("red"), vectors)})
        assert result.failures == []
        scored, failed = result.rows[0]["ranked"][:2], result.rows[0]["ranked"][2:]
        assert math.fsum(one["clip_score"] for one in scored) == pytest.approx(1, abs=1e-6)
        assert {one["failure"]["stage"] for one in failed if one["failure"]} == {"decode"}
        assert all(one["failure"]["message"] for one in failed if one["failure"])

    def test_only_candidates_that_fail(self, rank):
        result = rank([{"id": "a", "query": "red", "candidates": ["", None, " "]}])
        assert_ranked(result, {"a": [Place(0, code="empty"), Place(1), Place(2, code="empty")]})
        assert result.failures == []

    def test_a_query_that_cannot_be_read(self, rank):
        rows = [
            {"id": "good", "query": "red", "candidates": ["red", "blue"]},
            {"id": "blank", "query": "  ", "candidates": ["red", None, ""]},
            {"id": "last", "query": "blue", "candidates": ["red", "blue"]},
        ]
        result = rank(rows, top_k=1)
        good, last = (text_places(q, ["red", "blue"])[:1] for q in ("red", "blue"))
        assert_ranked(result, {"good": good, "blank": places("empty", ["red", None, ""]), "last": last})
        self.assert_failed(result, {"blank": "empty"})

    def test_a_query_that_is_no_picture(self, rank):
        rows = [{"id": n, "photo": data, "candidates": ["red"]} for n, data in (("a", b"junk"), ("b", png(9, 60, RED)))]
        result = rank(rows, query="photo", query_kind="image")
        expected = {
            "a": [Place(0, code="undecodable")],
            "b": places(vector_of_png(9, 60, RED), [vector_of_text("red")]),
        }
        assert_ranked(result, expected)
        self.assert_failed(result, {"a": "undecodable"}, "photo")

    def test_a_model_that_breaks_on_one_text_spoils_no_other(self, rank):
        rows = [
            {"id": str(n), "query": f"q{n}", "candidates": [f"c{n}", "poison" if n == 3 else "fine"]} for n in range(9)
        ]
        result = rank(rows, model=f"{MODEL}&bad=poison", max_batch_rows=8)
        expected = {r["id"]: text_places(r["query"], r["candidates"]) for r in rows}
        vectors = [vector_of_text("c3"), "encode_failed"]
        assert_ranked(result, expected | {"3": places(vector_of_text("q3"), vectors)})

    def test_running_out_of_memory_halves_the_batch(self, rank):
        rows = questions(20)
        result = rank(rows, model=f"{MODEL}&max_rows=3", max_batch_rows=16)
        assert_ranked(result, {r["id"]: text_places(r["query"], r["candidates"]) for r in rows})

    def test_no_rows(self, rank):
        assert rank([]) == Scored([], [])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"query_kind": "picture"}, r"query_kind='picture'.*'image'"),
            ({"candidate_kind": "audio"}, r"candidate_kind='audio'.*embeds image and text"),
            ({"top_k": 0}, r"top_k=0"),
            ({"top_k": 2.5}, r"top_k=2\.5"),
            ({"scale": 0}, r"scale=0"),
            ({"scale": math.nan}, r"scale=nan"),
            ({"scale": "learnt"}, r"scale='learnt'.*'model'"),
            ({"score": "cosine"}, r"score='cosine' must be one of 'softmax', 'sigmoid'"),
            ({"score": "sigmoid", "scale": 7}, r"scale=7 has no effect with score='sigmoid'"),
        ],
        ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
    )
    def test_options_that_cannot_work_are_refused_at_once(self, rank, options, message):
        with pytest.raises(SpecError, match=message):
            rank(questions(1), **options)

    # --- work not done twice ------------------------------------------------------------------------------------------

    def test_queries_share_micro_batches(self, rank, tmp_path):
        rows = [{"id": str(n), "query": f"q{n}", "candidates": [f"{m} of {n}" for m in range(3)]} for n in range(40)]
        result = rank(rows, model=f"{MODEL}&log={tmp_path / 'log'}", max_batch_rows=32)
        assert_ranked(result, {r["id"]: text_places(r["query"], r["candidates"]) for r in rows})
        sizes = [size for _, size in read_log(tmp_path / "log").batches]
        assert sum(sizes) == 160
        assert max(sizes) == 32
        assert len(sizes) < 40 / 2

    def test_equal_candidates_are_encoded_once_in_each_worker(self, rank, tmp_path):
        labels, queries = words(250)[:50], words(250)[50:]
        rows = [{"id": str(n), "query": query, "candidates": labels[n % 2 :]} for n, query in enumerate(queries)]
        result = rank(rows, model=f"{MODEL}&log={tmp_path / 'log'}", max_batch_rows=16)
        assert_ranked(result, {r["id"]: text_places(r["query"], r["candidates"]) for r in rows})
        log = read_log(tmp_path / "log")
        assert set(log.loads.values()) == {1}
        assert log.rows == 200 + 50 * len(log.loads)

    def test_equal_pictures_are_encoded_once_in_each_worker(self, rank, tmp_path):
        photos = [png(n, 60, RED) for n in range(1, 6)]
        rows = [{"id": str(n), "query": f"query {n}", "photos": photos} for n in range(20)]
        rank(rows, candidates="photos", model=f"{MODEL}&log={tmp_path / 'log'}", max_batch_rows=4)
        log = read_log(tmp_path / "log")
        assert sum(size for kind, size in log.batches if kind == "image") == 5 * len(log.loads)

    def test_lists_longer_than_a_micro_batch(self, rank):
        long = [f"{'abcdefg'[n % 7]} candidate {n}" for n in range(150)]
        rows = [{"id": str(n), "query": "red" * (n + 1), "candidates": long[: 50 * (n + 1)]} for n in range(3)]
        result = rank(rows, max_batch_rows=8, top_k=3)
        for name, row in by_id(result).items():
            query, candidates = rows[int(name)]["query"], rows[int(name)]["candidates"]
            logits = [100 * cosine_of(vector_of_text(query), vector_of_text(one)) for one in candidates]
            clip_scores = softmax_of(logits)
            best = [one["clip_score"] for one in row["ranked"]]
            assert best == pytest.approx(sorted(clip_scores, reverse=True)[:3], abs=TOLERANCE)
            assert best == pytest.approx([clip_scores[one["position"]] for one in row["ranked"]], abs=TOLERANCE)

    def test_the_callers_data_is_unchanged(self, rank):
        rows = [
            {"id": "a", "query": "one", "documents": [document(text="x"), None, document(blob=png(1, 1, RED))]},
            {"id": "b", "query": None, "documents": []},
        ]
        before = copy.deepcopy(rows)
        assert len(rank(rows, candidates="documents").rows) == 2
        assert rows == before
