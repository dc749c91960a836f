"""Recall of the ten nearest neighbours, by `auto` or bfloat16 vectors, against those by float32 vectors."""

from __future__ import annotations

import numpy as np

from clipmill.encoders import EncoderSpec, load_encoder
from clipmill.indexes.neighbours import NEIGHBOURS, kept_neighbours
from clipmill.models.support_matrix import has_native_bfloat16
from clipmill.pipelines.drawings import caption, draw, sample_scene

_CHUNK = 250
"""The number of pictures held at a time."""


def measure_recall(pictures: int, queries: int) -> list[dict[str, float | str]]:
    """Embed drawn pictures and captions with the demo model in each precision; return the recalls against float32.

    Args:
        pictures: The number of pictures in the database.
        queries: The number of further pictures, and of captions, used as queries.
    """
    precisions = ("fp32", "auto", "bf16") if has_native_bfloat16() else ("fp32", "auto")
    encoders = {
        precision: load_encoder(EncoderSpec("demo", device="cpu", precision=precision, max_cache_bytes=0))
        for precision in precisions
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
    exact = made["fp32"][:pictures]
    return [
        {
            "precision": precision,
            "ran in": " ".join(str(encoders[precision].resolved[key]) for key in ("runtime", "precision")),
            "image to image": kept_neighbours((made["fp32"][pictures:], exact), (made[precision][pictures:], other)),
            "text to image": kept_neighbours((words["fp32"], exact), (words[precision], other)),
        }
        for precision in precisions[1:]
        for other in [made[precision][:pictures]]
    ]


def recall_table(found: list[dict[str, float | str]], pictures: int, queries: int) -> list[str]:
    """Return the lines of the table."""
    lines = [
        f"Recall@{NEIGHBOURS} of {queries:,} pictures and as many captions among {pictures:,} pictures, against"
        " float32; `auto` should reach at least 0.999.",
        "",
        "| precision | ran in | image to image | text to image |",
        "|---|---|---|---|",
    ]
    for one in found:
        lines.append(
            f"| {one['precision']} | {one['ran in']} | {one['image to image']:.4f} | {one['text to image']:.4f} |"
        )
    return lines
