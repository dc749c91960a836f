"""Bytes are resized to the same values by cykooz-resizer and by torch, in whatever strips."""

from __future__ import annotations

import cykooz_resizer
import numpy as np
import pytest
import torch
from pictures import photographs

from clipmill.media import byte_resizing
from clipmill.media.byte_resizing import byte_resizer


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> byte_resizing.ByteResizer:
    """The resizer where cykooz-resizer is not installed."""
    monkeypatch.setattr(byte_resizing, "is_installed", lambda name: name == "torch")
    resize = byte_resizer.__wrapped__()
    assert resize is not None and resize.args == (torch,)
    return resize


@pytest.fixture
def resize() -> byte_resizing.ByteResizer:
    found = byte_resizer()
    assert found is not None and found.args[0] is cykooz_resizer
    return found


def random_pixels(height: int, width: int, *, extreme: bool) -> np.ndarray:
    drawn = np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), np.uint8)
    return np.where(drawn > 127, np.uint8(255), np.uint8(0)) if extreme else drawn


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
@pytest.mark.parametrize("strip", [2**19, 1500], ids=["one strip", "strips"])
def test_the_bytes_of_torch(name: str, strip: int, resize, by_torch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduced, enlarged, in one direction only, a pixel wide; extremes overshoot in both passes."""
    monkeypatch.setattr(byte_resizing, "_STRIP_PIXELS", strip)
    sizes = [(1, 1), (1, 90), (64, 64), (64, 200), (224, 64), (300, 224), (700, 451)]
    for height, width in sizes:
        for extreme in (False, True):
            pixels = random_pixels(height, width, extreme=extreme)
            for size in ((64, 64), (224, 261), (1, 5), (width, 80), (80, height), (width, height)):
                found = resize(pixels, size, name)
                assert found.shape == (size[1], size[0], 3) and found.dtype == np.uint8
                np.testing.assert_array_equal(found, by_torch(pixels, size, name))


def test_any_layout_of_memory(resize) -> None:
    """Rotated by EXIF, for instance; and the given array stays as it is."""
    photo = photographs()["chelsea"]
    turned = photo.transpose(1, 0, 2)[::-1]
    before = turned.copy()
    np.testing.assert_array_equal(resize(turned, (50, 60), "bicubic"), resize(before, (50, 60), "bicubic"))
    np.testing.assert_array_equal(turned, before)
