"""`SimilarityPlan` without an engine: scores, rejected rows, what it reads and says of itself."""

from __future__ import annotations

import functools
import math
import pickle
from typing import Any

import numpy as np
import pytest

from clipmill.encoders import EncoderSpec, Stats, load_encoder
from clipmill.encoders.plans.labels import LabelSet
from clipmill.encoders.plans.plan import PlanResult
from clipmill.encoders.plans.row_values import get_by_path
from clipmill.encoders.plans.runner import PlanRunner
from clipmill.encoders.plans.scores import range_of, sigmoid
from clipmill.encoders.plans.similarity_plan import SimilarityPlan, score_of_pair
from clipmill.errors import SpecError

MODEL = "fake::dim=2&scale=2&bias=-0.5"
SPEC = EncoderSpec(MODEL)


def results(plan: SimilarityPlan, rows: list[dict[str, Any]], stats: Stats | None = None) -> list[PlanResult]:
    with PlanRunner(plan.checked(SPEC), load_encoder(SPEC)).session(stats or Stats()) as session:
        done = [one for row in rows for one in session.push(None, functools.partial(get_by_path, row))]
        return [one.result for one in [*done, *session.flush()]]


def vectors(*angles: float) -> list[dict[str, Any]]:
    """Return pairs of vectors that stand at these angles, in degrees, of any lengths."""
    turned = [math.radians(angle) for angle in angles]
    return [{"x": [3.0, 0.0], "y": [0.1 * math.cos(turn), 0.1 * math.sin(turn)]} for turn in turned]


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("cosine", [1.0, 0.5, 0.0, -1.0]),
        ("clip_score", [2.5, 1.25, 0.0, 0.0]),
        ("logit", [1.5, 0.5, -0.5, -2.5]),
        ("sigmoid", [1 / (1 + math.exp(-logit)) for logit in (1.5, 0.5, -0.5, -2.5)]),
    ],
)
def test_scores_of_known_angles(score, expected):
    plan = SimilarityPlan("x", "y", "vector", "vector", score=score)
    found = [result.value["similarity"] for result in results(plan, vectors(0, 60, 90, 180))]
    assert found == [pytest.approx(one, abs=1e-6) for one in expected]
    assert all(type(one) is float for one in found)


def test_rejected_rows_have_a_reason_and_are_counted():
    rows = [*vectors(0, 61), {"x": None, "y": [1.0, 0.0]}, {"x": [1.0], "y": [1.0, 0.0]}, {"x": [1.0, 0.0]}]
    plan = SimilarityPlan("x", "y", "vector", "vector", "kept", min_score=0.5)
    stats = Stats()
    found = results(plan, rows, stats)
    assert [result.value.get("rejection") for result in found] == [None, "below_min_score", "no_score", None, None]
    assert [plan.rejection(result.value) is not None for result in found] == [False, True, True, False, False]
    assert [[str(one.code) for one in result.failures] for result in found] == [
        *[[]] * 3,
        ["wrong_shape"],
        ["missing_column"],
    ]
    assert stats.rejected == 2
    assert plan.new_names == ["kept", "rejection"] and [column.name for column in plan.added] == ["kept"]


def test_without_a_threshold_nothing_is_rejected():
    plan = SimilarityPlan("x", "y", "vector", "vector")
    stats = Stats()
    found = results(plan, [*vectors(180), {"x": None, "y": None}], stats)
    assert [result.value for result in found] == [{"similarity": pytest.approx(-1.0)}, {"similarity": None}]
    assert plan.rejection({"rejection": "theirs"}) is None and stats.rejected == 0 and plan.new_names == ["similarity"]


def test_it_says_what_decides_the_scores_and_pickles_small():
    plan = SimilarityPlan("x", "y", "image", "text", score="sigmoid", min_score=0.25)
    expected = {"score": "sigmoid", "min_score": 0.25, "a": "x", "b": "y", "a_kind": "image", "b_kind": "text"}
    assert plan.scoring() == expected
    assert expected.items() <= plan.description()["plan"].items()
    assert pickle.loads(pickle.dumps(plan)) == plan and len(pickle.dumps(plan)) < 400


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"b": "x"}, "a='x' and b='x' are the same column"),
        ({"a": 3}, "a=3 names no column"),
        ({"b_kind": "audio"}, "b_kind='audio': fake::dim=2.* embeds image and text"),
        ({"score": None}, "score=None must be one of"),
        ({"min_score": -2}, "min_score=-2 is not a number from -1 to 1"),
        ({"min_score": [0.5]}, r"min_score=\[0.5\]"),
        ({"min_score": 10**400, "score": "logit"}, "is not a finite number"),
        ({"min_score": np.True_}, "min_score="),
        ({"min_score": np.complex64(0.5)}, "min_score="),
        ({"key": ""}, "key='' names no column"),
    ],
    ids=str,
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(SpecError, match=message):
        SimilarityPlan(**{"a": "x", "b": "y", **options}).checked(SPEC)


@pytest.mark.parametrize("least", [np.float32(0.25), np.float64(0.25), np.float16(0.25), np.int64(0), 1], ids=repr)
def test_a_threshold_of_numpy_is_a_number(least):
    """It is stored as one of Python's, since it is written to the provenance."""
    plan = SimilarityPlan("x", "y", min_score=least).checked(SPEC)
    assert type(plan.min_score) is float and plan.min_score == least
    labels = LabelSet.of(["a", "b"], min_score=least)
    assert type(labels.min_score) is float and labels.min_score == least


def test_a_pair_of_kinds_that_the_model_has_not_learnt_is_refused_when_it_is_loaded():
    encoder = load_encoder(SPEC)
    for score, refused in (("sigmoid", True), ("logit", True), ("cosine", False), ("clip_score", False)):
        plan = SimilarityPlan("x", "y", "image", "image", score=score).checked(SPEC)
        if not refused:
            plan.tool(encoder)
            continue
        with pytest.raises(SpecError, match=rf"no scale between image and image .*'{score}' knows image and text"):
            plan.tool(encoder)
    SimilarityPlan("x", "y", "auto", "vector", score="sigmoid").checked(SPEC).tool(encoder)


def test_a_pair_with_a_scale_and_no_bias_has_logits_alone():
    spec = EncoderSpec("fake::modalities=text,image,audio&scale=4&scale_ai=4&bias=-1")
    encoder = load_encoder(spec)
    SimilarityPlan("x", "y", "image", "audio", score="logit").checked(spec).tool(encoder)
    SimilarityPlan("x", "y", "image", "text", score="sigmoid").checked(spec).tool(encoder)
    with pytest.raises(SpecError, match=r"no bias between audio and image \(score='sigmoid' knows image and text"):
        SimilarityPlan("x", "y", "image", "audio", score="sigmoid").checked(spec).tool(encoder)


def test_sigmoids_are_exact_at_both_ends():
    """No overflow, no warning, and small probabilities to their last digits."""
    logits = np.array([-800.0, -40.0, -1e-9, 0.0, 40.0, 800.0, np.nan])
    with np.errstate(all="raise"):
        found = sigmoid(logits)
    assert found[1] == pytest.approx(math.exp(-40) / (1 + math.exp(-40)), rel=1e-12)
    assert found[:6].tolist() == [0.0, found[1], pytest.approx(0.5), 0.5, 1.0, 1.0] and np.isnan(found[6])


def test_every_score_lies_in_its_range():
    for score in ("cosine", "clip_score", "sigmoid"):
        low, high = range_of(score)
        for cosine in (-1.0, 0.0, 1.0):
            assert low <= score_of_pair(score, cosine, 50 * cosine - 10) <= high
