"""Compare decoders from a JPEG file to the crop: `exact`, `fast` and others; time, grey levels, cosines.

    python benchmarks/decoding.py

Runs in one thread. The decoders take turns, and medians are printed.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg
from workload import large_photographs, photographs

from clipmill import EncoderSpec, load_encoder
from clipmill.media.crops import image_crop
from clipmill.media.options import Preprocessing
from clipmill.media.preprocess import crop_pixels

CROP = Preprocessing()
SPECS = {way: EncoderSpec("demo", device="cpu", decode=way, max_cache_bytes=0) for way in ("exact", "fast")}


def by_torchvision(file: bytes) -> np.ndarray | None:
    """Decode with torchvision, then resize as `fast` does."""
    pixels = decode_jpeg(torch.from_numpy(np.frombuffer(file, np.uint8).copy()), mode=ImageReadMode.RGB)
    array = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    return crop_pixels(array, (array.shape[1], array.shape[0]), CROP)


def by_draft(file: bytes) -> np.ndarray | None:
    """Let Pillow decode at a reduced scale, then resize as `fast` does."""
    image = Image.open(io.BytesIO(file))
    size = image.size
    image.draft("RGB", (512, 512))
    return crop_pixels(np.array(image.convert("RGB")), size, CROP)


WAYS: dict[str, Callable[[bytes], np.ndarray | None]] = {
    "Pillow (`exact`)": lambda file: image_crop(file, CROP, SPECS["exact"]),
    "simplejpeg and cykooz-resizer (`fast`)": lambda file: image_crop(file, CROP, SPECS["fast"]),
    "torchvision, resized as in `fast`": by_torchvision,
    "Pillow's draft, resized as in `fast`": by_draft,
}


def milliseconds(files: Sequence[bytes], rounds: int) -> dict[str, float]:
    """Return each decoder's milliseconds per file, as the median over rounds."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way, crop in WAYS.items():
            started = time.perf_counter()
            for file in files:
                crop(file)
            if number:
                taken[way].append(1000 * (time.perf_counter() - started) / len(files))
    return {way: statistics.median(times) for way, times in taken.items()}


def distance(files: Sequence[bytes]) -> str:
    """Describe how far the crops of `fast`, and the demo model's vectors of them, are from those of `exact`."""
    off = np.stack([np.abs(np.subtract(*(image_crop(f, CROP, s).astype(int) for s in SPECS.values()))) for f in files])
    exact, fast = (load_encoder(spec).embed_images(files) for spec in SPECS.values())
    cosines = (exact * fast).sum(axis=1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(fast, axis=1)
    return (
        f"grey levels: {off.mean():.4f} on average, {off.max()} at most, {(off > 1).mean():.1e} of the values over 1;"
        f" cosine by the demo model: {cosines.min():.5f} at least, {np.median(cosines):.6f} median"
    )


@click.command()
@click.option("--rounds", default=5, show_default=True)
def main(rounds: int) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    for name, files in {"480-900 px": photographs(48), "4000 x 3000": large_photographs(6)}.items():
        found = milliseconds(files, rounds)
        base = next(iter(found.values()))
        click.echo(f"\n| {name} | ms | times Pillow |\n|---|---|---|")
        for way, taken in found.items():
            click.echo(f"| {way} | {taken:.2f} | {base / taken:.1f} |")
        click.echo(f"\n{distance(files)}")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
