"""Arrays of vectors and their provenance: exact values and nulls, and provenance read from every kind of source."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipmill.datasets import (
    differences,
    nested_vector_array,
    provenance_of,
    vector_array,
    vector_type,
    with_provenance,
)
from clipmill.datasets.tables.spark_schema import SPARK_SCHEMA_KEY
from clipmill.encoders import EncoderSpec, read_provenance
from clipmill.errors import DatasetError

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors_and_nulls_come_back_from_parquet(tmp_path, dtype):
    """Every reader reads a null among vectors as a null row; fixed-size lists could not be read back."""
    array = vector_array([MATRIX[0], None, MATRIX[2]], 4, dtype)
    array.validate(full=True)
    pq.write_table(pa.table({"v": array}), tmp_path / "v.parquet")
    column = pq.read_table(tmp_path / "v.parquet")["v"]
    assert column.type.value_type == (pa.float32() if dtype == "float32" else pa.float16())
    assert column.to_pylist() == [[0, 1, 2, 3], None, [8, 9, 10, 11]]


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [([], []), ([None, None], [None, None])],
    ids=["empty batch", "nothing but nulls"],
)
def test_type_does_not_depend_on_the_data(vectors, expected):
    array = vector_array(vectors, 4)
    assert array.type == vector_type()
    assert array.to_pylist() == expected


def test_arrays_of_vectors_distinguish_null_rows_from_empty_ones():
    array = nested_vector_array([[MATRIX[0], None], None, [], [MATRIX[1]]], 4)
    array.validate(full=True)
    assert array.type == vector_type(nested=True)
    assert array.to_pylist() == [[[0, 1, 2, 3], None], None, [], [[4, 5, 6, 7]]]


def test_vectors_are_copied():
    vector = MATRIX[0].copy()
    array = vector_array([vector], 4)
    vector[:] = -1
    assert array.to_pylist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vector_array([MATRIX[0], MATRIX[0][:3]], 4), r"row 1 has the shape \(3,\), not \(4,\)"),
        (lambda: vector_array([MATRIX[2] * 1e6], 4, "float16"), "65504"),
        (lambda: vector_type("float64"), "'float64' must be one of"),
    ],
    ids=["wrong length", "too large for float16", "unknown dtype"],
)
def test_invalid_vectors_and_dtypes_are_refused(make, message):
    with pytest.raises(DatasetError, match=message):
        make()


def test_provenance_holds_what_is_known_before_the_model_is_loaded():
    spec = EncoderSpec("ViT-B-32::openai", apply_exif=True, decode="exact")
    provenance = provenance_of(spec, "image")
    assert provenance["model"] == "ViT-B-32::openai"
    assert (provenance["weights"], provenance["dim"], provenance["normalize"]) == ("openai", 512, False)
    assert (provenance["runtime"], provenance["precision"]) == ("auto", "auto")
    assert provenance["image"]["image_size"] == 224
    assert provenance["image"]["interpolation"] == "bicubic"
    assert (provenance["image"]["apply_exif"], provenance["image"]["decode"]) == (True, "exact")
    assert "text" not in provenance
    assert provenance_of(spec, "text")["text"] == {"context_length": 77, "on_long_text": "truncate"}


def test_provenance_needs_no_torch():
    code = (
        "import sys; from clipmill.encoders import EncoderSpec; from clipmill.datasets import provenance_of;"
        "provenance_of(EncoderSpec('demo'), 'auto'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_provenance_is_read_from_file_directory_and_schema(tmp_path):
    provenance = provenance_of(EncoderSpec("fake::dim=4"), "text")
    schema = with_provenance(pa.schema([("id", pa.string()), ("v", vector_type())]), {"v": provenance})
    table = pa.table([pa.array(["a"]), vector_array([None], 4)], schema=schema)
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "part-0.parquet")
    (tmp_path / "data" / "_SUCCESS").touch()
    for source in (
        schema,
        table,
        tmp_path / "data",
        str(tmp_path / "data" / "part-0.parquet"),
        f"file://{tmp_path}/data",
    ):
        assert read_provenance(source) == {"v": provenance}


def test_provenance_is_read_from_the_footer_that_spark_writes():
    """Spark writes no Arrow field metadata, only its own schema."""
    provenance = provenance_of(EncoderSpec("fake::dim=4"), "text")
    schema = with_provenance(pa.schema([("v", vector_type())]), {"v": provenance})
    sparks = pa.schema([schema.field("v").remove_metadata()], metadata=schema.metadata)
    assert read_provenance(sparks) == {"v": provenance}


def test_the_footer_is_omitted_if_spark_lacks_a_type():
    schema = pa.schema([("v", vector_type("float16"))], metadata={SPARK_SCHEMA_KEY: b'{"fields": []}'})
    stamped = with_provenance(schema, {"v": {"model": "m"}})
    assert stamped.metadata is None
    assert read_provenance(stamped) == {"v": {"model": "m"}}


@pytest.mark.parametrize("name", ["missing", "missing/*.parquet", "text.txt", "empty"])
def test_provenance_of_a_missing_path_or_column_is_an_error(tmp_path, name):
    (tmp_path / "text.txt").write_text("no parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=name.replace("*", r"\*")):
        read_provenance(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"decode": "exact", "precision": "fp32", "runtime": "torch"}, []),
        ({"normalize": True}, ["normalize"]),
        ({"apply_exif": True}, ["image.apply_exif"]),
        ({"on_long_text": "fail"}, ["text.on_long_text"]),
        ({"model": "ViT-B-32::openai"}, None),
    ],
    ids=["same", "runtime, precision, decode", "normalize", "exif", "long texts", "model"],
)
def test_differences_are_those_that_change_the_vectors(options, expected):
    ours = provenance_of(EncoderSpec("demo"), "auto")
    theirs = provenance_of(EncoderSpec(**{"model": "demo", **options}), "auto")
    found = differences(ours, theirs)
    if expected is None:
        assert {"model", "dim", "weights", "image.image_size"} <= set(found)
    else:
        assert found == expected


def test_a_column_of_texts_and_one_of_images_share_an_index():
    spec = EncoderSpec("demo")
    assert differences(provenance_of(spec, "text"), provenance_of(spec, "image")) == []
