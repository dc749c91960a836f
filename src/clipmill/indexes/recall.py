"""What an index finds of what exact search finds, and the least that has to be looked at for it."""

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
"""Cosines that differ by less are equal: of equal vectors any is right."""
_FAR_READ = 4.0
"""What a byte of a full vector somewhere on the disk costs, in bytes of codes that follow one another."""
_AFTER = 2
"""Steps that are tried after the first that reaches the target: one more list may be cheaper than more candidates."""


class Truth(NamedTuple):
    """What exact search finds for queries that are themselves in the index.

    Attributes:
        queries: (n, dim) float32 of length 1.
        places: (n,) int64, where the queries stand in the index.
        hits: The k + 1 nearest of each, itself among them unless others are equal to it.
    """

    queries: np.ndarray
    places: np.ndarray
    hits: Hits


class _Step(NamedTuple):
    """One setting that was tried.

    Attributes:
        parameters: Without `rerank`.
        recalls: By place in `RERANKS`; NaN where the index was not asked for as many candidates.
    """

    parameters: SearchParameters
    recalls: list[float]


def tune(index: OpenIndex, truth: Truth, target: float) -> tuple[SearchParameters, Recall | None]:
    """Find the cheapest parameters that reach a recall, and measure a search with them.

    Lists, or rows of the graph in view, are added step by step; at each step one search tells what every number of
    candidates would give, since those are compared exactly. Of all that reach the target the one that reads least is
    taken, or the best if none does, and it is measured as users search: with the comparison, k at a time.

    Args:
        index: Its own parameters do not matter.
        truth: What should be found.
        target: Share of the true nearest rows, 0 to 1.

    Returns:
        The parameters, and what they give; None where there is nothing to look for.
    """
    k = min(K, index.manifest.rows - 1)
    if k < 1 or not len(truth.queries):
        return _steps(index)[0], None
    if index.manifest.index_file is None:
        found = _measure(index, truth, SearchParameters(), k)
        return SearchParameters(), _recall(found, truth, target, k, ())
    tried: list[_Step] = []
    reached_at: int | None = None
    for number, parameters in enumerate(_steps(index)):
        tried.append(_Step(parameters, _candidate_recalls(index, truth, parameters, k)))
        if reached_at is None and max(tried[-1].recalls) >= target:
            reached_at = number
        if reached_at is not None and number >= reached_at + _AFTER:
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
        measured = _measure(index, truth, chosen, k)
        best = measured if best is None or measured.recall > best.recall else best
        if measured.recall >= target:
            break
    assert best is not None
    curve = [_measure(index, truth, _with_rerank(step.parameters, best.search.rerank), k) for step in tried]
    return best.search, _recall(best, truth, target, k, tuple(curve))


def _recall(found: Measured, truth: Truth, target: float, k: int, curve: tuple[Measured, ...]) -> Recall:
    return Recall(
        k=k,
        queries=len(truth.queries),
        target=target,
        reached=found.recall >= target,
        recall=found.recall,
        queries_per_second=found.queries_per_second,
        curve=curve,
    )


def _with_rerank(parameters: SearchParameters, rerank: int | None) -> SearchParameters:
    return SearchParameters(parameters.nprobe, parameters.ef_search, rerank)


def _steps(index: OpenIndex) -> list[SearchParameters]:
    """Return what is tried, from fast to thorough, without `rerank`."""
    if index.manifest.index_file is None:
        return [SearchParameters()]
    lists = index.lists
    if lists:
        return [SearchParameters(nprobe=number) for number in _rising(1, lists)]
    if index.is_graph:
        return [SearchParameters(ef_search=number) for number in _rising(16, max(16, min(4096, index.manifest.rows)))]
    return [SearchParameters()]


def _rising(first: int, last: int) -> Iterator[int]:
    """Yield 1, 2, 3, 4, 6, 8, 12, …: each some half more than the one before, and the last."""
    number = first
    while number < last:
        yield number
        if number * 3 % 2 == 0 and number > 1 and number * 3 // 2 < last:
            yield number * 3 // 2
        number *= 2
    yield last


def _candidate_recalls(index: OpenIndex, truth: Truth, parameters: SearchParameters, k: int) -> list[float]:
    """Return what each number of candidates would give, if those are compared exactly."""
    most = RERANKS[-1]
    if parameters.ef_search is not None:  # a graph gives no more than it has in view
        most = max(1, min(most, parameters.ef_search // (k + 1)))
    count = min(index.manifest.rows, most * (k + 1))
    found = index.candidates(truth.queries, count, parameters)
    true, there = _true_positions(truth, k)
    place = np.full(true.shape, np.iinfo(np.int64).max)
    for start in range(0, len(true), 64):
        equal = found[start : start + 64, None, :] == true[start : start + 64, :, None]
        place[start : start + 64] = np.where(equal.any(axis=2), equal.argmax(axis=2), place[start : start + 64])
    recalls = []
    for rerank in RERANKS:
        asked = min(rerank * (k + 1), index.manifest.rows)
        recalls.append(float((place[there] < asked).mean()) if asked <= count else float("nan"))
    return [0.0 if np.isnan(one) else one for one in recalls]


def _true_positions(truth: Truth, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k true neighbours of each query, its own place left out, and which of them are there."""
    positions, scores = _without_own(truth.hits, truth.places, k)
    del scores
    return positions, positions >= 0


def _without_own(hits: Hits, places: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and scores of the k best of each query without the query itself."""
    own = hits.positions == places[:, None]
    own[~own.any(axis=1), -1] = True  # equal vectors pushed it out: the last one goes
    order = np.argsort(own, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(hits.positions, order, axis=1), np.take_along_axis(hits.scores, order, axis=1)


def _measure(index: OpenIndex, truth: Truth, parameters: SearchParameters, k: int) -> Measured:
    """Search as users do, and compare: what is right is in the truth, or as near as the farthest in it."""
    started = time.perf_counter()
    hits = index.search_with(truth.queries, k + 1, parameters)
    seconds = time.perf_counter() - started
    found, scores = _without_own(hits, truth.places, k)
    true, true_scores = _without_own(truth.hits, truth.places, k)
    right = (found[:, :, None] == true[:, None, :]).any(axis=2)
    if index.manifest.dtype == "float32":
        right |= scores >= np.nanmin(true_scores, axis=1)[:, None] - _EQUAL
    right &= found >= 0
    return Measured(parameters, float(right.sum() / max(1, (true >= 0).sum())), len(found) / max(seconds, 1e-9))


def _cost(index: OpenIndex, parameters: SearchParameters, rerank: int, k: int) -> float:
    """Return about what a query reads, in bytes."""
    manifest = index.manifest
    full = rerank * (k + 1) * manifest.dim * (2 if manifest.dtype == "float16" else 4) * _FAR_READ
    code = int(manifest.plan["code_bytes"])
    if parameters.nprobe is not None:
        return parameters.nprobe / index.lists * manifest.rows * code + full
    return (parameters.ef_search or 0) * code * _FAR_READ * 32 + full
