"""Rows that wait for their vectors take memory with all of their columns, not only with those that are embedded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import job_options
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.utils.timestamp import Timestamp

from clipmill.datasets import plan_shards
from clipmill.encoders import Document, EncoderSpec, Item, load_encoder
from clipmill.encoders.plans.document_embed_plan import DocumentEmbedPlan
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.jobs.record_adapters import records_of
from clipmill.threads import Cores
from clipmill.transforms.elements import DocumentElements, RowElements
from clipmill.transforms.embed_fn import EmbedFn
from clipmill.transforms.windowed import Place
from clipmill.udfs.batches import embed_batches
from clipmill.udfs.schema import InputColumn

ROW_BYTES = 2**16
SPEC = EncoderSpec("fake::dim=4", device="cpu", max_batch_rows=256, max_batch_bytes=2 * ROW_BYTES)
MOST = 6
"""Rows that may wait: four fill twice `max_batch_bytes`, one is pushed, and one is ready."""
ROWS = 100
EXTRA = "x" * ROW_BYTES


def test_a_session_counts_what_its_caller_holds() -> None:
    waiting = most = 0
    with load_encoder(SPEC).session() as session:
        for number in range(ROWS):
            waiting += 1 - len(session.push(number, [Item("text", f"t{number}")], nbytes=ROW_BYTES))
            most = max(most, waiting)
        assert len(session.flush()) == waiting
    assert most <= MOST


def _table(folder: Path) -> Path:
    path = folder / "x.parquet"
    pq.write_table(pa.table({"text": ["a"] * 3, "extra": [EXTRA] * 3}), path)
    return path


def _lines(folder: Path) -> Path:
    path = folder / "x.jsonl"
    path.write_text("".join(json.dumps({"text": f"{number}", "extra": EXTRA}) + "\n" for number in range(3)))
    return path


@pytest.mark.parametrize("write", [_table, _lines])
@pytest.mark.parametrize("columns", [{"text": "text"}, {"text": "text", "extra": "text"}, None], ids=str)
def test_records_of_jobs_know_their_size(tmp_path: Path, write: Any, columns: Any) -> None:
    """What is embedded and carried, too, counts once."""
    shards = plan_shards([str(write(tmp_path))])
    options = {"columns": columns} if columns else {"reader": {"text": "text"}, "tags": ["extra"]}
    job = job_options.plan(SPEC, str(tmp_path / "out"), shards, **options)
    sizes = [record.nbytes for record in records_of(job).read(shards[0])]
    assert [ROW_BYTES <= size <= 1.1 * ROW_BYTES for size in sizes] == [True] * 3


def _rows() -> tuple[RowElements, list[Any]]:
    plan = ColumnPlan.of({"text": "text"}, spec=SPEC)
    return RowElements(plan), [{"text": f"t{number}", "extra": EXTRA} for number in range(ROWS)]


def _documents() -> tuple[DocumentElements, list[Any]]:
    plan = DocumentEmbedPlan("@r", keep_content=False)
    return DocumentElements(plan, ""), [Document(text=f"t{n}", tags={"extra": EXTRA}) for n in range(ROWS)]


@pytest.mark.parametrize("made", [_rows, _documents])
def test_beam_elements_that_wait_are_few(made: Any) -> None:
    elements, given = made()
    fn = EmbedFn(SPEC, elements, on_failure="split", cores=Cores())
    fn.setup()
    fn.start_bundle()
    place = Place(Timestamp(0), None, None)  # type: ignore[arg-type]
    waiting = most = 0
    for element in given:
        waiting += 1 - len(fn._push(element, place))
        most = max(most, waiting)
    fn.teardown()
    assert most <= MOST


def test_spark_rows_that_wait_are_few() -> None:
    """Finished rows leave in batches of 32."""
    waiting = most = 0

    def given() -> Iterator[pa.RecordBatch]:
        nonlocal waiting, most
        for number in range(ROWS):
            waiting += 1
            most = max(most, waiting)
            yield pa.RecordBatch.from_pydict({"text": [f"t{number}"], "extra": [EXTRA]})

    plan = ColumnPlan.of({"text": "text"}, spec=SPEC)
    for batch in embed_batches(given(), SPEC, plan, [InputColumn("text", (0,), False)]):
        waiting -= batch.num_rows
    assert most <= 32 + MOST
