"""Mel spectrograms in decibels, of windows of a waveform, as CLAP's models read them.

The filters are those of Slaney's Auditory Toolbox (technical report 1998-010, Interval Research): triangles of equal
area, spaced evenly on a scale that is linear up to 1,000 Hz and logarithmic above. All is computed in double precision,
like the reference, since decibels show the weakest bins.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

_LINEAR_STEP = 200.0 / 3
"""Hz per mel below 1,000 Hz."""
_BREAK_HZ, _BREAK_MEL = 1_000.0, 15.0
_LOG_STEP = math.log(6.4) / 27
"""Natural logarithm of the ratio of frequencies one mel apart, above 1,000 Hz."""
PADDINGS = ("repeatpad", "repeat", "pad")
_FLOOR = 1e-10
"""The least power: -100 dB."""
MAX_VALUES = 2**24
"""The most values in the frames of a window, in a spectrogram or in the filters, 16 times those of the published
models: settings are untrusted."""
_BLOCK = 16
"""Frames that are transformed at once: they fit into the processor's cache, and the product with the filters is too
small for BLAS to start threads, which would fight with those that decode."""


@dataclasses.dataclass(frozen=True, slots=True)
class MelSpectrogram:
    """How windows of a waveform become spectrograms.

    Attributes:
        window_samples: Samples of a window, which is what the model reads at once.
        bins: Mel bins.
        fft: Samples of a frame, and of its Fourier transform.
        hop: Samples from one frame to the next.
        low: The lowest frequency of a filter, in Hz.
        high: The highest frequency of a filter, in Hz.
        padding: How a shorter waveform fills a window: `repeatpad` (repeated as a whole, then zeros), `repeat`
            (repeated to the end) or `pad` (zeros).
    """

    window_samples: int
    bins: int
    fft: int
    hop: int
    low: float
    high: float
    padding: str

    def __post_init__(self) -> None:
        """Check the settings, which may be from a file, before anything is computed from them.

        Raises:
            ValueError: If one is invalid, or they would take much more memory than those of any model.
        """
        if self.fft % 2 or not 1 <= self.hop <= self.fft <= self.window_samples or self.bins < 1:
            raise ValueError(
                f"a spectrogram of {self.bins} bins, with frames of {self.fft} samples (an even number), one every"
                f" {self.hop} (at least 1), cannot be that of a window of {self.window_samples} samples"
            )
        if max(self.frames * max(self.fft, self.bins), self.fft * self.bins) > MAX_VALUES:
            raise ValueError(
                f"a spectrogram of {self.bins} bins and {self.frames} frames of {self.fft} samples has over"
                f" {MAX_VALUES:,} values"
            )
        if not 0 <= self.low < self.high:
            raise ValueError(f"a spectrogram from {self.low:g} to {self.high:g} Hz has no frequencies")
        if self.padding not in PADDINGS:
            raise ValueError(f"the padding is {self.padding!r}; it must be one of {', '.join(PADDINGS)}")

    @property
    def frames(self) -> int:
        """Frames of a window: they are centred, so that the first and the last are half outside of it."""
        return 1 + self.window_samples // self.hop


def mel_windows(wave: np.ndarray, sample_rate: int, mel: MelSpectrogram) -> np.ndarray:
    """Compute the spectrograms of the windows of a waveform.

    Args:
        wave: (samples,), at least one.
        sample_rate: Of the waveform, in Hz.
        mel: The settings.

    Returns:
        (windows, frames, bins) float32, decibels.
    """
    return np.stack([_spectrogram(part, sample_rate, mel) for part in windows(wave, mel)])


def windows(wave: np.ndarray, mel: MelSpectrogram) -> list[np.ndarray]:
    """Cut a waveform into windows.

    A shorter one fills one window. A longer one gets as few windows as cover it, evenly spaced from its start to its
    end, so that they overlap. The reference takes one window at a random place, which gives another vector each time.

    Args:
        wave: (samples,).
        mel: The settings.
    """
    size, given = mel.window_samples, len(wave)
    if given <= size:
        if mel.padding != "pad":
            wave = np.tile(wave, size // given if mel.padding == "repeatpad" else size // given + 1)[:size]
        return [np.pad(wave, (0, size - len(wave)))]
    count = -(-given // size)
    return [wave[start : start + size] for start in (n * (given - size) // (count - 1) for n in range(count))]


def _spectrogram(wave: np.ndarray, sample_rate: int, mel: MelSpectrogram) -> np.ndarray:
    """Return (frames, bins) float32 of one window."""
    padded = np.pad(wave.astype(np.float64), mel.fft // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, mel.fft)[:: mel.hop]
    filters = mel_filters(mel.bins, mel.fft, sample_rate, mel.low, mel.high)
    filtered = np.empty((mel.frames, mel.bins))
    for first in range(0, mel.frames, _BLOCK):
        spectrum = np.fft.rfft(frames[first : first + _BLOCK] * _hann(mel.fft), axis=1)
        filtered[first : first + _BLOCK] = (spectrum.real**2 + spectrum.imag**2) @ filters
    return (10.0 * np.log10(np.maximum(filtered, _FLOOR))).astype(np.float32)


@functools.cache
def _hann(size: int) -> np.ndarray:
    """Return the periodic Hann window."""
    return np.hanning(size + 1)[:-1]


@functools.lru_cache(maxsize=8)
def mel_filters(bins: int, fft: int, sample_rate: int, low: float, high: float) -> np.ndarray:
    """Return Slaney's filters.

    Args:
        bins: Number of filters.
        fft: Samples of the Fourier transform.
        sample_rate: In Hz.
        low: The lowest frequency, in Hz.
        high: The highest frequency, in Hz.

    Returns:
        (fft / 2 + 1, bins) float64.
    """
    lowest, highest = _mel(np.array([low, high]))
    edges = _hertz(np.linspace(lowest, highest, bins + 2))
    frequencies = np.linspace(0, sample_rate // 2, fft // 2 + 1)[:, None]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])


def _mel(hertz: np.ndarray) -> np.ndarray:
    above = _BREAK_MEL + np.log(np.maximum(hertz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hertz < _BREAK_HZ, hertz / _LINEAR_STEP, above)


def _hertz(mels: np.ndarray) -> np.ndarray:
    above = _BREAK_HZ * np.exp(_LOG_STEP * (mels - _BREAK_MEL))
    return np.where(mels < _BREAK_MEL, mels * _LINEAR_STEP, above)
