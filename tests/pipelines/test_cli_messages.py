"""Messages of the core on the command line: flags for its options, and nothing else touched."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import click
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run

import clipmill.messages
from clipmill.datasets import finish_job, prepare_directory, read_failures, write_job
from clipmill.encoders import EncoderSpec
from clipmill.encoders.plans.embed_plan import Column, ColumnPlan
from clipmill.encoders.plans.labels import LabelSet
from clipmill.encoders.plans.rank_plan import RankPlan
from clipmill.errors import ClipmillError, SpecError
from clipmill.failures import Code, Failure, Stage
from clipmill.indexes.build import IndexOptions
from clipmill.indexes.exact import check_k
from clipmill.jobs import JobOptions
from clipmill.messages import Setting, by_surface, setting
from clipmill.pipelines.cli import cli
from clipmill.pipelines.cli_messages import flag_of, in_flags


def plan_with_head(path: Path) -> ColumnPlan:
    """Return a plan whose head `x` is written to this path."""
    np.save(path, np.ones(8))
    return ColumnPlan.of({"a": "text"}, spec=EncoderSpec("fake::dim=8"), heads={"x": path})


def prepare_used_directory(folder: Path) -> None:
    """Prepare a directory in which another dataset is."""
    for _ in range(2):
        prepare_directory(str(folder / "used"))
        write_job(str(folder / "used"), {}, shards=0)
        finish_job(str(folder / "used"))


@pytest.mark.parametrize(
    ("message", "python", "flags"),
    [
        (setting("allow_local_files", True), "allow_local_files=True", "--allow-local-files"),
        ("(" + setting("normalize", False) + ")", "(normalize=False)", "(--no-normalize)"),
        (setting("max_batch_rows", 0) + " is too few", "max_batch_rows=0 is too few", "--max-batch-rows 0 is too few"),
        (setting("scale", "model"), "scale='model'", "--scale 'model'"),
        ("name it: " + setting("base_tokenizer", ...), "name it: base_tokenizer=…", "name it: --base-tokenizer NAME"),
        ("leave " + setting("keep_content") + " out", "leave keep_content out", "leave --keep-content out"),
        (setting("text", ...), "text=…", "--text-column NAME"),
        (setting("columns", ...), "columns=…", "--column NAME=KIND"),
        (by_surface(python="a list", flags=""), "a list", ""),
        ("top_k=3 of 'http://h/x?scale=2'", "top_k=3 of 'http://h/x?scale=2'", "top_k=3 of 'http://h/x?scale=2'"),
    ],
)
def test_options_are_said_as_keywords_and_as_flags(message, python, flags) -> None:
    """And what only looks like an option stays as it is."""
    assert (str(message), in_flags(message)) == (python, flags)


def test_errors_and_failures_are_said_with_all_that_they_hold() -> None:
    error = SpecError(setting("decode", "slow") + " is wrong", hint="add " + setting("normalize", True))
    assert in_flags(error) == "--decode 'slow' is wrong; add --normalize"
    failure = Failure(Stage.FETCH, Code.NOT_FOUND, "see " + setting("uri_schemes"))
    assert in_flags(failure) == "not_found at fetch: see --uri-schemes"
    assert in_flags(OSError("as it is")) == "as it is"


@pytest.mark.parametrize(
    ("provoke", "option", "python", "flags"),
    [
        (
            lambda _: EncoderSpec("fake::", decode="slow"),
            "decode",
            "decode='slow' must be one of 'fast', 'exact'",
            "--decode 'slow' must be one of 'fast', 'exact'",
        ),
        (
            lambda _: ColumnPlan.of({"a": Column("text")}).check_free(["a_embedding"]),
            None,
            "column 'a_embedding' exists already; choose a name: Column('image', output=…)",
            "column 'a_embedding' exists already; leave the old one out: --drop NAME",
        ),
        (
            lambda _: ColumnPlan.of({"a": "text", "b": "text"}, fuse={"e": {"a": 1, "b": 1}}).check_free(["e"]),
            None,
            "column 'e' exists already; choose another name in fuse",
            "column 'e' exists already; choose another name in --fuse",
        ),
        (
            lambda _: ColumnPlan.of({"a": "text"}, fuse={"e": {"a": 1.0}}),
            "fuse",
            "fuse={{'e': {{'a': 1.0}}}} needs the weights of two or more columns, such as {{'photo': 0.7, "
            "'caption': 0.3}}",
            "--fuse e=a:1 needs the weights of two or more columns, such as photo:0.7,caption:0.3",
        ),
        (
            lambda _: ColumnPlan.of({"a": "text"}, spec=EncoderSpec("fake::"), heads={"aes": "nosuch.npy"}),
            "heads",
            "heads={{'aes': 'nosuch.npy'}} for fake::: there is no file 'nosuch.npy' on this machine",
            "--head aes=nosuch.npy for fake::: there is no file 'nosuch.npy' on this machine",
        ),
        (
            lambda folder: plan_with_head(folder / "x.npy").check_free(["x"]),
            None,
            "column 'x' exists already; choose another name in heads",
            "column 'x' exists already; choose another name in --head",
        ),
        (
            lambda _: JobOptions(drop=("a",)),
            "drop",
            "drop leaves out columns of rows, and documents are embedded without columns=…",
            "--drop leaves out columns of rows, and documents are embedded without --column NAME=KIND",
        ),
        (
            prepare_used_directory,
            None,
            "{folder}/used is not empty (it holds _SUCCESS, _job.json: a finished dataset); choose another directory, "
            "or replace the dataset there with overwrite=True",
            "{folder}/used is not empty (it holds _SUCCESS, _job.json: a finished dataset); choose another directory, "
            "or replace the dataset there with --overwrite",
        ),
        (
            lambda _: RankPlan("q", "c", query_kind="photo").checked(EncoderSpec("fake::")),
            "query_kind",
            "query_kind='photo' must be one of ",
            "--query-kind 'photo' must be one of ",
        ),
        (
            lambda _: RankPlan("q", "c").check_free(["ranked"]),
            None,
            "column 'ranked' exists already; choose a name: output=…",
            "column 'ranked' exists already; choose a name: --ranked-column NAME",
        ),
        (
            lambda folder: LabelSet.of(str(folder / "none.txt")),
            None,
            "; labels themselves go into a list",
            "; labels themselves are given as a,b,c",
        ),
        (
            lambda folder: LabelSet.of(["a", "b"], templates=str(folder / "none.txt")),
            None,
            "; templates themselves go into a list",
            "; templates go into a file, one a line",
        ),
        (
            lambda _: IndexOptions(target_recall=2.0),
            "target_recall",
            "target_recall=2.0 must be above 0 and at most 1",
            "--target-recall 2.0 must be above 0 and at most 1",
        ),
        (
            lambda _: check_k(9, 3),
            "top_k",
            "top_k=9 is more than the 3 vectors that are searched",
            "--top-k 9 is more than the 3 vectors that are searched",
        ),
    ],
    ids=(
        "spec",
        "columns",
        "fused",
        "fuse",
        "head",
        "scored",
        "documents",
        "output",
        "ranking",
        "ranked",
        "labels",
        "templates",
        "index",
        "search",
    ),
)
def test_each_family_of_messages_on_both_surfaces(provoke, option, python, flags, tmp_path) -> None:
    (tmp_path / "one.txt").touch()
    with pytest.raises(ClipmillError) as refused:
        provoke(tmp_path)
    assert refused.value.option == option
    assert python.format(folder=tmp_path) in str(refused.value)
    assert flags.format(folder=tmp_path) in in_flags(refused.value)


def test_every_option_that_a_message_names_is_a_flag() -> None:
    """Of some command, with or without a value as it has there; `kind` of shards is for Python alone."""
    flags = {flag for command in commands(cli) for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    home = Path(clipmill.messages.__file__).parent
    rooms = ("datasets", "encoders", "indexes", "jobs", "media", "models", "reports")
    sources = [file.read_text() for room in rooms for file in (home / room).rglob("*.py")]
    named = {name for source in sources for name in re.findall(r"setting\(\s*\"(\w+)\"", source)} - {"kind"}
    named |= {field.name for field in dataclasses.fields(EncoderSpec)} | {"nprobe", "ef_search"}
    assert len(named) > 50 and {flag_of(Setting(name)) for name in named} <= flags
    for field in dataclasses.fields(EncoderSpec):
        if field.type == "bool":
            assert flag_of(Setting(field.name, False)) in flags


def commands(group: click.Group) -> Iterator[click.Command]:
    for command in group.commands.values():
        yield command
        if isinstance(command, click.Group):
            yield from commands(command)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "other"], "--output is given 2 times; give it once"),
        (["--normalize", "--no-normalize"], "--normalize/--no-normalize is given 2 times"),
        (["--tag-column", "a", "--tag-column", ""], "--tag-column is empty"),
        (["--cache-dir", ""], "--cache-dir is empty"),
        (["--column", "=text"], "not of the form NAME=KIND"),
        (["--column", "q=text", "--id-column", "zz"], "there is no column 'zz'; the columns are 'q', 'n'"),
        (["--text-column", "q", "--id-column", "zz"], "has no column 'zz'; it has 'q', 'n'"),
        (["--precision", "fp8"], "--precision 'fp8' must be one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_would_be_ignored_are_refused(arguments, message, tmp_path, monkeypatch, capsys) -> None:
    """Given twice, empty, or the name of no column."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("q,n\none,1\n")
    assert run("embed", "rows.csv", "-o", "out", "--model", "fake::", *arguments) == 2
    said = capsys.readouterr()
    assert message in said.err and not said.out and not (tmp_path / "out").exists()


def test_flags_of_every_command_are_given_once(capsys) -> None:
    assert run("models", "demo", "--json", "--json") == 2
    assert "--json is given 2 times; give it once" in capsys.readouterr().err


def test_a_key_in_a_struct_or_in_json_lines_is_no_missing_column(tmp_path) -> None:
    """Of JSON lines no file says which fields there are."""
    pq.write_table(pa.table({"page": [{"key": "k7"}], "q": [""]}), tmp_path / "in.parquet")
    (tmp_path / "in.jsonl").write_text('{"q": ""}\n')
    for name, column, row in (("parquet", "page.key", "k7"), ("jsonl", "zz", f"{tmp_path}/in.jsonl:1")):
        out = tmp_path / name
        arguments = ("--column", "q=text", "--id-column", column, "--max-failures", "1")
        assert run("embed", tmp_path / f"in.{name}", "-o", out, "--model", "fake::", *arguments) == 0
        (failure,) = read_failures(str(out))
        assert (failure["row"], failure["code"]) == (row, "empty")


def test_failures_in_files_name_keyword_and_flag(tmp_path, capsys) -> None:
    """They are read by whoever reads the dataset; on the terminal the flag is enough."""
    given = tmp_path / "in.jsonl"
    given.write_text(json.dumps({"id": "a", "q": "x", "c": ["/etc/hostname", "http://127.0.0.1:9/x.png"]}))
    named = ("--query-column", "q", "--candidates-column", "c", "--candidate-kind", "image")
    assert run("rank", given, "-o", tmp_path / "out", "--model", "fake::", *named) == 1
    local, private = read_failures(str(tmp_path / "out"))
    assert "only with allow_local_files=True (--allow-local-files)" in local["message"]
    assert "allow_private_addresses=True (--allow-private-addresses) allows it" in private["message"]
    capsys.readouterr()
    assert run("rank", given, "-o", tmp_path / "fast", "--model", "fake::", *named, "--fail-fast") == 1
    said = capsys.readouterr().err
    assert "only with --allow-local-files" in said and "=True" not in said


def test_buckets_are_allowed_by_a_flag_with_one_or_several(tmp_path, capsys, monkeypatch) -> None:
    def url_to_fs(uri: str, **options: object) -> object:
        raise FileNotFoundError(uri)

    monkeypatch.setattr(fsspec.core, "url_to_fs", url_to_fs)
    rows = [{"id": scheme, "uri": f"{scheme}://photos/1.jpg"} for scheme in ("gs", "s3", "az")]
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    given = ("embed", tmp_path / "in.jsonl", "--model", "fake::")
    assert run(*given, "-o", tmp_path / "none") == 1
    assert [one["code"] for one in read_failures(str(tmp_path / "none"))] == ["forbidden_uri"] * 3
    assert run(*given, "-o", tmp_path / "two", "--allow-buckets", "gs://photos,s3://photos") == 1
    codes = {one["row"]: one["code"] for one in read_failures(str(tmp_path / "two"))}
    assert codes == {"gs": "not_found", "s3": "not_found", "az": "forbidden_uri"}
    capsys.readouterr()
    assert run(*given, "-o", tmp_path / "fast", "--fail-fast") == 1
    assert "repositories that the job allows: --allow-buckets 'gs://photos'" in capsys.readouterr().err
    assert run(*given, "-o", tmp_path / "odd", "--allow-buckets", "photos") == 2
    assert "--allow-buckets holds 'photos', which is no bucket" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["beam", "spark"])
def test_what_a_worker_refuses_is_said_in_flags(engine, tmp_path, capsys, spark) -> None:
    """Engines hand on its error as text."""
    (tmp_path / "in.jsonl").write_text('{"id": "a", "uri": "/etc/hostname"}\n')
    arguments = ("--model", "fake::", "--fail-fast", "--engine", engine)
    if engine == "beam":
        arguments += ("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    assert run("embed", tmp_path / "in.jsonl", "-o", tmp_path / "out", *arguments) == 1
    said = capsys.readouterr().err
    assert "only with --allow-local-files" in said.splitlines()[-1]
