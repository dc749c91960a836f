"""Python values in columns of texts, as Beam's rows and JSON lines bring them."""

from __future__ import annotations

import datetime
import decimal
import pathlib
import uuid

import numpy as np
import pyarrow as pa
import pytest

from clipmill.datasets.tables.schemas import rows_batch, rows_schema
from clipmill.encoders import EncoderSpec
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.errors import DatasetError

PLAN = ColumnPlan.of({"caption": "text"})
COLUMNS = pa.schema([(name, pa.string()) for name in ("id", "caption", "x")])
SCHEMA = rows_schema(COLUMNS, PLAN, EncoderSpec("fake::dim=4"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (None, None),
        (5, "5"),
        (True, "true"),
        (np.int64(7), "7"),
        (0.5, "0.5"),
        ({"a": [1]}, '{"a": [1]}'),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (datetime.datetime(2026, 1, 2, 3, 4, 5, 6, datetime.UTC), "2026-01-02T03:04:05.000006+00:00"),
        (datetime.time(1, 2, 3), "01:02:03"),
        (decimal.Decimal("1.50"), "1.50"),
        (pathlib.PurePosixPath("/a/b.jpg"), "/a/b.jpg"),
    ],
    ids=repr,
)
def test_a_value_has_its_usual_text(value, text) -> None:
    assert rows_batch([{"id": "a", "x": value}], SCHEMA, PLAN, 4)["x"].to_pylist() == [text]


@pytest.mark.parametrize("value", [b"bytes", np.zeros(3), object(), {1, 2}], ids=["bytes", "array", "object", "set"])
def test_a_value_without_one_is_refused_with_its_column(value) -> None:
    with pytest.raises(DatasetError, match=f"column 'x' is string.*{type(value).__name__} is no text"):
        rows_batch([{"id": "a", "x": value}], SCHEMA, PLAN, 4)
