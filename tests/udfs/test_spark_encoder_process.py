"""The Python workers of Spark share one encoder process: the same vectors, and one load for all of them."""

from __future__ import annotations

import numpy as np
import pytest
from engine_counts import some_of

from clipmill.encoders import load_encoder

pytest_plugins = ["engine_counts"]

OPTIONS = {"device": "cpu", "runtime": "onnx", "precision": "fp32"}


def test_workers_load_once_for_all_of_them(spark, on_spark, tmp_path) -> None:
    from clipmill.udfs import embed_text

    texts = [f"a circle, number {n}" for n in range(100)]
    # another cache directory, and so a process of its own: others may keep one of this model
    options = {**OPTIONS, "cache_dir": str(tmp_path)}
    (tmp_path / "graphs").symlink_to(load_graphs())
    collected = {}

    def embed(df):
        embedded = df.repartition(4).select(
            "caption", embed_text("caption", model="demo", **options, encoder_process="per_host")
        )
        collected.update((row[0], row[1]) for row in embedded.collect())
        return df.limit(0)

    found = on_spark(embed, [{"caption": text} for text in texts], "caption string")
    assert some_of(found, {"embedded": 100, "models_loaded": 1}) == {"embedded": 100, "models_loaded": 1}
    expected = load_encoder("demo", **OPTIONS, encoder_process="off").embed_texts(texts)
    np.testing.assert_allclose(np.stack([collected[text] for text in texts]), expected, rtol=1e-4, atol=1e-5)


def load_graphs():
    """Return the folder of graphs of this run, with those of the demo model."""
    from clipmill.files.cache import cache_root

    load_encoder("demo", **OPTIONS, encoder_process="off")
    return cache_root() / "graphs"


@pytest.mark.parametrize(
    ("properties", "cpus", "processes"),
    [
        ({"resource.executor.cores": "8", "spark.master": "yarn"}, 2, 4),
        ({"spark.master": "local[4]"}, 1, 4),
        ({"spark.master": "local[4,2]"}, 3, 1),
        ({"spark.master": "local"}, 1, None),
        ({"spark.master": "spark://host:7077"}, 1, None),
        ({}, 1, None),
    ],
    ids=str,
)
def test_the_number_of_workers_is_taken_from_the_task(properties, cpus, processes) -> None:
    from types import SimpleNamespace

    from clipmill.udfs.worker import cpus_of_task

    found = cpus_of_task(SimpleNamespace(cpus=lambda: cpus, getLocalProperty=properties.get))
    assert found == cpus
    assert getattr(found, "processes", None) == processes
