"""Files of a tar's samples as columns of their own, named by their endings."""

from __future__ import annotations

import pytest
from storage_helpers import documents
from tar_files import embed, picture, picture_vector, rows_of, write_tar

from clipmill.datasets import read_dataset, read_failures
from clipmill.encoders.testing import fake_text_vector
from clipmill.errors import DatasetError

LEFT_RIGHT = {"columns": {"left.png": "image", "right.png": "image"}}


def pairs(*names: str) -> list[tuple[str, bytes]]:
    return [(name, picture(number)) for number, name in enumerate(names)]


def test_both_images_of_a_sample_are_embedded(tmp_path):
    path = write_tar(tmp_path / "a.tar", pairs("s0.left.png", "s0.right.png", "s1.LEFT.png", "s2.right.png"))
    embed(tmp_path / "out", path, **LEFT_RIGHT)
    rows = read_dataset(str(tmp_path / "out")).to_pylist()
    assert [row["id"] for row in rows] == ["s0", "s1", "s2"]
    assert [row["left_png_embedding"] for row in rows] == [picture_vector(0), picture_vector(2), None]
    assert [row["right_png_embedding"] for row in rows] == [picture_vector(1), None, picture_vector(3)]
    assert [row["left.png"] for row in rows] == [picture(0), picture(2), None]
    assert list(read_failures(str(tmp_path / "out"))) == []


def test_columns_may_be_dropped_and_are_no_left_out_files(tmp_path):
    path = write_tar(tmp_path / "a.tar", [*pairs("s0.left.png", "s0.right.png"), ("s0.cls", b"7")])
    embed(tmp_path / "out", path, columns={"left.png": "image"}, drop=["left.png"])
    (row,) = read_dataset(str(tmp_path / "out")).to_pylist()
    assert row.keys() == {"id", "text", "archive", "offset", "size", "tags", "left_png_embedding"}
    assert '"left_out": ["right.png", "cls"]' in row["tags"]


def test_a_text_file_and_two_images_of_known_formats(tmp_path):
    files = [
        ("s0.jpg", picture(0)),
        ("s0.png", picture(1)),
        ("s0.title", "ein Kreis ä".encode()),
        ("s1.title", b"\xff"),
    ]
    path = write_tar(tmp_path / "a.tar", files)
    embed(tmp_path / "out", path, columns={"jpg": "image", "png": "image", "title": "text"})
    found = rows_of(tmp_path / "out")
    assert found["s0"]["jpg_embedding"] == picture_vector(0)
    assert found["s0"]["png_embedding"] == picture_vector(1)
    assert found["s0"]["title_embedding"] == fake_text_vector("ein Kreis ä", 4).tolist()
    (failed,) = read_failures(str(tmp_path / "out"))
    assert (failed["row"], failed["code"]) == (f"{path}:1", "malformed")


def test_an_ending_that_no_sample_has_is_refused_naming_those_that_are_there(tmp_path):
    path = write_tar(tmp_path / "a.tar", pairs("s0.left.png"))
    with pytest.raises(DatasetError, match=r"no column 'rihgt.png'.*'left.png'"):
        embed(tmp_path / "out", path, columns={"rihgt.png": "image"})
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(picture(0))
    with pytest.raises(DatasetError, match=r"no column 'left.png'"):
        embed(tmp_path / "out", folder, **LEFT_RIGHT)


def test_the_failure_of_a_document_names_the_columns(tmp_path):
    (failed,) = documents(write_tar(tmp_path / "a.tar", pairs("s0.left.png")))
    assert "--column left.png=image" in failed.failures[0].message
