"""`--if-exists`, `--overwrite` and `--resume` where a dataset is there, and flags that would harm it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_helpers import notes_of, run

from clipmill.datasets import read_dataset, read_failures, summarise
from clipmill.datasets import replacing as adoption
from clipmill.datasets.dataset import read_manifests

MODEL = ["--model", "fake::dim=4"]


def texts(path: Path, prefix: str, *, bad: bool = False) -> Path:
    lines = [json.dumps({"id": f"{prefix}{n}", "text": "x" * n}) for n in range(1, 6)]
    if bad:
        lines.append('{"id": "bad", "text": ""}')
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def old(tmp_path) -> Path:
    """A finished dataset of three shards."""
    assert run(*command(texts(tmp_path / "old.jsonl", "o"))) == 0
    return tmp_path / "out"


def command(given: Path, *more: object) -> list[object]:
    return ["embed", given, "-o", given.parent / "out", *MODEL, "--rows-per-shard", 2, *more]


def ids_of(out: Path) -> set[str]:
    return {one[0] for one in read_dataset(str(out))["id"].to_pylist()}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failed(old: Path, *more: object) -> Path:
    """Let a job fail that replaces a dataset; return its input."""
    given = texts(old.parent / "new.jsonl", "n", bad=True)
    assert run(*command(given, "--fail-fast", *more)) == 1
    return given


@pytest.mark.parametrize("flags", [["--overwrite"], ["--if-exists", "replace"]], ids=" ".join)
def test_a_job_that_fails_keeps_the_old_dataset_and_is_resumed(old, capsys, flags) -> None:
    before = everything(old)
    given = failed(old, *flags)
    after = everything(old)
    assert {path: after[path] for path in before} == before
    assert all(Path(path).is_relative_to(old / "_next") for path in after.keys() - before.keys())
    assert "of 3 shards are done; the same command with --resume does the rest" in capsys.readouterr().err
    done = len(read_manifests(str(old / "_next")))
    assert done
    assert run(*command(given, "--resume", "--dry-run", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["shards_there"] == done
    assert everything(old) == after
    assert run(*command(given, "--resume")) == 0
    assert f"{done} of 3 shards were done" in notes_of(capsys.readouterr().err)[0]
    assert ids_of(old) == {"n"} and summarise(str(old)).complete
    assert [one["id"] for one in read_failures(str(old))] == ["bad"]
    assert not (old / "_next").exists()


def test_a_job_that_fails_is_started_anew(old, capsys) -> None:
    given = failed(old, "--overwrite")
    assert run(*command(given)) == 2
    assert "is not empty" in capsys.readouterr().err
    assert run(*command(given, "--resume", "--normalize")) == 2  # another job than that in _next
    assert ids_of(old) == {"o"}
    assert run(*command(given, "--overwrite", "--normalize")) == 0
    assert ids_of(old) == {"n"} and not (old / "_next").exists()


def test_only_an_unfinished_dataset_is_replaced_if_that_is_asked(old, capsys) -> None:
    given = texts(old.parent / "new.jsonl", "n")
    assert run(*command(given, "--if-exists", "replace_unfinished")) == 2
    assert "--overwrite" in capsys.readouterr().err and ids_of(old) == {"o"}
    (old / "_SUCCESS").unlink()
    assert run(*command(given)) == 2
    assert "--if-exists 'replace_unfinished'" in capsys.readouterr().err
    assert run(*command(given, "--if-exists", "replace_unfinished")) == 0
    assert ids_of(old) == {"n"}


@pytest.mark.parametrize(
    "flags",
    [("--resume", "--overwrite"), ("--if-exists", "fail", "--overwrite"), ("--if-exists", "replace", "--resume")],
    ids=" ".join,
)
def test_flags_that_contradict_each_other_are_refused(old, capsys, flags) -> None:
    before = everything(old)
    assert run(*command(old.parent / "old.jsonl", *flags)) == 2
    assert "contradict each other" in capsys.readouterr().err
    assert everything(old) == before


@pytest.mark.parametrize("next_flag", ["--resume", "--overwrite", "--if-exists=fail"])
def test_a_job_that_is_killed_while_it_replaces_is_continued_by_the_next(old, capsys, monkeypatch, next_flag) -> None:
    given = texts(old.parent / "new.jsonl", "n")
    move, moved = adoption.move, []

    def killed(folder, source, target):
        if len(moved) == 3:
            raise KeyboardInterrupt
        moved.append(target)
        move(folder, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(adoption, "move", killed)
        assert run(*command(given, "--overwrite")) == 130
    before = everything(old)
    assert (old / "_next" / "_SUCCESS").read_bytes() and not (old / "_SUCCESS").exists()
    capsys.readouterr()
    assert run(*command(given, next_flag, "--dry-run", "--json")) == (2 if next_flag == "--if-exists=fail" else 0)
    assert everything(old) == before
    if next_flag == "--resume":  # of what is in its place already and of what is not
        found = json.loads(capsys.readouterr().out)
        assert (found["shards_there"], found["rows_there"], found["files_deleted"]) == (3, 5, 0)
    assert run(*command(given, next_flag)) == (2 if next_flag == "--if-exists=fail" else 0)
    if next_flag == "--resume":
        assert "3 of 3 shards were done; the job is complete" in capsys.readouterr().err
    assert ids_of(old) == {"n"} and summarise(str(old)).complete and not (old / "_next").exists()


@pytest.mark.parametrize(
    "flags",
    [("--dry_run",), ("--dry_run=True",), ("--dry_run", "true"), ("--DRY_RUN=1",), ("--", "--dry_run=True")],
    ids=" ".join,
)
@pytest.mark.parametrize("verb", ["embed", "classify", "index"])
def test_the_dry_run_of_beam_is_refused(old, capsys, verb, flags) -> None:
    """Beam would ignore it on most runners, and the job would replace the dataset."""
    before = everything(old)
    line = [verb, *command(old.parent / "old.jsonl", "--overwrite", *flags)[1:]]
    if verb == "index":
        line = ["index", old, "-o", old.parent / "index", "--engine", "beam", *flags]
    assert run(*line) == 2
    assert "--dry-run" in capsys.readouterr().err
    assert everything(old) == before and not (old.parent / "index").exists()


def test_a_template_of_a_job_that_is_prepared_now_is_refused(old, capsys) -> None:
    assert run(*command(old.parent / "old.jsonl", "--overwrite", "--template_location=gs://bucket/template")) == 2
    assert "flex template" in capsys.readouterr().err


def test_rows_that_another_dataset_has_are_skipped_where_one_is_replaced(old, capsys) -> None:
    """The lists of such rows are beside the new dataset."""
    given = texts(old.parent / "new.jsonl", "n")
    with given.open("a") as file:
        file.write('{"id": "o1", "text": "x"}\n')
    other = old.parent / "other"
    old.rename(other)
    assert run(*command(texts(old.parent / "first.jsonl", "f"))) == 0
    capsys.readouterr()
    assert run(*command(given, "--overwrite", "--skip-existing", other, "--json")) == 0
    assert json.loads(capsys.readouterr().out)["skipped"] == 1
    assert ids_of(old) == {"n"} and len(read_dataset(str(old))) == 5 and not (old / "_next").exists()
