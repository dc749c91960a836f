"""Ranking outcomes, and the totals of groups that are merged from parts."""

from __future__ import annotations

import itertools
import math
import pickle
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.special
from rank_expected import WITH_SOUNDS

from clipmill.encoders import Failure, Vector, load_encoder
from clipmill.encoders.plans.ranking import GroupTotals, Ranked, Scorer, because_of_query, check_top_k
from clipmill.errors import SpecError
from clipmill.failures import Code, Stage

BROKEN = Failure(Stage.DECODE, Code.UNDECODABLE, "no picture")
SLOW = Failure(Stage.FETCH, Code.FETCH_FAILED, "timed out", transient=True)


def vector(*values: float, modality: str | None = None) -> Vector:
    return Vector(np.array(values, np.float32), modality=modality)


def scorer(scale: float | str = 100.0, model: str = "fake::dim=2") -> Scorer:
    return Scorer(load_encoder(model), scale)  # type: ignore[arg-type]


QUERY = vector(1, 0)
NEAR, MIDDLE, FAR = vector(3, 1), vector(1, 1), vector(-1, 2)


# --- lists -----------------------------------------------------------------------------------------------------------


def test_candidates_are_sorted_and_scored() -> None:
    ranked = scorer(2).rank(QUERY, [FAR, NEAR, MIDDLE])
    cosines = [3 / math.sqrt(10), 1 / math.sqrt(2), -1 / math.sqrt(5)]
    assert [one.position for one in ranked] == [1, 2, 0]
    np.testing.assert_allclose([one.cosine for one in ranked], cosines, atol=1e-7)
    np.testing.assert_allclose(
        [one.clip_score for one in ranked], scipy.special.softmax(2 * np.array(cosines)), atol=1e-7
    )
    assert all(type(one.cosine) is float and type(one.clip_score) is float for one in ranked)


def test_candidates_without_scores_come_last_and_are_left_out_of_the_softmax() -> None:
    ranked = scorer().rank(QUERY, [BROKEN, FAR, None, NEAR, SLOW, vector(1, 2, 3), vector(math.nan, 1)])
    assert [one.position for one in ranked] == [3, 1, 0, 2, 4, 5, 6]
    assert ranked[:2] == [one._replace(position=[3, 1][one.position]) for one in scorer().rank(QUERY, [NEAR, FAR])]
    assert [one.failure for one in ranked[2:5]] == [BROKEN, None, SLOW]
    assert [str(one.failure.code) for one in ranked[5:]] == ["wrong_shape", "out_of_range"]
    assert all(one.cosine is None and one.clip_score is None for one in ranked[2:])


@pytest.mark.parametrize("top_k", [1, 2, 3, 100])
def test_top_k_keeps_candidates_without_scores(top_k: int) -> None:
    candidates = [BROKEN, FAR, None, NEAR, MIDDLE]
    whole = scorer().rank(QUERY, candidates)
    assert scorer().rank(QUERY, candidates, top_k) == whole[: min(top_k, 3)] + whole[3:]


def test_candidates_of_a_failed_query_have_no_scores() -> None:
    """They keep their order, and each has the reason and whether a retry may help."""
    ranked = scorer().rank(SLOW, [NEAR, None, BROKEN], 1)
    assert [one.position for one in ranked] == [0, 1, 2]
    reason = because_of_query(SLOW)
    assert {one.failure for one in ranked} == {reason}
    assert (reason.stage, reason.code, reason.transient) == (SLOW.stage, SLOW.code, True)
    assert reason.message == "the query: timed out"
    assert [str(one.failure.code) for one in scorer().rank(vector(1), [NEAR])] == ["wrong_shape"]


def test_no_candidates() -> None:
    assert scorer().rank(QUERY, []) == []
    assert scorer().rank(BROKEN, []) == []


def test_ties_keep_their_order_in_lists_of_any_length() -> None:
    """Equal vectors have equal scores, even in matrix products of 1,000 candidates."""
    rng = np.random.default_rng(9)
    distinct = [Vector(rng.standard_normal(300).astype(np.float32)) for _ in range(7)]
    chosen = rng.integers(0, 7, 1000)
    encoder_scorer = Scorer(load_encoder("fake::dim=300"), 100.0)
    ranked = encoder_scorer.rank(Vector(rng.standard_normal(300).astype(np.float32)), [distinct[n] for n in chosen])
    kinds = [chosen[one.position] for one in ranked]
    assert len({one.clip_score for one in ranked}) == 7
    assert sum(a != b for a, b in itertools.pairwise(kinds)) == 6
    for kind in range(7):
        assert [one.position for one in ranked if chosen[one.position] == kind] == np.flatnonzero(
            chosen == kind
        ).tolist()


def test_a_pair_has_the_same_cosine_as_in_a_list() -> None:
    rng = np.random.default_rng(10)
    found = Scorer(load_encoder("fake::dim=50"), 30.0)
    query, *candidates = (Vector(rng.standard_normal(50).astype(np.float32)) for _ in range(20))
    for one in found.rank(query, candidates):
        ((cosine, logit),) = found.pairs([query], [candidates[one.position]])
        assert (cosine, logit) == (one.cosine, 30 * one.cosine)


def test_ranked_as_plain_values() -> None:
    assert Ranked(3, 0.5, 0.25).as_dict("c") == {
        "candidate": "c",
        "position": 3,
        "clip_score": 0.25,
        "cosine": 0.5,
        "failure": None,
    }
    failure = {"stage": "decode", "code": "undecodable", "message": "no picture"}
    plain = Ranked(0, failure=BROKEN).as_dict(None)
    assert plain["failure"] == failure and plain["cosine"] is None
    assert {type(value) for value in plain["failure"].values()} == {str}


# --- scales ----------------------------------------------------------------------------------------------------------


def test_a_single_learnt_scale_applies_to_all_pairs() -> None:
    """Even to vectors of unknown modality."""
    learnt = scorer("model", "fake::dim=2&scale=7.5")
    for query in (QUERY, vector(1, 0, modality="text")):
        for candidate in (NEAR, vector(1, 2, modality="text"), vector(1, 2, modality="image")):
            assert learnt.scale_of(query, candidate) == 7.5


def test_a_model_of_three_modalities_has_a_scale_for_each_pair() -> None:
    learnt = scorer("model", f"{WITH_SOUNDS.replace('dim=8', 'dim=2')}&scale=7.5&scale_ai=3&scale_at=20")
    text, image, audio = (vector(1, 0, modality=modality) for modality in ("text", "image", "audio"))
    assert [learnt.scale_of(*pair) for pair in ((text, image), (image, audio), (audio, text))] == [7.5, 3, 20]
    assert [learnt.scale_of(*pair) for pair in ((image, text), (audio, image), (text, audio))] == [7.5, 3, 20]
    for pair in ((text, text), (audio, audio), (text, NEAR), (NEAR, NEAR)):
        failure = learnt.scale_of(*pair)
        assert isinstance(failure, Failure)
        assert (failure.stage, failure.code) == (Stage.SCORE, Code.UNSUPPORTED)
        assert "audio and image, audio and text, image and text" in failure.message


def test_candidates_are_ordered_by_scaled_cosine() -> None:
    """If scales differ, a candidate with a lower cosine may come first."""
    learnt = scorer("model", "fake::dim=2&modalities=text,image,audio&scale=2&scale_ai=2&scale_at=50")
    query = vector(1, 0, modality="text")
    ranked = learnt.rank(query, [vector(3, 1, modality="image"), vector(1, 1, modality="audio")])
    assert [one.position for one in ranked] == [1, 0]
    assert ranked[0].cosine < ranked[1].cosine and ranked[0].clip_score > ranked[1].clip_score
    logits = [50 / math.sqrt(2), 2 * 3 / math.sqrt(10)]
    np.testing.assert_allclose([one.clip_score for one in ranked], scipy.special.softmax(logits), rtol=1e-5)


def test_a_model_without_a_learnt_scale() -> None:
    with pytest.raises(SpecError, match="fake::dim=2 has no learnt scale"):
        scorer("model")
    assert scorer(5, "fake::dim=2&scale=7.5").scale_of(QUERY, NEAR) == 5


@pytest.mark.parametrize("scale", [0, -2, math.nan, math.inf, "learnt", None, True])
def test_invalid_scales_are_refused(scale: object) -> None:
    with pytest.raises(SpecError) as refused:
        scorer(scale)  # type: ignore[arg-type]
    assert refused.value.option == "scale"


@pytest.mark.parametrize("top_k", [0, -1, 1.0, "3", True])
def test_invalid_numbers_of_candidates_are_refused(top_k: object) -> None:
    with pytest.raises(SpecError) as refused:
        check_top_k(top_k)
    assert refused.value.option == "top_k"


# --- groups ----------------------------------------------------------------------------------------------------------


def in_parts(logits: Sequence[float], top_k: int | None, rng: np.random.Generator) -> GroupTotals:
    """Total a group in random parts, merged two or more at a time in random order."""
    cuts = np.sort(rng.integers(0, len(logits) + 1, rng.integers(0, 6)))
    parts = [GroupTotals.of(part.tolist(), top_k) for part in np.split(np.array(logits), cuts)]
    parts += [GroupTotals()] * int(rng.integers(0, 3))
    while len(parts) > 1:
        rng.shuffle(parts)  # type: ignore[arg-type]
        count = int(rng.integers(2, len(parts) + 1))
        parts = [GroupTotals.merge(parts[:count], top_k), *parts[count:]]
    return pickle.loads(pickle.dumps(parts[0]))


@pytest.mark.parametrize("spread", [1e-3, 1, 100, 1e6])
@pytest.mark.parametrize("top_k", [None, 1, 5, 1000])
def test_merged_totals_equal_those_of_the_whole_group(spread: float, top_k: int | None) -> None:
    """clip_scores equal a direct softmax, and ranks equal SQL's rank(), for random groups in random parts."""
    rng = np.random.default_rng(11)
    for _ in range(30):
        logits = rng.normal(0, spread, rng.integers(1, 60)).round(int(rng.integers(0, 6))).tolist()
        totals = in_parts(logits, top_k, rng)
        clip_scores = [totals.clip_score(logit) for logit in logits]
        np.testing.assert_allclose(clip_scores, scipy.special.softmax(logits), rtol=1e-9, atol=1e-300)
        places = [1 + sum(other > logit for other in logits) for logit in logits]
        expected = [place if top_k and place <= top_k else None for place in places]
        assert [totals.rank(logit) for logit in logits] == expected
        assert len(totals.best) == min(top_k or 0, len(logits))


@pytest.mark.parametrize("shift", [-1e300, -1e6, 0, 1e6, 1e300])
def test_logits_of_any_size(shift: float) -> None:
    """Huge scales give huge logits, without overflow or warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        totals = GroupTotals.merge([GroupTotals.of([shift], 2), GroupTotals.of([shift, -1.7e308], 2)], 2)
        assert totals.clip_score(shift) == 0.5
        assert totals.clip_score(-1.7e308) == 0
        assert [totals.rank(shift), totals.rank(-1.7e308)] == [1, None]
        assert GroupTotals.of([1.7e308, -1.7e308], None).clip_score(1.7e308) == 1


def test_an_empty_group() -> None:
    """A group in which all rows failed also has totals, which are never used."""
    assert (
        GroupTotals.of([], 3) == GroupTotals.merge([], 3) == GroupTotals.merge([GroupTotals()] * 2, 3) == GroupTotals()
    )
    one = GroupTotals.of([5.0], 3)
    assert GroupTotals.merge([GroupTotals(), one, GroupTotals()], 3) == one


def test_ties_share_a_rank_even_at_top_k() -> None:
    """More than `top_k` rows have a rank if the last of them tie, as with `rank() <= k` in SQL."""
    totals = GroupTotals.of([3.0, 2.0, 2.0, 2.0, 1.0], 2)
    assert [totals.rank(logit) for logit in (3.0, 2.0, 1.0)] == [1, 2, None]
    totals = GroupTotals.of([2.0, 2.0, 2.0, 1.0], 3)
    assert [totals.rank(logit) for logit in (2.0, 1.0)] == [1, None]


def test_the_totals_of_a_group_have_a_bounded_size() -> None:
    """The totals of a million members are a few numbers and the best logits."""
    rng = np.random.default_rng(12)
    totals = GroupTotals()
    for _ in range(100):
        totals = GroupTotals.merge([totals, GroupTotals.of(rng.normal(0, 5, 10_000), 10)], 10)
    assert len(totals.best) == 10
    assert len(pickle.dumps(totals)) < 400
