"""The demo's pictures: drawn shapes, real photographs, broken files; and a contact sheet of what a search found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import MissingExtraError
from ..models.demo.drawings import CLASSES, draw, sample_scene

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee")
_THUMBNAIL = 160
_MARGIN = 12
_LINE = 22


@dataclasses.dataclass(frozen=True)
class Hit:
    """One picture that a search found.

    Attributes:
        path: The picture's file.
        score: Its cosine with the sentence.
    """

    path: str
    score: float


def write_gallery(directory: Path, *, seed: int = 7) -> None:
    """Write drawn pictures, one for each colour and shape, three real photographs, and three broken files.

    Args:
        directory: Made if it is not there.
        seed: Equal seeds give equal pictures.

    Raises:
        MissingExtraError: If scikit-image, which ships the photographs, is not installed.
    """
    try:
        from skimage import data
    except ImportError as err:
        raise MissingExtraError("scikit-image", "test", "the demo's photographs") from err
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for colour, shape in CLASSES:
        scene = sample_scene(rng, colour=colour, shape=shape, count=1)  # captions of one tell it from several
        draw(scene, rng).resize((240, 240), Image.Resampling.BICUBIC).save(directory / f"{colour}-{shape}.png")
    for name in PHOTOGRAPHS:
        Image.fromarray(getattr(data, name)()).save(directory / f"photo-{name}.jpg", quality=90)
    whole = (directory / f"photo-{PHOTOGRAPHS[0]}.jpg").read_bytes()
    (directory / "broken-cut-off.jpg").write_bytes(whole[: len(whole) // 3])
    (directory / "broken-empty.png").write_bytes(b"")
    (directory / "broken-page.jpg").write_text("<html><body>404 Not Found</body></html>")


def write_contact_sheet(rows: Sequence[tuple[str, Sequence[Hit]]], path: Path) -> None:
    """Write a picture with a row for each sentence: the sentence, and what it found with names and scores.

    Args:
        rows: Sentences with their hits, best first.
        path: A `.png` file.
    """
    columns = max(len(hits) for _, hits in rows)
    width = _MARGIN + columns * (_THUMBNAIL + _MARGIN)
    height = len(rows) * (_THUMBNAIL + 2 * _LINE + 2 * _MARGIN)
    sheet = Image.new("RGB", (max(width, 420), height), "white")
    pen = ImageDraw.Draw(sheet)
    heading, small = ImageFont.load_default(size=16), ImageFont.load_default(size=11)
    for number, (sentence, hits) in enumerate(rows):
        top = number * (_THUMBNAIL + 2 * _LINE + 2 * _MARGIN) + _MARGIN
        pen.text((_MARGIN, top), f"“{sentence}”", fill="black", font=heading)
        for place, hit in enumerate(hits):
            left = _MARGIN + place * (_THUMBNAIL + _MARGIN)
            with Image.open(hit.path) as image:
                thumbnail = image.convert("RGB")
            thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
            sheet.paste(thumbnail, (left, top + _LINE + 4))
            label = f"{Path(hit.path).stem}  {hit.score:.3f}"
            pen.text((left, top + _LINE + _THUMBNAIL + 8), label, fill="#444444", font=small)
    sheet.save(path)
