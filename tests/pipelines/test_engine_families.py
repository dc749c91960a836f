"""Every family of models through Beam and through Spark: the vectors that it has without an engine."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import apache_beam as beam
import audioclip_reference
import clap_weights
import numpy as np
import pytest
import torch
from beam_helpers import Keep, kept, pipeline
from hugging_face_weights import drawn_clip, small_config, write_model
from mclip_weights import small_base, write_mclip
from pictures import encode, photographs
from weights import drawn_module, relative_error, write_safetensors

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.models.catalog import mclip
from clipmill.models.exporting import export_model
from clipmill.transforms import Embed
from clipmill.udfs import embed_columns

pytestmark = pytest.mark.usefixtures("small_architectures")

SAME, VISIBLE = 1e-5, 1e-3
CAPTIONS = ["she smiled", "eine katze", "x"]
SCHEMA = "id long, caption string, photo binary, sound struct<array: array<float>, sampling_rate: int>"


def _hugging_face(folder: Path) -> EncoderSpec:
    write_model(folder / "model", drawn_clip(small_config()))
    return EncoderSpec(f"hf:{folder / 'model'}", device="cpu", runtime="torch", precision="fp32")


def _exported_mclip(folder: Path) -> EncoderSpec:
    """M-CLIP as a directory of graphs: a masked text tower and a tokenizer of its own, without torch."""
    name, base = "M-CLIP/XLM-Roberta-Large-Vit-B-32", "xlm-roberta-large"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(mclip.BASES, base, small_base(base))
        write_mclip(folder / "text", base, 512)
        image = write_safetensors(drawn_module("ViT-B-32", quick_gelu=True), folder / "image.safetensors")
        export_model(
            EncoderSpec(f"{name}::{folder / 'text'}", image_weights=str(image), runtime="onnx", precision="fp32"),
            folder / "exported",
        )
    return EncoderSpec(f"onnx:{folder / 'exported'}", device="cpu", runtime="onnx", precision="fp32")


def _audioclip(folder: Path) -> EncoderSpec:
    torch.save(audioclip_reference.draw(), folder / "drawn.pt")
    return EncoderSpec(f"AudioCLIP::{folder / 'drawn.pt'}", device="cpu", runtime="torch", precision="fp32")


def _clap(folder: Path) -> EncoderSpec:
    case = clap_weights.write(folder, clap_weights.drawn(clap_weights.config()))
    return EncoderSpec(case.model, device="cpu", runtime="torch", precision="fp32")


@dataclasses.dataclass
class Case:
    """A model, rows that it can embed, and the vectors of its encoder."""

    spec: EncoderSpec
    columns: dict[str, str]
    rows: list[dict[str, Any]]
    expected: dict[str, np.ndarray]


@pytest.fixture(
    scope="module",
    params=[_hugging_face, _exported_mclip, _audioclip, _clap],
    ids=["hf", "m-clip", "audioclip", "clap"],
)
def case(request, tmp_path_factory) -> Case:
    spec = request.param(tmp_path_factory.mktemp("model"))
    photos = [encode(array, "JPEG") for array in photographs().values()][: len(CAPTIONS)]
    sounds = [audioclip_reference.sound(seed, 3_000) for seed in range(len(CAPTIONS))]
    rows = [
        {"id": n, "caption": c, "photo": p, "sound": {"array": s.tolist(), "sampling_rate": 44_100}}
        for n, (c, p, s) in enumerate(zip(CAPTIONS, photos, sounds, strict=True))
    ]
    encoder = load_encoder(spec)
    kinds = {"caption": "text", "photo": "image", "sound": "audio"}
    columns = {column: kind for column, kind in kinds.items() if kind in spec.modalities}
    expected = {"caption": encoder.embed_texts(CAPTIONS)}
    if "photo" in columns:
        expected["photo"] = encoder.embed_images(photos)
    if "sound" in columns:
        expected["sound"] = encoder.embed_audios([(sound, 44_100) for sound in sounds])
    yield Case(spec, columns, rows, expected)
    unload_all()


def _compare(embedded: dict[int, dict], expected: dict[str, np.ndarray]) -> None:
    assert sorted(embedded) == list(range(len(CAPTIONS)))
    for column, vectors in expected.items():
        ours = np.array([embedded[n][f"{column}_embedding"] for n in sorted(embedded)], np.float32)
        assert relative_error(ours, vectors) <= SAME, column
        assert relative_error(np.roll(ours, 1, axis=0), vectors) > VISIBLE, column


def test_beam(case: Case, tmp_path: Path) -> None:
    with pipeline() as p:
        embedded = p | beam.Create(case.rows[::-1]) | Embed(case.spec, columns=case.columns)
        _ = embedded.rows | Keep(tmp_path / "rows")
    _compare({row["id"]: row for row in kept(tmp_path / "rows")}, case.expected)


def test_spark(case: Case, spark) -> None:
    frame = spark.createDataFrame(case.rows[::-1], SCHEMA).coalesce(1)
    collected = embed_columns(frame, case.columns, model=case.spec).drop("photo", "sound").collect()
    _compare({row["id"]: row.asDict() for row in collected}, case.expected)
