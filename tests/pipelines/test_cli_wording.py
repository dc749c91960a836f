"""Messages of the core on the command line: flags for keywords, and nothing else touched."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_helpers import run

from clipmill.datasets import read_failures
from clipmill.encoders import EncoderSpec
from clipmill.errors import SpecError
from clipmill.pipelines.wording import in_flags


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("local files are allowed by allow_local_files=True", "local files are allowed by --allow-local-files"),
        ("where allow_local_files=True (--allow-local-files) is set", "where --allow-local-files is set"),
        ("(normalize=False)", "(--no-normalize)"),
        ("max_batch_rows=0 is not a whole number", "--max-batch-rows 0 is not a whole number"),
        ("one that has it with base_tokenizer='…' (or", "one that has it with --base-tokenizer NAME (or"),
        (
            "column 'a' exists already; choose a name: output='…'",
            "column 'a' exists already; choose a name: --ranked-column NAME",
        ),
        ("scale='model' knows text and image", "--scale 'model' knows text and image"),
        ("'http://h/x?mode=1&scale=2': not found", "'http://h/x?mode=1&scale=2': not found"),
        ("text='a' and 'top_k=3' and image=b", "text='a' and 'top_k=3' and image=b"),
    ],
)
def test_keywords_are_said_as_flags(message, said) -> None:
    assert in_flags(message) == said


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
        (["--precision", "fp8"], "--precision 'fp8' is none of"),
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


def test_what_the_spec_refuses_is_said_in_flags() -> None:
    """Its own words, not a copy of them."""
    with pytest.raises(SpecError) as refused:
        EncoderSpec("demo", decode="slow")
    assert str(refused.value).startswith("decode='slow'") and in_flags(str(refused.value)).startswith("--decode 'slow'")


def test_failures_in_files_name_keyword_and_flag(tmp_path, capsys) -> None:
    """They are read by whoever reads the dataset; on the terminal the flag is enough."""
    given = tmp_path / "in.jsonl"
    given.write_text(json.dumps({"id": "a", "q": "x", "c": ["/etc/hostname", "http://127.0.0.1:9/x.png"]}))
    named = ("--query-column", "q", "--candidates-column", "c", "--candidate-kind", "image")
    assert run("rank", given, "-o", tmp_path / "out", "--model", "fake::", *named) == 1
    local, private = read_failures(str(tmp_path / "out"))
    assert "only where allow_local_files=True (--allow-local-files) is set" in local["message"]
    assert "allow_private_addresses=True (--allow-private-addresses) allows it" in private["message"]
    capsys.readouterr()
    assert run("rank", given, "-o", tmp_path / "fast", "--model", "fake::", *named, "--fail-fast") == 1
    said = capsys.readouterr().err
    assert "only where --allow-local-files is set" in said and "=True" not in said
