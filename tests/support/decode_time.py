"""The CPU time of decoding files in which one part is repeated, and of damaged files: linear in their bytes."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

from file_parts import PICTURE, overlapping_tags, saved
from fuzzing import damaged
from image_files import FILES as PHOTOGRAPHS
from repeated_parts import FILES, IMAGES

from clipmill.failures import Failure, RowError
from clipmill.media.audio import open_audio
from clipmill.media.images import open_image

MIB = 2**20
SIZES = (MIB // 2, MIB, 2 * MIB)
MOST_SECONDS_PER_MIB = 2.0
MOST_GROWTH = 10.0
"""How much longer four times the bytes may take. A quadratic decoder takes 16 times as long."""
_NOTICEABLE_S = 0.2
_OVERHEAD_S = 0.3


def decode(data: bytes, is_image: bool, max_pixels: int = 100_000_000) -> Failure | None:
    """Decode a file with everything that its metadata may ask for; return its failure."""
    try:
        if is_image:
            open_image(data, max_pixels=max_pixels, apply_exif=True)
        else:
            open_audio(data, max_seconds=600)
    except RowError as err:
        return err.failure
    return None


def cpu_seconds(data: bytes, is_image: bool, tries: int = 1) -> float:
    """Return the CPU time of this process for one file, the best of so many tries."""
    found = []
    for _ in range(tries):
        started = time.process_time()
        decode(data, is_image)
        found.append(time.process_time() - started)
    return min(found)


def measure_repeated_parts(draw: random.Random, folder: Path) -> dict[str, int]:
    """Decode files of n, 2n and 4n bytes; the time of none may grow much faster than its size.

    Returns:
        The number of files, and by format the most milliseconds per MiB.
    """
    figures: dict[str, int] = {"files": 0}
    for name, build in draw.sample(list(FILES.items()), len(FILES)):
        files = [build(size) for size in SIZES]
        seconds = [cpu_seconds(data, name in IMAGES, tries=3) for data in files]
        per_mib = max(one * MIB / max(len(data), MIB // 2) for one, data in zip(seconds, files, strict=True))
        growth = seconds[-1] / max(seconds[0], 1e-3)
        assert per_mib < MOST_SECONDS_PER_MIB, (name, seconds)
        assert growth < MOST_GROWTH * len(files[-1]) / len(files[0]) / 4 or seconds[-1] < _NOTICEABLE_S, (name, seconds)
        figures["files"] += len(files)
        peak = f"peak ms per MiB of {name.partition(' ')[0]}"
        figures[peak] = max(figures.get(peak, 0), round(1000 * per_mib))
    return figures


def damaged_images(draw: random.Random, count: int) -> Iterator[bytes]:
    """Yield damaged files of every format, among them ones in which a part is repeated."""
    exif = {"exif": overlapping_tags(400)}
    files = [
        *(data for data in PHOTOGRAPHS.values() if len(data) < 100_000),
        *(saved(PICTURE, kind, **exif) for kind in ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")),
        *(saved(PICTURE, kind) for kind in ("JXL", "PPM", "AVIF", "HEIF")),
        *(build(20_000) for build in IMAGES.values()),
    ]
    for _ in range(count):
        yield damaged(draw.choice(files), draw)


def measure_damaged(draw: random.Random, folder: Path) -> dict[str, int]:
    """Decode damaged files of every format; none may take longer than a moment and a time for its bytes."""
    seen = {"inputs": 0, "images": 0, "peak ms": 0}
    for data in damaged_images(draw, 20_000):
        started = time.process_time()
        failure = decode(data, True, max_pixels=1_000_000)
        seconds = time.process_time() - started
        assert seconds < _OVERHEAD_S + MOST_SECONDS_PER_MIB * len(data) / MIB, (seconds, data)
        seen["inputs"] += 1
        seen["images"] += failure is None
        seen["peak ms"] = max(seen["peak ms"], round(1000 * seconds))
    return seen
