"""Sound content of every accepted kind becomes one waveform at the model's sample rate, or a `RowError` that says why.

Encoded bytes are WAV, FLAC, OGG (Vorbis, Opus) or MP3. Waveforms come with their sample rate. Channels are kept, one or
two: how they are brought together is the model's affair.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
from typing import Any

import numpy as np

from ..errors import MissingExtraError
from ..failures import Code, RowError, Stage
from .options import AudioFrontend

FORMATS = ("WAV", "FLAC", "OGG", "MP3")
"""Formats that are decoded. The library knows more, some of them without a mark by which they could be told."""

MIN_RATE, MAX_RATE = 1_000, 384_000
"""Samples a second that a sound may have: with its seconds they bound the memory that decoding takes."""
_MAX_PEAK = 4.0
"""Of decoded files: lossy formats and mixers overshoot full scale, by a factor of 4 (12 dB) at the very most."""
_LEAST_PART = 0.9
"""Of the samples that an MP3's header announces, which is often an estimate: with fewer the file is cut off."""

_SNIFFED = ((b"fLaC", "audio/flac"), (b"OggS", "audio/ogg"), (b"ID3", "audio/mpeg"))
_RIFF = (b"RIFF", b"RF64")
_UNKNOWN_LENGTH = (0, 0xFFFFFFFF)
"""What recorders write for the length of a WAV file that they do not know yet."""
_UNTOLD = 2**62
"""More samples than these the library tells of a FLAC file that does not say its length; it cannot read such."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Waveform:
    """A sound as its samples.

    Attributes:
        samples: (n,) or (2, n), float in [-1, 1], or int16, of which 32768 is full scale.
        sample_rate: Samples a second; None where nobody said it, which is a failure when it is embedded.
    """

    samples: Any
    sample_rate: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes that the samples hold in memory, those of lists once they are an array; 0 for what is neither."""
        samples = self.samples
        if isinstance(samples, np.ndarray):
            return int(samples.nbytes)
        if not isinstance(samples, list | tuple):
            return 0
        return 8 * sum(len(part) if isinstance(part, list | tuple | np.ndarray) else 1 for part in samples)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A decoded sound.

    Attributes:
        samples: (n, channels) float32, n at least 1, one or two channels.
        sample_rate: Samples a second.
        media_type: What the bytes were; None for a waveform.
    """

    samples: np.ndarray
    sample_rate: float
    media_type: str | None = None


def require_audio() -> None:
    """Check that what decodes and resamples is installed.

    Raises:
        MissingExtraError: If it is not.
    """
    for package in ("soundfile", "soxr"):
        try:
            importlib.import_module(package)
        except (ImportError, OSError) as err:  # OSError: the package is there, and its C library is not
            raise MissingExtraError(package, "audio", "embedding sounds") from err


def sniff_audio_type(data: bytes) -> str | None:
    """Tell a sound's media type by its first bytes; None where they are none that is decoded here."""
    if data[:4] in _RIFF and data[8:12] == b"WAVE":
        return "audio/wav"
    known = next((media_type for magic, media_type in _SNIFFED if data.startswith(magic)), None)
    return known or ("audio/mpeg" if _is_mpeg_frame(data[:4]) else None)


def _is_mpeg_frame(header: bytes) -> bool:
    """Tell whether four bytes begin a frame of MPEG audio, layer 2 or 3 (a UTF-16 mark would pass for layer 1)."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return False
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bitrate, rate = header[2] >> 4, header[2] >> 2 & 3
    return version != 1 and layer in (1, 2) and bitrate not in (0, 15) and rate != 3


def waveform_for(sound: Sound, frontend: AudioFrontend) -> np.ndarray:
    """Bring a sound to what a model reads.

    Args:
        sound: Of any accepted sample rate.
        frontend: The model's sample rate and scale.

    Returns:
        (channels, samples) float32, contiguous.

    Raises:
        RowError: `empty` if it is too short to be resampled or embedded.
    """
    samples = sound.samples
    if sound.sample_rate != frontend.sample_rate:
        import soxr

        samples = soxr.resample(samples, sound.sample_rate, frontend.sample_rate, quality="HQ")
    if len(samples) < frontend.min_samples:
        raise RowError(
            Stage.PREPROCESS,
            Code.EMPTY,
            f"the sound is too short: {len(samples)} samples at {frontend.sample_rate:,} Hz, the model needs at least"
            f" {frontend.min_samples}",
        )
    return np.ascontiguousarray(samples.T, np.float32) * np.float32(frontend.scale)


def open_sound(content: Any, *, max_seconds: float) -> Sound:
    """Decode or check one sound.

    Args:
        content: Encoded bytes or a `Waveform`.
        max_seconds: Longer sounds are refused, where the header tells before they are decoded.

    Raises:
        RowError: `empty`, `undecodable`, `unsupported`, `malformed`, `too_large`, `wrong_shape` or `out_of_range`.
    """
    if isinstance(content, bytes | bytearray | memoryview):
        return _decode(bytes(content), max_seconds)
    if isinstance(content, Waveform):
        return _check_waveform(content, max_seconds)
    raise RowError(
        Stage.DECODE,
        Code.UNSUPPORTED,
        f"a sound is encoded bytes, a waveform with its sample rate or a URI, got {type(content).__name__}",
    )


def count_samples(content: Any) -> int:
    """Return the samples, over all channels, that decoding will hold; 0 where there is nothing to decode or tell."""
    if not isinstance(content, bytes) or sniff_audio_type(content[:16]) is None:
        return 0
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            return int(file.frames) * int(file.channels)
    except Exception:  # the real decoding says what is wrong
        return 0


# --- encoded bytes ---------------------------------------------------------------------------------------------------


def _decode(data: bytes, max_seconds: float) -> Sound:
    import soundfile

    if not data:
        raise RowError(Stage.DECODE, Code.EMPTY, "the sound has zero bytes")
    media_type = sniff_audio_type(data[:16])
    if media_type is None:
        raise _undecodable(
            f"{len(data)} bytes that begin with {data[:8]!r} are no sound of a known format ({', '.join(FORMATS)})"
        )
    _check_riff(data)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels, announced = int(file.samplerate), int(file.channels), int(file.frames)
            _check_rate(rate)
            _check_channels(channels, f"the file has {channels} channels")
            if announced > _UNTOLD:
                raise _undecodable("the file does not say how long it is (recorded into a pipe?); written anew it does")
            if announced > max_seconds * rate:
                raise _too_long(announced / rate, max_seconds)
            samples = file.read(announced, dtype="float32", always_2d=True)  # headers lie: no more than this is held
    except RowError:
        raise
    except MemoryError:
        raise
    except Exception as err:  # libsndfile's own errors, and what its callbacks raise: all mean this file
        raise _undecodable(f"the sound cannot be decoded: {err}") from err
    if len(samples) < announced * _LEAST_PART:
        raise _undecodable(f"the sound is cut off: {len(samples):,} of {announced:,} samples could be decoded")
    if len(samples) == 0:
        raise RowError(Stage.DECODE, Code.EMPTY, f"the file ({media_type}) holds no samples")
    _check_range(samples, _MAX_PEAK, "the file's samples lie")
    return Sound(samples, rate, media_type)


def _check_riff(data: bytes) -> None:
    """Refuse a WAV file that is cut off: the library would take what is left for the whole."""
    length = int.from_bytes(data[4:8], "little") + 8
    # some writers count the eight bytes of the header in
    if data[:4] == b"RIFF" and length - 8 not in _UNKNOWN_LENGTH and length - 8 > len(data):
        raise _undecodable(f"the sound is cut off: the file has {len(data):,} bytes, and should have {length:,}")


def _undecodable(message: str) -> RowError:
    return RowError(Stage.DECODE, Code.UNDECODABLE, message)


def _too_long(seconds: float, max_seconds: float) -> RowError:
    return RowError(
        Stage.DECODE,
        Code.TOO_LARGE,
        f"the sound lasts {seconds:.1f} s, allowed are {max_seconds:g} s (option max_audio_seconds)",
    )


# --- waveforms -------------------------------------------------------------------------------------------------------


def _check_waveform(waveform: Waveform, max_seconds: float) -> Sound:
    if waveform.sample_rate is None:
        raise RowError(
            Stage.READ,
            Code.MALFORMED,
            "the waveform comes without its sample rate: give pairs (waveform, 44100), a struct's field"
            " 'sampling_rate', or a document's tags['sample_rate']",
        )
    rate = _check_rate(waveform.sample_rate)
    samples = _array_of(waveform.samples)
    if samples.ndim == 2 and samples.shape[0] not in (1, 2) and samples.shape[1] in (1, 2):
        message = f"a waveform is (n,) or (2, n), got shape {samples.shape}: samples stand last, so transpose it"
        raise RowError(Stage.PREPROCESS, Code.WRONG_SHAPE, message)
    if samples.ndim not in (1, 2):
        message = f"a waveform is (n,) or (2, n), got shape {samples.shape}"
        raise RowError(Stage.PREPROCESS, Code.WRONG_SHAPE, message)
    if samples.ndim == 2:
        _check_channels(samples.shape[0], f"the waveform has shape {samples.shape}")
    if samples.shape[-1] == 0:
        raise RowError(Stage.PREPROCESS, Code.EMPTY, "the waveform has no samples")
    if samples.shape[-1] > max_seconds * rate:
        raise _too_long(samples.shape[-1] / rate, max_seconds)
    if samples.dtype == np.int16:
        values = samples.astype(np.float32) / np.float32(32768)
    else:
        _check_range(samples, 1.0, "the waveform's samples lie")
        values = samples.astype(np.float32)
    return Sound(np.ascontiguousarray(np.atleast_2d(values).T), rate)


def _array_of(samples: Any) -> np.ndarray:
    try:
        array = np.asarray(samples)
    except ValueError as err:  # channels of unequal length
        raise RowError(Stage.PREPROCESS, Code.WRONG_SHAPE, f"a waveform is (n,) or (2, n): {err}") from err
    if array.size == 0:
        return array.astype(np.float32)
    if array.dtype != np.int16 and not np.issubdtype(array.dtype, np.floating):
        raise RowError(
            Stage.PREPROCESS,
            Code.UNSUPPORTED,
            f"a waveform is float in [-1, 1], or int16 (of which 32768 is full scale), got {array.dtype}",
        )
    return array


def _check_rate(rate: Any) -> float:
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating):
        message = f"the sample rate is a number of samples a second, got {rate!r:.40}"
        raise RowError(Stage.READ, Code.MALFORMED, message)
    if not MIN_RATE <= rate <= MAX_RATE:  # written so that NaN fails too
        raise RowError(
            Stage.READ,
            Code.OUT_OF_RANGE,
            f"the sample rate is {rate} a second, allowed are {MIN_RATE:,} to {MAX_RATE:,}",
        )
    return float(rate)


def _check_channels(channels: int, given: str) -> None:
    if channels not in (1, 2):
        raise RowError(Stage.DECODE, Code.WRONG_SHAPE, f"{given}; a sound has one channel or two")


def _check_range(samples: np.ndarray, most: float, given: str) -> None:
    low, high = float(samples.min()), float(samples.max())
    if not (low >= -most and high <= most):  # written so that NaN fails too
        raise RowError(
            Stage.PREPROCESS,
            Code.OUT_OF_RANGE,
            f"{given} between {low:.4g} and {high:.4g}, allowed are {-most:g} to {most:g}"
            " (16-bit values go in as int16)",
        )
