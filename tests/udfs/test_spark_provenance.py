"""Where vectors come from travels with a Spark column, into Parquet files and back."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from pyspark.sql import functions as F

from clipmill.datasets.tables.provenance import provenance_of
from clipmill.encoders import EncoderSpec, read_provenance
from clipmill.errors import SpecError
from clipmill.udfs import embed_columns, embed_text, stamp_provenance

SPEC = EncoderSpec("fake::dim=8", normalize=True)
TEXT, IMAGE = provenance_of(SPEC, "text"), provenance_of(SPEC, "image")


@pytest.fixture(scope="module")
def rows(spark):
    return spark.createDataFrame([("a", "one", None), ("b", None, None)], "id string, caption string, photo binary")


@pytest.fixture(scope="module")
def embedded(rows):
    return embed_columns(rows, {"caption": "text", "photo": "image"}, model=SPEC)


def test_it_says_what_made_the_vectors(embedded):
    assert (TEXT["model"], TEXT["dim"], TEXT["normalize"], TEXT["modality"]) == ("fake::dim=8", 8, True, "text")
    assert read_provenance(embedded) == {"caption_embedding": TEXT, "photo_embedding": IMAGE}
    assert read_provenance(embedded.schema) == read_provenance(embedded)


def test_it_survives_select_alias_filter_union_and_join(embedded):
    other = embedded.select("id", F.col("caption_embedding").alias("v"))
    assert read_provenance(other.filter("v is not null").union(other)) == {"v": TEXT}
    joined = embedded.withColumnRenamed("photo_embedding", "p").join(other, "id")
    assert read_provenance(joined) == {"caption_embedding": TEXT, "p": IMAGE, "v": TEXT}


def test_it_is_in_parquet_files_for_spark_and_for_pyarrow(spark, embedded, tmp_path):
    path = str(tmp_path / "vectors")
    embedded.coalesce(1).write.parquet(path)
    assert read_provenance(spark.read.parquet(path)) == {"caption_embedding": TEXT, "photo_embedding": IMAGE}
    assert read_provenance(path) == {"caption_embedding": TEXT, "photo_embedding": IMAGE}
    table = pq.read_table(path)
    assert table.column("id").to_pylist() == ["a", "b"]
    assert table.column("caption_embedding").null_count == 1
    assert table.column("photo_embedding").null_count == 2


def test_expressions_carry_it(rows):
    assert read_provenance(rows.select("*", embed_text("caption", model=SPEC))) == {"caption_embedding": TEXT}
    assert read_provenance(rows.withColumn("v", embed_text("caption", model=SPEC))) == {"v": TEXT}
    structs = rows.select(embed_text("caption", model=SPEC, failures="struct"))
    assert read_provenance(structs) == {"caption_embedding": TEXT}


def test_stamping_what_lost_it(rows):
    lost = rows.withColumn("v", F.slice(embed_text("caption", model=SPEC), 1, 8))
    assert read_provenance(lost) == {}
    stamped = stamp_provenance(lost.withMetadata("v", {"note": "mine"}), "v", SPEC, modality="text")
    assert read_provenance(stamped) == {"v": TEXT}
    assert stamped.schema["v"].metadata["note"] == "mine"
    assert read_provenance(stamp_provenance(lost, "v", SPEC)) == {"v": provenance_of(SPEC, "auto")}
    assert stamped.select("v").collect() == lost.select("v").collect()


def test_stamping_a_column_that_is_not_there(rows):
    with pytest.raises(SpecError, match="no column 'w'; there are 'id', 'caption', 'photo'"):
        stamp_provenance(rows, "w", SPEC)
