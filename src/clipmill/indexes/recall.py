"""The recall of an index against exact search, and the cheapest search parameters that reach a target recall."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .hits import Hits
from .manifest import Measured, Recall, SearchParameters
from .opened import OpenIndex

K = 10
QUERIES = 1000
RERANKS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
_EQUAL = 1e-6
"""Cosines that differ by less count as equal: of equal vectors any is right."""
_FAR_READ = 4.0
"""Cost of a byte read at random (full vectors), relative to one read in sequence (codes of a list)."""
_EXTRA_STEPS = 2
"""Steps tried after the first that reaches the target: one more list may be cheaper than more candidates."""


class GroundTruth(NamedTuple):
    """The results of exact search for queries that are rows of the index.

    Attributes:
        queries: (n, dim) float32 of length 1.
        own_positions: (n,) int64, positions of the queries in the index.
        hits: The k + 1 nearest rows of each: the query itself too, unless more than k others are equal to it.
    """

    queries: np.ndarray
    own_positions: np.ndarray
    hits: Hits


class _Step(NamedTuple):
    """Search parameters that were tried.

    Attributes:
        parameters: Without `rerank`.
        recalls: One for each number of candidates in `RERANKS`; 0 where the index cannot return as many.
    """

    parameters: SearchParameters
    recalls: list[float]


def tune(index: OpenIndex, ground_truth: GroundTruth, target: float) -> tuple[SearchParameters, Recall | None]:
    """Find the cheapest parameters that reach a recall, and measure a search with them.

    `nprobe` or `efSearch` grows step by step. One search of each step gives the recall of every `rerank`: candidates
    are compared exactly, so a true neighbour is found if it is among them. Of the settings that reach the target the
    one that reads least is chosen, else the one with the best recall. It is then measured as users search, with
    reranking.

    Args:
        index: Its own parameters are ignored.
        ground_truth: What should be found.
        target: Share of the true nearest rows, 0 to 1.

    Returns:
        The parameters and their recall; None for the recall where there is nothing to measure.
    """
    k = min(K, index.manifest.rows - 1)
    if k < 1 or not len(ground_truth.queries):
        return _steps(index)[0], None
    if index.manifest.index_file is None:
        found = _measure(index, ground_truth, SearchParameters(), k)
        return SearchParameters(), _recall(found, ground_truth, target, k, ())
    tried: list[_Step] = []
    reached_at: int | None = None
    for number, parameters in enumerate(_steps(index)):
        tried.append(_Step(parameters, _candidate_recalls(index, ground_truth, parameters, k)))
        if reached_at is None and max(tried[-1].recalls) >= target:
            reached_at = number
        if reached_at is not None and number >= reached_at + _EXTRA_STEPS:
            break
    settings = sorted(
        (
            (_cost(index, step.parameters, rerank, k), recall, step.parameters, rerank)
            for step in tried
            for rerank, recall in zip(RERANKS, step.recalls, strict=True)
        ),
        key=lambda one: one[0],
    )
    reaching = [one for one in settings if one[1] >= target] or [max(settings, key=lambda one: (one[1], -one[0]))]
    best = None
    for _, _, parameters, rerank in reaching[:5]:
        chosen = _with_rerank(parameters, rerank)
        measured = _measure(index, ground_truth, chosen, k)
        best = measured if best is None or measured.recall > best.recall else best
        if measured.recall >= target:
            break
    assert best is not None
    curve = [_measure(index, ground_truth, _with_rerank(step.parameters, best.search.rerank), k) for step in tried]
    return best.search, _recall(best, ground_truth, target, k, tuple(curve))


def _recall(found: Measured, ground_truth: GroundTruth, target: float, k: int, curve: tuple[Measured, ...]) -> Recall:
    return Recall(
        k=k,
        queries=len(ground_truth.queries),
        target=target,
        reached=found.recall >= target,
        recall=found.recall,
        queries_per_second=found.queries_per_second,
        curve=curve,
    )


def _with_rerank(parameters: SearchParameters, rerank: int | None) -> SearchParameters:
    return SearchParameters(parameters.nprobe, parameters.ef_search, rerank)


def _steps(index: OpenIndex) -> list[SearchParameters]:
    """Return the parameters to try, from fast to thorough, without `rerank`."""
    if index.manifest.index_file is None:
        return [SearchParameters()]
    lists = index.lists
    if lists:
        return [SearchParameters(nprobe=number) for number in _rising(1, lists)]
    if index.is_graph:
        return [SearchParameters(ef_search=number) for number in _rising(16, max(16, min(4096, index.manifest.rows)))]
    return [SearchParameters()]


def _rising(first: int, last: int) -> Iterator[int]:
    """Yield 1, 2, 3, 4, 6, 8, 12, …, powers of two and the numbers midway between them, and the last."""
    number = first
    while number < last:
        yield number
        if number * 3 % 2 == 0 and number > 1 and number * 3 // 2 < last:
            yield number * 3 // 2
        number *= 2
    yield last


def _candidate_recalls(
    index: OpenIndex, ground_truth: GroundTruth, parameters: SearchParameters, k: int
) -> list[float]:
    """Return the recall of each number of candidates in `RERANKS`, if they are compared exactly."""
    most = RERANKS[-1]
    if parameters.ef_search is not None:  # a graph returns at most efSearch rows
        most = max(1, min(most, parameters.ef_search // (k + 1)))
    count = min(index.manifest.rows, most * (k + 1))
    found = index.candidates(ground_truth.queries, count, parameters)
    true, there = _true_positions(ground_truth, k)
    place = np.full(true.shape, np.iinfo(np.int64).max)
    for start in range(0, len(true), 64):
        equal = found[start : start + 64, None, :] == true[start : start + 64, :, None]
        place[start : start + 64] = np.where(equal.any(axis=2), equal.argmax(axis=2), place[start : start + 64])
    recalls = []
    for rerank in RERANKS:
        returned = min(rerank * (k + 1), index.manifest.rows)
        recalls.append(float((place[there] < returned).mean()) if returned <= count else float("nan"))
    return [0.0 if np.isnan(one) else one for one in recalls]


def _true_positions(ground_truth: GroundTruth, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k true neighbours of each query without the query itself, and which of them exist."""
    positions, _ = without_own(ground_truth.hits, ground_truth.own_positions, k)
    return positions, positions >= 0


def without_own(hits: Hits, own_positions: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and scores of the k best hits of each query without the query itself."""
    own = hits.positions == own_positions[:, None]
    own[~own.any(axis=1), -1] = True  # more than k equal vectors come before it: drop the last hit
    order = np.argsort(own, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(hits.positions, order, axis=1), np.take_along_axis(hits.scores, order, axis=1)


def _measure(index: OpenIndex, ground_truth: GroundTruth, parameters: SearchParameters, k: int) -> Measured:
    """Search as users do, and compare: a hit is right if it is a true neighbour, or as near as the last of those."""
    started = time.perf_counter()
    hits = index.search_with(ground_truth.queries, k + 1, parameters)
    seconds = time.perf_counter() - started
    found, scores = without_own(hits, ground_truth.own_positions, k)
    true, true_scores = without_own(ground_truth.hits, ground_truth.own_positions, k)
    right = (found[:, :, None] == true[:, None, :]).any(axis=2)
    if index.manifest.dtype == "float32":
        right |= scores >= np.nanmin(true_scores, axis=1)[:, None] - _EQUAL
    right &= found >= 0
    return Measured(parameters, float(right.sum() / max(1, (true >= 0).sum())), len(found) / max(seconds, 1e-9))


def _cost(index: OpenIndex, parameters: SearchParameters, rerank: int, k: int) -> float:
    """Estimate what a query reads, in bytes of sequential reads."""
    manifest = index.manifest
    full = rerank * (k + 1) * manifest.dim * (2 if manifest.dtype == "float16" else 4) * _FAR_READ
    code = int(manifest.plan["code_bytes"])
    if parameters.nprobe is not None:
        return parameters.nprobe / index.lists * manifest.rows * code + full
    return (parameters.ef_search or 0) * code * _FAR_READ * 32 + full
