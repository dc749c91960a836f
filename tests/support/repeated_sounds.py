"""Audio files in which one part is repeated."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable

import numpy as np
import soundfile
from file_parts import riff, riff_chunk


def sound(kind: str, seconds: float = 1.0, **options: object) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.5 * np.sin(np.arange(int(8_000 * seconds)) / 9), 8_000, format=kind, **options)
    return file.getvalue()


WAV, FLAC, OGG, MP3 = (sound(kind) for kind in ("WAV", "FLAC", "OGG", "MP3"))


def _flac_blocks(kind: int, data: bytes = b"") -> Callable[[int], bytes]:
    block = bytes([kind]) + len(data).to_bytes(3, "big") + data
    return lambda size: FLAC[:42].replace(FLAC[4:5], b"\0", 1) + block * (size // len(block)) + FLAC[42:]


def _ogg_page(data: bytes, serial: int = 7, number: int = 0, flags: int = 0, segments: bytes | None = None) -> bytes:
    lacing = bytes([len(data)]) if segments is None else segments
    head = (
        b"OggS\0" + bytes([flags]) + struct.pack("<QII", 0, serial, number) + bytes(4) + bytes([len(lacing)]) + lacing
    )
    page = head + data
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1
        crc &= 0xFFFFFFFF
    return page[:22] + struct.pack("<I", crc) + page[26:]


def _id3(data: bytes) -> bytes:
    length = len(data)
    return b"ID3\4\0\0" + bytes((length >> shift) & 0x7F for shift in (21, 14, 7, 0)) + data


def _mp3_frames(count: int) -> bytes:
    return MP3 * max(1, count // len(MP3))


def _id3_frames(size: int) -> bytes:
    return _id3(b"TIT2\0\0\0\4\0\0\3abc" * (size // 14)) + MP3


def _ogg_split() -> tuple[bytes, bytes]:
    at = OGG.index(b"OggS", 4)
    return OGG[:at], OGG[at:]


SOUNDS: dict[str, Callable[[int], bytes]] = {
    "WAV chunks": lambda n: riff(b"WAVE", WAV[12:36] + riff_chunk(b"abcd") * (n // 8) + WAV[36:]),
    "WAV chunks behind": lambda n: riff(b"WAVE", WAV[12:] + riff_chunk(b"abcd") * (n // 8)),
    "WAV lists": lambda n: riff(
        b"WAVE", WAV[12:36] + riff_chunk(b"LIST", b"INFO" + riff_chunk(b"ISFT", b"ab")) * (n // 22) + WAV[36:]
    ),
    "WAV list": lambda n: riff(
        b"WAVE", WAV[12:36] + riff_chunk(b"LIST", b"INFO" + riff_chunk(b"ISFT", b"ab") * (n // 10)) + WAV[36:]
    ),
    "WAV cues": lambda n: riff(
        b"WAVE", WAV[12:36] + riff_chunk(b"cue ", struct.pack("<I", n // 24) + bytes(n // 24 * 24)) + WAV[36:]
    ),
    "WAV zeros": lambda n: riff(b"WAVE", WAV[12:36] + bytes(n)),
    "FLAC padding": _flac_blocks(1),
    "FLAC comments": _flac_blocks(4, struct.pack("<II", 0, 0)),
    "FLAC pictures": _flac_blocks(6, struct.pack(">IIIIIIII", 3, 0, 0, 1, 1, 8, 0, 0)),
    "FLAC comment of many": lambda n: _flac_blocks(
        4,
        struct.pack("<II", 0, n // 8)
        + struct.pack("<I", 4) * 0
        + (struct.pack("<I", 4) + b"a=bc") * (min(n, 16_000_000) // 8),
    )(min(n, 16_000_000) + 12),
    "FLAC junk": lambda n: FLAC[:42] + b"\xff" * n + FLAC[42:],
    "Ogg empty pages": lambda n: _ogg_split()[0] + _ogg_page(b"", segments=b"") * (n // 27) + _ogg_split()[1],
    "Ogg pages of other streams": lambda n: _ogg_split()[0] + _ogg_page(b"abc") * (n // 31) + _ogg_split()[1],
    "Ogg junk": lambda n: _ogg_split()[0] + b"Og" * (n // 2) + _ogg_split()[1],
    "Ogg chain": lambda n: OGG * max(1, n // len(OGG)),
    "MP3 tags": lambda n: _id3(b"") * (n // 10) + MP3,
    "MP3 frames of a tag": _id3_frames,
    "MP3 long tag": lambda n: _id3(bytes(n)) + MP3,
    "MP3 junk": lambda n: MP3[:1000] + b"\xff\xfb\xff\xff" * (n // 4) + MP3[1000:],
    "MP3 zeros": lambda n: MP3[:1000] + bytes(n) + MP3[1000:],
    "MP3 frames": _mp3_frames,
}
