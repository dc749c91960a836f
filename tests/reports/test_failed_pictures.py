"""The examples of failures in a report: the picture, as far as it can be drawn, else why not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from cli_helpers import run
from pictures import encode
from PIL import Image
from report_helpers import look, page_of, text_of
from tar_files import write_tar

from clipmill.failures import Code
from clipmill.reports.overview import Looked, overview
from clipmill.reports.pictures import PictureRules
from clipmill.reports.reasons import Example, draw_examples, reasons_of

PIXELS = np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8)


def cut_off() -> bytes:
    """Return the first half of a JPEG file."""
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "JPEG")
    return out.getvalue()[: out.tell() // 2]


def examples_of(found: object) -> list[Example]:
    return [example for reason in found.reasons for example in reason.examples]


def embed(tmp_path: Path, *arguments: object, model: str = "fake::dim=8") -> Path:
    assert run("embed", *arguments, "-o", tmp_path / "data", "--model", model, "--max-failures", "100%") == 0
    return tmp_path / "data"


def test_a_file_that_is_cut_off_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    """And an image that was too large for the job is drawn whole."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "cut.jpg").write_bytes(cut_off())
    (tmp_path / "in" / "large.png").write_bytes(encode(np.zeros((100, 200, 3), np.uint8)))
    (tmp_path / "in" / "empty.png").write_bytes(b"")
    (tmp_path / "in" / "good.png").write_bytes(encode(PIXELS))
    data = embed(tmp_path, tmp_path / "in", "--max-image-pixels", 10_000)
    seen = {Path(one.row or "").name: one.picture for one in examples_of(look(data))}
    assert seen["cut.jpg"].size == (80, 64) and seen["cut.jpg"].reason == "cut off: drawn as far as it goes"
    shown = np.asarray(Image.open(io.BytesIO(seen["cut.jpg"].jpeg or b"")))
    assert shown[:16].std() > 20 > shown[-16:].std()  # the top is the picture, the rest is grey
    assert seen["large.png"].size == (96, 48) and seen["large.png"].reason is None
    assert seen["empty.png"] == (None, "nothing can be drawn of it", None)
    page = page_of(tmp_path, data)
    assert page.count('alt="what failed') == 2 and "nothing can be drawn of it" in text_of(page)


@pytest.mark.parametrize("column", [(), ("--column", "image=image")])
def test_samples_of_tars_that_failed_are_drawn(tmp_path: Path, column: tuple) -> None:
    write_tar(tmp_path / "a.tar", [("0.jpg", cut_off()), ("1.png", encode(PIXELS))])
    (example,) = examples_of(look(embed(tmp_path, tmp_path / "a.tar", *column)))
    assert (example.row, example.picture.size) == ("0", (80, 64))


def test_the_image_of_a_sample_is_not_drawn_for_its_audio(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("0.png", encode(PIXELS)), ("0.wav", b"RIFF"), ("1.wav", b"RIFF")])
    model = "fake::dim=8&modalities=text,image,audio"
    data = embed(tmp_path, tmp_path / "a.tar", "--column", "audio=audio", model=model)
    found = {example.row: example for example in examples_of(look(data))}
    assert (found["0"].uri, found["0"].picture.jpeg) == (None, None)
    assert found["1"].uri == str(tmp_path / "a.tar") and found["1"].picture.jpeg is None


def test_files_that_records_name_are_opened_only_if_that_was_allowed(tmp_path: Path) -> None:
    """By the job or now; and never what the job itself was refused."""
    (tmp_path / "cut.jpg").write_bytes(cut_off())
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "a", "uri": str(tmp_path / "cut.jpg")}))
    data = embed(tmp_path, tmp_path / "in.jsonl", "--allow-local-files")
    (example,) = examples_of(look(data))
    assert example.picture.jpeg
    job = json.loads((data / "_job.json").read_text())
    job["spec"]["allow_local_files"] = False
    (data / "_job.json").write_text(json.dumps(job))
    (example,) = examples_of(look(data))
    assert not example.picture.jpeg and "--allow-local-files opens it" in (example.picture.reason or "")
    (example,) = examples_of(overview(str(data), Looked(allow_local_files=True)))
    assert example.picture.jpeg


@pytest.mark.parametrize("code", [Code.FORBIDDEN_URI, Code.KILLED, Code.OUT_OF_MEMORY])
def test_what_was_refused_or_did_harm_is_not_opened(tmp_path: Path, code: Code) -> None:
    (tmp_path / "a.png").write_bytes(encode(PIXELS))
    failure = {"row": "a", "code": str(code), "stage": "decode", "message": "no", "uri": str(tmp_path / "a.png")}
    for given, is_drawn in ((failure, False), ({**failure, "code": "encode_failed"}, True)):
        reasons = reasons_of([given])
        draw_examples(reasons, PictureRules(local_files=lambda _: True))
        (example,) = reasons[0].examples
        assert (example.picture.jpeg is not None) == is_drawn
        assert is_drawn or (example.picture.reason or "").startswith("not opened")


def test_texts_that_failed_are_shown_and_odd_failures_harm_nothing(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "a", "text": "a word " * 200}))
    data = embed(tmp_path, tmp_path / "in.jsonl", "--max-text-chars", 100)
    (example,) = examples_of(look(data))
    assert (example.text or "").startswith("a word a word") and len(example.text or "") == 300
    assert example.picture == (None, None, None) and "a word a word" in text_of(page_of(tmp_path, data))
    odd = [
        {"code": "x", "stage": "y"},
        {"code": "x", "stage": "y", "uri": 7, "text": [], "tags": 3},
        {"code": "x", "stage": "y", "tags": {"archive": "/a.tar", "offset": -1, "size": "9"}},
        {"code": "z", "stage": "y", "tags": {"archive": "/a.tar", "offset": -1, "size": 9}},
    ]
    reasons = reasons_of(odd)
    draw_examples(reasons, PictureRules(local_files=lambda _: True))
    assert [example.picture.jpeg for reason in reasons for example in reason.examples] == [None] * 4
    assert all(example.picture.reason for reason in reasons for example in reason.examples)
