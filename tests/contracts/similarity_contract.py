"""What every engine promises about scores of pairs, as tests that know no engine: Beam and Spark both run them.

A module of an engine subclasses `SimilarityContract` and gives it the fixture `compare`:

    @pytest.fixture
    def compare(self):
        def compare(rows, a, b, *, model=MODEL, **options) -> Scored: ...
        return compare

Options are `a_kind`, `b_kind`, `score`, and those of a spec. Rows are those of `rank_contract`. `Scored.rows` holds all
rows that came out, with the new column `similarity`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import pytest
from contract import png, vector_of_png, vector_of_text, vector_of_wav, wav
from rank_expected import MODEL, RED, TOLERANCE, WITH_SOUNDS, Scored, by_id, cosine_of, document

from clipmill.encoders.testing import read_log
from clipmill.errors import SpecError

LEARNT = f"{MODEL}&scale=4.5&bias=-2.25"
"""A model with a scale and a bias whose sigmoids are neither 0 nor 1."""
SCORES = ("cosine", "clip_score", "logit", "sigmoid")


def score_of(score: str, cosine: float, scale: float = 4.5, bias: float = -2.25) -> float:
    """Return a score, the plain way."""
    logit = scale * cosine + bias
    return {
        "cosine": cosine,
        "clip_score": 2.5 * max(cosine, 0.0),
        "logit": logit,
        "sigmoid": 1 / (1 + math.exp(-logit)),
    }[score]


def assert_scores(result: Scored, expected: Mapping[str, float | None]) -> None:
    """Assert the scores of all rows, and that no row is missing or new."""
    found = {name: row["similarity"] for name, row in by_id(result).items()}
    assert sorted(found) == sorted(expected)
    for name, score in expected.items():
        assert found[name] == (None if score is None else pytest.approx(score, abs=TOLERANCE)), name


def captioned(number: int) -> list[dict[str, Any]]:
    """Return rows of a picture and its caption, all of them distinct."""
    return [
        {"id": str(n), "photo": png(1 + n * 9, 40, (n * 9 % 250, 20, 9)), "caption": f"caption {n}" * (1 + n % 3)}
        for n in range(number)
    ]


def captioned_scores(number: int, score: str, **learnt: float) -> dict[str, float | None]:
    """Return what they should get."""
    cosines = [
        cosine_of(vector_of_png(1 + n * 9, 40, (n * 9 % 250, 20, 9)), vector_of_text(f"caption {n}" * (1 + n % 3)))
        for n in range(number)
    ]
    return {str(n): score_of(score, cosine, **learnt) for n, cosine in enumerate(cosines)}


class SimilarityContract:
    """Rows with two values; see the module."""

    @pytest.fixture
    def compare(self):
        raise NotImplementedError("a subclass gives this fixture")

    @pytest.mark.parametrize("score", SCORES)
    def test_every_score_of_pictures_and_captions(self, compare, score):
        options = {"a_kind": "image", "b_kind": "text", "score": score, "max_batch_rows": 3}
        result = compare(captioned(7), "photo", "caption", model=LEARNT, **options)
        assert_scores(result, captioned_scores(7, score))
        assert result.failures == []

    def test_the_order_of_the_columns_does_not_matter(self, compare):
        result = compare(captioned(3), "caption", "photo", model=LEARNT, score="sigmoid")
        assert_scores(result, captioned_scores(3, "sigmoid"))

    def test_another_scale_and_another_bias_are_seen(self, compare):
        """The control of the tests above: other learnt values give other scores."""
        model = f"{MODEL}&scale=3&bias=1"
        result = compare(captioned(3), "photo", "caption", model=model, score="sigmoid")
        assert_scores(result, captioned_scores(3, "sigmoid", scale=3, bias=1))
        ours = {name: row["similarity"] for name, row in by_id(result).items()}
        for name, other in captioned_scores(3, "sigmoid").items():
            assert abs(ours[name] - other) > 0.1

    def test_the_cosine_is_the_score_unless_told(self, compare):
        rows = [{"id": "a", "query": "red", "caption": "redder"}, {"id": "same", "query": "one", "caption": "one"}]
        result = compare(rows, "query", "caption")
        assert_scores(result, {"a": cosine_of(vector_of_text("red"), vector_of_text("redder")), "same": 1.0})

    def test_clip_scores_of_opposite_vectors_are_zero(self, compare):
        one = [1.0] + [0.0] * 7
        rows = [{"id": str(n), "vector": [sign, *one[1:]], "query": "x"} for n, sign in enumerate((1.0, -1.0))]
        cosine = cosine_of(one, vector_of_text("x"))
        for score in ("cosine", "clip_score"):
            result = compare(rows, "vector", "query", a_kind="vector", score=score)
            assert_scores(result, {"0": score_of(score, cosine), "1": score_of(score, -cosine)})

    def test_logits_of_a_model_without_a_bias(self, compare):
        result = compare(captioned(3), "photo", "caption", model=f"{MODEL}&scale=7.5", score="logit")
        assert_scores(result, captioned_scores(3, "logit", scale=7.5, bias=0.0))

    @pytest.mark.parametrize(
        ("score", "model", "lacks"),
        [("sigmoid", f"{MODEL}&scale=2", "bias"), ("sigmoid", MODEL, "bias"), ("logit", MODEL, "scale")],
    )
    def test_a_model_that_has_not_learnt_it_says_what_works(self, compare, score, model, lacks):
        with pytest.raises(Exception, match=rf"fake::dim=8\S* has no learnt {lacks}.*leave out score"):
            compare(captioned(1), "photo", "caption", score=score, model=model)

    def test_a_pair_of_modalities_that_it_has_not_learnt(self, compare):
        """Of two texts, there is a cosine, and no probability: refused at once if the kinds say so, else row by row."""
        rows = [{"id": "a", "query": "red", "caption": "redder"}]
        with pytest.raises(Exception, match=r"no scale between text and text \(score='sigmoid' knows image and text\)"):
            compare(rows, "query", "caption", a_kind="text", b_kind="text", score="sigmoid", model=LEARNT)
        for score in ("sigmoid", "logit"):
            result = compare(rows, "query", "caption", score=score, model=LEARNT)
            assert_scores(result, {"a": None})
            assert result.failures == [("a", "caption", "unsupported")]

    def test_each_pair_of_modalities_has_its_values(self, compare):
        model = f"{WITH_SOUNDS}&scale=4.5&bias=-2.25&scale_ai=3&bias_ai=0.5&scale_at=0.01&bias_at=1"
        rows = [
            {"id": "it", "document": document(blob=png(2, 3, RED)), "query": "red"},
            {"id": "at", "document": document(blob=wav(50)), "query": "red"},
            {"id": "tt", "document": document(text="red"), "query": "red"},
        ]
        result = compare(rows, "document", "query", score="sigmoid", model=model)
        text = vector_of_text("red")
        expected = {"it": score_of("sigmoid", cosine_of(vector_of_png(2, 3, RED), text)), "tt": None}
        expected["at"] = score_of("sigmoid", cosine_of(vector_of_wav(50), text), 0.01, 1.0)
        assert_scores(result, expected)
        assert result.failures == [("tt", "query", "unsupported")]

    def test_vectors_of_an_unknown_modality_take_the_only_values(self, compare):
        vector = [1.0, 2.0, -1.0, 0.0, 0.0, 0.0, 3.0, 1.0]
        rows = [{"id": "a", "vector": vector, "query": "red"}]
        result = compare(rows, "vector", "query", a_kind="vector", score="sigmoid", model=LEARNT)
        assert_scores(result, {"a": score_of("sigmoid", cosine_of(vector, vector_of_text("red")))})

    def test_bad_pairs_between_good_ones(self, compare):
        rows = captioned(8)
        rows[1]["photo"], rows[2]["photo"], rows[3]["caption"] = b"no picture", None, " "
        rows[4] |= {"photo": None, "caption": ""}
        rows[5] |= {"photo": b"", "caption": " "}
        result = compare(rows, "photo", "caption", score="sigmoid", model=LEARNT, max_batch_rows=2)
        good = captioned_scores(8, "sigmoid")
        assert_scores(result, {name: None if name in "12345" else score for name, score in good.items()})
        expected = [("1", "photo", "undecodable"), ("3", "caption", "empty"), ("5", "photo", "empty")]
        assert [failure for failure in sorted(result.failures) if failure[:2] != ("5", "caption")] == expected

    def test_precomputed_vectors_that_cannot_be_compared(self, compare):
        vectors = {"short": [1.0], "nan": [math.nan] * 8, "good": [1.0] * 8, "zero": [0.0] * 8}
        rows = [{"id": name, "vector": vector, "query": "red"} for name, vector in vectors.items()]
        result = compare(rows, "vector", "query", a_kind="vector")
        good = cosine_of([1.0] * 8, vector_of_text("red"))
        assert_scores(result, {"short": None, "nan": None, "good": good, "zero": 0.0})
        assert sorted(result.failures) == [("nan", "vector", "out_of_range"), ("short", "vector", "wrong_shape")]

    def test_equal_values_are_encoded_once(self, compare, tmp_path):
        rows = [{"id": str(n), "query": "the same", "caption": f"caption {n}"} for n in range(20)]
        compare(rows, "query", "caption", model=f"{MODEL}&log={tmp_path / 'log'}")
        log = read_log(tmp_path / "log")
        assert log.rows == 20 + len(log.loads)

    def test_what_went_in_comes_out_and_is_unchanged(self, compare):
        rows = [row | {"note": "kept"} for row in captioned(2)]
        before = copy.deepcopy(rows)
        found = by_id(compare(rows, "photo", "caption"))
        assert rows == before
        for row in rows:
            assert set(found[row["id"]]) == {"id", "photo", "caption", "note", "similarity"}
            assert {name: found[row["id"]][name] for name in row} == row

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"a_kind": "picture"}, r"a_kind='picture'.*'image'"),
            ({"b_kind": "audio"}, r"b_kind='audio'.*embeds image and text"),
            ({"score": "dot"}, r"score='dot' must be one of 'cosine', 'clip_score', 'logit', 'sigmoid'"),
            ({"score": "softmax"}, r"score='softmax' must be one of"),
        ],
        ids=["a_kind", "b_kind", "score", "softmax"],
    )
    def test_options_that_cannot_work_are_refused_at_once(self, compare, options, message):
        with pytest.raises(SpecError, match=message):
            compare(captioned(1), "photo", "caption", **options)

    def test_no_rows(self, compare):
        assert compare([], "query", "caption") == Scored([], [])
