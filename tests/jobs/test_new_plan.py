"""A plan that nobody knew: one class is enough for jobs, files and Beam."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import apache_beam as beam
import job_options
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from beam_helpers import pipeline

from clipmill.datasets import finish_job, plan_shards, read_failures, summarise
from clipmill.encoders import EncoderSpec, Vector, read_provenance
from clipmill.encoders.item import item_of_value
from clipmill.encoders.plans.plan import NewColumn, PlanResult, RowPlan
from clipmill.encoders.plans.row_values import row_name
from clipmill.encoders.testing import fake_text_vector
from clipmill.failures import Failure
from clipmill.jobs import embed_shard, start_job
from clipmill.transforms import WriteEmbeddings
from clipmill.transforms.encoding import Encoding

SPEC = EncoderSpec("fake::dim=8")
ROWS = [{"id": "a", "caption": "one"}, {"id": "b", "caption": ""}, {"id": "c", "caption": None}]


@dataclasses.dataclass(frozen=True, slots=True)
class LengthPlan(RowPlan):
    """The length of a caption's vector."""

    key: str = "id"
    makes_vectors = False
    rename_hint = "rename yours first"

    @property
    def reads(self):
        return {"caption": "text"}

    @property
    def added(self):
        return [NewColumn("length", "score", "caption", "text")]

    def tool(self, encoder):
        return np.linalg.norm

    def items(self, source):
        return [item_of_value("text", source("caption"))]

    def result(self, source, outcomes, tool):
        (outcome,) = outcomes
        if isinstance(outcome, Failure):
            return PlanResult({"length": None}, [outcome.at(column="caption", row=row_name(source, self.key))])
        return PlanResult({"length": float(tool(outcome.values)) if isinstance(outcome, Vector) else None})

    def made(self, value):
        return [value.get("length")]

    def scoring(self):
        return {"norm": 2}


class Length(Encoding):
    """The same on Beam."""

    def __init__(self):
        super().__init__(SPEC, max_wait_s=None, on_failure="split")
        self.plan = LengthPlan()


def assert_written(directory: Path) -> None:
    """Assert the rows of a dataset, its failures, its counts, and where the scores come from."""
    table = pq.read_table(directory)
    expected = [("a", float(np.linalg.norm(fake_text_vector("one")))), ("c", None)]
    assert sorted(zip(*table.select(["id", "length"]).to_pydict().values(), strict=True)) == expected
    (failure,) = read_failures(str(directory))
    assert {name: failure[name] for name in ("id", "column", "code")} == {
        "id": "b",
        "column": "caption",
        "code": "empty",
    }
    found = summarise(str(directory))
    assert (found.input_rows, found.failed_rows, found.scored) == (3, 1, 1)
    assert read_provenance(table.schema)["length"]["scores"] == {"norm": 2}


def test_a_job_of_a_new_plan(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    shards = plan_shards([str(tmp_path / "rows.parquet")])
    job = job_options.plan(SPEC, str(tmp_path / "out"), shards, plan=LengthPlan())
    start_job(job, shards)
    for shard in shards:
        embed_shard(shard, job)
    finish_job(job.directory)
    assert_written(tmp_path / "out")


def test_a_pipeline_of_a_new_plan(tmp_path):
    schema = pa.schema([("id", pa.string()), ("caption", pa.string())])
    with pipeline() as p:
        _ = p | beam.Create(ROWS) | Length() | WriteEmbeddings(tmp_path / "out", schema=schema)
    assert_written(tmp_path / "out")
