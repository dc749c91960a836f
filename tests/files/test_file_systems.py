"""Folders on local and remote file systems: atomic writes, listing, and the errors when they fail."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

import fsspec
import pytest

from clipmill.encoders import EncoderSpec
from clipmill.errors import DatasetError, MissingExtraError, SpecError
from clipmill.files.cache import cache_root
from clipmill.files.file_systems import dataset_errors, is_local, open_input, open_location, url_of
from clipmill.files.folder import Folder, remove_temporaries
from clipmill.files.lock import one_at_a_time
from clipmill.models.exporting import export_model


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    """A directory that does not exist yet."""
    if request.param == "local":
        yield Folder.of(tmp_path / "deep" / "data")
        return
    url = f"memory://{uuid.uuid4().hex}/data"
    yield Folder.of(url)
    if fsspec.filesystem("memory").exists(url):
        fsspec.filesystem("memory").rm(url.rpartition("/")[0], recursive=True)


def test_files_are_listed_with_their_sizes(folder):
    assert folder.list() == folder.list("below") == {}
    folder.make("below")
    folder.write("b.bin", b"12345")
    folder.write("empty", b"")
    folder.write("below/a.bin", b"123")
    assert folder.list() == {"b.bin": 5, "below/a.bin": 3, "empty": 0}
    assert folder.list("below") == {"below/a.bin": 3}


def test_files_are_written_read_replaced_and_deleted(folder):
    folder.make()
    folder.write("a", b"old")
    folder.write("a", b"new")
    assert folder.read("a") == b"new"
    folder.delete("a")
    folder.delete("a")  # deleting a missing file is no error
    with pytest.raises(FileNotFoundError):
        folder.read("a")


def test_publish_returns_the_size_and_leaves_no_temporary_file(folder):
    folder.make()
    temporary = folder.temporary("below.bin")
    assert temporary.name.startswith(".below.bin.") and temporary.name.endswith(".tmp")
    assert temporary != folder.temporary("below.bin")
    temporary.write_bytes(b"1234567")
    assert folder.publish(temporary, "below.bin") == 7
    assert not temporary.exists()
    assert folder.list() == {"below.bin": 7}


def test_a_failed_write_leaves_no_temporary_file(folder, monkeypatch):
    folder.make()
    made = []

    def full(path, data):
        made.append(path)
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DatasetError, match=r"cannot write .*data/a: no space left on device; free space"):
        folder.write("a", b"1")
    assert len(made) == 1 and not made[0].exists()
    assert folder.list() == {}


def test_temporary_files_for_an_object_store_are_removed(tmp_path, monkeypatch):
    """Only those for that folder. Those of a local folder are in the folder itself and are not removed here."""
    monkeypatch.setattr("clipmill.files.folder.tempfile.gettempdir", lambda: str(tmp_path))
    one, other = (Folder.of(f"memory://{name}/data") for name in ("one", "other"))
    left, kept = one.temporary("a"), other.temporary("a")
    for path in (left, kept):
        assert path.parent == tmp_path
        path.touch()
    remove_temporaries(Folder.of(tmp_path))
    assert left.exists()
    remove_temporaries(one)
    assert (left.exists(), kept.exists()) == (False, True)


def test_local_paths_are_absolute_and_have_no_scheme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file_system, path = open_location("a/../b")
    assert (is_local(file_system), path) == (True, str(tmp_path / "b"))
    assert url_of(file_system, path) == Folder.of("b/").url == str(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"1")
    with open_input("b") as file:
        assert file.read() == b"1"


def test_remote_paths_are_named_by_their_url():
    file_system, path = open_location("MEMORY://Place/data")
    assert not is_local(file_system)
    assert url_of(file_system, path) == "memory:///Place/data"


@pytest.mark.parametrize(
    ("location", "error", "message"),
    [
        ("https://example.com/a", DatasetError, r"http\(s\) cannot be listed; put such URLs into the 'uri'"),
        ("nowhere://a", DatasetError, "no file system for the scheme 'nowhere'"),
    ],
)
def test_schemes_that_cannot_be_listed_are_refused(location, error, message):
    with pytest.raises(error, match=message):
        open_location(location)


def test_a_missing_driver_is_named_with_its_extra(monkeypatch):
    def missing(url):
        raise ImportError("no such driver")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(MissingExtraError, match=r"gs://.*pip install 'clipmill\[gcp\]'"):
        open_location("gs://bucket/a")
    with pytest.raises(MissingExtraError, match=r"an fsspec driver for odd.*clipmill\[remote\]"):
        open_location("odd://bucket/a")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (
            OSError(errno.EACCES, "x"),
            "cannot read it: permission denied; change its permissions or choose another place",
        ),
        (OSError(errno.EROFS, "x"), "cannot read it: read-only file system; choose another place"),
        (OSError(errno.EIO, "x"), "cannot read it: input/output error"),
        (OSError("a client's message"), "cannot read it: a client's message"),
        (OSError("CRC checksum verification failed"), "cannot read it: the file is damaged"),
        (KeyError("client"), "cannot read it: KeyError: 'client'"),
        (DatasetError("ours"), "ours"),
    ],
    ids=repr,
)
def test_errors_say_the_action_the_location_and_a_hint(raised, message):
    with pytest.raises(DatasetError) as caught, dataset_errors("read", "it"):
        raise raised
    assert str(caught.value).startswith(message)


# --- names that look like URLs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        *("gs:name", "s3:bucket/x", "gs:/bucket/x", "GS:x", "http:x", "https:/x/y", "file:x", "memory:x", "hdfs:x"),
        *("c:\\x", "C:/data", "gs://", "gs:///x", "s3:///", "file://relative", "file://localhost/x", "local://x"),
    ],
)
def test_a_url_with_a_slip_of_the_pen_is_no_relative_path(tmp_path, monkeypatch, given) -> None:
    """Nothing is made in a folder that is called `gs:`."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError):
        Folder.of(given)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", ["12:30.png", "a b:c", "photos:2024/x", "./gs:x", "x/gs:y", "c:x", "café:1"])
def test_other_colons_are_parts_of_names(tmp_path, monkeypatch, given) -> None:
    monkeypatch.chdir(tmp_path)
    assert Folder.of(given).path == os.path.abspath(given)


def test_a_path_that_exists_is_that_path(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gs:x").mkdir()
    assert Folder.of("gs:x").path == str(tmp_path / "gs:x")
    assert Folder.of(f"file://{tmp_path}").path == str(tmp_path)


@pytest.mark.parametrize("given", ["gs://b/c", "gs:c", "file:///x"])
def test_directories_of_this_machine_are_no_urls(tmp_path, monkeypatch, given) -> None:
    """The cache, and exported models."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError):
        EncoderSpec("demo", cache_dir=given)
    with pytest.raises(DatasetError):
        export_model(EncoderSpec("demo"), given)
    monkeypatch.setenv("CLIPMILL_CACHE", given)
    with pytest.raises(DatasetError):
        cache_root()
    assert list(tmp_path.iterdir()) == []


def test_no_output_has_a_name_that_is_not_utf_8(tmp_path) -> None:
    """Arrow cannot open it, and workers of Spark cannot even say so."""
    folder = Folder.of(os.fsdecode(os.fsencode(tmp_path) + b"/out\xff"))
    with pytest.raises(DatasetError, match=r"out\\xff is not UTF-8"):
        folder.make()
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_was_deleted_meanwhile_is_said(tmp_path) -> None:
    folder = Folder.of(tmp_path / "gone")
    with pytest.raises(DatasetError, match="deleted meanwhile"):
        folder.write("x", b"")
    with pytest.raises(DatasetError, match="deleted meanwhile"), one_at_a_time(folder):
        pass
