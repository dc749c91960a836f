"""Walking through folders gives the files in the order of their paths, a few at a time, however it looks at them."""

from __future__ import annotations

import errno
import itertools
import os
import random
import re
from collections.abc import Iterable
from pathlib import Path

import fsspec
import pytest

from clipmill.datasets.inputs import walking
from clipmill.datasets.inputs.listing import list_inputs
from clipmill.datasets.inputs.sidecars import attach_sidecars, is_image
from clipmill.datasets.inputs.walking import Listed, walk
from clipmill.errors import DatasetError
from clipmill.files import retries
from clipmill.files.file_systems import open_location

NAMES = [
    *("a/x.jpg", "a-/x.jpg", "a.jpg", "a/b/c/d/e.jpg", "a/b.jpg", "a/b/x.jpg", "a0/x.jpg", "a/~.jpg", "b.jpg/x.jpg"),
    *("ü/x.jpg", "z.jpg", "Z.jpg", "a b.jpg", "c/1/x.jpg", "c/10/x.jpg", "c/2/x.jpg", "c/1.jpg", "c/1-/x.jpg"),
]


def write_tree(fs, root: str, names: list[str]) -> None:
    for name in names:
        fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{root}/{name}", b"x")


def relative(files: Iterable[Listed], root: str) -> list[str]:
    return [file.path.partition(f"{root}/")[2] for file in files]


@pytest.fixture(params=["local", "local, slow", "memory"])
def place(request, tmp_path, monkeypatch):
    """Return the root of a tree: on a disk that is looked at here, or on threads; and in a store."""
    if request.param == "memory":
        yield f"memory://{tmp_path.name}"
        fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)
        return
    if request.param == "local, slow":
        monkeypatch.setattr(walking, "_WAITING", 0.0)
        monkeypatch.setattr(walking, "_LONG_S", -1.0)
        monkeypatch.setattr(walking, "_AHEAD", 3)
    yield str(tmp_path / "tree")


@pytest.mark.parametrize("run", [1, 2, 1000])
def test_files_come_in_the_order_of_their_paths(place, monkeypatch, run):
    monkeypatch.setattr(walking, "_RUN", run)
    fs, root = open_location(place)
    write_tree(fs, root, NAMES)
    assert relative(walk(fs, root), root) == sorted(NAMES)
    assert relative(list_inputs([place]), root) == sorted(NAMES)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_no_deeper_than_is_asked_for(place, depth):
    fs, root = open_location(place)
    write_tree(fs, root, NAMES)
    assert relative(walk(fs, root, depth), root) == sorted(name for name in NAMES if name.count("/") < depth)


def test_many_prefixes_of_a_store_are_listed_whole(tmp_path, monkeypatch):
    fs, root = open_location(f"memory://{tmp_path.name}")
    names = [f"{first:02d}/{second}/{third}.jpg" for first, second, third in itertools.product(range(20), "ab", "xy")]
    write_tree(fs, root, names)
    listed, found_below = [], []
    monkeypatch.setattr(fs, "ls", lambda path, **given: listed.append(path) or type(fs).ls(fs, path, **given))
    monkeypatch.setattr(fs, "find", lambda path, **given: found_below.append(path) or type(fs).find(fs, path, **given))
    assert relative(walk(fs, root), root) == sorted(names)
    assert listed[0] == root and len(found_below) == 20
    fs.rm(root, recursive=True)


def test_a_walk_that_is_left_early_ends(tmp_path):
    fs, root = open_location(str(tmp_path))
    write_tree(fs, root, NAMES)
    files = walk(fs, root)
    next(files)
    files.close()


def test_a_folder_that_cannot_be_read_ends_the_walk(tmp_path, monkeypatch):
    fs, root = open_location(str(tmp_path))
    write_tree(fs, root, NAMES)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("/c"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError):
        list(walk(fs, root))


# --- captions and metadata beside images -----------------------------------------------------------------------------

RECORD = re.compile(r"((?:.*/)?\d+)(\.parquet|_stats\.json)")


def expected(paths: list[str]) -> list[tuple[str, tuple[str, ...]]]:
    """Return inputs and what lies beside each, with all paths at hand."""
    images = {os.path.splitext(path)[0] for path in paths if is_image(path)}
    folders = {os.path.dirname(stem) for stem in images}
    beside: dict[str, list[str]] = {}
    for path in paths:
        stem, ending = os.path.splitext(path)
        if ending in (".json", ".txt") and stem in images:
            beside.setdefault(stem, []).append(ending)

    def is_input(path: str) -> bool:
        stem, ending = os.path.splitext(path)
        if ending in (".json", ".txt") and stem in images:
            return False
        if match := RECORD.fullmatch(path):
            shard, last = match.groups()
            return not (
                f"{shard}.tar" in paths or shard in folders or (last != ".parquet" and f"{shard}.parquet" in paths)
            )
        return True

    inputs = [path for path in paths if is_input(path)]
    return [(p, tuple(sorted(beside.get(os.path.splitext(p)[0], ()))) if is_image(p) else ()) for p in inputs]


@pytest.mark.parametrize("seed", range(60))
def test_few_files_are_held_and_what_belongs_together_is_found(seed):
    draw = random.Random(seed)
    stems = ["0", "1", "01", "1/0", "1/1", "0/a", "1/0/b", "a", "a.b", "a/0", "0/0/0"]
    endings = [".jpg", ".PNG", ".txt", ".json", ".tar", ".parquet", "_stats.json", ".k.jpg", ".k.txt", "", "/x.webp"]
    paths = sorted({f"/d/{draw.choice(stems)}{draw.choice(endings)}" for _ in range(draw.randrange(1, 30))})
    found = [(file.path, file.beside) for file in attach_sidecars(Listed(path, 1, "v") for path in paths)]
    assert found == expected(paths)


def test_images_pass_by_one_at_a_time():
    taken = 0

    def files():
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield Listed(f"/d/{number:04d}.jpg")

    for place, _ in enumerate(attach_sidecars(files()), 1):
        assert taken <= place + 1


def test_inputs_that_overlap_are_read_once(tmp_path):
    write_tree(fsspec.filesystem("file"), str(tmp_path), ["a/1.jpg", "a/2.jpg", "ab/3.jpg", "b/4.jpg"])
    given = [f"{tmp_path}/b", f"{tmp_path}/a/2.jpg", f"{tmp_path}/a", f"{tmp_path}/ab", f"{tmp_path}/*/3.jpg"]
    assert [Path(file.path).name for file in list_inputs(given)] == ["4.jpg", "2.jpg", "1.jpg", "3.jpg"]


@pytest.mark.parametrize("pattern", ["", "/*.jpg", "/1.jpg"])
@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_store_that_did_not_answer_has_the_same_inputs(tmp_path, monkeypatch, pattern, failures):
    """`isdir` and `exists` of most drivers are False then: a folder would be read as a file, or not be there."""
    fs, root = open_location(f"memory://{tmp_path.name}")
    write_tree(fs, root, ["1.jpg", "2.jpg"])
    location = f"memory://{tmp_path.name}{pattern}"
    expected = [file.path for file in list_inputs([location])]
    left, info = [0], type(fs).info

    def failing(self, *args, **options):
        if left[0]:
            left[0] -= 1
            raise OSError(errno.EIO, "internal error")
        return info(self, *args, **options)

    monkeypatch.setattr(retries, "STORE_RETRIES", retries.RetryPolicy(attempts=4, pause_s=0.0))
    for name, own in (("info", failing), ("isdir", fsspec.AbstractFileSystem.isdir)):
        monkeypatch.setattr(type(fs), name, own)
    monkeypatch.setattr(type(fs), "exists", fsspec.AbstractFileSystem.exists)
    left[0] = failures
    assert [file.path for file in list_inputs([location])] == expected
    assert left == [0]
    left[0] = 1000
    with pytest.raises(DatasetError, match=r"cannot look at .*: input/output error"):
        list(list_inputs([location]))
