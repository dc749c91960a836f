"""Ranking and classifying pictures that the demo model never saw, through Beam and through Spark."""

from __future__ import annotations

import io
from typing import Any

import apache_beam as beam
import numpy as np
import pytest
from beam_helpers import Keep, kept, pipeline
from pyspark.sql import Row

from clipmill.encoders import EncoderSpec
from clipmill.pipelines.drawings import CLASSES, class_caption, draw, sample_scene
from clipmill.transforms import Classify, Rank
from clipmill.udfs import classify, rank

PICTURES, OF = 200, 10
LEAST = 0.95
TOLERANCE = 1e-5
SPEC = EncoderSpec("demo", device="cpu", runtime="torch", precision="fp32")
UNSEEN = 3_000_017
"""Seed of these pictures; neither the training's nor the evaluation's."""


@pytest.fixture(scope="module")
def pictures() -> list[tuple[str, bytes]]:
    """Freshly drawn pictures as JPEG, each with its caption, any colour and shape."""
    rng = np.random.default_rng(UNSEEN)
    found = []
    for number in rng.permutation(np.arange(PICTURES) % len(CLASSES)):
        colour, shape = CLASSES[number]
        file = io.BytesIO()
        draw(sample_scene(rng, colour=colour, shape=shape, count=1), rng).save(file, "JPEG", quality=85)
        found.append((class_caption(colour, shape), file.getvalue()))
    return found


@pytest.fixture(scope="module", params=["picture to captions", "caption to pictures"])
def task(request, pictures) -> tuple[str, list[dict[str, Any]], dict[str, int]]:
    """Rows of a query and 10 candidates of which one is right, and the right one's position by row."""
    rng = np.random.default_rng(1)
    rows, right = [], {}
    for number, (caption, picture) in enumerate(pictures):
        others = [n for n, (other, _) in enumerate(pictures) if other != caption]
        chosen, told = [], {caption}
        for n in rng.permutation(others):  # nine wrong ones, all different
            if len(chosen) < OF - 1 and pictures[n][0] not in told:
                chosen.append(n)
                told.add(pictures[n][0])
        place = int(rng.integers(OF))
        chosen.insert(place, number)
        to_captions = request.param == "picture to captions"
        candidates = [pictures[n][0] if to_captions else pictures[n][1] for n in chosen]
        rows.append({"id": str(number), "q": picture if to_captions else caption, "c": candidates})
        right[str(number)] = place
    return request.param, rows, right


@pytest.fixture(scope="module")
def ranked(task, spark, tmp_path_factory) -> dict[str, dict[str, list[Any]]]:
    """The candidates' (position, clip_score, cosine) in order, by engine and row."""
    _, rows, _ = task
    out = tmp_path_factory.mktemp("ranked")
    with pipeline() as p:
        found = p | beam.Create(rows) | Rank(SPEC, query="q", candidates="c")
        _ = found.rows | Keep(out)
    kind = "string" if isinstance(rows[0]["q"], str) else "binary"
    other = "binary" if kind == "string" else "string"
    frame = spark.createDataFrame([Row(**row) for row in rows], f"id string, q {kind}, c array<{other}>")
    collected = frame.repartition(2).select("id", rank("q", "c", model=SPEC).alias("ranked")).collect()
    return {
        "beam": {row["id"]: [_scores(one) for one in row["ranked"]] for row in kept(out)},
        "spark": {row["id"]: [_scores(one.asDict()) for one in row["ranked"]] for row in collected},
    }


def _scores(one: dict[str, Any]) -> tuple[int, float, float]:
    return one["position"], one["clip_score"], one["cosine"]


@pytest.mark.parametrize("engine", ["beam", "spark"])
def test_the_right_one_of_ten_comes_first(engine: str, task, ranked) -> None:
    name, rows, right = task
    assert len(ranked[engine]) == len(rows)
    hits = np.mean([ranked[engine][row][0][0] == place for row, place in right.items()])
    print(f"{name}, {engine}: the right one of {OF} first in {hits:.3f} of {len(rows)}")
    assert hits >= LEAST
    shuffled = np.mean([ranked[engine][row][0][0] == (place + 1) % OF for row, place in right.items()])
    assert shuffled < 1 - LEAST  # another one is first only where the right one is not


def test_both_engines_give_the_same_order_and_scores(task, ranked) -> None:
    _, rows, _ = task
    for row in rows:
        here, there = ranked["beam"][row["id"]], ranked["spark"][row["id"]]
        assert [one[0] for one in here] == [one[0] for one in there]
        np.testing.assert_allclose([one[1:] for one in here], [one[1:] for one in there], rtol=0, atol=TOLERANCE)
        assert sum(one[1] for one in here) == pytest.approx(1)


def test_both_engines_name_what_is_on_the_pictures(pictures, spark, tmp_path) -> None:
    """All 80 pairs of colour and shape as labels, with the templates that come with the package."""
    labels = [f"{colour} {shape}" for colour, shape in CLASSES]
    rows = [{"id": str(number), "photo": picture} for number, (_, picture) in enumerate(pictures)]
    with pipeline() as p:
        found = p | beam.Create(rows) | Classify(labels, model=SPEC, columns={"photo": "image"}, top_k=3)
        _ = found.rows | Keep(tmp_path)
    frame = spark.createDataFrame([Row(**row) for row in rows], "id string, photo binary").repartition(2)
    told = classify("photo", labels=labels, model=SPEC, top_k=3).alias("labels")
    by_engine = {
        "beam": {row["id"]: row["photo_labels"] for row in kept(tmp_path)},
        "spark": {row["id"]: [one.asDict() for one in row["labels"]] for row in frame.select("id", told).collect()},
    }
    for engine, found in by_engine.items():
        first = [found[str(n)][0]["label"] in caption for n, (caption, _) in enumerate(pictures)]
        print(f"{engine}: the right one of {len(labels)} labels first in {np.mean(first):.3f}")
        assert np.mean(first) >= LEAST
    for row in by_engine["beam"]:
        here, there = by_engine["beam"][row], by_engine["spark"][row]
        assert [one["label"] for one in here] == [one["label"] for one in there]
        scores = [[(one["clip_score"], one["cosine"]) for one in found] for found in (here, there)]
        np.testing.assert_allclose(*scores, rtol=0, atol=TOLERANCE)
