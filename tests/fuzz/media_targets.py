"""Targets: URIs, image files and audio files of documents."""

from __future__ import annotations

import base64
import gzip
import io
import wave
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import soundfile
from fuzz_target import Target, text_of
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from clipmill.failures import RowError
from clipmill.files.retries import TransientFetchError
from clipmill.media.audio import MAX_RATE, MIN_RATE, count_samples, open_audio
from clipmill.media.containers import without_metadata
from clipmill.media.crops import decoded_pixels, image_crop
from clipmill.media.fetch import fetch
from clipmill.media.fetch_policy import FetchPolicy, inflate
from clipmill.media.images import FORMATS, open_image
from clipmill.media.options import Preprocessing
from clipmill.media.uri import WebAddress, file_path, is_public, literal_address, scheme_of, shown

_POLICY = FetchPolicy(schemes=("data",), max_bytes=1000)
_MAX_PIXELS = 20_000
_MAX_SECONDS = 2.0
_CHUNK = 7
_SMALL = Preprocessing.of(8, {})


class _Options(NamedTuple):
    decode: str
    apply_exif: bool = True
    max_image_pixels: int = _MAX_PIXELS


# --- URIs -------------------------------------------------------------------------------------------------------------


def _uri_seeds() -> list[bytes]:
    return [
        b"https://example.com/a/b.jpg?size=3&token=abc#part\n../c?x#y",
        b"http://user:word@127.0.0.1:8080/%zz \xc3\xa4\n//[::1]:80/",
        b"https://[2001:db8::1]:443/\xff\n:",
        b"http://2130706433/;a=b\nhttp://[::ffff:10.0.0.1]/",
        "https://münchen.example:65535/ü\nftp://x".encode(),
        b"file:///tmp/a%20b\nfile://localhost/a",
        b"gs://bucket/a?b\ns3:x",
        b"photo:1.jpg\n/plain/path",
        b"HTTP:\\\\host\\path\n\t",
    ]


def check_uri(data: bytes) -> None:
    """Nothing but `RowError`; messages stay printable; the address that is checked is the one that is fetched."""
    uri, _, location = text_of(data).partition("\n")
    assert len(shown(uri)) <= 2000 and shown(uri).isprintable()
    scheme = scheme_of(uri)
    try:
        path = file_path(uri)
        assert scheme is None or (path.startswith("/") and "\0" not in path)
    except RowError:
        pass
    if scheme != "data":
        try:
            fetch(uri, _POLICY)
        except RowError:
            pass
        else:
            raise AssertionError("a URI was fetched that the policy forbids")
    if scheme not in ("http", "https"):
        return
    try:
        address = WebAddress.parse(uri)
    except RowError:
        return
    assert address.host and address.host.isascii() and not set(address.host) & set("/@?#[]\\ %\t\r\n")
    assert address.target.startswith("/") and address.target.isascii() and address.target.isprintable()
    assert not set(address.target) & set(" #"), address.target
    assert 0 < address.port < 65536
    again = WebAddress.parse(f"{address.scheme}://{address.authority}{address.target}")
    assert (again.host, again.port, again.target) == (address.host, address.port, address.target)
    if (literal := literal_address(address.host)) is not None:
        is_public(str(literal))
    try:
        target = address.join(location)
        if scheme_of(target) in ("http", "https"):
            WebAddress.parse(target)
    except RowError:
        pass


def _data_seeds() -> list[bytes]:
    png = base64.b64encode(_pixels().tobytes())[:400]
    return [
        b"image/png;base64," + png,
        b",plain%20text%",
        b"text/plain;charset=utf-8;base64,aGFs bG8-_w==",
        b"a/b;base64,%61%47%3d=",
        b";base64,",
        b"image/svg+xml;utf8,<svg>%C3%A4</svg>",
        b"no comma",
    ]


def check_data_uri(data: bytes) -> None:
    """`RowError`, or content within the limit that comes back from its own base64."""
    uri = "data:" + text_of(data)
    try:
        found = fetch(uri, _POLICY)
    except RowError as err:
        assert str(err).isprintable() or "\n" in str(err)
        return
    assert len(found.data) <= _POLICY.max_bytes
    assert found.media_type is None or found.media_type == found.media_type.lower()
    again = fetch("data:;base64," + base64.b64encode(found.data).decode(), _POLICY)
    assert again.data == found.data


def check_inflate(data: bytes) -> None:
    """The content does not depend on how a server cuts it, and no piece of it is large."""
    found = []
    for size in (len(data) or 1, _CHUNK):
        pieces: list[bytes] = []
        try:
            for piece in inflate((data[at : at + size] for at in range(0, len(data), size)), "x", 2000):
                assert len(piece) <= 64 * 1024
                pieces.append(piece)
                if len(pieces) > 100:
                    break
            outcome = "whole"
        except (RowError, TransientFetchError) as err:
            outcome = type(err).__name__
        found.append((b"".join(pieces), outcome))
    (whole, ended), (cut, also) = found
    if ended == also == "whole":
        assert whole == cut


def _inflate_seeds() -> list[bytes]:
    body = b"a page of text, a page of text"
    return [gzip.compress(body, mtime=0), zlib.compress(body), gzip.compress(body, mtime=0) * 2, gzip.compress(b"")]


# --- images -----------------------------------------------------------------------------------------------------------


def _pixels() -> np.ndarray:
    return (np.arange(12 * 10 * 3).reshape(12, 10, 3) * 7 % 256).astype(np.uint8)


def _file(format: str, mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(_pixels())
    (image.quantize(8) if mode == "P" else image.convert(mode)).save(out, format, **options)
    return out.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def image_seeds() -> list[bytes]:
    """Return a small file of every format that is read, with the parts that real files have beside their pixels."""
    texts = PngInfo()
    texts.add_text("comment", "a text")
    texts.add_itxt("title", "ü", zip=True)
    frames = [Image.fromarray(_pixels()).quantize(4), Image.fromarray(_pixels()[::-1]).quantize(4)]
    files = [
        _file("JPEG", exif=_exif(), comment=b"a comment", icc_profile=b"x" * 40),
        _file("JPEG", progressive=True),
        _file("JPEG", "L"),
        _file("JPEG", "CMYK"),
        _file("PNG", pnginfo=texts, icc_profile=b"y" * 40, exif=_exif()),
        _file("PNG", "P"),
        _file("PNG", "LA"),
        _file("GIF", "P", comment=b"a comment"),
        _file("WEBP", exif=_exif()),
        _file("BMP"),
        _file("TIFF", compression="tiff_lzw"),
        _file("PPM"),
        b"P2 2 2 9 1 2 3 4",
    ]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], loop=0)
    files.append(out.getvalue())
    if "AVIF" in FORMATS:
        files.append(_file("AVIF", quality=30))
    return files


def _decoded(data: bytes) -> np.ndarray | None:
    """Return the pixels that Pillow itself sees in a file; None if it sees none."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > _MAX_PIXELS:
                return None
            image.load()
            return np.array(image.convert("RGB"))
    except MemoryError:
        raise
    except Exception:
        return None


def check_containers(data: bytes) -> None:
    """Without what holds no pixels, a file is not longer, and has the same pixels for Pillow."""
    try:
        kept = without_metadata(data)
    except RowError:
        return
    assert len(kept) <= len(data)
    assert without_metadata(kept) == kept
    if kept != data and (before := _decoded(data)) is not None:
        after = _decoded(kept)
        assert after is not None, "the pixels are gone"
        np.testing.assert_array_equal(after, before)


def check_images(data: bytes) -> None:
    """`RowError`, or a picture within the limit, exact and fast; the pixels that are announced are an upper bound."""
    try:
        image = open_image(data, max_pixels=_MAX_PIXELS, apply_exif=True)
    except RowError:
        image = None
    if image is not None:
        assert 0 < image.width * image.height <= _MAX_PIXELS
    for decode in ("exact", "fast"):
        options = _Options(decode)
        decoded_pixels(data, _SMALL, options)
        try:
            crop = image_crop(data, _SMALL, options)
        except RowError:
            continue
        assert crop.shape == (8, 8, 3) and crop.dtype == np.uint8


# --- audio ------------------------------------------------------------------------------------------------------------


def _audio_seeds() -> list[bytes]:
    samples = 0.5 * np.sin(np.arange(400) / 9)
    files = []
    for kind, rate in (("WAV", 8_000), ("FLAC", 8_000), ("OGG", 8_000), ("MP3", 16_000), ("RF64", 8_000)):
        out = io.BytesIO()
        soundfile.write(out, np.stack([samples, -samples], 1) if kind == "WAV" else samples, rate, format=kind)
        files.append(out.getvalue())
    plain = io.BytesIO()
    with wave.open(plain, "wb") as file:
        file.setparams((1, 1, 8_000, 0, "NONE", ""))
        file.writeframes(bytes(range(100)))
    return [*files, plain.getvalue()]


def check_audio(data: bytes) -> None:
    """`RowError`, or samples within the limits of length, rate, channels and loudness."""
    assert count_samples(data) >= 0
    try:
        found = open_audio(data, max_seconds=_MAX_SECONDS)
    except RowError:
        return
    length, channels = found.samples.shape
    assert length >= 1 and channels in (1, 2) and found.samples.dtype == np.float32
    assert MIN_RATE <= found.sample_rate <= MAX_RATE and length <= _MAX_SECONDS * found.sample_rate
    assert np.abs(found.samples).max() <= 4


_IMAGE_WORDS: Sequence[bytes] = (
    *(b"IHDR", b"IDAT", b"IEND", b"tEXt", b"zTXt", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"PLTE", b"tRNS"),
    *(b"\xff\xd8", b"\xff\xe1", b"\xff\xfe", b"\xff\xda", b"\xff\xd9", b"\xff\xff", b"Exif\0\0", b"JFIF\0", b"Adobe"),
    *(b"GIF89a", b"\x21\xf9\x04", b"\x21\xfe", b"\x21\xff\x0bNETSCAPE2.0", b"\x2c", b"\x3b"),
    *(b"RIFF", b"WEBP", b"VP8X", b"VP8L", b"VP8 ", b"ANMF", b"II*\0", b"MM\0*", b"ftyp", b"avif", b"meta", b"mdat"),
)

TARGETS = {
    "uri": Target(
        "URIs: refused with a code, or split so that the checked address is the fetched one; nothing forbidden is read",
        _uri_seeds,
        check_uri,
        (b"http://", b"https://", b"file:", b"@", b"[::1]", b"%25", b"%2f", b"xn--", b"\\", b"\xe2\x80\xae", b"0x7f"),
    ),
    "data-uri": Target(
        "data: URIs: refused with a code, or content within the limit",
        _data_seeds,
        check_data_uri,
        (b";base64,", b"%3d", b"==", b"image/png", b"charset=utf-8"),
    ),
    "inflate": Target(
        "compressed responses: the same content however they are cut, in pieces of bounded size",
        _inflate_seeds,
        check_inflate,
        (b"\x1f\x8b\x08", b"\x78\x9c"),
    ),
    "containers": Target(
        "the walk over image files: the same pixels with and without it",
        image_seeds,
        check_containers,
        tuple(_IMAGE_WORDS),
    ),
    "images": Target(
        "image files, decoded exactly and fast: pixels within the limit, or a code",
        image_seeds,
        check_images,
        tuple(_IMAGE_WORDS),
    ),
    "audio": Target(
        "audio files: samples within the limits, or a code",
        _audio_seeds,
        check_audio,
        (b"RIFF", b"RF64", b"WAVE", b"fmt ", b"data", b"fact", b"fLaC", b"OggS", b"OpusHead", b"vorbis", b"ID3"),
    ),
}
