"""Names of files relative to the input: equal wherever the input is mounted."""

from __future__ import annotations

import json
import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from cli_helpers import run

from clipmill.datasets.inputs import RelativeNames, file_names, plan_shards
from clipmill.datasets.inputs.listing import list_inputs
from clipmill.datasets.inputs.shards import Shard
from clipmill.errors import DatasetError
from clipmill.files.file_systems import open_location


@pytest.mark.parametrize(
    ("location", "path", "name"),
    [
        ("/m/photos", "/m/photos/a/1.jpg", "a/1.jpg"),
        ("/m/photos/", "/m/photos/a/1.jpg", "a/1.jpg"),
        ("/m/photos/a/1.jpg", "/m/photos/a/1.jpg", "1.jpg"),
        ("/m/photos/**/*.jpg", "/m/photos/a/1.jpg", "a/1.jpg"),
        ("/m/photos/a*/1.jpg", "/m/photos/ab/1.jpg", "ab/1.jpg"),
        ("/m/t.jsonl", "/m/t.jsonl:17", "t.jsonl:17"),
        ("/m/photos", "/m/photos2/1.jpg", "photos2/1.jpg"),  # never an input of it: below the folder beside it
        ("/m/photos", "/elsewhere/1.jpg", "/elsewhere/1.jpg"),
        ("memory:///b/photos", "memory:///b/photos/a/1.jpg", "a/1.jpg"),
        ("memory:///b/photos/*.jpg", "memory:///b/photos/1.jpg", "1.jpg"),
    ],
)
def test_a_name_is_relative_to_its_input(location, path, name):
    assert RelativeNames([location])(path) == name


def test_the_nearest_input_names_a_file():
    assert RelativeNames(["/m", "/m/photos"])("/m/photos/1.jpg") == "1.jpg"
    assert RelativeNames(["/m", "/m/photos"])("/m/captions/1.txt") == "captions/1.txt"


@pytest.mark.parametrize("pattern", ["", "/*", "/**/*.png", "/[ab]", "/[ab]/*.png"])
def test_every_listed_file_has_a_name_below_its_input(tmp_path, pattern):
    """For folders, patterns, and folders that look like patterns."""
    for folder in ("a", "b", "[ab]"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(b"")
    (tmp_path / "0.png").write_bytes(b"")
    location = f"{tmp_path}{pattern}"
    names = [RelativeNames([location])(file.path) for file in list_inputs([location])]
    assert names and all(
        not name.startswith("/") and (tmp_path / "[ab]" / name).exists() != (tmp_path / name).exists() for name in names
    )


@pytest.mark.parametrize("given", [["{0}"], ["{0}/1.png"], ["{0}", "{0}/1.png"]])
def test_an_existing_folder_is_no_pattern_though_it_looks_like_a_wrong_one(tmp_path, given):
    """`3-0` would be no range."""
    folder = tmp_path / "photos [2023-01]"
    folder.mkdir()
    (folder / "1.png").write_bytes(b"")
    inputs = [one.format(folder) for one in given]
    assert [file.path for file in list_inputs(inputs)] == [f"{folder}/1.png"]
    assert RelativeNames(inputs)(f"{folder}/1.png") == "1.png"
    with pytest.raises(DatasetError, match=r"the pattern '.*\[3-0\]' is not valid"):
        list(list_inputs([f"{tmp_path}/[3-0]"]))


def test_two_files_of_one_name_are_refused(tmp_path, capsys):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(b"")
    inputs = [str(tmp_path / "a"), str(tmp_path / "b")]
    with pytest.raises(DatasetError, match=r"both named '1\.png', .*; give the folder that holds both as one input"):
        RelativeNames(inputs).check(plan_shards(inputs))
    RelativeNames([str(tmp_path)]).check(plan_shards([str(tmp_path)]))
    assert run("embed", *inputs, "--id", "relative", "-o", tmp_path / "out", "--model", "fake::dim=4") == 2
    assert "both named '1.png'" in capsys.readouterr().err and not (tmp_path / "out").exists()


class Generated(Sequence):
    """Shards of files in two folders, of which none is held."""

    def __init__(self, shards: int, files: int) -> None:
        self._shards, self._files = shards, files

    def __len__(self) -> int:
        return self._shards

    def __getitem__(self, number: int) -> Shard:
        if number >= self._shards:
            raise IndexError
        paths = tuple(f"/m/{'ab'[number % 2]}/{number:05d}/{file:05d}.jpg" for file in range(self._files))
        return Shard(f"{number:05d}-a", "files", paths)


def test_the_names_of_files_are_not_held_while_they_are_checked():
    shards = Generated(100, 1000)
    names = RelativeNames(["/m/a", "/m/b"])
    tracemalloc.start()
    try:
        names.check(shards)
        assert tracemalloc.get_traced_memory()[1] < 40 * 100 * 1000
    finally:
        tracemalloc.stop()


def test_a_name_takes_few_steps_among_many_inputs():
    names = RelativeNames([f"/m/photos/{number}.jpg" for number in range(500)])
    steps = 0

    def count(frame: object, event: str, called: object) -> None:
        nonlocal steps
        steps += event == "c_call"

    sys.setprofile(count)
    try:
        name = names("/m/photos/7.jpg")
    finally:
        sys.setprofile(None)
    assert name == "7.jpg" and steps < 20


def ids(dataset: Path) -> set[str]:
    files = list(dataset.glob("*.parquet"))
    return set(pads.dataset(files).to_table(["id"])["id"].to_pylist()) if files else set()


def failures(dataset: Path) -> list[dict]:
    return [json.loads(line) for file in dataset.glob("_failures/*") for line in file.read_text().splitlines()]


@pytest.mark.parametrize("rows", [[], ["--column", "text=text"]])
def test_a_moved_mount_changes_nothing(tmp_path, capsys, rows):
    """Ids, failures and what is skipped are the same; a failure still says where its file is."""
    mount = tmp_path / "mount"
    (mount / "in" / "sub").mkdir(parents=True)
    (mount / "in" / "sub" / "t.jsonl").write_text('{"text": "x"}\n{"text": "y"}\n{bad\n')
    if not rows:
        (mount / "in" / "sub" / "bad.jpg").write_bytes(b"no picture")
    shared = ["--model", "fake::dim=4", "--id", "relative", *rows]
    assert run("embed", mount / "in", "-o", tmp_path / "first", *shared) == 0
    assert ids(tmp_path / "first") == {"sub/t.jsonl:1", "sub/t.jsonl:2"}
    lost = {failure["row"]: failure.get("uri") for failure in failures(tmp_path / "first")}
    expected = {"sub/t.jsonl:3": None} | ({} if rows else {"sub/bad.jpg": f"{mount}/in/sub/bad.jpg"})
    assert lost == expected
    moved = mount.rename(tmp_path / "moved")
    again = ["embed", moved / "in", *shared, "--skip-existing", tmp_path / "first", "--max-failures", "100%"]
    assert run(*again, "-o", tmp_path / "second") == 0
    assert ids(tmp_path / "second") == set()
    capsys.readouterr()
    again[again.index("relative")] = "absolute"
    assert run(*again, "-o", tmp_path / "third") == 2
    assert "give --id relative, or skip with --skip-by 'content'" in capsys.readouterr().err


def test_beam_reads_documents_with_relative_ids(tmp_path):
    import apache_beam as beam
    from apache_beam.testing.util import assert_that, equal_to

    from clipmill.transforms import ReadDocuments

    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "1.png").write_bytes(b"")
    (tmp_path / "t.jsonl").write_text('{"text": "x"}\n')
    with beam.Pipeline("FnApiRunner") as p:
        found = p | ReadDocuments(tmp_path, relative_ids=True) | beam.Map(lambda one: (one.id, one.uri))
        assert_that(found, equal_to([("sub/1.png", f"{tmp_path}/sub/1.png"), ("t.jsonl:1", None)]))


def test_a_process_prepares_many_inputs_once(monkeypatch):
    """There may be 100,000, and they take longer than a shard."""
    prepared = []
    monkeypatch.setattr(file_names, "open_location", lambda one: prepared.append(one) or open_location(one))
    inputs = [f"/m/{number}/once.jpg" for number in range(5)]
    for _ in range(3):
        assert file_names.namer(list(inputs))("/m/3/once.jpg") == "once.jpg"
    assert len(prepared) == 5
