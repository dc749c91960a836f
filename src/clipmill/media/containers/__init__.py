"""Walks the parts of image files before a decoder sees them: drops those without pixels, refuses too many.

Decoders read comments, texts, profiles and padding with loops that are slow, some even quadratic: Pillow 12.3 takes 6 s
for a GIF with a comment of 8 MiB, and 39 s for one of 16 MiB. They also refuse whole images for a text of over 1 MiB.
Other files let a decoder do the same work again and again: a scan over all pixels for each few bytes, or tags that all
name the same megabyte. Each walk takes time that grows with the file's size only. Files that are damaged stay as they
are from the damage on, for the decoder to judge. BMP files have no parts.

- `walk`: chooses the walk by the first bytes
- `parts`: the limit of parts, and files without some of them
- `jpeg`, `png`, `gif`, `webp`, `portable` (PPM), `jxl`: the walks of these formats
- `tiff`: TIFF files, and EXIF data of other formats, which has the same structure
- `heif`: AVIF and HEIF; `boxes`: what those and JPEG XL consist of
"""

from .heif import is_avif, is_heif
from .jpeg import SCAN, jpeg_segments
from .jxl import is_jxl, jxl_size
from .walk import without_metadata

__all__ = ["SCAN", "is_avif", "is_heif", "is_jxl", "jpeg_segments", "jxl_size", "without_metadata"]
