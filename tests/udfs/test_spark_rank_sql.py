"""Ranking in SQL: `clip_rank` and `clip_similarity`, and the queries of the documentation."""

from __future__ import annotations

import re

import pytest
from contract import png
from places import DOCS
from pyspark.errors import PythonException
from pyspark.sql import Row
from pyspark.sql import types as T
from rank_expected import cosine_of, softmax_of

from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import SpecError
from clipmill.udfs import rank, rank_groups, register

DIM = 8
MODEL = f"fake::dim={DIM}"
PAGE = DOCS / "spark.md"
GREY = (7, 7, 7)
SCORES = "position:int,clip_score:double,cosine:double,failure:struct<stage:string,code:string,message:string>"


def texts(*values):
    return [fake_text_vector(value) for value in values]


@pytest.fixture
def asked(spark):
    rows = [("a", "red", ["green", "redder", "a very long caption"]), ("b", None, ["x"]), ("c", "one", [])]
    df = spark.createDataFrame(rows, "id string, q string, c array<string>")
    df.createOrReplaceTempView("asked")
    return df


def test_rank_in_sql(spark, asked):
    assert register(spark, model=MODEL) == ["embed_text", "embed_image", "clip_rank", "clip_similarity"]
    here = asked.select("id", rank("q", "c", model=MODEL).alias("r")).orderBy("id").collect()
    there = spark.sql("select id, clip_rank(q, c) as r from asked order by id")
    assert there.schema["r"].dataType.simpleString() == f"array<struct<candidate:string,{SCORES}>>"
    assert there.collect() == here
    (row,) = spark.sql(
        "select r[0].candidate from (select clip_rank(q, filter(c, x -> x != 'redder')) as r from asked)"
        " where size(r) > 0 limit 1"
    ).collect()
    assert row[0] in ("green", "a very long caption")


def test_the_window_function_of_sql_is_there_still(spark, asked):
    register(spark, model=MODEL)
    rows = spark.sql("select id, rank() over (order by id) as place from asked order by id").collect()
    assert [row.place for row in rows] == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "candidates"),
    [
        ({"candidate_kind": "image"}, [png(9, 60, GREY), None, b"junk", png(3, 3, GREY)]),
        ({"candidate_kind": "vector"}, [[1.0] * 8, None, [1.0], [-1.0] * 8]),
        (
            {"candidate_type": "struct<text: string, blob: binary>"},
            [Row(text="red", blob=None), None, Row(text=None, blob=png(1, 9, GREY))],
        ),
    ],
    ids=["image", "vector", "documents"],
)
def test_types_of_candidates_in_sql(spark, options, candidates):
    prefix = f"{'_'.join(options)}_{len(candidates)}_"
    type_ = {"image": "binary", "vector": "array<float>"}.get(
        options.get("candidate_kind"), options.get("candidate_type")
    )
    df = spark.createDataFrame([("red", candidates), (None, None), ("red", [])], f"q string, c array<{type_}>")
    df.createOrReplaceTempView("typed")
    register(spark, model=MODEL, prefix=prefix, **options)
    kind = {name: value for name, value in options.items() if name == "candidate_kind"}
    here = df.select(rank("q", "c", model=MODEL, **kind).alias("r")).collect()
    assert spark.sql(f"select {prefix}rank(q, c) as r from typed").collect() == here
    assert [len(row.r or []) for row in here] == [len(candidates), 0, 0]


def test_candidates_of_another_type_than_registered_are_refused(spark, asked):
    register(spark, model=MODEL, prefix="typed_")
    with pytest.raises(
        PythonException,
        match=r"SpecError: candidates were registered as string, and are binary here: .*candidate_type=",
    ):
        spark.sql("select typed_rank(q, transform(c, x -> binary(x))) from asked").collect()


@pytest.mark.parametrize(
    ("options", "candidates", "message"),
    [
        (
            {"candidate_kind": "vector"},
            f"array(array_repeat(1.0D, {DIM}))",
            "were registered as array<float>, and are array<double> here",
        ),
        (
            {"candidate_type": "struct<text: string, uri: string>"},
            "array(struct('x' as text, binary('y') as uri))",
            "were registered as struct<text:string,uri:string>, and are struct<text:string,uri:binary> here",
        ),
        (
            {"candidate_type": "struct<text: string, uri: string>"},
            "array(struct('x' as text, 'y' as uri, 1 as n))",
            "were registered as struct<text:string,uri:string>, and are struct<text:string,uri:string,n:int> here",
        ),
    ],
    ids=["double", "field", "fields"],
)
def test_candidates_that_spark_would_cast_without_a_word_are_refused(spark, options, candidates, message):
    register(spark, model=MODEL, prefix="cast_", **options)
    with pytest.raises(PythonException, match=f"SpecError: candidates {re.escape(message)}: .*candidate_type="):
        spark.sql(f"select cast_rank('x', {candidates})").collect()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidate_type": "strin"}, "candidate_type='strin' is no type of Spark's SQL: .*UNSUPPORTED_DATATYPE"),
        ({"candidate_type": "foo<"}, "candidate_type='foo<' is no type of Spark's SQL: .*Syntax error"),
        (
            {"candidate_kind": "vector", "candidate_type": "string"},
            "candidate_type is string, and candidate_kind='vector' takes arrays of numbers",
        ),
        ({"candidate_type": "array<float>"}, "candidate_type is array<float>.*candidate_kind='vector'"),
        ({"candidate_type": T.DateType()}, "candidate_type is date, and candidate_kind='auto' takes strings"),
        ({"prefix": "a b-"}, r"prefix='a b-' makes names that SQL cannot call: letters from a to z, digits and _ are"),
        ({"prefix": "gr\u00f6\u00dfe_"}, "makes names that SQL cannot call"),
        ({"prefix": None}, "prefix=None makes names"),
        ({"prefix": "dense_"}, "prefix='dense_' makes dense_rank, which is a window function of SQL"),
        ({"prefix": "Percent_"}, "makes Percent_rank, which is a window function"),
    ],
)
def test_what_cannot_be_registered_is_refused_at_the_call(spark, options, message):
    with pytest.raises(SpecError, match=message):
        register(spark, model=MODEL, **options)


@pytest.mark.parametrize("prefix", ["_x_", "V2_", "2024_"])
def test_every_prefix_that_is_taken_makes_names_that_sql_can_call(spark, prefix):
    for name in register(spark, model=MODEL, prefix=prefix):
        arguments = {"rank": "'x', array('y')", "similarity": "'x', 'y'"}.get(name.removeprefix(prefix), "null")
        assert len(spark.sql(f"select {name}({arguments})").collect()) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("clip_rank(q)", "clip_rank takes (query, candidates), and was called with (string): options such as"),
        ("clip_rank(q, c, 3)", "clip_rank takes (query, candidates), and was called with (string, list<"),
        ("clip_similarity(q)", "clip_similarity takes (a, b), and was called with (string)"),
        ("clip_classify()", "clip_classify takes (column), and was called with ()"),
        ("embed_text(q, q)", "embed_text takes (column), and was called with (string, string)"),
        ("embed_image()", "embed_image takes (column), and was called with ()"),
    ],
)
def test_wrong_numbers_of_arguments_in_sql(spark, asked, call, message):
    register(spark, model=MODEL, labels=["red", "blue"])
    with pytest.raises(PythonException, match=rf"TypeError: {re.escape(message)}") as caught:
        spark.sql(f"select {call} from asked").collect()
    assert "given at register(spark, …)" in str(caught.value)


def test_an_unknown_name_of_an_argument_in_sql(spark, asked):
    register(spark, model=MODEL, labels=["red", "blue"])
    message = re.escape("clip_rank takes (query, candidates), and was called with (string, top_k => int")
    with pytest.raises(PythonException, match=rf"TypeError: {message}"):
        spark.sql("select clip_rank(q, top_k => 3) from asked").collect()


def test_arguments_by_name_in_sql(spark, asked):
    register(spark, model=MODEL, labels=["red", "blue"])
    by_place = "clip_rank(q, c), clip_similarity(q, c[0]), clip_classify(q), embed_text(q)"
    by_name = (
        "clip_rank(candidates => c, query => q), clip_similarity(q, b => c[0]), clip_classify(column => q),"
        " embed_text(column => q)"
    )
    rows = "from asked where size(c) > 0 order by id"
    found, wanted = (spark.sql(f"select {calls} {rows}").collect() for calls in (by_name, by_place))
    assert [tuple(row) for row in found] == [tuple(row) for row in wanted]
    assert wanted[0][1] == pytest.approx(cosine_of(*texts("red", "green")), abs=1e-6)


def test_options_bound_in_sql(spark):
    register(spark, model=MODEL, prefix="few_", top_k=1, scale=1, failures="struct", query_kind="text")
    (row,) = spark.sql("select few_rank('red', array('redder', 'x', null)) as r").collect()
    assert [one.candidate for one in row.r] == ["redder", None]
    one, other = (cosine_of(*texts("red", text)) for text in ("redder", "x"))
    assert row.r[0].clip_score == pytest.approx(softmax_of([one, other])[0], abs=1e-5)
    pairs = "values (0, 'a', 'b'), (1, null, 'x'), (2, '', 'x'), (3, 'x', ' ') as pairs(n, a, b)"
    rows = spark.sql(f"select few_similarity(a, b).failure.code from {pairs} order by n").collect()
    assert [row[0] for row in rows] == [None, None, "empty", "empty"]
    with pytest.raises(SpecError) as refused:
        register(spark, model=MODEL, query_kind="photo")
    assert refused.value.option == "query_kind"
    with pytest.raises(SpecError, match="templates without labels"):
        register(spark, model=MODEL, templates=["{}"])


def test_the_query_for_flat_rows_in_the_documentation_does_what_rank_groups_does(spark):
    """Word for word, on a view as the page says."""
    rows = [
        (n, f"g{n % 3}" if n % 5 else None, f"query {n % 3}", f"{'abcdefg'[n % 7]} text {n % 11}") for n in range(60)
    ]
    rows += [(60, "g0", None, "x"), (61, "g1", "red", ""), (62, "none", "", "x")]
    df = spark.createDataFrame(rows, "id int, query_id string, query string, candidate string")
    df.createOrReplaceTempView("pairs")
    register(spark, model=MODEL)
    (query,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    there = spark.sql(query).orderBy("id")
    here = rank_groups(df, by="query_id", top_k=5, model=MODEL).drop("embedding_failures").orderBy("id")
    assert there.columns == here.columns
    for found, wanted in zip(there.collect(), here.collect(), strict=True):
        assert found[:5] == wanted[:5] and found["rank"] == wanted["rank"]
        assert found.clip_score == (None if wanted.clip_score is None else pytest.approx(wanted.clip_score, abs=1e-9))
    assert sum(row["rank"] is not None for row in here.collect()) >= 20
