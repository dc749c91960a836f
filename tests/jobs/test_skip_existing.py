"""Rows whose vectors are in other datasets are passed over: the parts that know no engine, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
import shutil

import job_options
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run, run_example
from existing_contract import ExistingContract, Nights, embed_here
from places import DOCS
from storage_helpers import photograph

from clipmill.datasets import plan_shards, read_dataset
from clipmill.encoders.plans.classify_plan import ClassifyPlan
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.encoders.plans.labels import LabelSet
from clipmill.errors import DatasetError, SpecError, WeightsError
from clipmill.jobs import embed_shard, start_job
from clipmill.jobs.skip_existing import SkipExisting


class TestHere(ExistingContract):
    @pytest.fixture
    def embed(self):
        return embed_here


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture
def nights(tmp_path):
    return Nights(tmp_path, embed_here)


@pytest.fixture
def captions(nights):
    """A first night of three captions, as rows and as documents."""
    path = nights.write_lines("a.jsonl", *({"id": f"k{n}", "caption": f"caption {n}"} for n in range(3)))
    nights.run("rows", path, columns={"caption": "text"})
    nights.run("documents", path, reader={"text": "caption"})
    return path


def refused(nights, *inputs, **options):
    with pytest.raises((DatasetError, SpecError)) as caught:
        nights.run("new", *inputs, **options)
    assert not (nights.folder / "new").exists()  # nothing was begun
    return str(caught.value)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"model": "fake::dim=5"}, ("dim is 4 there and 5 here", "model is", "weights is")),
        ({"normalize": True}, ("normalize is false there and true here",)),
        ({"on_long_text": "fail"}, ('text.on_long_text is "truncate" there and "fail" here',)),
    ],
    ids=["model", "normalize", "preprocessing"],
)
def test_vectors_of_another_provenance_are_refused_with_what_differs(nights, captions, spec, said):
    other = dataclasses.replace(nights.spec, **spec)
    for name, options in (("rows", {"columns": {"caption": "text"}}), ("documents", {"reader": {"text": "caption"}})):
        message = refused(nights, captions, skip=(name,), spec=other, **options)
        assert nights.directory(name) in message
        assert all(part in message for part in said), message


def test_precision_runtime_and_batches_may_differ(nights, captions):
    other = dataclasses.replace(nights.spec, precision="fp32", decode="exact", max_batch_rows=1)
    assert nights.run("new", captions, skip=("rows",), spec=other, columns={"caption": "text"}).skipped == 3


def test_other_columns_kinds_keys_and_places_are_refused(nights, captions):
    rows = {"columns": {"caption": "text"}}
    message = refused(nights, captions, skip=("documents",), **rows)
    assert "has no vectors in the column 'caption_embedding'" in message and "'embedding'" in message
    message = refused(nights, captions, skip=("rows",), columns={"caption": "image"})
    assert 'modality is "text" there and "image" here' in message
    other_key = ColumnPlan.of({"caption": "text"}, spec=nights.spec, key="caption")
    message = refused(nights, captions, skip=("rows",), columns=other_key)
    assert "named by their column 'id', and those of this job by 'caption'" in message
    message = refused(nights, captions, skip=("documents",), reader={"text": "caption"}, access_paths="@r,m")
    assert "access_paths is '@r' there and '@r,m' here" in message


def test_rows_without_keys_have_content_to_be_told_by(nights):
    (nights.folder / "a.csv").write_text("caption\na\nb\n")
    rows = {"columns": {"caption": "text"}}
    nights.run("one", nights.folder / "a.csv", content_hash=True, **rows)
    message = refused(nights, nights.folder / "a.csv", skip=("one",), **rows)
    assert "no column 'id'" in message and "by='content'" in message
    assert nights.run("two", nights.folder / "a.csv", skip=("one",), by="content", **rows).skipped == 2
    (nights.folder / "b.csv").write_text("id,caption\n1,a\n")
    message = refused(nights, nights.folder / "b.csv", skip=("one",), **rows)
    assert "has no column 'id', which is the match key (it has 'caption', 'caption_embedding', " in message


def test_datasets_that_do_not_say_what_their_rows_held_are_refused_by_content(nights, captions):
    message = refused(nights, captions, skip=("rows",), by="content", columns={"caption": "text"})
    assert "content_hash=True" in message and "by='id'" in message


def test_what_is_no_dataset_of_vectors_is_refused(nights, captions, tmp_path):
    rows = {"columns": {"caption": "text"}}
    assert "not a clipmill dataset" in refused(nights, captions, skip=("nowhere",), **rows)
    labels = ClassifyPlan(
        ColumnPlan.of({"caption": "text"}, spec=nights.spec, suffix="_labels"), LabelSet.of(["a", "b"])
    )
    nights.run("labelled", captions, plan=labels)
    assert "holds scores and no vectors" in refused(nights, captions, skip=("labelled",), **rows)
    with pytest.raises(SpecError, match="only where rows are embedded"):
        nights.run("new", captions, plan=labels, skip=("rows",))
    with pytest.raises(SpecError, match="no dataset is named"):
        SkipExisting([])
    with pytest.raises(SpecError) as raised:
        SkipExisting(["x"], "name")
    assert raised.value.option == "by"


def test_the_output_is_no_dataset_to_be_passed_over(nights, captions):
    for output in ("rows", "rows/new"):
        with pytest.raises(DatasetError, match="contain one another"):
            nights.run(output, captions, skip=("rows",), columns={"caption": "text"})


def test_a_column_of_hashes_takes_no_name_that_is_taken(nights):
    pq.write_table(pa.table({"id": ["a"], "t": ["x"], "content_hash": ["mine"]}), nights.folder / "a.parquet")
    with pytest.raises(SpecError, match="column 'content_hash' exists already"):
        nights.run("one", nights.folder / "a.parquet", columns={"t": "text"}, content_hash=True)
    nights.run("one", nights.folder / "a.parquet", columns={"t": "text"}, content_hash=True, drop=["content_hash"])
    lines = nights.write_lines("a.jsonl", {"id": "a", "t": "x", "content_hash": "mine"}, {"id": "b", "t": "y"})
    nights.run("two", lines, columns={"t": "text"}, content_hash=True)
    assert (nights.keys("two"), nights.failed("two")) == (["b"], [("a", "malformed")])
    nights.run("three", lines, reader={"text": "t"}, content_hash=True)  # of documents a tag, which is replaced
    rows = {row["id"]: row for row in read_dataset(nights.directory("three")).to_pylist()}
    assert (rows["a"]["content_hash"], rows["a"]["tags"]) == (hashlib.sha256(b"x").hexdigest(), None)


# --- what is broken --------------------------------------------------------------------------------------------------


def test_files_of_a_dataset_that_cannot_be_read_end_the_job_and_are_named(nights, captions):
    rows = {"columns": {"caption": "text"}}
    part = next((nights.folder / "rows").glob("part-*.parquet"))
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    assert str(part) in refused(nights, captions, skip=("rows",), **rows)
    part.unlink()
    assert f"{part}: no such file" in refused(nights, captions, skip=("rows",), **rows)
    part.write_bytes(whole)
    manifest = next((nights.folder / "rows" / "_manifest").iterdir())
    manifest.write_text("{")
    assert f"{manifest} is damaged" in refused(nights, captions, skip=("rows",), **rows)


def test_a_file_of_another_provenance_among_the_others_ends_the_job(nights, captions):
    """The driver looks at one file; workers look at each that they read."""
    rows = {"columns": {"caption": "text"}}
    more = nights.write_lines("b.jsonl", *({"id": f"m{n}", "caption": f"m {n}"} for n in range(3)))
    nights.run("both", captions, more, **rows)
    nights.run("other", captions, more, spec=dataclasses.replace(nights.spec, normalize=True), **rows)
    part = sorted((nights.folder / "both").glob("part-*.parquet"))[-1]
    shutil.copy(nights.folder / "other" / part.name, part)
    with pytest.raises(DatasetError, match=f"{part.name} are not those .* normalize is true there"):
        nights.run("new", captions, more, skip=("both",), **rows)


def test_a_shard_that_was_not_compared_is_not_embedded(nights, captions):
    shards = plan_shards([str(captions)])
    skip = SkipExisting([nights.directory("documents")])
    job = job_options.plan(nights.spec, nights.directory("new"), shards, reader={"text": "caption"}, skip_existing=skip)
    start_job(job, shards)
    with pytest.raises(DatasetError, match=r"EmbedShards .* make it before they embed"):
        embed_shard(shards[0], job)


def test_other_weights_under_the_same_name_are_refused_where_they_are_loaded(nights, captions):
    for manifest in (nights.folder / "rows" / "_manifest").iterdir():
        said = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**said, "resolved": {**said["resolved"], "weights_sha256": "1" * 64}}))
    shards = plan_shards([str(captions)])
    skip = SkipExisting([nights.directory("rows")])
    job = job_options.plan(
        nights.spec, nights.directory("new"), shards, columns={"caption": "text"}, skip_existing=skip
    )
    job.skip_existing.check_weights(None)
    job.skip_existing.check_weights("1" * 64)
    with pytest.raises(WeightsError, match=f"{nights.directory('rows')} was made with weights of SHA-256 1{{64}}, and"):
        job.skip_existing.check_weights("2" * 64)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_passes_over_and_says_so(tmp_path, capsys):
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"id": "a", "text": "x"}\n')
    model = ("--model", "fake::dim=4")
    assert run("embed", lines, "--output", tmp_path / "one", *model) == 0
    with lines.open("a") as file:
        file.write('{"id": "b", "text": "y"}\n')
    capsys.readouterr()
    assert run("embed", lines, "--output", tmp_path / "two", "--skip-existing", tmp_path / "one", *model) == 0
    assert re.search(r"skipped +1 \(in \S*one\)", capsys.readouterr().out)
    skip = [option for name in ("one", "two") for option in ("--skip-existing", tmp_path / name)]
    assert run("embed", lines, "--output", tmp_path / "three", *skip, *model, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["input_rows"], found["skipped"], found["rows"]) == (2, 2, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--skip-by", "content"], "--skip-by has no effect without --skip-existing"),
        (["--skip-existing", "nowhere"], "nowhere is not a clipmill dataset"),
        (["--skip-existing", ""], "--skip-existing is empty"),
        (["--skip-existing", "one", "--skip-by", "content"], "it was written without --content-hash"),
    ],
    ids=["skip-by alone", "no dataset", "empty", "no hashes"],
)
def test_the_command_refuses_and_runs_nothing(tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"id": "a", "text": "x"}\n')
    if "one" in options:
        assert run("embed", "a.jsonl", "--output", "one", "--model", "fake::dim=4") == 0
    assert run("embed", "a.jsonl", "--output", "two", "--model", "fake::dim=4", *options) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "two").exists()


def test_the_page_on_increments_runs(tmp_path, monkeypatch, capsys):
    page = (DOCS / "increments.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / "photos" / f"{name}.png").write_bytes(photograph(colour, (32, 32)))
    commands = [line for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL) for line in block.splitlines()]
    assert len(commands) == 5
    rows = []
    for command in commands:
        program, *arguments = shlex.split(command)
        assert (program, run(*arguments, "--json")) == ("clipmill", 0)
        rows.append(json.loads(capsys.readouterr().out)["rows"])
    assert rows == [2, 0, 0, 2, 0]


def test_the_program_of_the_page_runs(tmp_path, monkeypatch, capsys, spark):
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "increments.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    run_example(block)
    assert capsys.readouterr().out.splitlines() == ["10 10 0", "20 10 10"]
