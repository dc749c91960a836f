"""One photograph in every format that is read, for the tests of decoding."""

from __future__ import annotations

import io

import numpy as np
from pictures import encode, photographs
from PIL import Image

PHOTO = photographs()["chelsea"]


def image_file(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def _photo(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(PHOTO).convert(mode)


FILES = {
    "jpeg": image_file(_photo(), "JPEG"),
    "jpeg-grey": image_file(_photo("L"), "JPEG"),
    "jpeg-cmyk": image_file(_photo("CMYK"), "JPEG"),
    "jpeg-progressive": image_file(_photo(), "JPEG", progressive=True),
    "png": image_file(_photo(), "PNG"),
    "png-palette": image_file(_photo().quantize(32), "PNG"),
    "png-alpha": image_file(Image.fromarray(np.dstack([PHOTO, PHOTO[:, :, 0]])), "PNG"),
    "png-grey-alpha": image_file(_photo("LA"), "PNG"),
    "png-one-bit": image_file(_photo("1"), "PNG"),
    "gif": image_file(_photo().quantize(64), "GIF"),
    "webp": image_file(_photo(), "WEBP"),
    "bmp": image_file(_photo(), "BMP"),
    "tiff": image_file(_photo(), "TIFF", compression="tiff_lzw"),
    "1x1": encode(PHOTO[:1, :1]),
    "very-wide": encode(PHOTO[:30, :]),
    "very-tall": encode(PHOTO[:, :30]),
    "exact-size": encode(PHOTO[:224, :224]),
    "odd": encode(PHOTO[:227, :301]),
}
