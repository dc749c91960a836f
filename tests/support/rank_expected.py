"""What ranking should give, computed by hand from the fake's vectors: sums without rounding, the plain softmax."""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from contract import vector_of_text

MODEL = "fake::dim=8"
WITH_SOUNDS = "fake::dim=8&modalities=text,image,audio"
TOLERANCE = 1e-5

RED, GREEN, BLUE = (200, 10, 10), (10, 200, 10), (10, 10, 200)


class Scored(NamedTuple):
    """What an engine made of a call.

    Attributes:
        rows: Every row that came out.
        failures: (row's id, column, code) of every failure of a row. What of a list failed stands in the list only.
    """

    rows: list[dict[str, Any]]
    failures: list[tuple[str | None, str | None, str]]


class Place(NamedTuple):
    """One candidate as it should stand in a ranked list; without scores, the code of its failure, None for a null."""

    position: int
    cosine: float | None = None
    clip_score: float | None = None
    code: str | None = None


def cosine_of(left: Sequence[float], right: Sequence[float]) -> float:
    """Return the cosine of two vectors, summed without rounding; 0 where one is zeros."""
    inner = math.fsum(float(a) * float(b) for a, b in zip(left, right, strict=True))
    lengths = [math.sqrt(math.fsum(float(a) ** 2 for a in vector)) for vector in (left, right)]
    return inner / math.prod(lengths) if all(lengths) else 0.0


def softmax_of(logits: Sequence[float]) -> list[float]:
    """Return the softmax, the plain way."""
    powers = [math.exp(logit - max(logits)) for logit in logits]
    return [power / math.fsum(powers) for power in powers]


def places(query: Any, candidates: Sequence[Any], *, scale: float = 100.0, scales: Any = None) -> list[Place]:
    """Return what a ranked list should be.

    Args:
        query: Its vector; the code of its failure as a string.
        candidates: Of each its vector, the code of its failure, or None for a null.
        scale: What cosines are multiplied by.
        scales: Of each candidate its own scale instead.
    """
    if isinstance(query, str):
        return [Place(n, code=query) for n in range(len(candidates))]
    good = [n for n, one in enumerate(candidates) if one is not None and not isinstance(one, str)]
    cosines = {n: cosine_of(query, candidates[n]) for n in good}
    logits = {n: cosines[n] * (scale if scales is None else scales[n]) for n in good}
    sorted_logits = sorted(set(logits.values()))
    gaps = [high - low for low, high in itertools.pairwise(sorted_logits)]
    assert min(gaps, default=1) > 1e-5, "the example is too close to call"
    clip_scores = dict(zip(good, softmax_of([logits[n] for n in good]), strict=True)) if good else {}
    ranked = [Place(n, cosines[n], clip_scores[n]) for n in sorted(good, key=lambda n: (-logits[n], n))]
    return ranked + [Place(n, code=one) for n, one in enumerate(candidates) if n not in good]


def by_id(result: Scored) -> dict[str, dict[str, Any]]:
    """Return the rows by their ids, of which none may come twice."""
    ids = [row["id"] for row in result.rows]
    assert len(ids) == len(set(ids)), "a row came out twice"
    return {row["id"]: row for row in result.rows}


def assert_places(found: Any, expected: list[Place] | None, where: str = "") -> None:
    """Assert that a ranked list is what it should be: places exactly, scores within the tolerance."""
    if expected is None:
        assert found is None, where
        return
    assert found is not None, where
    assert [one["position"] for one in found] == [place.position for place in expected], where
    for one, place in zip(found, expected, strict=True):
        assert set(one) == {"candidate", "position", "clip_score", "cosine", "failure"}, where
        assert (one["failure"] and one["failure"]["code"]) == place.code, (where, one)
        if place.cosine is None:
            assert one["cosine"] is None and one["clip_score"] is None, (where, one)
        else:
            assert one["cosine"] == pytest.approx(place.cosine, abs=TOLERANCE), where
            assert one["clip_score"] == pytest.approx(place.clip_score, abs=TOLERANCE, rel=1e-4), where


def assert_ranked(result: Scored, expected: Mapping[str, list[Place] | None], column: str = "ranked") -> None:
    """Assert the ranked lists of all rows, and that no row is missing or new."""
    found = {name: row[column] for name, row in by_id(result).items()}
    assert sorted(found) == sorted(expected)
    for name, wanted in expected.items():
        assert_places(found[name], wanted, name)


def text_places(query: str, candidates: Sequence[str | None], **options: Any) -> list[Place]:
    """Return what the list of a text and texts should be; those without letters are empty."""
    vectors = [one if one is None else vector_of_text(one) if one.strip() else "empty" for one in candidates]
    return places(vector_of_text(query), vectors, **options)


def data_uri(data: bytes, media_type: str = "image/png") -> str:
    """Return a URI that holds its content."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def document(text: str | None = None, uri: str | None = None, blob: bytes | None = None) -> dict[str, Any]:
    """Return a struct that is ranked as a document."""
    return {"text": text, "uri": uri, "blob": blob}


COLOURS = ["a red circle", "green", "a blue square, filled", "two", "yellow and black", "grey"]
QUERIES = ["a picture of a red circle", "something green", "a dog", "The colour blue", "black & yellow"]


def questions(number: int = 5) -> list[dict[str, Any]]:
    """Return rows of a query and two to six candidates, all drawn from a few."""
    return [
        {
            "id": f"q{n}",
            "query": f"{QUERIES[n % 5]} {n // 5}".strip(),
            "candidates": [COLOURS[(n + m) % 6] for m in range(2 + n % 5)],
        }
        for n in range(number)
    ]


def words(number: int, seed: int = 3) -> list[str]:
    """Return distinct words, drawn so that no two of the first 50 are as good as tied for any of the others."""
    rng = np.random.default_rng(seed)
    return ["".join(map(chr, rng.integers(97, 123, rng.integers(3, 9)))) for _ in range(number)]
