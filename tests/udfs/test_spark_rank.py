"""`rank` and `clip_similarity`: what goes in, what comes out, what is refused, what is computed, and SQL."""

from __future__ import annotations

import io
import json
import math
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from contract import vector_of_wav, wav
from list_kinds import LIST_KINDS, every_list
from PIL import Image
from pyspark.errors import AnalysisException, PythonException
from pyspark.sql import Row
from pyspark.sql import functions as F
from pyspark.sql import types as T
from rank_expected import cosine_of, softmax_of

from clipmill.encoders import EncoderSpec
from clipmill.encoders.testing import fake_image_vector, fake_text_vector, read_log
from clipmill.errors import SpecError, UnknownModelError
from clipmill.udfs import clip_similarity, rank
from clipmill.udfs.rankings import rank_plan
from clipmill.udfs.score_batches import rank_array, rank_array_with_candidates
from clipmill.udfs.values import reader_of

MODEL = "fake::dim=8"
SCORES = "position:int,clip_score:double,cosine:double,failure:struct<stage:string,code:string,message:string>"


def png(height, width, colour=(1, 2, 3)):
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def best_first(query, candidates):
    """Return (position, cosine, clip_score) of vectors, best first."""
    cosines = [cosine_of(query, one) for one in candidates]
    powers = softmax_of([100 * cosine for cosine in cosines])
    order = sorted(range(len(cosines)), key=lambda n: -cosines[n])
    return [pytest.approx((n, cosines[n], powers[n]), abs=1e-5) for n in order]


def scores(ranked):
    return [(one.position, one.cosine, one.clip_score) for one in ranked]


def codes(ranked):
    return [one.failure and one.failure.code for one in ranked]


def texts(*values):
    return [fake_text_vector(value) for value in values]


@pytest.fixture
def asked(spark):
    rows = [("a", "red", ["green", "redder", "a very long caption"]), ("b", None, ["x"]), ("c", "one", [])]
    df = spark.createDataFrame(rows, "id string, q string, c array<string>")
    df.createOrReplaceTempView("asked")
    return df


@pytest.fixture
def numbered(spark):
    return spark.range(0, 96, 1, 4).selectExpr("id", "concat('query ', id) as q", "array('one', 'two and more') as c")


# --- what comes out --------------------------------------------------------------------------------------------------


def test_the_type_and_name_of_the_result(asked):
    ranked = asked.select(rank("q", "c", model=MODEL))
    assert ranked.columns == ["ranked"]
    assert ranked.schema["ranked"].dataType.simpleString() == f"array<struct<candidate:string,{SCORES}>>"


@pytest.mark.parametrize(
    ("candidates", "kind", "type_"),
    [
        ("array(binary('x'))", "image", "binary"),
        ("array(array(1.0f, 2.0f))", "vector", "array<float>"),
        ("array(array(1.0D, 2.0D))", "vector", "array<double>"),
        ("array(struct('t' as text, map('a', 1) as m))", "auto", "struct<text:string,m:map<string,int>>"),
    ],
)
def test_a_candidate_keeps_its_type(spark, candidates, kind, type_):
    df = spark.sql(f"select 'red' as q, {candidates} as c")
    ranked = df.select(rank("q", "c", candidate_kind=kind, model=MODEL).alias("r"), "c")
    assert ranked.schema["r"].dataType.simpleString() == f"array<struct<candidate:{type_},{SCORES}>>"
    (row,) = ranked.collect()
    assert [one.candidate for one in row.r] == row.c


def test_expressions_paths_and_constants(spark):
    rows = [Row(page=Row(title="red"), tags="green,redder,blue", **{"a.b": ["one", "red!"]})]
    df = spark.createDataFrame(rows, "page struct<title: string>, tags string, `a.b` array<string>")
    tags = ["green", "redder", "blue"]
    (row,) = df.select(
        rank("page.title", F.split("tags", ","), model=MODEL).alias("of_path"),
        rank(F.upper("page.title"), "`a.b`", model=MODEL).alias("of_dots"),
        rank(F.lit("constant"), F.array(F.lit("x"), F.col("page.title")), model=MODEL).alias("of_constants"),
    ).collect()
    assert scores(row.of_path) == best_first(*texts("red"), texts(*tags))
    assert [one.candidate for one in row.of_path] == [tags[one.position] for one in row.of_path]
    assert scores(row.of_dots) == best_first(*texts("RED"), texts("one", "red!"))
    assert scores(row.of_constants) == best_first(*texts("constant"), texts("x", "red"))


def test_images_of_spark_on_either_side_and_sounds_in_auto(spark):
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    image = Row(origin="x", height=2, width=3, nChannels=3, mode=16, data=pixels[:, :, ::-1].tobytes())
    broken = Row(origin="x", height=-1, width=-1, nChannels=-1, mode=-1, data=b"")
    struct = "struct<origin:string,height:int,width:int,nChannels:int,mode:int,data:binary>"
    df = spark.createDataFrame([("red", image, [broken, image])], f"q string, i {struct}, c array<{struct}>")
    vector = fake_image_vector(pixels)
    for kind in ("auto", "image"):
        (row,) = df.select(
            rank("q", "c", candidate_kind=kind, model=MODEL).alias("r"),
            rank("i", F.array("q"), query_kind=kind, model=MODEL).alias("s"),
        ).collect()
        assert scores(row.r)[:1] == [pytest.approx((1, cosine_of(*texts("red"), vector), 1), abs=1e-5)]
        assert codes(row.r) == [None, "undecodable"]
        assert row.r[0].candidate == image and row.r[1].candidate == broken
        assert scores(row.s) == best_first(vector, texts("red"))
    sounds = "array<struct<array: array<float>, sampling_rate: int>>"
    samples = np.frombuffer(wav(30)[44:], np.int16).astype(np.float32) / 32768
    df = spark.createDataFrame([("red", [(samples.tolist(), 8000)])], f"q string, c {sounds}")
    (row,) = df.select(rank("q", "c", model=f"{MODEL}&modalities=text,image,audio").alias("r")).collect()
    assert scores(row.r) == best_first(*texts("red"), [vector_of_wav(30)])


@pytest.mark.parametrize("type_", ["float", "double", "int", "bigint"])
def test_vectors_of_any_numbers_with_a_null_among_them(spark, type_):
    good = [1, 2, 3, 4, 5, 6, 7, 8]
    vectors = json.dumps([good, [*good[:7], None]])
    sql = f"select 'red' as q, from_json('{vectors}', 'array<array<{type_}>>') as c"
    (row,) = spark.sql(sql).select(rank("q", "c", candidate_kind="vector", model=MODEL).alias("r")).collect()
    assert scores(row.r)[:1] == best_first(*texts("red"), [good])
    assert codes(row.r) == [None, "out_of_range"]


def test_embeddings_in_documents_are_used(spark, tmp_path):
    struct = "struct<text: string, embedding: array<float>, tags: map<string, string>>"
    given = [float(n) for n in range(8)]
    df = spark.createDataFrame(
        [("red", [("words", None, None), ("words", given, {"a": "b"})])], f"q string, c array<{struct}>"
    )
    (row,) = df.select(rank("q", "c", model=f"{MODEL}&log={tmp_path}").alias("r")).collect()
    assert scores(row.r) == best_first(*texts("red"), [*texts("words"), given])
    assert read_log(tmp_path).rows == 2


def test_a_string_that_is_not_utf8_fails_alone(spark):
    df = spark.sql(
        "select * from values (1, 'red', array('one', cast(x'fffe' as string), 'two')),"
        " (2, cast(x'ff' as string), array('one')) as t(id, q, c)"
    )
    for frame, kind in (
        (df, "text"),
        (df, "auto"),
        (df.selectExpr("id", "q", "transform(c, x -> struct(x as text)) as c"), "auto"),
    ):
        ranked = frame.select("id", rank("q", "c", candidate_kind=kind, model=MODEL).alias("r")).orderBy("id")
        first, second = ranked.select("r.position", "r.cosine", "r.failure.code", "r.failure.message").collect()
        assert sorted(first.position) == [0, 1, 2] and first.position[2] == 1
        assert first.code == [None, None, "malformed"]
        assert second.code == ["malformed"] and second.message[0].startswith("the query: the string is not valid UTF-8")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "candidates", "kinds", "message"),
    [
        ("1", "array('x')", {}, r"the query is int(32|64), and query_kind='auto' takes strings \(texts\)"),
        ("array(1.0f)", "array('x')", {}, r"the query is list<.*precomputed vectors are query_kind='vector'"),
        ("binary('x')", "array('x')", {"query_kind": "text"}, r"the query is binary, and query_kind='text'"),
        ("'x'", "array(1, 2)", {}, r"a candidate is int32, and candidate_kind='auto'"),
        ("'x'", "array(1, 2)", {"candidate_kind": "vector"}, r"candidate_kind='vector' takes arrays of numbers"),
        ("'x'", "array(struct(1 as a))", {}, r"a candidate is struct<a: int(32|64).*documents \(text, uri, blob"),
        ("'x'", "array(struct('x' as text))", {"candidate_kind": "text"}, r"candidate_kind='text' takes strings"),
        ("'x'", "array(struct('x' as text))", {"candidate_kind": "image"}, r"candidate_kind='image' takes binary"),
        ("'x'", "array(array('x'))", {}, r"a candidate is list<.*string"),
        ("'x'", "array(array(1.5BD))", {"candidate_kind": "vector"}, r"a candidate is list<.*decimal"),
    ],
)
def test_types_that_cannot_work_are_refused_in_the_job(spark, query, candidates, kinds, message):
    df = spark.sql(f"select {query} as q, {candidates} as c")
    with pytest.raises(PythonException, match=f"SpecError: .*{message}"):
        df.select(rank("q", "c", model=MODEL, **kinds)).collect()


@pytest.mark.parametrize("candidates", ["'x'", "map('a', 1)", "null"])
def test_candidates_that_are_no_array_are_refused_by_spark(spark, candidates):
    df = spark.sql(f"select 'x' as q, {candidates} as tags, struct({candidates} as tags) as page")
    for given, named in (("tags", "tags"), ("page.tags", "page.tags"), (F.coalesce("tags", "tags"), ".*tags.*")):
        with pytest.raises(AnalysisException, match=f'requires the "ARRAY" type, however "{named}" has the type'):
            df.select(rank("q", given, model=MODEL))


def test_what_names_the_candidates_in_that_error_is_not_computed(asked):
    ranked = asked.select(rank("q", F.reverse("c"), model=MODEL))
    plan = ranked._jdf.queryExecution()
    assert "CASE WHEN (true OR isnull(filter(reverse(c" in plan.analyzed().toString()
    optimized = plan.optimizedPlan().toString()
    assert "CASE" not in optimized and "isnull" not in optimized and optimized.count("reverse(") == 2


@pytest.mark.parametrize("make", [rank, clip_similarity])
def test_bad_models_and_options_are_refused_at_the_call(spark, make):
    with pytest.raises(UnknownModelError, match="ViT-B-32"):
        make("q", "c", model="ViT-B-33::openai")
    with pytest.raises(TypeError, match="'batch_size' is called 'max_batch_rows' here"):
        make("q", "c", model=MODEL, batch_size=3)
    with pytest.raises(SpecError, match="no half type"):
        make("q", "c", model=MODEL, dtype="float16")
    left, right = ("query_kind", "candidate_kind") if make is rank else ("a_kind", "b_kind")
    with pytest.raises(SpecError, match=f"{left}='photo' must be one of 'auto', 'text'"):
        make("q", "c", model=MODEL, **{left: "photo"})
    with pytest.raises(SpecError, match=f"{right}='audio': fake::dim=8 embeds image and text"):
        make("q", "c", model=MODEL, **{right: "audio"})


def test_nulls_without_a_type(spark):
    df = spark.sql("select null as q, array('x') as c, 'x' as s, array(null, null) as nn")
    (row,) = df.select(
        rank("q", "c", model=MODEL).alias("a"),
        rank("s", "nn", model=MODEL).alias("c"),
        clip_similarity("q", "s", model=MODEL).alias("d"),
    ).collect()
    assert (row.a, row.d) == (None, None)
    assert [tuple(one) for one in row.c] == [(None, 0, None, None, None), (None, 1, None, None, None)]


# --- what is computed ------------------------------------------------------------------------------------------------


def test_a_filter_on_the_result_does_not_rank_twice(numbered, tmp_path):
    model = f"{MODEL}&log={tmp_path}"
    ranked = numbered.withColumn("r", rank("q", "c", model=model, max_cache_bytes=0))
    assert len(ranked.filter("size(r) > 0").filter("r[0].clip_score > 0").collect()) == 96
    assert read_log(tmp_path).rows == 96 * 3


@pytest.mark.parametrize(("deterministic", "rows"), [(False, 96), (True, 10)])
def test_deterministic_lets_spark_move_a_later_filter_before(numbered, tmp_path, deterministic, rows):
    model = f"{MODEL}&log={tmp_path}"
    column = rank("q", "c", model=model, deterministic=deterministic, max_cache_bytes=0)
    assert len(numbered.withColumn("r", column).filter("id < 10").collect()) == 10
    assert read_log(tmp_path).rows == rows * 3


def test_expressions_of_one_select_share_worker_model_and_vectors(spark, numbered, tmp_path):
    model = f"{MODEL}&log={tmp_path}"
    numbered.select(rank("q", "c", model=model), clip_similarity("q", F.get("c", 0), model=model)).collect()
    log = read_log(tmp_path)
    assert set(log.loads.values()) == {1}
    assert log.rows == 96 + 2 * len(log.loads)  # the queries, and in each worker two candidates


def test_labels_of_all_rows_are_encoded_once_in_each_worker(spark, tmp_path):
    labels = [f"label {n}" for n in range(50)]
    df = spark.range(0, 200, 1, 2).selectExpr("concat('query ', id) as q")
    ranked = df.select(
        rank("q", F.array(*map(F.lit, labels)), model=f"{MODEL}&log={tmp_path}", max_batch_rows=8).alias("r")
    )
    assert {len(row.r) for row in ranked.collect()} == {50}
    log = read_log(tmp_path)
    assert set(log.loads.values()) == {1}
    assert log.rows == 200 + 50 * len(log.loads)


# --- arrays of Arrow -------------------------------------------------------------------------------------------------

SPEC = EncoderSpec(MODEL)


@pytest.mark.parametrize("list_of", [LIST_KINDS[name] for name in LIST_KINDS if name != "fixed_size_list"])
@pytest.mark.parametrize("string", [pa.string(), pa.large_string()], ids=str)
def test_slices_and_large_types(list_of, string):
    values = [["dropped"], ["red", None, "a long caption"], None, [], ["one", ""], ["dropped"]]
    candidates = pa.array(values, list_of(string))[1:5]
    queries = pa.array(["dropped", "redder", "x", "x", "two", "dropped"], string)[1:5]
    plan = rank_plan(SPEC, "auto", "auto", None, 100.0, "softmax")
    plain = rank_array(queries, candidates, SPEC, plan).to_pylist()
    whole = rank_array_with_candidates(queries, candidates, SPEC, plan, T.StringType()).to_pylist()
    assert [row and [one["position"] for one in row] for row in plain] == [[2, 0, 1], None, [], [0, 1]]
    for given, without, ranked in zip(values[1:5], plain, whole, strict=True):
        assert (ranked is None) == (without is None)
        for one, bare in zip(ranked or [], without or [], strict=True):
            assert one == {"candidate": given[one["position"]], **bare}


@every_list
def test_candidates_in_lists_of_every_kind_are_taken_as_they_are(list_of):
    candidates = pa.array([["dropped", ""], ["a long one", "red"], None, ["two", "x"]], list_of(pa.string()))[1:]
    queries = pa.array(["dropped", "redder", "x", "one"])[1:]
    plan = rank_plan(SPEC, "auto", "auto", None, 100.0, "softmax")
    found = rank_array_with_candidates(queries, candidates, SPEC, plan, T.StringType()).to_pylist()
    for given, row in zip(candidates.to_pylist(), found, strict=True):
        assert (row is None) == (given is None)
        assert [one["candidate"] for one in row or []] == [given[one["position"]] for one in row or []]


def test_memory_of_a_batch_does_not_grow_with_its_rows(monkeypatch):
    """Beside Arrow's own, which tracemalloc does not see."""
    monkeypatch.setattr("clipmill.udfs.score_batches._PIECE_ROWS", 16)
    spec = EncoderSpec(MODEL, max_batch_rows=8, max_cache_bytes=20_000)
    plan = rank_plan(spec, "auto", "auto", None, 100.0, "softmax")
    candidates = [f"candidate {n}" for n in range(10)]

    def peak(rows):
        queries = pa.array([f"query {n}" for n in range(rows)])
        lists = pa.array([candidates] * rows)
        tracemalloc.start()
        assert rank_array(queries, lists, spec, plan).null_count == 0
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(500)
    assert peak(3000) < 3 * peak(500)  # where all are held as values of Python it is six times as much


def test_numbers_are_read_as_arrays():
    vectors = pa.array([[[1.0, 2.0], None, [3.0, None]], None], pa.list_(pa.list_(pa.float32())))
    first, second = map(reader_of(vectors.type), vectors)
    assert second is None and first[1] is None
    assert [one.dtype for one in (first[0], first[2])] == [np.float32, np.float32]
    assert first[0].tolist() == [1, 2] and math.isnan(first[2][1])
    documents = pa.array([{"text": "x", "embedding": [1.0]}, {"text": None, "embedding": None}])
    first, second = map(reader_of(documents.type), documents)
    assert first["text"] == "x" and isinstance(first["embedding"], np.ndarray)
    assert second == {"text": None, "embedding": None}
