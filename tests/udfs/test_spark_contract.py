"""The contract that all engines keep, on `embed_columns`, on column expressions and on pandas UDFs."""

from __future__ import annotations

import copy

import pytest
from contract import Contract, Result, png
from vectors_contract import VectorsContract

from clipmill.udfs import audio_udf, embed_audio, embed_columns, embed_image, embed_text, image_udf, text_udf

TYPES = {"id": "string", "caption": "string", "photo": "binary", "captions": "array<string>", "sound": "binary"}
TYPES["title"] = "string"
TYPES["wave"] = "struct<array: array<float>, sampling_rate: int>"


def frame(spark, rows, columns):
    names = list(rows[0]) if rows else ["id", *columns]
    schema = ", ".join(f"{name} {TYPES[name]}" for name in names)
    return spark.createDataFrame([tuple(row[name] for name in names) for row in rows], schema)


@pytest.mark.connect
class TestEmbedColumns(Contract, VectorsContract):
    @pytest.fixture
    def embed(self, spark):
        def embed(rows, columns, *, model="fake::dim=8", **options):
            embedded = embed_columns(frame(spark, rows, columns), columns, model=model, **options)
            found = [row.asDict() for row in embedded.collect()]
            failures = [(row["id"], f.column, f.code) for row in found for f in row["embedding_failures"] or []]
            return Result(found, failures)

        return embed


class ExpressionContract(Contract):
    """Of one column each, with the failure in a struct beside the vector; arrays are for `embed_columns`."""

    def expression(self, column, kind, **options):
        raise NotImplementedError

    @pytest.fixture
    def embed(self, spark):
        def embed(rows, columns, *, model="fake::dim=8", **options):
            made = [
                self.expression(column, kind, model=model, failures="struct", **options)
                for column, kind in columns.items()
            ]
            found = [row.asDict() for row in frame(spark, rows, columns).select("*", *made).collect()]
            failures = []
            for row in found:
                for column in columns:
                    result = row[f"{column}_embedding"]
                    if result is not None and result.failure is not None:
                        failures.append((row["id"], column, result.failure.code))
                    row[f"{column}_embedding"] = result and result.embedding
            return Result(found, failures)

        return embed

    def test_an_array_column_gives_an_array_of_vectors(self, embed):
        with pytest.raises(Exception, match=r"SpecError.*embed_columns"):
            embed([{"id": "two", "captions": ["one", "two"]}], {"captions": "text"})

    def test_the_callers_data_is_unchanged(self, embed):
        rows = [{"id": "a", "caption": "one", "photo": png(1, 1, (1, 1, 1))}, {"id": "b", "caption": "", "photo": None}]
        columns = {"caption": "text", "photo": "image"}
        before = copy.deepcopy((rows, columns))
        assert len(embed(rows, columns).rows) == 2
        assert (rows, columns) == before


@pytest.mark.connect
class TestExpressions(ExpressionContract):
    def expression(self, column, kind, **options):
        return {"text": embed_text, "image": embed_image, "audio": embed_audio}[kind](column, **options)


class TestPandasUdfs(ExpressionContract):
    def expression(self, column, kind, **options):
        return {"text": text_udf, "image": image_udf, "audio": audio_udf}[kind](**options)(column).alias(
            f"{column}_embedding"
        )
