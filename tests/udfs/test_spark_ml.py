"""`ClipEmbedder`, `ClipRanker` and `ClipClassifier` in Spark ML pipelines: the vectors of the functions, and saved."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pictures import encode, photographs
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import SQLTransformer

from clipmill.encoders import EncoderSpec, read_provenance
from clipmill.encoders.plans.embed_plan import Column
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import SpecError
from clipmill.udfs import ClipClassifier, ClipEmbedder, ClipRanker, classify, embed_columns, rank

MODEL = "fake::dim=8"
LABELS = ["a ring", "a star"]

QUICK = "master('local[1]').config(map={'spark.ui.enabled': False, 'spark.sql.codegen.factoryMode': 'NO_CODEGEN'})"
LOAD = """
import json, sys
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession
spark = SparkSession.builder.{session}.getOrCreate()
rows = spark.createDataFrame([("a", "one"), ("b", "")], "id string, caption string").coalesce(1)
found = PipelineModel.load(sys.argv[1]).transform(rows).collect()
print(json.dumps([row.asDict(recursive=True) for row in found]))
"""


@pytest.fixture
def rows(spark):
    schema = "id string, caption string, page struct<words: array<string>>"
    data = [("a", "one", (["one", "two"],)), ("b", "", (["x"],)), ("c", None, None)]
    return spark.createDataFrame(data, schema).coalesce(1)


def stages():
    return [
        ClipEmbedder(MODEL, columns={"caption": Column("text", output="v", truncated="cut")}, normalize=True),
        ClipRanker(MODEL, query="caption", candidates="page.words", top_k=1, output="best"),
        ClipClassifier(MODEL, column="caption", labels=LABELS, failures="struct"),
    ]


@pytest.mark.connect
def test_a_pipeline_gives_what_the_functions_give(rows):
    made = PipelineModel(stages()).transform(rows)
    expected = embed_columns(rows, {"caption": Column("text", "v", "cut")}, model=MODEL, normalize=True)
    expected = expected.select(
        "*",
        rank("caption", "page.words", top_k=1, model=MODEL).alias("best"),
        classify("caption", labels=LABELS, failures="struct", model=MODEL),
    )
    assert made.schema == expected.schema
    found = made.collect()
    assert found == expected.collect()
    whole = fake_text_vector("one")
    np.testing.assert_allclose(found[0].v, whole / np.linalg.norm(whole), rtol=1e-6)
    assert found[0].best[0].candidate == "one"
    assert [row.embedding_failures and row.embedding_failures[0].code for row in found] == [None, "empty", None]
    assert found[1].caption_labels.failure.code == "empty"
    assert read_provenance(made)["v"]["model"] == MODEL


@pytest.mark.connect
def test_the_schema_is_known_without_a_job(rows):
    schema = rows.schema
    for stage in stages():
        made = stage.transform(rows)
        assert stage.transformSchema(schema) == made.schema
        assert stage.transformSchema(schema)[-1].metadata == made.schema[-1].metadata


@pytest.mark.connect
def test_saved_stages_in_a_new_process(spark, rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text("a ring\na star\n", encoding="utf-8")
    embed = ClipEmbedder(MODEL, columns={"caption": "text"}, normalize=True)
    classifier = ClipClassifier(MODEL, column="caption", labels="labels.txt", top_k=1)
    Path("labels.txt").unlink()
    rename = SQLTransformer(statement="SELECT *, length(caption) AS length FROM __THIS__")
    fitted = Pipeline(stages=[rename, embed, classifier]).fit(rows)
    fitted.write().overwrite().save(f"file://{tmp_path}/pipeline")
    expected = fitted.transform(rows.select("id", "caption").limit(2)).collect()
    is_classic = hasattr(spark, "_jsparkSession")
    session = QUICK if is_classic else f'remote("sc://{spark.client.host}")'
    code = LOAD.format(session=session)
    environment = os.environ | {"SPARK_LOCAL_DIRS": str(tmp_path / "spark")}
    command = [sys.executable, "-c", code, f"file://{tmp_path}/pipeline"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == [json.loads(json.dumps(row.asDict(recursive=True))) for row in expected]
    assert len(found[0]["caption_embedding"]) == 8 and found[1]["embedding_failures"][0]["code"] == "empty"


@pytest.mark.connect
@pytest.mark.parametrize("number", [0, 1, 2], ids=["embedder", "ranker", "classifier"])
def test_a_stage_saved_alone(spark, tmp_path, number):
    stage = stages()[number]
    path = f"file://{tmp_path}/stage"
    stage.save(path)
    stage.write().overwrite().save(path)
    loaded = type(stage).load(path)
    assert type(loaded) is type(stage) and loaded.uid == stage.uid
    assert {p.name: v for p, v in loaded.extractParamMap().items()} == {
        p.name: v for p, v in stage.extractParamMap().items()
    }
    metadata = json.loads(spark.read.text(f"{path}/metadata").first()[0])
    assert metadata["class"] == f"clipmill.udfs.{type(stage).__name__}"
    assert metadata["defaultParamMap"]["decode"] == "fast"  # a later version's default changes nothing


def test_two_models_in_one_pipeline(rows):
    first = ClipEmbedder(MODEL, columns={"caption": "text"})
    second = ClipEmbedder("fake::dim=4", columns={"caption": Column("text", output="small")})
    with pytest.raises(SpecError, match="'embedding_failures' exists already"):
        PipelineModel([first, second]).transform(rows)
    named = PipelineModel([first.copy().setParams(failures_column="reasons"), second])
    both = named.transform(rows)
    assert both.columns == [*rows.columns, "caption_embedding", "reasons", "small", "embedding_failures"]
    assert both.schema == second.transformSchema(named.stages[0].transformSchema(rows.schema))
    assert both.where("reasons is not null").count() == both.where("embedding_failures is not null").count() == 1
    for name, said in (("caption_embedding", "exists already"), ("Caption", "exists already"), ("", "failures_column")):
        with pytest.raises(SpecError, match=said):
            first.copy().setParams(failures_column=name).transform(rows)
    names = "id, caption, caption_embedding, embedding_failures AS failures"
    rename = SQLTransformer(statement=f"SELECT {names} FROM __THIS__")
    made = PipelineModel([first, rename, second]).transform(rows)
    assert set(read_provenance(made)) == {"caption_embedding", "small"}
    row = made.first()
    assert len(row.caption_embedding) == 8 and len(row.small) == 4


def test_an_image_and_a_text_in_one_stage(spark):
    df = spark.createDataFrame(
        [("one", bytearray(encode(photographs()["chelsea"], "PNG")))], "caption string, photo binary"
    )
    columns = {"caption": "text", "photo": "image"}
    made = ClipEmbedder("demo", columns=columns).transform(df).first()
    assert made == embed_columns(df, columns, model="demo").first()
    assert len(made.photo_embedding) == 96


def test_columns_with_dots_and_backticks_in_their_names(spark):
    df = spark.createDataFrame([("one", ["one"])], ["a.q", "a`c"])
    row = ClipRanker(MODEL, query="a.q", candidates="a`c").transform(df).first()
    assert row.ranked[0].candidate == "one"


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (lambda: ClipEmbedder(MODEL, columns={"nothing": "text"}), "no column 'nothing'; there are 'id'"),
        (lambda: ClipEmbedder(MODEL, columns={"page": "text"}), "column 'page' is struct<words:array<string>>; text"),
        (lambda: ClipEmbedder(MODEL), r"ClipEmbedder has no columns.*setParams\(columns="),
        (lambda: ClipRanker(MODEL, query="id", candidates="caption"), "'caption' is string, not an array; rows of one"),
        (lambda: ClipRanker(MODEL, query="page", candidates="page.words"), "column 'page' is struct<.*query_kind"),
        (lambda: ClipRanker(MODEL, query="id", candidates="page.words", output="ID"), "'ID' exists already"),
        (
            lambda: ClipRanker(MODEL, query="id", candidates="page.words", candidate_kind="vector"),
            "a candidate in 'page.words' is string, and candidate_kind='vector'",
        ),
        (lambda: ClipClassifier(MODEL, column="page", labels=LABELS), "column 'page' is struct<.*kind='auto'"),
        (lambda: ClipClassifier(MODEL, labels=LABELS), "ClipClassifier has no column"),
        (lambda: ClipClassifier(MODEL, column="id"), "ClipClassifier has no labels"),
        (lambda: ClipClassifier(MODEL, column="id", labels=LABELS, output="caption"), "'caption' exists already"),
    ],
)
def test_columns_are_checked_before_the_job(rows, stage, message):
    made = stage()
    with pytest.raises(SpecError, match=message):
        made.transform(rows)
    if "no labels" not in message:
        with pytest.raises(SpecError, match=message):
            made.transformSchema(rows.schema)


@pytest.mark.parametrize(
    ("stage", "error", "message"),
    [
        (lambda: ClipEmbedder("ViT-B-32::opnai"), SpecError, "opnai"),
        (lambda: ClipEmbedder(MODEL, columns={"a": "txt"}), SpecError, "'txt'; it must be one of text, image"),
        (lambda: ClipEmbedder(MODEL, columns="caption"), SpecError, "columns must be a mapping"),
        (lambda: ClipEmbedder(MODEL, columns={"a": {"kind": "text"}}), TypeError, "unknown option 'kind'"),
        (lambda: ClipEmbedder(MODEL, colums={"a": "text"}), TypeError, "did you mean 'columns'"),
        (lambda: ClipEmbedder(MODEL, batch_size=3), TypeError, "'batch_size' is called 'max_batch_rows' here"),
        (lambda: ClipEmbedder(MODEL, dtype="float16"), SpecError, "not to be had on Spark"),
        (lambda: ClipRanker(MODEL, top_k=0), SpecError, "top_k"),
        (lambda: ClipRanker(MODEL, query_kind="sound"), SpecError, "query_kind"),
        (lambda: ClipRanker(MODEL, output=""), SpecError, "output='' names no column"),
        (lambda: ClipClassifier(MODEL, labels=["a", "a"]), SpecError, "a"),
        (lambda: ClipClassifier(MODEL, labels=LABELS, templates=["x"]), SpecError, r"has no \{\}"),
        (lambda: ClipClassifier(MODEL, failures="no"), SpecError, "failures"),
        (lambda: ClipClassifier(MODEL, kind="audio"), SpecError, "kind"),
    ],
)
def test_values_are_checked_when_they_are_set(spark, stage, error, message):
    with pytest.raises(error, match=message):
        stage()


def test_params_are_those_of_the_spec_and_are_set_together(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage = ClipEmbedder(EncoderSpec(MODEL, normalize=True), columns={"a": "text"})
    assert stage.spec() == EncoderSpec(MODEL, normalize=True)
    assert {param.name for param in stage.params} == set(EncoderSpec.__dataclass_fields__) | {
        "columns",
        "failures_column",
    }
    assert "length 1" in stage.explainParam("normalize")
    stage.setParams(model="ViT-B-32::./my.safetensors", max_batch_rows=3)
    assert stage.getOrDefault("model") == f"ViT-B-32::{tmp_path}/my.safetensors"
    with pytest.raises(SpecError, match="max_batch_rows"):
        stage.setParams(model="demo", max_batch_rows=0)
    assert stage.spec().max_batch_rows == 3 and stage.spec().normalize  # nothing was set
    assert not stage.copy({stage.normalize: False}).spec().normalize and stage.spec().normalize
    with pytest.raises(TypeError, match="Spark ML saves texts, numbers"):
        stage.set(stage.model, EncoderSpec(MODEL))


def test_what_spark_sets_is_checked_when_it_is_saved(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage = ClipEmbedder(columns={"a": "text"})
    stage.set(stage.getParam("cache_dir"), "cache")
    stage.save(f"file://{tmp_path}/stage")
    assert ClipEmbedder.load(f"file://{tmp_path}/stage").spec().cache_dir == str(tmp_path / "cache")
    stage.set(stage.getParam("precision"), "fp7")
    with pytest.raises(SpecError, match="precision"):
        stage.save(f"file://{tmp_path}/other")


def test_older_spark_connect_is_refused_by_name(spark, monkeypatch):
    monkeypatch.setattr("clipmill.udfs.ml_params.is_remote", lambda: True)
    monkeypatch.setattr("pyspark.__version__", "3.5.6")
    for call in (ClipRanker(MODEL).write, ClipRanker.read):
        with pytest.raises(SpecError, match=r"Spark Connect 3\.5\.6 can neither save nor load"):
            call()
