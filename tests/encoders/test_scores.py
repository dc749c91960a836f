"""Cosines and clip_scores: the formula, exactness, and empty or invalid inputs."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.special

from clipmill.encoders.plans.scores import order, pair_cosines, score, softmax, unit_rows
from clipmill.errors import SpecError

STUDIO = {
    "television studio": 0.9920725226402283,
    "conference room": 0.006038925610482693,
    "lecture room": 0.0009973491542041302,
    "control room": 0.00078492151806131,
    "podium indoor": 0.00010626466246321797,
}
"""What clip-as-service published for a photograph of a television studio and five captions of it."""
GIVEN_ORDER = ["control room", "lecture room", "conference room", "podium indoor", "television studio"]


def studio_cosines(best: float = 0.27) -> np.ndarray:
    """Return cosines, in the order of the captions, whose differences follow from the published scores."""
    scores = np.array([STUDIO[name] for name in GIVEN_ORDER])
    return best + np.log(scores / scores.max()) / 100


def drawn(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Return random (rows, dim) float32 of many lengths, with a common component like the vectors of a model."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((rows, dim)) + 2 * rng.standard_normal(dim)
    return (vectors * rng.uniform(0.1, 20, (rows, 1))).astype(np.float32)


def plain_cosines(queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return cosines by the textbook formula, with exact sums."""
    queries, candidates = queries.astype(np.float64), candidates.astype(np.float64)
    inner = [[math.fsum(q * c) for c in candidates] for q in queries]
    lengths = [[math.sqrt(math.fsum(v * v)) for v in vectors] for vectors in (queries, candidates)]
    return np.array(inner) / np.outer(*lengths)


# --- the published example -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [0.27, 0.9, -0.2])
def test_the_published_scores_follow_from_their_cosines(best: float) -> None:
    """Only differences of cosines matter. The constant 100 stands for clip-as-service's exp(4.60517)."""
    published = [STUDIO[name] for name in GIVEN_ORDER]
    np.testing.assert_allclose(softmax(100 * studio_cosines(best)), published, rtol=1e-6)
    np.testing.assert_allclose(softmax(np.exp(4.60517) * studio_cosines(best)), published, rtol=1e-5)
    assert not np.allclose(softmax(50 * studio_cosines(best)), published, rtol=0.1)


def test_the_published_scores_follow_from_vectors() -> None:
    """An image and five captions with those cosines, of any length, give the published scores in their order."""
    cosines = studio_cosines()
    captions = np.zeros((5, 6))
    captions[:, 0] = cosines
    captions[np.arange(5), np.arange(1, 6)] = np.sqrt(1 - cosines**2)
    captions *= np.array([[3.0], [0.2], [1], [70], [5]])
    turn, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))
    picture = 11 * np.eye(6)[0] @ turn
    found = score(picture.astype(np.float32), (captions @ turn).astype(np.float32))
    assert [GIVEN_ORDER[n] for n in order(found.clip_score)] == list(STUDIO)
    np.testing.assert_allclose(found.clip_score, [STUDIO[name] for name in GIVEN_ORDER], rtol=1e-4)
    np.testing.assert_allclose(found.cosine, cosines, atol=1e-6)


# --- against the formula ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_scores_equal_the_formula(seed: int) -> None:
    """Random numbers of random shapes: cosines within float32's precision, clip_scores equal to scipy's softmax."""
    rng = np.random.default_rng(seed)
    rows, columns, dim, scale = *rng.integers(1, 40, 2), int(rng.integers(2, 700)), float(rng.uniform(0.1, 200))
    queries, candidates = drawn(rows, dim, seed), drawn(columns, dim, seed + 100)
    found = score(queries, candidates, scale=scale)
    expected = plain_cosines(queries, candidates)
    np.testing.assert_allclose(found.cosine, expected, atol=1e-7)
    np.testing.assert_allclose(found.clip_score, scipy.special.softmax(scale * found.cosine, axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.clip_score, scipy.special.softmax(scale * expected, axis=1), rtol=1e-4)
    np.testing.assert_allclose(found.clip_score.sum(axis=1), 1, rtol=1e-12)
    assert not np.allclose(found.cosine, queries.astype(np.float64) @ candidates.T, atol=1e-3)


@pytest.mark.parametrize("block_rows", [1, 2, 3, 7, 64, 333, 5000])
def test_results_do_not_depend_on_the_block_size(block_rows: int) -> None:
    """Blocks of every size, and candidates in another memory layout, give identical numbers."""
    queries, candidates = drawn(70, 257), drawn(333, 257, 1)
    whole = score(queries, candidates)
    cut = score(queries, candidates, block_rows=block_rows)
    np.testing.assert_array_equal(cut.cosine, whole.cosine)
    np.testing.assert_array_equal(cut.clip_score, whole.clip_score)
    turned = score(np.asfortranarray(queries), np.repeat(candidates, 2, axis=0)[::2], block_rows=block_rows)
    np.testing.assert_array_equal(turned.cosine, whole.cosine)


def test_sums_of_products_are_exact() -> None:
    """No sum of products of unit vectors is rounded, so that block size and order have no effect."""
    left, right = unit_rows(drawn(5, 2048)), unit_rows(drawn(5, 2048, 1))
    rng = np.random.default_rng(2)
    for a in left:
        for b in right:
            shuffled = rng.permutation(2048)
            assert a @ b == math.fsum(a * b) == float(np.cumsum((a * b)[shuffled])[-1])
    rows = drawn(5, 2048).astype(np.float64)
    rounded = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert any(float(np.cumsum(a * b)[-1]) != math.fsum(a * b) for a in rounded for b in rounded)


def test_a_single_query_gives_one_dimensional_scores() -> None:
    candidates = drawn(5, 9)
    one, several = score(candidates[0], candidates), score(candidates[:1], candidates)
    assert one.cosine.shape == one.clip_score.shape == (5,)
    assert several.cosine.shape == several.clip_score.shape == (1, 5)
    np.testing.assert_array_equal(one.clip_score, several.clip_score[0])
    assert one.cosine[0] == 1


def test_pair_cosines_equal_those_of_the_matrix() -> None:
    """Flat rows and lists of candidates have identical scores."""
    queries, candidates = drawn(50, 123), drawn(50, 123, 1)
    np.testing.assert_array_equal(pair_cosines(queries, candidates), np.diag(score(queries, candidates).cosine))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.uint8, np.int64, list])
def test_numbers_of_every_type(dtype: type) -> None:
    whole = np.random.default_rng(4).integers(0, 100, (6, 20))
    given = whole.tolist() if dtype is list else whole.astype(dtype)
    found = score(given[0], given)
    np.testing.assert_allclose(found.cosine, plain_cosines(whole[:1], whole)[0], atol=1e-7)
    assert found.cosine.dtype == found.clip_score.dtype == np.float64


@pytest.mark.parametrize("factor", [1e-300, 1e-170, 1e-30, 1e30, 1e170, 1e300])
def test_lengths_do_not_matter(factor: float) -> None:
    """Not even lengths whose squares overflow float64."""
    queries, candidates = drawn(3, 11).astype(np.float64), drawn(4, 11, 1).astype(np.float64)
    expected = plain_cosines(queries, candidates)
    np.testing.assert_allclose(score(queries * factor, candidates).cosine, expected, atol=1e-7)
    np.testing.assert_allclose(score(queries, candidates / factor).cosine, expected, atol=1e-7)


def test_cosines_are_within_one() -> None:
    vectors = drawn(200, 77)
    assert (pair_cosines(vectors, vectors) == 1).all()
    assert (pair_cosines(vectors, -3 * vectors) == -1).all()


# --- empty and invalid inputs ----------------------------------------------------------------------------------------


def test_a_vector_of_zeros_has_cosine_zero() -> None:
    zeros, other = np.zeros(4), np.array([1.0, 2, 3, 4])
    np.testing.assert_array_equal(score(zeros, [other, zeros]).cosine, [0, 0])
    np.testing.assert_array_equal(score(zeros, [other, zeros]).clip_score, [0.5, 0.5])
    np.testing.assert_array_equal(score(other, [zeros]).cosine, [0])


def test_a_single_candidate_has_clip_score_one() -> None:
    for candidate in (drawn(1, 4), -drawn(1, 4), np.zeros((1, 4))):
        assert score(drawn(1, 4)[0], candidate).clip_score.tolist() == [1]


@pytest.mark.parametrize("nothing", [[], np.empty((0, 4)), np.empty((0, 4), np.float32)], ids=["list", "f64", "f32"])
def test_no_candidates(nothing: object) -> None:
    assert score(np.ones((3, 4)), nothing).cosine.shape == (3, 0)
    assert score(np.ones((3, 4)), nothing).clip_score.shape == (3, 0)
    assert score(np.ones(4), nothing).clip_score.shape == (0,)
    assert score(np.ones((0, 4)), np.ones((2, 4))).clip_score.shape == (0, 2)


def test_equal_candidates_tie_at_any_position() -> None:
    """In any block and beside any others. They keep their order."""
    candidates = drawn(400, 300)
    candidates[[7, 130, 399]] = candidates[200]
    found = score(drawn(1, 300, 1)[0], candidates, block_rows=64)
    assert len({float(found.clip_score[n]) for n in (7, 130, 200, 399)}) == 1
    assert len(set(found.cosine.tolist())) > 350
    places = order(found.clip_score).tolist()
    first = places.index(7)
    assert places[first : first + 4] == [7, 130, 200, 399]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_left_out(value: float) -> None:
    """Their own scores are NaN, those of the others are unaffected, and there are no warnings."""
    candidates = drawn(4, 6)
    broken = candidates.copy()
    broken[2, 3] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = score(candidates[:2], broken)
        rest = score(candidates[:2], broken[[0, 1, 3]])
        nothing = score(broken[2], candidates)
    assert np.isnan(found.cosine[:, 2]).all() and np.isnan(found.clip_score[:, 2]).all()
    np.testing.assert_array_equal(found.clip_score[:, [0, 1, 3]], rest.clip_score)
    assert order(found.clip_score[0])[-1] == 2
    assert np.isnan(nothing.cosine).all() and np.isnan(nothing.clip_score).all()


def test_order_is_stable_and_puts_nan_last() -> None:
    assert order([1, 3, math.nan, 3, -math.inf, 2, math.nan]).tolist() == [1, 3, 5, 0, 4, 2, 6]
    assert order([]).tolist() == []


def test_softmax_of_huge_and_tiny_logits() -> None:
    """There is no overflow at any scale."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(softmax([1e308, 1e308, -1e308]), [0.5, 0.5, 0])
        np.testing.assert_allclose(softmax([-1e5, -1e5 - 1]), scipy.special.softmax([0, -1]))
        np.testing.assert_array_equal(softmax([[math.nan, 5.0], [math.nan, math.nan]]), [[math.nan, 1], [math.nan] * 2])
        np.testing.assert_array_equal(softmax([math.inf, 0, -math.inf]), [math.nan, 1, math.nan])
    assert softmax(np.empty((2, 0))).shape == (2, 0)


# --- refused inputs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queries", "candidates"),
    [
        (np.ones((2, 3)), np.ones((2, 4))),
        (np.ones(3), np.ones(3)),
        (np.ones((2, 2, 3)), np.ones((2, 3))),
        (np.ones((2, 3)), np.ones((2, 2, 3))),
        (np.float64(1), np.ones((2, 3))),
        (np.ones(3), np.empty((4, 0))),
        (np.ones(3), np.empty((0, 4))),
    ],
    ids=["dim", "one-candidate-flat", "queries-3d", "candidates-3d", "scalar", "candidates-without-dim", "none-of-4"],
)
def test_mismatched_shapes_are_refused(queries: np.ndarray, candidates: np.ndarray) -> None:
    with pytest.raises(ValueError, match="do not fit") as raised:
        score(queries, candidates)
    assert str(np.shape(candidates)) in str(raised.value)


@pytest.mark.parametrize("scale", [0, -1, math.inf, math.nan, "100", "model", None, True, [100]])
def test_invalid_scales_are_refused(scale: object) -> None:
    with pytest.raises(SpecError) as refused:
        score(np.ones(3), np.ones((2, 3)), scale=scale)
    assert refused.value.option == "scale"


def test_invalid_block_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="block_rows=0"):
        score(np.ones(3), np.ones((2, 3)), block_rows=0)


def test_the_callers_vectors_are_not_modified() -> None:
    vectors = drawn(5, 8).astype(np.float64)
    before = vectors.copy()
    score(vectors, vectors)
    pair_cosines(vectors, vectors)
    np.testing.assert_array_equal(vectors, before)
