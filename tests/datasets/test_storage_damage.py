"""Bytes that changed after a dataset was written: every reader of its rows notices them and names the file."""

from __future__ import annotations

import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cli_helpers import run
from resume_jobs import SPEC, begin, begun, undisturbed, work

from clipmill.datasets import ReaderOptions, finish_job, plan_shards, read_dataset, read_documents, read_rows
from clipmill.errors import DatasetError
from clipmill.indexes import open_index
from clipmill.indexes.build import build_index
from clipmill.jobs import SkipExisting
from clipmill.jobs.embedded_keys import embedded_keys

pytest_plugins = ["resume_jobs"]

DAMAGE = r"the file is damaged: a page does not match its checksum; .*--resume; .*build the index again\)"


def flip(path: Path, column: str) -> None:
    """Flip a bit of the last page of a column; the file's length stays."""
    group = pq.read_metadata(path).row_group(0)
    (number,) = [n for n in range(group.num_columns) if group.column(n).path_in_schema.split(".")[0] == column]
    found = group.column(number)
    data = bytearray(path.read_bytes())
    start = found.dictionary_page_offset if found.has_dictionary_page else found.data_page_offset
    data[start + found.total_compressed_size - 1] ^= 1
    path.write_bytes(data)


@pytest.fixture
def dataset(tmp_path, texts) -> Path:
    """Five parts; the vectors of the second are damaged."""
    undisturbed(str(tmp_path / "dataset"), texts)
    flip(second(tmp_path / "dataset"), "embedding")
    return tmp_path / "dataset"


def second(dataset: Path) -> Path:
    return sorted(dataset.glob("part-*.parquet"))[1]


def test_reading_it(dataset):
    with pytest.raises(DatasetError, match=f"cannot read {second(dataset)}: {DAMAGE}"):
        read_dataset(str(dataset))


def test_reading_it_as_input_fails_its_rows_alone(dataset):
    shards = plan_shards([str(path) for path in sorted(dataset.glob("part-*.parquet"))])
    rows = [row for shard in shards for row in read_rows(shard)]
    (failed,) = [row.failure for row in rows if row.failure is not None]
    assert len(rows) == 8 - 2 + 1
    assert str(failed.code) == "malformed" and failed.message.startswith(f"rows 0 to 1: {second(dataset)}: the file is")
    documents = [one for shard in shards for one in read_documents(shard, ReaderOptions(text="id"))]
    assert [one.failures for one in documents] == [()] * 8  # documents do not read the damaged column


def test_an_index_of_it(dataset, tmp_path):
    with pytest.raises(DatasetError, match=f"{second(dataset)}: {DAMAGE}"):
        build_index([str(dataset)], str(tmp_path / "index"))


def test_the_keys_of_an_index(dataset, texts, tmp_path):
    shutil.rmtree(dataset)
    undisturbed(str(dataset), texts)
    build_index([str(dataset)], str(tmp_path / "index"))
    (keys,) = (tmp_path / "index" / "keys").iterdir()
    flip(keys, "id")
    with pytest.raises(DatasetError, match=f"{keys}: {DAMAGE}"):
        open_index(str(tmp_path / "index")).rows(np.array([0]), ["id"])


def test_skipping_its_rows(dataset, texts, tmp_path):
    part = second(dataset)
    flip(part, "id")
    job, _ = begin(str(tmp_path / "new"), texts, skip_existing=SkipExisting([str(dataset)]))
    (manifest,) = [path for path in (dataset / "_manifest").iterdir() if path.stem == part.stem]
    with pytest.raises(DatasetError, match=f"cannot read {part}: {DAMAGE}"):
        list(embedded_keys((0, f"_manifest/{manifest.name}"), job))


@pytest.mark.parametrize("engine", ["beam", pytest.param("spark", marks=pytest.mark.spark)])
def test_the_command_that_skips_its_rows(dataset, texts, tmp_path, capfd, engine):
    """A worker notices the damage, and the error omits what the engine adds."""
    flip(second(dataset), "id")
    command = ["embed", texts, "--output", tmp_path / "new", "--engine", engine, "--skip-existing", dataset]
    assert run(*command, "--model", SPEC.model, "--device", "cpu") == 1
    (said,) = [line for line in capfd.readouterr().err.splitlines() if "Error" in line]
    assert re.fullmatch(rf"Error: (the Spark job failed: )?cannot read {second(dataset)}: {DAMAGE}", said)


@pytest.mark.parametrize("command", ["summary", "report"])
def test_the_commands_that_look_at_it(dataset, tmp_path, capfd, command):
    page = tmp_path / "page.html"
    run(command, dataset, *(["--output", page] if command == "report" else []))
    shown = capfd.readouterr().err + (page.read_text() if page.exists() else "")
    assert second(dataset).name in shown and "a page does not match its checksum" in shown


def test_deleting_the_file_and_resuming_makes_it_again(dataset, texts, tmp_path):
    second(dataset).unlink()
    job, progress = begin(str(dataset), texts)
    assert progress.reasons == {"damaged files": 1}
    work(job, progress.to_do)
    finish_job(str(dataset))
    assert read_dataset(str(dataset)).equals(read_dataset(undamaged(tmp_path, texts)))


def undamaged(tmp_path: Path, texts: Path) -> str:
    undisturbed(str(tmp_path / "undamaged"), texts)
    return str(tmp_path / "undamaged")


def test_metadata_of_clip_retrievals_layout(tmp_path, texts):
    spec = dataclasses.replace(SPEC, normalize=True)
    begun(str(tmp_path / "out"), texts, done=1, spec=spec, format="clip-retrieval", columns={"text": "text"})
    (metadata,) = (tmp_path / "out" / "metadata").iterdir()
    flip(metadata, "caption")
    with pytest.raises(OSError, match="CRC checksum"):
        pq.ParquetFile(metadata, page_checksum_verification=True).read()
