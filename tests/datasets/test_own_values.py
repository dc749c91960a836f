"""Values drawn from an input to calibrate on: what is drawn, what is left out, and what is said of it."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encode

from clipmill.datasets.inputs import ReaderOptions
from clipmill.datasets.own_values import draw_values, plan_inputs
from clipmill.encoders import EncoderSpec
from clipmill.errors import DatasetError
from clipmill.models.calibration import OwnValues
from clipmill.models.model import ClipModel
from clipmill.models.towers import find_source

SPEC = EncoderSpec("demo")


class _NoRuntime:
    name, precision, device, streams = "none", "fp32", "cpu", 1


@pytest.fixture(scope="module")
def model() -> ClipModel:
    """The demo model's preparation, without its towers."""
    return ClipModel(find_source(SPEC).frontend, _NoRuntime(), {})


def _picture(number: int) -> bytes:
    return encode(np.random.default_rng(number).integers(0, 256, (20, 20, 3), np.uint8))


def _crop(model: ClipModel, number: int) -> np.ndarray:
    return model.prepare("image", _picture(number), SPEC).payload


def _folder(path: Path, count: int) -> Path:
    path.mkdir()
    for number in range(count):
        (path / f"{number:04d}.png").write_bytes(_picture(number))
    return path


def _draw(model: ClipModel, *inputs: Path, count: int = 10, **options: object) -> OwnValues:
    return draw_values(plan_inputs(list(map(str, inputs))), model, SPEC, count=count, **options)


def _numbers(model: ClipModel, found: OwnValues, among: int) -> list[int]:
    """Return which pictures were drawn, in order."""
    names = {_crop(model, number).tobytes(): number for number in range(among)}
    return [names[crop.tobytes()] for crop in found.prepared["image"]]


def test_pictures_are_drawn_from_all_over_a_folder_and_the_same_each_time(model, tmp_path) -> None:
    folder = _folder(tmp_path / "photos", 100)
    found = _draw(model, folder, count=40)
    drawn = _numbers(model, found, 100)
    assert len(drawn) == len(set(drawn)) == 40
    assert max(drawn) - min(drawn) > 40, "not from its beginning"
    assert _numbers(model, _draw(model, folder, count=40), 100) == drawn
    assert (found.failed, found.repeated) == (0, 0)
    assert not found.prepared["text"]


def test_what_cannot_be_read_is_named_and_left_out(model, tmp_path, caplog) -> None:
    folder = _folder(tmp_path / "photos", 5)
    (folder / "broken.png").write_bytes(_picture(0)[:60])
    (folder / "empty.png").write_bytes(b"")
    (folder / "again.png").write_bytes(_picture(3))
    found = _draw(model, folder)
    assert sorted(_numbers(model, found, 5)) == [0, 1, 2, 3, 4]
    assert (found.failed, found.repeated) == (2, 1)
    (said,) = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert "broken.png (undecodable" in said and "empty.png (empty" in said


def test_captions_beside_pictures_are_drawn_too(model, tmp_path) -> None:
    folder = _folder(tmp_path / "photos", 4)
    (folder / "0001.txt").write_text("a red circle")
    (folder / "0002.txt").write_text(" ")
    found = _draw(model, folder)
    assert len(found.prepared["image"]) == 4
    np.testing.assert_array_equal(found.prepared["text"], [model.prepare("text", "a red circle", SPEC).payload])


def test_tars_and_tables_are_read_as_jobs_read_them(model, tmp_path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, data in (("0.png", _picture(0)), ("0.txt", b"two small stars"), ("1.png", _picture(1))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    found = _draw(model, tmp_path / "a.tar")
    assert sorted(_numbers(model, found, 2)) == [0, 1]
    assert len(found.prepared["text"]) == 1
    rows = {"photo": [_picture(2), None], "words": ["a green square", "a blue one"], "image": [b"x", b"x"]}
    pq.write_table(pa.table(rows), tmp_path / "rows.parquet")
    found = _draw(model, tmp_path / "rows.parquet", reader=ReaderOptions(text="words", image="photo"))
    assert _numbers(model, found, 3) == [2]
    assert (len(found.prepared["text"]), found.failed) == (2, 0)
    (tmp_path / "texts.jsonl").write_text("\n".join(json.dumps({"text": f"caption {n}"}) for n in range(30)))
    both = _draw(model, tmp_path / "a.tar", tmp_path / "texts.jsonl", count=20)
    assert (len(both.prepared["image"]), len(both.prepared["text"])) == (2, 20)


def test_an_input_of_no_use_ends_it(model, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError, match="holds no files"):
        plan_inputs([str(empty)])
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DatasetError, match=r"nothing in '.*photos' is of use to calibrate demo: .*broken.png \(undec"):
        _draw(model, tmp_path / "photos")


def test_a_damaged_input_is_not_read_to_its_end(model, tmp_path) -> None:
    """Four times as many rows as values are wanted, though none of them can be read."""
    (tmp_path / "texts.jsonl").write_text("{\n" * 500 + '{"text": "the last one"}\n')
    with pytest.raises(DatasetError, match="and 37 more"):
        _draw(model, tmp_path / "texts.jsonl", count=10)
