"""A published architecture through Beam and through Spark: the vectors of open_clip, whatever the batch and the order.

The smallest that there is: its name is all that reaches the workers, and the others differ in no step of an engine.
"""

from __future__ import annotations

import io

import apache_beam as beam
import numpy as np
import open_clip
import pytest
import torch
from beam_helpers import Keep, kept, pipeline
from open_clip.transform import image_transform
from pictures import encode, photographs
from PIL import Image
from weights import drawn_module, relative_error, write_safetensors

from clipmill.encoders import EncoderSpec, unload_all
from clipmill.transforms import Embed
from clipmill.udfs import embed_columns

NAME = "ViT-S-32-alt"
CAPTIONS = ["an astronaut", "a cat called Chelsea, looking up", "coffee", "a temple in China", "a flower"]
COLUMNS = {"caption": "text", "photo": "image"}
EXACT = {"device": "cpu", "runtime": "torch", "precision": "fp32", "decode": "exact"}
TOLERANCE, VISIBLE = 1e-4, 1e-2


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    files = [encode(array, "JPEG", quality=90) for array in photographs().values()]
    return [{"id": n, "caption": c, "photo": f} for n, (c, f) in enumerate(zip(CAPTIONS, files, strict=True))]


@pytest.fixture(scope="module")
def case(rows, tmp_path_factory):
    """A spec of random weights in a file, and open_clip's own vectors on the same weights and bytes."""
    module = drawn_module(NAME, quick_gelu=False)
    path = write_safetensors(module, tmp_path_factory.mktemp("weights") / "open_clip_model.safetensors")
    transform = image_transform(224, is_train=False)
    images = torch.stack([transform(Image.open(io.BytesIO(row["photo"]))) for row in rows])
    with torch.inference_mode():
        reference = {
            "caption": module.encode_text(open_clip.get_tokenizer(NAME)([row["caption"] for row in rows])).numpy(),
            "photo": module.encode_image(images).numpy(),
        }
    del module
    yield f"{NAME}::{path}", reference
    unload_all()


def _compare(embedded: dict[int, dict], reference: dict[str, np.ndarray]) -> None:
    assert sorted(embedded) == list(range(len(CAPTIONS)))
    for column, expected in reference.items():
        ours = np.array([embedded[n][f"{column}_embedding"] for n in sorted(embedded)], np.float32)
        assert relative_error(ours, expected) <= TOLERANCE, column
        assert relative_error(np.roll(ours, 1, axis=0), expected) > VISIBLE, column  # rows that changed places are seen


@pytest.mark.parametrize("batch_rows", [1, 3])
def test_beam_gives_open_clips_vectors(batch_rows: int, case, rows, tmp_path) -> None:
    """Backwards and in small batches."""
    model, reference = case
    spec = EncoderSpec(model, **EXACT, max_batch_rows=batch_rows)
    with pipeline() as p:
        embedded = p | beam.Create(rows[::-1]) | Embed(spec, columns=COLUMNS)
        _ = embedded.rows | Keep(tmp_path / "rows")
    _compare({row["id"]: row for row in kept(tmp_path / "rows")}, reference)


@pytest.mark.parametrize("batch_rows", [1, 3])
def test_spark_gives_open_clips_vectors(batch_rows: int, case, rows, spark) -> None:
    """Backwards, over two workers, in small batches."""
    model, reference = case
    spec = EncoderSpec(model, **EXACT, max_batch_rows=batch_rows)
    frame = spark.createDataFrame(rows[::-1], "id long, caption string, photo binary").repartition(2)
    collected = embed_columns(frame, COLUMNS, model=spec).drop("photo").collect()
    _compare({row["id"]: row.asDict() for row in collected}, reference)
