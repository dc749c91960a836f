"""How often the ten nearest neighbours stay the ten nearest when `auto` makes the vectors instead of float32."""

from __future__ import annotations

import numpy as np

from clipmill.encoders import EncoderSpec, load_encoder
from clipmill.encoders.calls import normalize_rows
from clipmill.encoders.demo.drawings import caption, draw, sample_scene

NEIGHBOURS = 10
_CHUNK = 250
"""Pictures that are held at a time."""

_BLOCK = 500
"""Queries that are compared with the whole database at a time."""


def recall(
    exact: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], neighbours: int = NEIGHBOURS
) -> float:
    """Return the part of the neighbours found with other vectors that are neighbours by the exact ones.

    Neighbours by the exact vectors are all whose cosine is at least that of the last of them: of equals, any will do.

    Args:
        exact: Queries and database, (q, dim) and (n, dim) float32.
        other: The same by other vectors, in the same order.
        neighbours: How many are looked for.
    """
    (queries, database), (other_queries, other_database) = (
        [normalize_rows(matrix) for matrix in pair] for pair in (exact, other)
    )
    hits = 0
    for first in range(0, len(queries), _BLOCK):
        scores = queries[first : first + _BLOCK] @ database.T
        others = other_queries[first : first + _BLOCK] @ other_database.T
        least = np.partition(scores, -neighbours, axis=1)[:, -neighbours]
        found = np.argpartition(others, -neighbours, axis=1)[:, -neighbours:]
        hits += int((np.take_along_axis(scores, found, axis=1) >= least[:, None]).sum())
    return hits / (len(queries) * neighbours)


def measure_recall(pictures: int, queries: int) -> dict[str, float | str]:
    """Embed drawn pictures and captions with the demo model in both precisions; return what was found.

    Args:
        pictures: In the database.
        queries: Other pictures, and as many captions.
    """
    encoders = {
        precision: load_encoder(EncoderSpec("demo", device="cpu", precision=precision, max_cache_bytes=0))
        for precision in ("fp32", "auto")
    }
    images: dict[str, list[np.ndarray]] = {precision: [] for precision in encoders}
    texts: list[str] = []
    rng = np.random.default_rng(0)
    for first in range(0, pictures + queries, _CHUNK):
        scenes = [sample_scene(rng) for _ in range(min(_CHUNK, pictures + queries - first))]
        drawn = [draw(scene, rng) for scene in scenes]
        texts += [caption(scene, rng) for scene in scenes]
        for precision, encoder in encoders.items():
            images[precision].append(encoder.embed_images(drawn))
    made = {precision: np.concatenate(parts) for precision, parts in images.items()}
    words = {precision: encoder.embed_texts(texts[-queries:]) for precision, encoder in encoders.items()}
    exact, auto = made["fp32"][:pictures], made["auto"][:pictures]
    return {
        "fp32": " ".join(str(encoders["fp32"].resolved[key]) for key in ("runtime", "precision")),
        "auto": " ".join(str(encoders["auto"].resolved[key]) for key in ("runtime", "precision")),
        "image to image": recall((made["fp32"][pictures:], exact), (made["auto"][pictures:], auto)),
        "text to image": recall((words["fp32"], exact), (words["auto"], auto)),
    }


def recall_table(found: dict[str, float | str], pictures: int, queries: int) -> list[str]:
    """Return the lines of the table."""
    lines = [
        f"| queries | recall@{NEIGHBOURS} of {found['auto']} against {found['fp32']} | at least |",
        "|---|---|---|",
    ]
    for name in ("image to image", "text to image"):
        lines.append(f"| {queries:,}, {name}, among {pictures:,} | {found[name]:.4f} | 0.999 |")
    return lines
