"""`--resume` and `--dry-run` as a user meets them."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from cli_helpers import notes_of, run, run_example
from places import DOCS
from scrapes import samples

from clipmill.datasets import read_dataset, summarise
from clipmill.datasets.dataset import read_manifests
from clipmill.files import lock
from clipmill.jobs import isolated_run

MODEL = ["--model", "fake::dim=4"]


@pytest.fixture
def texts(tmp_path) -> Path:
    lines = [json.dumps({"id": str(n), "text": "x" * n}) for n in range(1, 10)]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "in.jsonl"


def command(texts: Path, *more: object) -> list[object]:
    return ["embed", texts, "-o", texts.parent / "out", *MODEL, "--rows-per-shard", 2, *more]


def interrupted(texts: Path, *shards: int) -> Path:
    """Leave a dataset in which these shards are missing."""
    assert run(*command(texts)) == 0
    out = texts.parent / "out"
    (out / "_SUCCESS").unlink()
    for number in shards:
        next((out / "_manifest").glob(f"part-{number:05d}-*.json")).unlink()
    return out


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_resume_says_what_it_skips_and_does_the_rest(texts, capsys) -> None:
    out = interrupted(texts, 1, 3)
    capsys.readouterr()
    assert run(*command(texts, "--resume")) == 0
    said = capsys.readouterr()
    assert notes_of(said.err) == ["Note: 3 of 5 shards were done; to do: 2 (not finished)"]
    assert "rows in        9 " in said.out
    assert sorted(read_dataset(str(out))["id"].to_pylist()) == [str(n) for n in range(1, 10)]
    assert len({manifest["run"] for manifest in read_manifests(str(out))}) == 2


def test_resume_with_nothing_there_starts(texts, capsys) -> None:
    assert run(*command(texts, "--resume")) == 0
    assert notes_of(capsys.readouterr().err) == []
    assert summarise(str(texts.parent / "out")).complete


def test_resume_of_a_complete_job_says_so_and_does_nothing(texts, capsys) -> None:
    assert run(*command(texts)) == 0
    before = everything(texts.parent)
    capsys.readouterr()
    assert run(*command(texts, "--resume", "--json")) == 0
    said = capsys.readouterr()
    assert said.err == "Note: 5 of 5 shards were done; the job is complete, and there is nothing to do\n"
    found = json.loads(said.out)
    assert (found["input_rows"], found["complete"], found["wall_seconds"]) == (9, True, 0.0)
    assert everything(texts.parent) == before
    assert run(*command(texts, "--resume")) == 0
    assert "whole job" not in capsys.readouterr().out


def test_changed_arguments_are_refused_and_named(texts, capsys) -> None:
    interrupted(texts, 1)
    before = everything(texts.parent)
    capsys.readouterr()
    assert run(*command(texts, "--resume", "--normalize", "--precision", "fp32")) == 2
    said = capsys.readouterr().err
    assert 'normalize was false and is true; precision was "auto" and is "fp32"' in said and "--overwrite" in said
    assert everything(texts.parent) == before


def test_resume_and_overwrite_say_the_opposite(texts, capsys) -> None:
    assert run(*command(texts, "--resume", "--overwrite")) == 2
    assert "give one of them" in capsys.readouterr().err


def test_without_resume_the_way_to_go_on_is_said(texts, capsys) -> None:
    interrupted(texts, 1)
    capsys.readouterr()
    assert run(*command(texts)) == 2
    assert "continue the job there (--resume)" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--resume", "--overwrite"])
def test_a_second_job_is_refused(texts, capsys, flag) -> None:
    """Before it plans or deletes anything; on another machine, as far as this one knows."""
    out = interrupted(texts, 1)
    said = {"token": "t", "host": "elsewhere", "place": "elsewhere 1", "pid": 7, "since": "then", "beat": time.time()}
    (out / "_lock.json").write_text(json.dumps(said))
    before = everything(out)
    capsys.readouterr()
    for options in ([flag], [flag, "--dry-run"], []):
        assert run(*command(texts, *options)) == 2
        assert "another job is writing to" in capsys.readouterr().err
    assert everything(out) == before
    (out / "_lock.json").unlink()
    assert run(*command(texts, flag)) == 0
    assert not (out / "_lock.json").exists()


def test_a_job_that_fails_says_how_to_go_on(texts, capsys) -> None:
    """The last shard has the row that fails."""
    with texts.open("a") as file:
        file.write('{"id": "bad", "text": ""}\n')
    assert run(*command(texts, "--fail-fast")) == 1
    said = capsys.readouterr().err
    assert "Note: 4 of 5 shards are done; the same command with --resume does the rest" in said
    assert not (texts.parent / "out" / "_lock.json").exists()
    assert run(*command(texts, "--resume")) == 0
    assert summarise(str(texts.parent / "out")).failed == {"empty": 1}


def test_metrics_count_what_was_there_too(texts, capsys) -> None:
    """They are those of the dataset, as its summary is."""
    interrupted(texts, 0, 1)
    metrics = texts.parent / "m.prom"
    assert run(*command(texts, "--resume", "--metrics", metrics)) == 0
    found = samples(metrics.read_text())
    assert (found["clipmill_rows_in_total",], found["clipmill_embedded_total",]) == (9, 9)
    assert (found["clipmill_shards_total",], found["clipmill_shards_planned",]) == (5, 5)


# --- dry runs --------------------------------------------------------------------------------------------------------


def test_a_dry_run_of_a_new_job_makes_nothing(texts, capsys) -> None:
    before = everything(texts.parent)
    assert run(*command(texts, "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "fake::dim=4, 4 values in a vector" in said
    assert "5 shards of 1 file," in said and "8 rows and those of 1 shard that only reading counts" in said
    assert str(texts.parent / "out") in said
    assert everything(texts.parent) == before and not (texts.parent / "out").exists()


def test_a_dry_run_of_a_resume_says_what_is_done_again_and_why(texts, capsys) -> None:
    out = interrupted(texts, 1, 3)
    next(out.glob("part-00000-*.parquet")).write_bytes(b"")
    before = everything(out)
    capsys.readouterr()
    assert run(*command(texts, "--resume", "--dry-run", "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["shards"], found["shards_there"], found["rows_there"], found["resumes"]) == (5, 2, 3, True)
    assert found["to_do"]["reasons"] == {"not finished": 2, "damaged files": 1}
    assert (found["to_do"]["shards"], found["to_do"]["rows"], found["refused"]) == (3, 6, None)
    assert (found["dim"], found["bytes"], found["files"]) == (4, texts.stat().st_size, 1)
    assert run(*command(texts, "--resume", "--dry-run")) == 0
    said = capsys.readouterr().out
    assert "2 of 5 shards, 3 rows" in said and "2 shards: not finished" in said and "1 shard: damaged files" in said
    assert everything(out) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [([], "is not empty"), (["--resume", "--normalize"], "normalize was false and is true")],
    ids=["there already", "changed"],
)
def test_a_dry_run_says_what_would_be_refused(texts, capsys, options, message) -> None:
    interrupted(texts, 1)
    capsys.readouterr()
    assert run(*command(texts, "--dry-run", "--json", *options)) == 2
    assert message in json.loads(capsys.readouterr().out)["refused"]
    assert run(*command(texts, "--dry-run", *options)) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def no_credentials(monkeypatch, tmp_path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_a_dry_run_needs_no_access_to_the_output(texts, no_credentials, capsys) -> None:
    there = command(texts)
    there[there.index("-o") + 1] = "s3://nobodys-bucket/vectors"
    assert run(*there, "--dry-run") == 0
    said, notes = capsys.readouterr()
    assert "5 shards of 1 file," in said and "s3://nobodys-bucket/vectors" in said
    assert "the output was not looked at" in notes and "cannot look at s3://nobodys-bucket/vectors" in notes
    assert run(*there, "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["refused"] is None and "NoCredentialsError" in found["output_unread"]
    assert run(*there, "--dry-run", "--resume") == 2  # what would be done again is only known there
    assert "cannot look at s3://nobodys-bucket/vectors" in capsys.readouterr().err


def test_a_dry_run_of_an_overwrite_says_what_it_deletes(texts, capsys) -> None:
    out = interrupted(texts)
    before = everything(out)
    capsys.readouterr()
    assert run(*command(texts, "--overwrite", "--dry-run", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["files_deleted"] == len(before)
    assert everything(out) == before


def test_a_dry_run_counts_photographs(tmp_path, capsys) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.png").write_bytes(b"x" * 10)
    assert run("embed", tmp_path / "photos", "-o", tmp_path / "out", *MODEL, "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["shards"], found["rows"], found["files"], found["bytes"]) == (1, 3, 3, 30)
    assert found["shards_of_unknown_rows"] == 0


def test_rank_and_classify_are_resumed_too(texts, capsys) -> None:
    options = ["--labels", "a,b", "--text-column", "text", "--rows-per-shard", 2, "-o", texts.parent / "labels", *MODEL]
    assert run("classify", texts, *options) == 0
    out = texts.parent / "labels"
    (out / "_SUCCESS").unlink()
    next((out / "_manifest").glob("part-00002-*.json")).unlink()
    capsys.readouterr()
    assert run("classify", texts, *options, "--resume") == 0
    assert "4 of 5 shards were done" in capsys.readouterr().err
    assert run("classify", texts, *options, "--resume", "--top-k", 1) == 2
    assert "top_k was 5 and is 1" in capsys.readouterr().err


def test_python_of_the_page_runs(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "resume.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    run_example(block)
    assert capsys.readouterr().out == "0 of 1 shards are there\n1 of 1 shards are there\n"


def test_the_page_says_what_the_code_does() -> None:
    page = " ".join((DOCS / "resume.md").read_text(encoding="utf-8").split())
    for number, text in (
        (lock.HEARTBEAT_S, "renewed every {:.0f} seconds"),
        (lock.DEAD_AFTER_S, "for {:.0f} seconds after its last heartbeat"),
        (isolated_run._MOST_BLAMED, "more than {} rows of a shard"),
    ):
        assert text.format(number) in page


@pytest.mark.parametrize("options", [[], ["--resume"], ["--dry-run"], ["--overwrite"]], ids=" ".join)
def test_an_output_that_is_a_file_is_refused_and_stays(texts, capsys, options) -> None:
    file = texts.parent / "out"
    file.write_text("mine")
    assert run(*command(texts, *options)) in (1, 2)
    assert "is a file; the output must be a directory" in capsys.readouterr().err
    assert file.read_text() == "mine"
