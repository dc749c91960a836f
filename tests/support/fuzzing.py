"""Files and texts damaged in drawn ways, and what is done with them: each comes out once, and none ends a run."""

from __future__ import annotations

import collections
import gzip
import io
import json
import random
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from file_parts import PICTURE, saved
from hostile_web import fuzz_hosts, fuzz_http
from image_files import FILES
from storage_helpers import documents
from tar_files import members, picture, tar_bytes

from clipmill.encoders import EncoderSpec, Failure, Vector, load_encoder

BATCH = 200
ODD = (
    b"\x00",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"\xff\xd8",
    b"\n",
    b'"',
    b"]" * 9,
)


def damaged(data: bytes, draw: random.Random) -> bytes:
    """Return data with one to four changes: bytes flipped, cut off, left out, repeated, or something odd put in."""
    made = bytearray(data)
    for _ in range(draw.randint(1, 4)):
        at, length = draw.randrange(len(made) + 1), draw.choice((1, 2, 4, 16, 200))
        match draw.randrange(6):
            case 0 if made:
                made[at % len(made)] ^= 1 << draw.randrange(8)
            case 1:
                del made[at:]
            case 2:
                del made[at : at + length]
            case 3:
                made[at:at] = made[at : at + length]
            case 4:
                made[at : at + length] = draw.randbytes(length)
            case _:
                made[at:at] = draw.choice(ODD)
    return bytes(made)


def fuzz_images(draw: random.Random, count: int, folder: Path) -> collections.Counter[str]:
    """Embed damaged pictures of every format."""
    files = [data for data in FILES.values() if len(data) < 200_000]
    files += [saved(PICTURE, kind) for kind in ("PPM", "AVIF", "HEIF", "JXL")]
    return _fuzz_values("demo", "image", lambda: damaged(draw.choice(files), draw), files[0], count)


def fuzz_audio(draw: random.Random, count: int, folder: Path) -> collections.Counter[str]:
    """Embed damaged sounds of every format."""
    files = [_sound(kind) for kind in ("WAV", "FLAC", "OGG", "MP3")]
    model = "fake::dim=8&modalities=text,image,audio"
    return _fuzz_values(model, "audio", lambda: damaged(draw.choice(files), draw), files[0], count)


def fuzz_texts(draw: random.Random, count: int, folder: Path) -> collections.Counter[str]:
    """Embed texts of characters of all planes, lone surrogates among them, of up to 2,000 characters."""

    def text() -> str:
        planes = draw.choices(
            ((0, 32), (32, 127), (0x80, 0x2FFF), (0x4E00, 0x9FFF), (0xD800, 0xE000), (0, 0x110000)), k=3
        )
        return "".join(chr(draw.randrange(*draw.choice(planes))) for _ in range(draw.choice((1, 5, 80, 2000))))

    return _fuzz_values("demo", "text", text, "a red circle", count)


def fuzz_tars(draw: random.Random, count: int, folder: Path) -> collections.Counter[str]:
    """Read damaged archives, packed ones among them; what is before the damage comes out first, as it was."""
    data = tar_bytes(members(range(6)))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        starts = [member.offset for member in archive if member.name.endswith(".json")]  # of each sample
    packed = gzip.compress(data, mtime=0)
    seen: collections.Counter[str] = collections.Counter()
    for _ in range(count):
        name, whole = draw.choice((("x.tar", data), ("x.tar", data), ("x.tar", data), ("x.tar.gz", packed)))
        content = damaged(whole, draw)
        (folder / name).write_bytes(content)
        found = documents(folder / name, rows=draw.choice((1, 3, 100)))
        # a sample is whole when the next one has begun; of a packed archive nobody knows how far its beginning reaches
        before = sum(start <= _first_difference(content, data) for start in starts[1:]) if whole is data else 0
        assert [(one.id, one.blob, one.failures) for one in found[:before]] == [
            (f"{number:09d}", picture(number), ()) for number in range(before)
        ], content
        seen["before the damage"] += before
        seen.update("failed" if one.failures else "read" for one in found[before:])
        seen["inputs"] += 1
    return seen


def _first_difference(content: bytes, whole: bytes) -> int:
    return next((at for at, (one, other) in enumerate(zip(content, whole, strict=False)) if one != other), len(content))


def fuzz_lines(draw: random.Random, count: int, folder: Path) -> collections.Counter[str]:
    """Read damaged JSON lines: as many rows come out as there are lines that are not empty."""
    lines = [json.dumps({"id": str(n), "text": f"text {n}", "tags": {"n": [n, None, {"ü": 1.5}]}}) for n in range(8)]
    data = "\n".join(lines).encode() + b"\n"
    seen: collections.Counter[str] = collections.Counter()
    for _ in range(count):
        content = damaged(data, draw)
        (folder / "x.jsonl").write_bytes(content)
        found = documents(folder / "x.jsonl", rows=draw.choice((1, 3, 100)))
        expected = sum(bool(line.strip()) for line in content.split(b"\n"))
        assert len(found) == expected, content
        seen.update("failed" if document.failures else "read" for document in found)
        seen["inputs"] += 1
    return seen


FUZZERS: dict[str, Callable[[random.Random, int, Path], collections.Counter[str]]] = {
    "images": fuzz_images,
    "audio": fuzz_audio,
    "texts": fuzz_texts,
    "tars": fuzz_tars,
    "lines": fuzz_lines,
    "hosts": fuzz_hosts,
    "http": fuzz_http,
}
"""Each draws so many inputs, and returns how often what came of them; an input that is lost is an AssertionError."""


def _fuzz_values(model: str, modality: Any, make: Callable[[], Any], good: Any, count: int) -> collections.Counter[str]:
    """Embed drawn values in batches, each with a good one at its end, which must not notice."""
    encoder = load_encoder(EncoderSpec(model, device="cpu", runtime="torch", precision="fp32", max_cache_bytes=0))
    (expected,) = encoder.embed(modality, [good])
    assert isinstance(expected, Vector)
    seen: collections.Counter[str] = collections.Counter()
    for start in range(0, count, BATCH):
        values = [make() for _ in range(min(BATCH, count - start))]
        *outcomes, last = encoder.embed(modality, [*values, good])
        assert len(outcomes) == len(values)
        assert isinstance(last, Vector)
        np.testing.assert_allclose(last.values, expected.values, rtol=1e-4, atol=1e-5)
        seen.update(_told(outcomes))
        seen["inputs"] += len(values)
    return seen


def _told(outcomes: Sequence[Any]) -> list[str]:
    for outcome in outcomes:
        assert isinstance(outcome, Failure) or np.isfinite(outcome.values).all()
    return [str(outcome.code) if isinstance(outcome, Failure) else "vector" for outcome in outcomes]


def _sound(kind: str) -> bytes:
    file = io.BytesIO()
    samples = 0.5 * np.sin(np.arange(8_000) / 9)
    soundfile.write(file, samples, 8_000, format=kind)
    return file.getvalue()
