"""`clipmill plan`: what it measures of tables, folders and tars, what it computes, and what it refuses."""

from __future__ import annotations

import dataclasses
import gzip
import json
import multiprocessing
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tar_files
from cli_helpers import notes_of, run, write_pictures

from clipmill.datasets.inputs import Shard
from clipmill.errors import DatasetError
from clipmill.jobs import Job
from clipmill.jobs.measurement import Measurement
from clipmill.jobs.record_adapters import records_of
from clipmill.pipelines.plan import ENGINE_START_S, Machines, forecast
from clipmill.pipelines.survey import Survey

MODEL = ("--model", "fake::dim=8")
TEXTS = [{"id": str(number), "text": "a" * (1 + number % 7)} for number in range(300)]


MEASURED = Measurement(
    processes=2,
    cores=2,
    rows=100,
    row_s=(0.009, 0.01, 0.011),
    ready_s=6.0,
    failed_rows=0,
    failed={},
    peak_bytes=10**9,
    written_bytes=200_000,
    resolved={"runtime": "torch"},
)


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Nothing is embedded; what was to be is returned."""
    given: list[dict] = []

    def measure(job: Job, pieces: Sequence[Shard], **options: int) -> Measurement:
        given.append({"job": job, "pieces": pieces, **options})
        return dataclasses.replace(MEASURED, **options)

    monkeypatch.setattr("clipmill.pipelines.survey.measure", measure)
    return given


def planned(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict:
    assert run("plan", *arguments, "--json") == code
    found: dict = json.loads(capsys.readouterr().out)
    return found


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# --- what is measured ------------------------------------------------------------------------------------------------


def test_a_table_is_measured_once_for_all_plans_and_nothing_is_left(tmp_path, temporary, capsys) -> None:
    lines = write_lines(tmp_path / "rows.jsonl", TEXTS)
    before = sorted(tmp_path.rglob("*"))
    found = planned(capsys, lines, *MODEL, "--rows-per-shard", 40)
    assert (found["model"], found["dim"], found["rows"], found["shards"]) == ("fake::dim=8", 8, 300, 8)
    assert found["nbytes"] == lines.stat().st_size and set(found["measured"]) == {"beam", "spark"}
    beam, spark = (found["measured"][engine] for engine in ("beam", "spark"))
    assert beam["processes"] == 1 and spark["processes"] == spark["cores"] == beam["cores"]
    for one in (beam, spark):
        assert one["rows"] > 0 and one["failed_rows"] == 0 and one["peak_bytes"] > 10**7
        assert len(one["row_s"]) == 4 and one["written_bytes"] > one["rows"] * 8 * 4
    assert sorted(tmp_path.rglob("*")) == before and not multiprocessing.active_children()
    (tmp_path / "survey.json").write_text(json.dumps(found))
    given = ("--from", tmp_path / "survey.json")
    assert planned(capsys, *given) == found
    assert planned(capsys, *given, "--start", 0)["plan"]["spark"]["start_s"] == 0
    more = planned(capsys, *given, "--rows", 3_000_000, "--machines", 7, "--price-per-hour", 0.5)
    assert more["measured"] == found["measured"] and more["plan"]["beam"]["machines"] == 7
    assert more["plan"]["beam"]["cost"] == pytest.approx(7 * more["plan"]["beam"]["seconds"] / 3600 * 0.5)


def test_rows_that_fail_are_counted(tmp_path, capsys) -> None:
    """Each round embeds another one of five pictures, two of which cannot be read."""
    found = planned(capsys, write_pictures(tmp_path / "pictures"), *MODEL, "--engine", "beam")
    assert (found["rows"], found["files"]) == (5, 5) and set(found["plan"]) == {"beam"}
    measured = found["measured"]["beam"]
    assert measured["rows"] == 4 and sum(measured["failed"].values()) == measured["failed_rows"] > 0
    assert set(measured["failed"]) <= {"undecodable", "empty"}


def test_processes_embed_different_rows_that_are_spread_over_the_input(tmp_path, unmeasured, capsys) -> None:
    lines = write_lines(tmp_path / "rows.jsonl", TEXTS)
    archive = tar_files.write_tar(tmp_path / "samples.tar", tar_files.members(range(100)))
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(100):
        (pictures / f"{number}.png").write_bytes(tar_files.picture(number))
    for given, columns in ((lines, ()), (pictures, ()), (archive, ("--column", "text=text", "--drop", "image"))):
        found = planned(capsys, given, *MODEL, *columns, "--rows-per-shard", 10, "--sample", 12)
        assert found["rows"] == (300 if given == lines else 100)
        assert [one["processes"] for one in unmeasured[-2:]] == [1, found["measured"]["spark"]["cores"]]
        for one in unmeasured[-2:]:
            pieces = one["pieces"]
            assert len(pieces) == 5 * one["processes"] and len({piece.name for piece in pieces}) == len(pieces)
            rows = [key for piece in pieces for key in _rows_of(one["job"], piece)]
            assert len(set(rows)) == len(rows) == 3 * len(pieces)
            assert one["job"].spec.max_cache_bytes > 0
        again = planned(capsys, given, *MODEL, *columns, "--rows-per-shard", 10, "--sample", 12)
        assert unmeasured[-1]["pieces"] == unmeasured[-3]["pieces"] and again["rows"] == found["rows"]
    numbers = sorted(int(Path(path).stem) for piece in unmeasured[4]["pieces"] for path in piece.paths)
    assert numbers[0] < 30 and numbers[-1] > 70


def _rows_of(job: Job, piece: Shard) -> list[str | None]:
    records = records_of(job)
    return [records.key(record) for record in records.read(piece)]


def test_the_rows_of_the_last_shard_of_a_file_are_estimated_from_its_bytes(tmp_path, unmeasured, capsys) -> None:
    same = [{"id": f"{number:03}", "text": "abc"} for number in range(250)]
    lines = write_lines(tmp_path / "rows.jsonl", same)
    assert planned(capsys, lines, *MODEL, "--rows-per-shard", 100)["rows"] == 250


def test_a_compressed_file_needs_its_number_of_rows(tmp_path, unmeasured, capsys) -> None:
    """It is one shard, which only one process can work on, and whose beginning is embedded several times."""
    whole = write_lines(tmp_path / "rows.jsonl", TEXTS)
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(whole.read_bytes()))
    assert run("plan", packed, *MODEL, "--rows-per-shard", 50) == 2
    assert "--rows" in capsys.readouterr().err and not unmeasured
    found = planned(capsys, packed, *MODEL, "--rows-per-shard", 50, "--rows", 300, "--machines", 4)
    assert (found["rows"], found["shards"]) == (300, 1) and found["plan"]["beam"]["process_rows"] == 300
    assert [piece.rows for piece in unmeasured[0]["pieces"]] == [256] * 5
    assert len({piece.name for piece in unmeasured[0]["pieces"]}) == 5
    assert unmeasured[0]["job"].spec.max_cache_bytes == 0
    assert planned(capsys, packed, *MODEL)["rows"] == 300


def test_rows_extrapolate_a_part_of_the_input(tmp_path, unmeasured, capsys) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    for number in range(3):
        pq.write_table(pa.table({"id": range(100), "text": ["a"] * 100}), parts / f"{number}.parquet")
    found = planned(capsys, parts, *MODEL, "--rows-per-shard", 100, "--rows", 3_000_000)
    assert (found["rows"], found["shards"], found["files"]) == (3_000_000, 30_000, 30_000)
    size = sum(path.stat().st_size for path in parts.iterdir())
    assert found["nbytes"] == size * 10_000 and found["index"]["kind"] == "ivf"


# --- what is computed ------------------------------------------------------------------------------------------------

SURVEY = Survey(
    model="demo",
    dim=96,
    dtype="float32",
    processor="one",
    shards=1000,
    rows_per_shard=1000,
    rows=1_000_000,
    files=10,
    nbytes=10**9,
    listing_s=5.0,
    measured={"spark": MEASURED, "beam": dataclasses.replace(MEASURED, processes=1)},
)
START = {engine: seconds + 6.0 for engine, seconds in ENGINE_START_S.items()}


def test_a_few_files_are_scaled_without_the_beginning_of_their_listing() -> None:
    """And to shards of the size that was asked for, not to as many small ones."""
    few = dataclasses.replace(SURVEY, shards=1, rows_per_shard=1024, rows=86, files=86, listing_s=0.1).scaled(10**7)
    assert few.shards == 9766 and few.listing_s == pytest.approx(0.1 + 10**7 / 104_000, rel=1e-3)
    many = dataclasses.replace(SURVEY, rows=1_000_000, files=1_000_000, listing_s=8.0).scaled(10**7)
    assert many.listing_s == pytest.approx(80) and many.shards == 10_000
    of_files = dataclasses.replace(SURVEY, shards=3, rows_per_shard=10**6, rows=300, files=3).scaled(3000)
    assert of_files.shards == 30


@pytest.mark.parametrize("engine", ["beam", "spark"])
def test_the_time_is_start_listing_and_the_rows_of_a_machine(engine: str) -> None:
    found = forecast(SURVEY, engine, Machines(count=10, price_per_hour=3.0))
    assert found.seconds == pytest.approx(START[engine] + 5 + 100_000 * 0.01)
    assert found.cost == pytest.approx(10 * found.seconds / 3600 * 3)
    assert found.machine_bytes == (10**9 if engine == "beam" else 2 * 10**9)
    assert forecast(SURVEY, engine, Machines(count=10, start_s=90)).seconds == pytest.approx(90 + 5 + 100_000 * 0.01)


def test_machines_with_more_cores_have_more_processes_or_a_faster_one() -> None:
    spark, beam = (forecast(SURVEY, engine, Machines(cores=8)) for engine in ("spark", "beam"))
    assert (spark.processes, beam.processes) == (8, 1) and spark.row_s == beam.row_s == pytest.approx(0.0025)
    one_core = dataclasses.replace(SURVEY, measured={"spark": dataclasses.replace(MEASURED, processes=1, cores=1)})
    assert forecast(one_core, "spark", Machines(cores=8)).processes == 8
    assert spark.machine_bytes == 8 * 10**9 and beam.seconds < forecast(SURVEY, "beam", Machines()).seconds / 3


def test_shards_are_not_divided() -> None:
    """With 1,000 shards, 300 machines of 2 processes have 2 shards for the busiest process, and 500 have 1 for each."""
    assert forecast(SURVEY, "spark", Machines(count=300)).process_rows == 2 * 1000
    assert forecast(SURVEY, "spark", Machines(count=500)).process_rows == 1000
    assert forecast(SURVEY, "spark", Machines(count=5000)).process_rows == 1000


@pytest.mark.parametrize("engine", ["beam", "spark"])
@pytest.mark.parametrize("deadline_s", [60, 100, 1000, 3000, 50_000])
def test_a_deadline_takes_the_fewest_machines_that_meet_it(engine: str, deadline_s: float) -> None:
    found = forecast(SURVEY, engine, Machines(deadline_s=deadline_s))
    assert found.machines is not None and found.seconds <= deadline_s
    if found.machines > 1:
        assert forecast(SURVEY, engine, Machines(count=found.machines - 1)).seconds > deadline_s


def test_a_deadline_that_no_number_of_machines_meets_is_1(tmp_path, capsys) -> None:
    file = tmp_path / "survey.json"
    file.write_text(json.dumps(dataclasses.asdict(SURVEY)))
    assert planned(capsys, "--from", file, "--deadline", "10s", code=1)["plan"]["beam"]["machines"] is None
    assert run("plan", "--from", file, "--deadline", "10s") == 1
    said = capsys.readouterr()
    assert "on any number of machines" in said.err and "no number of them ends in 10 s" in said.out


def test_the_table_has_the_numbers(tmp_path, capsys) -> None:
    survey = dataclasses.replace(SURVEY, measured={"spark": dataclasses.replace(MEASURED, failed_rows=1)})
    (tmp_path / "survey.json").write_text(json.dumps(dataclasses.asdict(survey)))
    given = ("plan", "--from", tmp_path / "survey.json", "--machines", 10, "--price-per-hour", 3)
    assert run(*given) == 0
    said = capsys.readouterr().out
    found = forecast(survey, "spark", Machines(count=10, price_per_hour=3))
    assert f"{found.seconds:,.1f} = {START['spark']:.1f} + 5.0 + 50,000 × 2 × 0.010000" in said
    facts = dict(
        re.split(r"  +", line.strip(), maxsplit=1) for line in said.splitlines() if re.search(r"\S  +\S", line)
    )
    assert facts["output"] == "2.0 GB" and facts["cost"] == f"{found.cost:,.2f}" and facts["rows that fail"] == "1 %"
    assert facts["memory"] == "2.0 GB on each machine, 1.0 GB a process" and facts["index"].startswith("ivf")


def test_rounds_that_differ_and_processes_without_shards_are_said(tmp_path, capsys) -> None:
    wide = dataclasses.replace(MEASURED, row_s=(0.01, 0.02))
    (tmp_path / "survey.json").write_text(json.dumps(dataclasses.asdict(dataclasses.replace(SURVEY, measured={
        "spark": wide, "beam": MEASURED,
    }))))  # fmt: skip
    assert run("plan", "--from", tmp_path / "survey.json", "--machines", 400) == 0
    assert [line.split(":")[:2] for line in notes_of(capsys.readouterr().err)] == [["Warning", " spark"]]
    assert run("plan", "--from", tmp_path / "survey.json", "--machines", 501) == 0
    said = capsys.readouterr().err
    assert "Note: spark: 1,000 shards cannot keep 1,002 processes busy" in said


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_sample_of_failures_and_an_input_without_rows_are_2(tmp_path, temporary, capsys) -> None:
    unreadable = tmp_path / "unreadable.parquet"
    unreadable.write_bytes(b"PAR1 and no more")
    empty = write_lines(tmp_path / "empty.jsonl", [])
    for given, message in (
        (unreadable, "rows of the sample failed (malformed"),
        (empty, "no rows"),
        (tmp_path / "nowhere", "nowhere"),
    ):
        assert run("plan", given, *MODEL, "--engine", "beam") == 2
        said = capsys.readouterr()
        assert message in said.err and not said.out and "Traceback" not in said.err
    assert not list(temporary.iterdir())


DEADLY = """
import multiprocessing, os
from clipmill.models.fake import FakeModel

class Deadly(FakeModel):
    def encode(self, *given):
        if multiprocessing.parent_process() is not None:
            os._exit(3)
        return super().encode(*given)

def make():
    return Deadly({})
"""


def test_a_process_that_dies_is_said(tmp_path, temporary, monkeypatch, capsys) -> None:
    """And the others end with it."""
    (tmp_path / "deadly_plan.py").write_text(DEADLY)
    monkeypatch.syspath_prepend(tmp_path)
    lines = write_lines(tmp_path / "rows.jsonl", TEXTS)
    assert run("plan", lines, "--model", "custom:deadly_plan:make", "--engine", "spark") == 2
    assert "died (exit code 3)" in capsys.readouterr().err
    assert not multiprocessing.active_children() and not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to plan"),
        (["rows.jsonl", "--deadline", "soon"], "--deadline 'soon' is not a time"),
        (["rows.jsonl", "--deadline", "8"], "--deadline '8' is not a time"),
        (["rows.jsonl", "--deadline", "0h"], "leaves no time"),
        (["rows.jsonl", "--deadline", "8h", "--machines", "2"], "leave out --machines"),
        (["rows.jsonl", "--machines", "0"], "--machines"),
        (["rows.jsonl", "--price-per-hour", "-1"], "--price-per-hour"),
        (["--from", "survey.json", "--price-per-hour", "nan"], "--price-per-hour"),
        (["--from", "survey.json", "--start", "inf"], "--start"),
        (["--from", "survey.json", "--deadline", f"{'9' * 400}h"], "never ends"),
        (["rows.jsonl", "--output", "out"], "No such option"),
        (["rows.jsonl", "--column", "text"], "NAME=KIND"),
        (["rows.jsonl", "--fuse", "both=text:1"], "has no effect without --column"),
        (["rows.jsonl", "--model", "no-such-model"], "no-such-model"),
        (["rows.jsonl", "--from", "survey.json"], "takes no INPUT"),
        (["--from", "survey.json", "--model", "demo"], "--model has no effect"),
        (["--from", "survey.json", "--sample", "10"], "--sample has no effect"),
        (["--from", "nowhere.json"], "nowhere.json cannot be read"),
        (["--from", "rows.jsonl"], "is not what clipmill plan --json prints"),
    ],
)
def test_what_cannot_be_is_2(arguments, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "rows.jsonl", TEXTS[:5])
    (tmp_path / "survey.json").write_text(json.dumps(dataclasses.asdict(SURVEY)))
    assert run("plan", *arguments) == 2
    said = capsys.readouterr()
    assert message in said.err and not said.out


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 0},
        {"shards": "many"},
        {"measured": {"beam": {}}},
        {"measured": {"beam": {**dataclasses.asdict(MEASURED), "row_s": [0]}}},
        {"measured": {"beam": {**dataclasses.asdict(MEASURED), "row_s": []}}},
        {"measured": {"flink": dataclasses.asdict(MEASURED)}},
        {"measured": {}},
    ],
)
def test_a_damaged_survey_is_refused(change) -> None:
    whole = dataclasses.asdict(SURVEY)
    assert Survey.from_json("file", json.dumps(whole).encode()) == SURVEY
    with pytest.raises(DatasetError):
        Survey.from_json("file", json.dumps({**whole, **change}).encode())
