"""Two thousand rows of all that is hard at once: each comes out as what it is, and no more is held than is allowed.

Icons, photographs of four megapixels in formats that can be reduced and in formats that cannot, broken and cut files,
texts of 10,000 words, nulls and empty values, through the core and through one bundle of Beam.
"""

from __future__ import annotations

import contextlib
import functools
import io
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest
from beam_helpers import Keep, kept, pipeline
from pictures import encode, photographs
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from clipmill.datasets import summarise
from clipmill.encoders import EncoderSpec, Failure, Item, Vector, load_encoder
from clipmill.encoders.loaded import PixelBudget
from clipmill.encoders.plans.embed_plan import Column
from clipmill.encoders.preparation import count_pixels
from clipmill.models import model
from clipmill.transforms import Embed, FailedRow, WriteEmbeddings

ROWS = 2_000
MAX_ROWS = 16
LARGE = (2400, 1700)
BUDGET = 5_000_000
"""Pixels that may be held: one large picture at a time, or one that is reduced and a few small ones."""

SPEC = EncoderSpec(
    "demo",
    device="cpu",
    runtime="onnx",
    precision="fp32",
    max_batch_rows=MAX_ROWS,
    max_batch_pixels=BUDGET,
    max_cache_bytes=0,
    preprocess_threads=6,
)
COLUMNS = {"photo": Column("image"), "caption": Column("text", truncated="cut")}


def large(**options: Any) -> bytes:
    return encode(np.array(Image.fromarray(photographs()["coffee"]).resize(LARGE)), **options)


def cmyk() -> bytes:
    file = io.BytesIO()
    Image.fromarray(photographs()["chelsea"]).resize(LARGE).convert("CMYK").save(file, "JPEG", quality=80)
    return file.getvalue()


def icon(number: int) -> bytes:
    blocks = np.random.default_rng(number).integers(0, 256, (4, 4, 4), np.uint8)
    return encode(np.kron(blocks, np.ones((4, 4, 1), np.uint8)))


def words(count: int, seed: int) -> str:
    names = ["photo", "two", "red", "blue", "striped", "dogs", "near", "the", "wooden", "bridge", "at", "night"]
    return " ".join(np.random.default_rng(seed).choice(names, count))


@functools.cache
def contents() -> dict[str, tuple[Any, ...]]:
    """Return the different contents of each kind."""
    jpeg = encode(photographs()["astronaut"], "JPEG", quality=80)
    return {
        "icon": tuple(map(icon, range(20))),
        "large": (large(format="JPEG", quality=80), large(format="JPEG", quality=80, progressive=True)),
        "large, whole": (large(format="PNG", compress_level=1), cmyk()),
        "cut off": (jpeg[: len(jpeg) // 2], encode(photographs()["coffee"])[:5_000]),
        "no image": (b"<html>gone</html>", b"\xff\xd8\xff\xe0 no more", b"GIF89a"),
        "empty file": (b"",),
        "short": tuple(words(n, n) for n in range(4, 24)),
        "long": (words(10_000, 1), words(12_000, 2)),
        "blank": (" ", "\n\t"),
        "null": (None,),
    }


CODES = {"cut off": "undecodable", "no image": "undecodable", "empty file": "empty", "blank": "empty"}
PHOTOS = ["icon", "icon", "no image", "icon", "null", "icon", "cut off", "icon", "empty file", "icon"]
CAPTIONS = ["short", "short", "null", "short", "blank", "short", "short"]


def kinds(number: int) -> dict[str, str]:
    """Return what row `number` holds, by column."""
    photo, caption = PHOTOS[number % len(PHOTOS)], CAPTIONS[number % len(CAPTIONS)]
    photo = "large" if number % 100 == 7 else "large, whole" if number % 200 in (8, 9) else photo
    return {"photo": photo, "caption": "long" if number % 50 == 3 else caption}


def values(number: int) -> dict[str, Any]:
    """Return the row."""
    made = {column: contents()[kind] for column, kind in kinds(number).items()}
    return {column: several[number // 7 % len(several)] for column, several in made.items()}


@functools.cache
def expected(column: str, value: Any) -> Any:
    """Return what the core makes of a value alone."""
    (outcome,) = load_encoder(SPEC, max_batch_rows=1).embed(COLUMNS[column].modality, [value])
    return outcome


def judge(number: int, column: str, vector: np.ndarray | None, code: str | None) -> str:
    """Check what became of a value; return what that is."""
    kind = kinds(number)[column]
    assert code == CODES.get(kind), (number, column, kind)
    if code or kind == "null":
        assert vector is None, (number, column, kind)
        return code or "null"
    assert vector is not None, (number, column, kind)
    wanted = expected(column, values(number)[column]).values
    assert np.linalg.norm(vector - wanted) <= 1e-4 * np.linalg.norm(wanted), (number, column, kind)
    return "vector"


def all_there(seen: list[str]) -> None:
    """Check that there is something of everything, or the test would say nothing."""
    assert {told: seen.count(told) >= ROWS / 10 for told in set(seen)} == dict.fromkeys(
        ("vector", "null", "empty", "undecodable"), True
    )


# --- pixels ----------------------------------------------------------------------------------------------------------


class Watch:
    """Sees what is decoded at the same time, by what the files themselves say and not by the budget's own count."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: list[int] = []
        self.most = 0
        self.most_together = 0

    @contextlib.contextmanager
    def holding(self, pixels: int) -> Iterator[None]:
        with self._lock:
            self._held.append(pixels)
            self.most = max(self.most, sum(self._held))
            self.most_together = max(self.most_together, len(self._held))
        try:
            yield
        finally:
            with self._lock:
                self._held.remove(pixels)


@functools.cache
def pixels_of(content: bytes) -> int:
    """Return the pixels that a file becomes; a JPEG in YCbCr of this size is read at a half of its sides, or less."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            is_reduced = image.format == "JPEG" and image.mode == "RGB" and image.size == LARGE
            return image.width * image.height // (4 if is_reduced else 1)
    except OSError:
        return 0


@pytest.fixture
def watch(monkeypatch) -> Watch:
    watch, crop = Watch(), model.image_crop

    def image_crop(content: Any, *rest: Any) -> np.ndarray:
        with watch.holding(pixels_of(content)):
            return crop(content, *rest)

    monkeypatch.setattr(model, "image_crop", image_crop)
    return watch


def push_all(pushed: Callable[[int, int], None] = lambda *_: None) -> list[str]:
    """Send all rows through a session; return what their values are.

    Args:
        pushed: Is told the rows so far, and those that came back.
    """
    seen: list[str] = []
    back = 0
    with load_encoder(SPEC).session() as session:
        for number in range(ROWS + 1):
            if number < ROWS:
                row = values(number)
                done = session.push(number, [Item("image", row["photo"]), Item("text", row["caption"])])
            else:
                done = session.flush()
            for one in done:
                assert one.token == back
                for column, outcome in zip(COLUMNS, one.outcomes, strict=True):
                    code = str(outcome.code) if isinstance(outcome, Failure) else None
                    vector = outcome.values if isinstance(outcome, Vector) else None
                    seen.append(judge(back, column, vector, code))
                back += 1
            pushed(min(number + 1, ROWS), back)
    assert back == ROWS
    return seen


def test_the_core_loses_nothing_and_holds_little(watch):
    """Rows come back in order, few are inside, and pixels stay within the budget though six threads decode."""
    most_inside = 0

    def pushed(rows: int, back: int) -> None:
        nonlocal most_inside
        most_inside = max(most_inside, rows - back)

    all_there(push_all(pushed))
    assert most_inside <= 16 * MAX_ROWS
    assert watch.most_together > 1
    assert LARGE[0] * LARGE[1] <= watch.most <= BUDGET


def test_without_the_budget_too_many_pixels_would_be_seen(watch, monkeypatch):
    """The control: with nobody waiting for room, the watch sees more than is allowed."""
    meet = threading.Barrier(2)

    @contextlib.contextmanager
    def hold(self: PixelBudget, pixels: int, limit: int) -> Iterator[None]:
        yield

    crop = model.image_crop

    def slow_crop(*given: Any) -> np.ndarray:
        with watch.holding(pixels_of(given[0])):
            meet.wait(60)
        return crop(*given)

    monkeypatch.setattr(PixelBudget, "hold", hold)
    monkeypatch.setattr(model, "image_crop", slow_crop)
    found = load_encoder(SPEC).embed("image", [contents()["large, whole"][0]] * 2)
    assert all(isinstance(outcome, Vector) for outcome in found)
    assert watch.most > BUDGET


def pillow_watched(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch what Pillow decodes of JPEG files, at the scale that it was asked for."""
    load = JpegImageFile.load

    def watched(self: JpegImageFile) -> Any:
        with watch.holding(self.width * self.height):
            return load(self)

    monkeypatch.setattr(JpegImageFile, "load", watched)


def test_large_files_that_are_cut_off_stay_within_the_budget(monkeypatch):
    watch = Watch()
    pillow_watched(watch, monkeypatch)
    files = [large(format="JPEG", quality=80)[:-5_000]] * 12
    assert {str(outcome.code) for outcome in load_encoder(SPEC).embed("image", files)} == {"undecodable"}
    assert 0 < watch.most <= BUDGET


def test_progressive_files_count_as_what_they_hold():
    """Before the first pixel is made, all coefficients are in memory: three bytes for each pixel, at any scale."""
    plain, progressive = contents()["large"]
    count = functools.partial(count_pixels, "image", loaded=load_encoder(SPEC)._loaded, spec=SPEC)
    assert count(content=plain) == LARGE[0] * LARGE[1] // 4
    assert count(content=progressive) >= LARGE[0] * LARGE[1]


# --- one bundle ------------------------------------------------------------------------------------------------------

_taken, _given, _inside = [0], [0], [0]  # of the pipeline below, which runs in this process


def _rows(_: Any) -> Iterator[dict[str, Any]]:
    for number in range(ROWS):
        _taken[0] += 1
        _inside[0] = max(_inside[0], _taken[0] - _given[0])
        yield {"id": number, **values(number)}


def _count(element: Any) -> Any:
    _given[0] += 1
    return element


def _without_content(element: Any) -> Any:
    """Keep what is looked at later, and not the pictures."""
    row, failures = (element.row, element.failures) if isinstance(element, FailedRow) else (element, ())
    kept_fields = {name: value for name, value in row.items() if name not in ("photo", "caption")}
    return kept_fields, [(failure.column, str(failure.code)) for failure in failures]


def test_a_bundle_of_beam_loses_nothing_and_holds_little(tmp_path, watch):
    _taken[0] = _given[0] = _inside[0] = 0
    with pipeline() as p:
        embedded = p | beam.Create([0]) | beam.FlatMap(_rows) | Embed(SPEC, columns=COLUMNS)
        for name, pcoll in zip(embedded._fields, embedded, strict=True):
            counted = pcoll | f"Count {name}" >> beam.Map(_count)
            _ = counted | f"Slim {name}" >> beam.Map(_without_content) | f"Keep {name}" >> Keep(tmp_path)
    seen: list[str] = []
    numbers = []
    for row, failures in kept(tmp_path):
        numbers.append(row["id"])
        codes = dict(failures)
        assert len(codes) == len(failures)
        assert row["cut"] == (kinds(row["id"])["caption"] == "long")
        seen += [judge(row["id"], column, row[f"{column}_embedding"], codes.get(column)) for column in COLUMNS]
    assert sorted(numbers) == list(range(ROWS))
    all_there(seen)
    assert _taken[0] == _given[0] == ROWS
    assert _inside[0] <= 16 * MAX_ROWS + 1
    assert watch.most <= BUDGET


_MIB = 2**20


def _heavy_rows(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        content = icon(0) if number % 2 else b"no image"
        yield {"id": str(number), "photo": content + number.to_bytes(4, "big") + bytes(_MIB)}


def test_rows_are_not_held_between_embedding_and_writing(tmp_path):
    """Of 240 MiB of files that are not written a few are there at a time, and those that Beam looks at the size of.

    Where rows and failures met in one step before they were written, all of them were there, twice: 520 MiB.
    """
    count = 240
    limits = {"max_batch_rows": 4, "max_batch_bytes": 4 * _MIB, "max_cache_bytes": 0}
    schema = pa.schema({"id": pa.string(), "photo": pa.binary()})
    tracemalloc.start()
    try:
        with pipeline() as p:
            embedded = p | beam.Create([count]) | beam.FlatMap(_heavy_rows)
            embedded = embedded | Embed("fake::dim=8", columns={"photo": "image"}, **limits)
            _ = embedded | WriteEmbeddings(tmp_path / "out", schema=schema, drop=["photo"])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    summary = summarise(str(tmp_path / "out"))
    assert (summary.input_rows, summary.embedded, summary.failed) == (count, count / 2, {"undecodable": count / 2})
    assert peak < count * _MIB
