"""Decode audio content of every accepted kind to a waveform at the model's sample rate, or raise a `RowError`.

Encoded bytes are WAV, FLAC, OGG (Vorbis, Opus) or MP3. Waveforms come with their sample rate. One or two channels are
accepted and kept: the model mixes them down.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
from typing import Any

import numpy as np

from ..errors import MissingExtraError
from ..failures import Code, RowError, Stage
from .mel import mel_windows
from .options import AudioFrontend

FORMATS = ("WAV", "FLAC", "OGG", "MP3")
"""Formats that are decoded. libsndfile reads more, but some of those have no magic bytes to identify them by."""

MIN_RATE, MAX_RATE = 1_000, 384_000
"""Allowed sample rates in Hz. Together with the limit in seconds they bound the memory that decoding takes."""
_MAX_PEAK = 4.0
"""Limit for decoded samples. Lossy formats and mixers overshoot full scale, by at most a factor of 4 (12 dB)."""
_MIN_DECODED_FRACTION = 0.9
"""A file with fewer of its announced samples is truncated. The length in an MP3's header is often an estimate."""

_SNIFFED = ((b"fLaC", "audio/flac"), (b"OggS", "audio/ogg"), (b"ID3", "audio/mpeg"))
_RIFF = (b"RIFF", b"RF64")
_UNKNOWN_LENGTH = (0, 0xFFFFFFFF)
"""What recorders write as the length of a WAV file while they do not know it yet."""
_MAX_KNOWN_LENGTH = 2**62
"""libsndfile reports more samples than this for a FLAC file without a length, which it cannot read."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Waveform:
    """An audio clip given as samples.

    Attributes:
        samples: (n,) or (2, n), float in [-1, 1], or int16 with 32768 as full scale.
        sample_rate: In Hz. None if it is unknown; embedding such a waveform fails.
    """

    samples: Any
    sample_rate: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of the samples in memory; for lists, of the array made from them; 0 for other types."""
        samples = self.samples
        if isinstance(samples, np.ndarray):
            return int(samples.nbytes)
        if not isinstance(samples, list | tuple):
            return 0
        return 8 * sum(len(part) if isinstance(part, list | tuple | np.ndarray) else 1 for part in samples)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class DecodedAudio:
    """A decoded audio clip.

    Attributes:
        samples: (n, channels) float32, n at least 1, one or two channels.
        sample_rate: In Hz.
        media_type: The media type of the encoded bytes; None for a waveform.
    """

    samples: np.ndarray
    sample_rate: float
    media_type: str | None = None


def require_audio() -> None:
    """Check that the libraries that decode and resample audio are installed.

    Raises:
        MissingExtraError: If one is missing.
    """
    for package in ("soundfile", "soxr"):
        try:
            importlib.import_module(package)
        except (ImportError, OSError) as err:  # OSError: the package is installed without its C library
            raise MissingExtraError(package, "audio", "embedding audio") from err


def sniff_audio_type(data: bytes) -> str | None:
    """Return the media type of audio by its first bytes; None if it is not one of the decoded formats."""
    if data[:4] in _RIFF and data[8:12] == b"WAVE":
        return "audio/wav"
    known = next((media_type for magic, media_type in _SNIFFED if data.startswith(magic)), None)
    return known or ("audio/mpeg" if _is_mpeg_frame(data[:4]) else None)


def _is_mpeg_frame(header: bytes) -> bool:
    """Return whether four bytes start a frame of MPEG audio, layer 2 or 3 (a UTF-16 mark would pass for layer 1)."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE0 != 0xE0:
        return False
    version, layer = header[1] >> 3 & 3, header[1] >> 1 & 3
    bitrate, rate = header[2] >> 4, header[2] >> 2 & 3
    return version != 1 and layer in (1, 2) and bitrate not in (0, 15) and rate != 3


def waveform_for(audio: DecodedAudio, frontend: AudioFrontend) -> np.ndarray:
    """Resample and scale decoded audio to the input of a model.

    Args:
        audio: With any accepted sample rate.
        frontend: The model's sample rate and scale, and its spectrograms.

    Returns:
        (channels, samples) float32, or (windows, frames, bins) decibels of the mean of the channels; contiguous.

    Raises:
        RowError: `empty` if it is too short to be resampled or embedded.
    """
    samples = audio.samples
    if audio.sample_rate != frontend.sample_rate:
        import soxr

        samples = soxr.resample(samples, audio.sample_rate, frontend.sample_rate, quality="HQ")
    if len(samples) < frontend.min_samples:
        raise RowError(
            Stage.PREPROCESS,
            Code.EMPTY,
            f"the audio is too short: {len(samples)} samples at {frontend.sample_rate:,} Hz; the model needs at least"
            f" {frontend.min_samples}",
        )
    values = np.ascontiguousarray(samples.T, np.float32) * np.float32(frontend.scale)
    if frontend.mel is not None:
        return mel_windows(values.mean(axis=0), frontend.sample_rate, frontend.mel)
    return _from_16_bits(values) if frontend.from_16_bits else values


def _from_16_bits(values: np.ndarray) -> np.ndarray:
    """Map [-32768, 32767] to [-1, 1].

    The order is AudioCLIP's: another one rounds samples differently, which its decibels show. OpenVINO would change it.
    """
    full_scale, steps = np.float32(32768), np.float32(65535)
    return (values + full_scale) * np.float32(2) / steps - np.float32(1)


def open_audio(content: Any, *, max_seconds: float) -> DecodedAudio:
    """Decode encoded audio, or check a waveform.

    Args:
        content: Encoded bytes or a `Waveform`.
        max_seconds: Longer clips are refused, before decoding if the header has the length.

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
        f"audio must be encoded bytes, a waveform with its sample rate or a URI, got {type(content).__name__}",
    )


def count_samples(content: Any) -> int:
    """Return the number of decoded samples, over all channels; 0 if it is unknown or there is nothing to decode."""
    if not isinstance(content, bytes) or sniff_audio_type(content[:16]) is None:
        return 0
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            return int(file.frames) * int(file.channels)
    except Exception:  # decoding it reports what is wrong
        return 0


# --- encoded bytes ---------------------------------------------------------------------------------------------------


def _decode(data: bytes, max_seconds: float) -> DecodedAudio:
    import soundfile

    if not data:
        raise RowError(Stage.DECODE, Code.EMPTY, "the audio has zero bytes")
    media_type = sniff_audio_type(data[:16])
    if media_type is None:
        raise _undecodable(
            f"{len(data)} bytes that begin with {data[:8]!r} are no audio of a known format ({', '.join(FORMATS)})"
        )
    _check_riff(data)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels, announced = int(file.samplerate), int(file.channels), int(file.frames)
            _check_rate(rate)
            _check_channels(channels, f"the file has {channels} channels")
            if announced > _MAX_KNOWN_LENGTH:
                raise _undecodable("the header has no length (was it recorded into a pipe?); encode the file again")
            if announced > max_seconds * rate:
                raise _too_long(announced / rate, max_seconds)
            samples = file.read(announced, dtype="float32", always_2d=True)  # headers lie: read no more than announced
    except RowError:
        raise
    except MemoryError:
        raise
    except Exception as err:  # libsndfile's errors and those of its callbacks: all are about this file
        raise _undecodable(f"the audio cannot be decoded: {err}") from err
    if len(samples) < announced * _MIN_DECODED_FRACTION:
        raise _undecodable(f"the audio is truncated: {len(samples):,} of {announced:,} samples could be decoded")
    if len(samples) == 0:
        raise RowError(Stage.DECODE, Code.EMPTY, f"the file ({media_type}) has no samples")
    _check_range(samples, _MAX_PEAK, "the file's samples lie")
    return DecodedAudio(samples, rate, media_type)


def _check_riff(data: bytes) -> None:
    """Refuse a truncated WAV file, which libsndfile would decode as if it were complete."""
    length = int.from_bytes(data[4:8], "little") + 8
    # some writers include the eight bytes of the header in the length
    if data[:4] == b"RIFF" and length - 8 not in _UNKNOWN_LENGTH and length - 8 > len(data):
        raise _undecodable(f"the audio is truncated: the file has {len(data):,} bytes instead of {length:,}")


def _undecodable(message: str) -> RowError:
    return RowError(Stage.DECODE, Code.UNDECODABLE, message)


def _too_long(seconds: float, max_seconds: float) -> RowError:
    return RowError(
        Stage.DECODE,
        Code.TOO_LARGE,
        f"the audio lasts {seconds:.1f} s, allowed are {max_seconds:g} s (option max_audio_seconds)",
    )


# --- waveforms -------------------------------------------------------------------------------------------------------


def _check_waveform(waveform: Waveform, max_seconds: float) -> DecodedAudio:
    if waveform.sample_rate is None:
        raise RowError(
            Stage.READ,
            Code.MALFORMED,
            "the waveform comes without its sample rate: give pairs (waveform, 44100), a struct's field"
            " 'sampling_rate', or a document's tags['sample_rate']",
        )
    rate = _check_rate(waveform.sample_rate)
    samples = _as_array(waveform.samples)
    if samples.ndim == 2 and samples.shape[0] not in (1, 2) and samples.shape[1] in (1, 2):
        message = f"a waveform has shape (n,) or (2, n), got {samples.shape}; transpose it: samples come last"
        raise RowError(Stage.PREPROCESS, Code.WRONG_SHAPE, message)
    if samples.ndim not in (1, 2):
        message = f"a waveform has shape (n,) or (2, n), got {samples.shape}"
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
    return DecodedAudio(np.ascontiguousarray(np.atleast_2d(values).T), rate)


def _as_array(samples: Any) -> np.ndarray:
    try:
        array = np.asarray(samples)
    except ValueError as err:  # channels of unequal length
        raise RowError(Stage.PREPROCESS, Code.WRONG_SHAPE, f"a waveform has shape (n,) or (2, n): {err}") from err
    if array.size == 0:
        return array.astype(np.float32)
    if array.dtype != np.int16 and not np.issubdtype(array.dtype, np.floating):
        raise RowError(
            Stage.PREPROCESS,
            Code.UNSUPPORTED,
            f"a waveform must be float in [-1, 1] or int16 (32768 is full scale), got {array.dtype}",
        )
    return array


def _check_rate(rate: Any) -> float:
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.integer | np.floating):
        message = f"the sample rate must be a number in Hz, got {rate!r:.40}"
        raise RowError(Stage.READ, Code.MALFORMED, message)
    if not MIN_RATE <= rate <= MAX_RATE:  # written so that NaN fails too
        raise RowError(
            Stage.READ,
            Code.OUT_OF_RANGE,
            f"the sample rate is {rate} Hz, allowed are {MIN_RATE:,} to {MAX_RATE:,} Hz",
        )
    return float(rate)


def _check_channels(channels: int, given: str) -> None:
    if channels not in (1, 2):
        raise RowError(Stage.DECODE, Code.WRONG_SHAPE, f"{given}; audio must have one or two channels")


def _check_range(samples: np.ndarray, limit: float, given: str) -> None:
    low, high = float(samples.min()), float(samples.max())
    if not (low >= -limit and high <= limit):  # written so that NaN fails too
        raise RowError(
            Stage.PREPROCESS,
            Code.OUT_OF_RANGE,
            f"{given} between {low:.4g} and {high:.4g}, allowed are {-limit:g} to {limit:g}"
            " (pass 16-bit samples as int16)",
        )
