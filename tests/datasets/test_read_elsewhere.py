"""What clipmill writes is read by the tools that people have: Hugging Face's datasets, DuckDB and pandas."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run
from pictures import encode

from clipmill.datasets.tables.hugging_face_features import FEATURES_KEY, with_features

MODEL = ("--model", "fake::dim=4")


@pytest.fixture
def hugging_face(monkeypatch, tmp_path):
    """The library, which asks no hub and keeps its caches in the test's folder."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets


@pytest.fixture
def pairs(hugging_face, tmp_path):
    """Images with captions and labels, as `datasets` writes them, one of them broken."""
    features = hugging_face.Features(
        {
            "id": hugging_face.Value("string"),
            "image": hugging_face.Image(),
            "text": hugging_face.Value("string"),
            "label": hugging_face.ClassLabel(names=["round", "square"]),
        }
    )
    images = [
        {"bytes": encode(np.zeros((8, 8, 3), np.uint8)), "path": None},
        {"bytes": b"\x89PNG broken", "path": None},
    ]
    rows = {"id": ["a", "b"], "image": images, "text": ["a ring", "a box"], "label": [0, 1]}
    (tmp_path / "pairs").mkdir()
    hugging_face.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "pairs" / "x.parquet"))
    return tmp_path / "pairs"


def test_features_of_hugging_face_are_those_of_the_output(hugging_face, pairs, tmp_path):
    columns = ("--column", "image=image", "--column", "text=text", "--drop", "label")
    assert run("embed", pairs, "-o", tmp_path / "out", *columns, *MODEL) == 0
    part = next((tmp_path / "out").glob("part-*.parquet"))
    features = json.loads(pq.read_schema(part).metadata[FEATURES_KEY])["info"]["features"]
    assert list(features) == pq.read_schema(part).names and "label" not in features
    assert features["image"] == {"_type": "Image"}
    found = hugging_face.load_dataset("parquet", data_files=str(part), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(found.features["image"], hugging_face.Image)
    assert list(found.features) == list(features)
    row = found.select_columns(["id", "text_embedding"]).with_format("numpy")[0]
    assert (row["id"], row["text_embedding"].dtype, row["text_embedding"].shape) == ("a", np.float32, (4,))


@pytest.mark.parametrize("kind", [pa.map_(pa.string(), pa.int8()), pa.date32(), pa.decimal128(5, 2)], ids=str)
def test_features_that_cannot_be_said_are_left_out(kind):
    schema = pa.schema([("a", pa.string()), ("m", kind)])
    known = {FEATURES_KEY: json.dumps({"info": {"features": {"a": {"dtype": "string", "_type": "Value"}}}}).encode()}
    assert with_features(schema.with_metadata({**known, b"x": b"y"})).metadata == {b"x": b"y"}
    assert not with_features(schema.with_metadata({FEATURES_KEY: b"[]"})).metadata
    assert with_features(schema) is schema


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "x.jsonl").write_text(
        '{"id": "a", "text": "a ring"}\n{"id": "b", "text": ""}\n{"id": "c", "text": "x"}\n'
    )
    assert run("embed", tmp_path / "x.jsonl", "-o", tmp_path / "out", *MODEL, "--rows-per-shard", 1) == 0
    return tmp_path / "out"


def test_duckdb_reads_and_compares_vectors(texts):
    import duckdb

    found = duckdb.sql(
        f"select id, list_cosine_similarity(embedding, embedding) as itself from '{texts}/part-*.parquet' order by id"
    ).fetchall()
    assert [(key, round(itself, 5)) for key, itself in found] == [("a", 1.0), ("c", 1.0)]


def test_pandas_reads_the_folder(texts):
    found = pd.read_parquet(texts).sort_values("id")
    assert found["id"].tolist() == ["a", "c"]
    assert np.stack(found["embedding"]).shape == (2, 4) and found["embedding"].iloc[0].dtype == np.float32
