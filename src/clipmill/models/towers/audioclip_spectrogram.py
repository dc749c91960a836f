"""The input of AudioCLIP's audio tower: a learnt spectrogram in decibels.

The transform uses frequency B-spline wavelets whose exponents, bandwidths and centres were learnt for each bin; where
the exponents are 0 it is a discrete Fourier transform on its own grid. Since the values are decibels, the weakest bins
matter as much as the strongest: all operations are in single precision and in the order of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch.nn.functional import pad

FFT = 2048
"""Samples of one wavelet; frames are padded to it with zeros on both sides."""
WINDOW = 1654
HOP = 561
BINS = FFT // 2 + 1
BANDS, BAND_BINS = 3, 341
"""The spectrum is split into three bands, the channels of the spectrogram; the last two bins are unused."""
_EPSILON = 1e-8
_SILENCE = 1e-18
"""Replaces a power of 0 in the logarithm."""
_LEFT = (FFT - WINDOW) // 2


class Wavelets(torch.nn.Module):
    """The learnt parameters of the transform: `m` (exponents), `fb` (bandwidths) and `fc` (centres), (1025,) each."""

    def __init__(self) -> None:
        """Allocate the parameters."""
        super().__init__()
        self.m = torch.nn.Parameter(torch.zeros(BINS))
        self.fb = torch.nn.Parameter(torch.ones(BINS))
        self.fc = torch.nn.Parameter(torch.arange(BINS, dtype=torch.float32))

    def kernel(self, bins: int = BANDS * BAND_BINS) -> torch.Tensor:
        """Compute the wavelets.

        A kernel in double precision, or with differently rounded points, changes embeddings by up to 2e-3.

        Args:
            bins: The number of bins, from the lowest.

        Returns:
            (2, bins, 2048) float32: real and imaginary parts.
        """
        m, fb, fc = (values.detach()[:bins, None].float() for values in (self.m, self.fb, self.fc))
        points = math.pi * torch.linspace(-1, 1, FFT) + _EPSILON
        angles = fb * points / (m + _EPSILON)
        sinc = torch.where(angles == 0, 1.0, torch.sin(angles) / angles)
        magnitude = (sinc * sinc) ** 0.5
        phase = torch.where(sinc < 0, math.pi, 0.0)
        power = (magnitude * magnitude) ** (0.5 * m)
        spline = power * torch.cos(m * phase), power * torch.sin(m * phase)
        carrier = torch.cos(fc * points), -torch.sin(fc * points)
        product = (
            spline[0] * carrier[0] - spline[1] * carrier[1],
            spline[0] * carrier[1] + spline[1] * carrier[0],
        )
        return torch.stack([torch.sqrt(fb) * part / math.sqrt(FFT) for part in product])


class Spectrogram(torch.nn.Module):
    """Computes the spectrogram of a waveform with a fixed kernel. It stays in single precision when it is moved."""

    kernel: torch.Tensor
    window: torch.Tensor

    def __init__(self, kernel: torch.Tensor, window: torch.Tensor) -> None:
        """Store the kernel.

        Args:
            kernel: (2, 1023, 2048) float32.
            window: (1654,) float32.
        """
        super().__init__()
        self.register_buffer("kernel", kernel.reshape(-1, FFT).T.contiguous(), persistent=False)
        self.register_buffer("window", window.clone(), persistent=False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        def move(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)  # never half precision

        moved: Any = super()._apply(move, recurse)
        return moved

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        """Compute spectrograms.

        Args:
            waves: (n, samples) float32 in [-1, 1].

        Returns:
            (n, 3, 341, frames) float32, decibels.
        """
        with torch.autocast(waves.device.type, enabled=False):
            # padded, though zeros add nothing: a shorter sum rounds differently, and changes vectors by 2e-5
            values = pad(frame(waves) * self.window, (_LEFT, FFT - WINDOW - _LEFT))
            spectrum = values @ self.kernel
            real, imaginary = spectrum.split(BANDS * BAND_BINS, dim=-1)
            power = real * real + imaginary * imaginary
            decibels = 10.0 * torch.log10(torch.where(power > 0, power, _SILENCE))
            count, frames = decibels.shape[:2]
            return decibels.transpose(1, 2).reshape(count, BANDS, BAND_BINS, frames)


def frame(waves: torch.Tensor) -> torch.Tensor:
    """Cut waveforms into frames, padded with zeros on both sides so that the last frame is complete.

    Args:
        waves: (n, samples).

    Returns:
        (n, frames, 1654).
    """
    samples = waves.shape[-1]
    # operations that graphs have as well, for a number of samples that is not known when a graph is made
    frames = 1 + (torch.sym_max(samples - WINDOW, 0) + HOP - 1) // HOP
    missing = (frames - 1) * HOP + WINDOW - samples
    sides: Any = (missing // 2, missing - missing // 2)
    padded = pad(waves, sides)
    starts = torch.arange(frames, device=waves.device) * HOP
    return padded[:, starts[:, None] + torch.arange(WINDOW, device=waves.device)]
