"""AudioCLIP's audio tower: a ResNeXt over a learnt spectrogram, every stage weighted by an attention over its input.

The architecture is ESResNe(X)t-fbsp (Guzhov et al., "ESResNe(X)t-fbsp", IJCNN 2021). The parameters have the names in
the published files.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import conv2d, max_pool2d, relu

from .audioclip_spectrogram import BAND_BINS, BANDS, WINDOW, Spectrogram, Wavelets

_GROUPS = 32
_STAGES = ((3, 128, 256), (4, 256, 512), (6, 512, 1024), (3, 1024, 2048))
"""Number of blocks, width and output channels of the four stages."""


class FirstConvolution(nn.Module):
    """The convolution over the spectrogram, always in single precision.

    In bfloat16, decibels around -60 have steps of 0.25. It is not an `nn.Conv2d`, since a runtime reduces the
    precision of those.
    """

    def __init__(self, outer: int) -> None:
        """Allocate the weights for `outer` output channels."""
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outer, BANDS, 7, 7))

    def forward(self, spectrograms: torch.Tensor) -> torch.Tensor:
        """Compute (n, outer, H / 2, W / 2) from (n, 3, H, W)."""
        with torch.autocast(spectrograms.device.type, enabled=False):
            return conv2d(spectrograms, self.weight.float(), stride=2, padding=3)


class Block(nn.Module):
    """A bottleneck of a ResNeXt, with the stride in the grouped convolution."""

    def __init__(self, inner: int, width: int, outer: int, stride: int, *, shortcut: bool) -> None:
        """Build the block.

        Args:
            inner: Input channels.
            width: Channels of the grouped convolution.
            outer: Output channels.
            stride: Of height and width.
            shortcut: Whether the shortcut has a convolution.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(inner, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, groups=_GROUPS, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outer, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outer)
        self.downsample: nn.Module = nn.Identity()
        if shortcut:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Compute the block: (n, inner, H, W) to (n, outer, H / stride, W / stride)."""
        inside = relu(self.bn1(self.conv1(values)))
        inside = relu(self.bn2(self.conv2(inside)))
        return relu(self.bn3(self.conv3(inside)) + self.downsample(values))


class Attention(nn.Module):
    """Weights between 0 and 1 for the output of a stage, computed from its input."""

    def __init__(
        self, inner: int, outer: int, kernel: tuple[int, int], pool: Callable[[torch.Tensor], torch.Tensor]
    ) -> None:
        """Build the attention.

        Args:
            inner: Input channels.
            outer: Channels of the weights.
            kernel: Height and width of the convolution along each channel.
            pool: Reduces height and width of the input to those of the output.
        """
        super().__init__()
        self.pool = pool
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv_depth = nn.Conv2d(inner, inner, kernel, padding=padding, groups=inner)
        self.conv_point = nn.Conv2d(inner, outer, 1)
        self.bn = nn.BatchNorm2d(outer)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Compute the weights (n, outer, h, w) from (n, inner, H, W)."""
        return torch.sigmoid(self.bn(self.conv_point(self.conv_depth(self.pool(values)))))


def unchanged(values: torch.Tensor) -> torch.Tensor:
    """Return the values themselves: a stage with stride 1 keeps height and width."""
    return values


def halve(values: torch.Tensor) -> torch.Tensor:
    """Halve height and width, rounded up, by maxima: (n, c, H, W) to (n, c, ceil(H / 2), ceil(W / 2)).

    It equals `adaptive_max_pool2d`, which graphs do not have for sizes that are not known when they are made: maxima of
    two values, or of three in overlapping windows that begin one earlier if the length is odd.
    """
    for dim in (2, 3):
        length = values.shape[dim]
        at = torch.arange(0, length, 2, device=values.device)
        before, after = (at - length % 2).clamp(min=0), (at + 1).clamp(max=length - 1)
        first, middle, last = (values.index_select(dim, places) for places in (before, at, after))
        values = torch.maximum(torch.maximum(first, middle), last)
    return values


def whole(values: torch.Tensor) -> torch.Tensor:
    """Return the maximum of each channel: (n, c, H, W) to (n, c, 1, 1)."""
    return values.amax(dim=(2, 3), keepdim=True)


class ClipNorm(nn.Module):
    """A batch norm with the statistics of each clip, instead of those of the training.

    Jina's executor normalised the batch of a clip and its copy in this way; their statistics are those of the clip.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        """Take the weights of a batch norm."""
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Normalise (n, c, H, W)."""
        variance, mean = torch.var_mean(values.float(), dim=(2, 3), correction=0, keepdim=True)
        column = (slice(None), None, None)
        return (values - mean) * torch.rsqrt(variance + self.eps) * self.weight[column] + self.bias[column]


_ATTENTIONS = (
    (64, 256, (3, 1), unchanged),
    (256, 512, (1, 5), halve),
    (512, 1024, (3, 1), halve),
    (1024, 2048, (1, 5), halve),
    (2048, 2048, (3, 5), whole),
)
"""Input and output channels, kernel and pooling of each stage's attention, and of the one before the pooling."""


class AudioTower(nn.Module):
    """Embeds waveforms.

    Call `prepare` once after loading the weights; the tower cannot run before.
    """

    window: torch.Tensor

    def __init__(self, dim: int) -> None:
        """Build the tower.

        Args:
            dim: Values in a vector.
        """
        super().__init__()
        self.register_buffer("window", torch.zeros(WINDOW))
        self.fbsp = Wavelets()
        self.conv1 = FirstConvolution(64)
        self.bn1 = nn.BatchNorm2d(64)
        inner = 64
        for number, (blocks, width, outer) in enumerate(_STAGES, 1):
            stride = 1 if number == 1 else 2
            first = Block(inner, width, outer, stride, shortcut=True)
            rest = [Block(outer, width, outer, 1, shortcut=False) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            inner = outer
        for number, (inner, outer, kernel, pool) in enumerate(_ATTENTIONS, 1):
            self.add_module(f"att{number}", Attention(inner, outer, kernel, pool))
        self.fc = nn.Linear(_STAGES[-1][2], dim)
        self.spectrogram: Spectrogram | None = None

    def prepare(self, mode: str) -> None:
        """Compute the kernel from the weights, and set the statistics of the batch norms.

        Args:
            mode: `reference` (statistics of the training) or `jina` (statistics of each clip).

        Raises:
            ValueError: If the kernel is not finite; the message has the first bins where it is not.
        """
        bins = BANDS * BAND_BINS
        kernel = self.fbsp.kernel(bins)
        broken = torch.nonzero(~torch.isfinite(kernel).all(dim=2).all(dim=0)).flatten().tolist()
        if broken:
            raise ValueError(
                f"the wavelets of {len(broken)} of {bins} bins are not finite (the first are {broken[:3]}):"
                " audio.fbsp.m and audio.fbsp.fb must not be negative"
            )
        self.spectrogram = Spectrogram(kernel, self.window)
        if mode == "jina":
            norms = [(name, norm) for name, norm in self.named_modules() if isinstance(norm, nn.BatchNorm2d)]
            for name, norm in norms:
                self.set_submodule(name, ClipNorm(norm))

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        """Embed waveforms of equal length.

        Args:
            waves: (n, channels, samples) float32 in [-1, 1].

        Returns:
            (n, dim) float32, not normalised. The channels are pooled separately, and their features summed.
        """
        assert self.spectrogram is not None  # see `prepare`
        count, channels, samples = waves.shape
        pooled = self._features(self.spectrogram(waves.reshape(count * channels, samples)))
        return self.fc(pooled.reshape(count, channels, -1).sum(dim=1))

    def _features(self, spectrograms: torch.Tensor) -> torch.Tensor:
        """Return (n, 2048) of (n, 3, 341, frames)."""
        values = relu(self.bn1(self.conv1(spectrograms)))
        values = max_pool2d(values, 3, stride=2, padding=1)
        for number in range(1, len(_STAGES) + 1):
            values = self.get_submodule(f"layer{number}")(values) * self.get_submodule(f"att{number}")(values)
        return (values.mean(dim=(2, 3), keepdim=True) * self.get_submodule("att5")(values)).flatten(1)
