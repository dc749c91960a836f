"""Files of state with nonsense in them, names that lead outside, and special files: refused or ignored."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import fsspec
import pytest

from clipmill.errors import DatasetError
from clipmill.files import lock as lock_module
from clipmill.files.file_systems import open_input
from clipmill.files.folder import Folder
from clipmill.files.json_shape import fits, is_inside
from clipmill.files.lock import LOCK, DirectoryLock, read_lock
from clipmill.files.processes import may_be_alive, this_process

OUTSIDE = ["../x", "a/../../x", "..", "/etc/passwd", "", "a\0b"]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch) -> None:
    monkeypatch.setattr(lock_module, "_SETTLE_S", 0.01)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_that_leads_outside_is_refused_by_every_operation(tmp_path, name) -> None:
    (tmp_path / "x").write_text("kept")
    folder = Folder.of(tmp_path / "dataset")
    folder.make()
    operations = (folder.at, folder.read, folder.delete, lambda name: folder.write(name, b"changed"))
    for operation in operations:
        with pytest.raises(DatasetError):
            operation(name)
    assert (tmp_path / "x").read_text() == "kept"
    assert not is_inside(name)


@pytest.mark.parametrize("name", ["x", "a/b", "..x", "a/..b", "https://x", "a b", "ä"])
def test_other_names_stay_inside(tmp_path, name) -> None:
    assert Folder.of(tmp_path).at(name) == f"{tmp_path}/{name}"


NONSENSE = {
    "binary": b"\xff\x00\x1b" * 100,
    "deep": b"[" * 100_000,
    "list": b"[]",
    "half": b'{"token": "t", "pid": 1',
    **{
        f"{name}={value!r}": json.dumps({"token": "t", **this_process(), "beat": time.time(), name: value}).encode()
        for name, value in (
            *(("beat", "x"), ("beat", float("nan")), ("beat", float("inf")), ("beat", None), ("beat", True)),
            *(("pid", "x"), ("pid", True), ("pid", []), ("token", 5), ("host", {})),
        )
    },
}


@pytest.mark.parametrize("content", NONSENSE.values(), ids=NONSENSE)
def test_a_lock_file_with_nonsense_is_no_lock(tmp_path, content) -> None:
    (tmp_path / LOCK).write_bytes(content)
    with DirectoryLock(str(tmp_path)) as lock:
        assert read_lock(Folder.of(tmp_path))["token"] == lock.token
    assert not (tmp_path / LOCK).exists()


def test_of_a_huge_lock_file_only_the_beginning_is_read(tmp_path) -> None:
    """A sparse file of a terabyte."""
    with (tmp_path / LOCK).open("wb") as file:
        file.truncate(2**40)
    with DirectoryLock(str(tmp_path)):
        pass


@pytest.mark.parametrize("pid", [0, -1, 2**31, 10**30, "1", None, True])
def test_no_process_has_such_an_id(pid) -> None:
    """`os.kill` would take 0 and -1 for groups of processes, and fail for others."""
    process = {**this_process(), "pid": pid, "started": None}
    assert may_be_alive(process) is not True or pid is True


def test_a_heartbeat_of_the_future_counts_by_the_time_of_its_file(tmp_path) -> None:
    content = {"token": "t", "pid": 7, "host": "h", "place": "elsewhere", "beat": time.time() + 1e6}
    (tmp_path / LOCK).write_text(json.dumps(content))
    with pytest.raises(DatasetError, match=r"last heartbeat -?0 s ago.*delete"):
        DirectoryLock(str(tmp_path)).__enter__()
    os.utime(tmp_path / LOCK, (time.time() - 1e6,) * 2)
    with DirectoryLock(str(tmp_path)):
        pass


def test_a_lock_that_is_a_link_is_replaced_and_its_target_stays(tmp_path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (tmp_path / "file").write_text("kept")
    for target in ("file", "nowhere"):
        (output / LOCK).symlink_to(tmp_path / target)
        with DirectoryLock(str(output)):
            assert not (output / LOCK).is_symlink()
    assert (tmp_path / "file").read_text() == "kept"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", ["directory", "link to a directory", "FIFO", "device", "link to itself"])
def test_a_lock_that_is_no_file_is_refused_by_name(tmp_path, kind) -> None:
    lock = tmp_path / LOCK
    make_special(lock, kind)
    with pytest.raises(DatasetError, match=LOCK):
        DirectoryLock(str(tmp_path)).__enter__()
    assert os.path.lexists(lock)


def make_special(path: Path, kind: str) -> None:
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        targets = {"link to a directory": "/tmp", "device": "/dev/zero", "link to itself": path}
        path.symlink_to(targets[kind])


@pytest.mark.parametrize("kind", ["FIFO", "device"])
def test_no_special_file_is_opened(tmp_path, kind) -> None:
    """Reading a FIFO would wait for ever, and /dev/zero would never end."""
    make_special(tmp_path / "x.parquet", kind)
    folder = Folder.of(tmp_path)
    for read in (lambda: folder.read("x.parquet"), folder.list, lambda: open_input(str(tmp_path / "x.parquet"))):
        with pytest.raises(DatasetError, match=rf"x\.parquet is a {kind}"):
            read()


def test_temporary_files_of_an_object_store_are_private(tmp_path, monkeypatch) -> None:
    """They lie in the directory for temporary files, which everybody can list, under a name nobody else made."""
    monkeypatch.setattr("clipmill.files.folder.tempfile.gettempdir", lambda: str(tmp_path))
    folder = Folder(fsspec.filesystem("memory"), "/private")
    umask = os.umask(0)
    try:
        path = folder.temporary("part-0.parquet")
        path.write_bytes(b"rows")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    folder.publish(path, "part-0.parquet")
    assert folder.read("part-0.parquet") == b"rows"
    assert not path.exists()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_outputs_have_the_permissions_that_the_umask_gives(tmp_path, umask) -> None:
    before = os.umask(umask)
    try:
        folder = Folder.of(tmp_path / "out")
        folder.make()
        folder.write("x", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out" / "x").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~umask


@pytest.mark.parametrize(
    ("value", "shape", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1.5, int, False),
        (1, float, True),
        (float("nan"), float, False),
        (None, (int, None), True),
        ("x", (int, None), False),
        ([1, 2], [int], True),
        ([1, "2"], [int], False),
        ({"a": 1}, {str: int}, True),
        ({"a": "1"}, {str: int}, False),
        ({"a": 1, "other": 2}, {"a": int}, True),
        ({}, {"a": int}, False),
        ({}, {"a?": int}, True),
        ({"a": None}, {"a?": int}, False),
        ([], {}, False),
        ("a/b", is_inside, True),
        (5, is_inside, False),
    ],
)
def test_values_fit_their_shape(value, shape, expected) -> None:
    assert fits(value, shape) is expected
