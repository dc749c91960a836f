"""AudioCLIP's audio tower: a ResNeXt over a learnt spectrogram, every stage weighted by an attention over its input.

The architecture is ESResNe(X)t-fbsp (Guzhov et al., "ESResNe(X)t-fbsp", IJCNN 2021). The parameters have the names in
the published files.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d, adaptive_max_pool2d, conv2d, max_pool2d, relu

from .audioclip_spectrogram import BAND_BINS, BANDS, WINDOW, Spectrogram, Wavelets

_GROUPS = 32
_STAGES = ((3, 128, 256), (4, 256, 512), (6, 512, 1024), (3, 1024, 2048))
"""Number of blocks, width and output channels of the four stages."""
_ATTENTIONS = (
    (64, 256, (3, 1)),
    (256, 512, (1, 5)),
    (512, 1024, (3, 1)),
    (1024, 2048, (1, 5)),
    (2048, 2048, (3, 5)),
)
"""Input and output channels and kernel of each stage's attention, and of the one before the pooling."""


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

    def __init__(self, inner: int, outer: int, kernel: tuple[int, int]) -> None:
        """Build the attention.

        Args:
            inner: Input channels.
            outer: Channels of the weights.
            kernel: Height and width of the convolution along each channel.
        """
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv_depth = nn.Conv2d(inner, inner, kernel, padding=padding, groups=inner)
        self.conv_point = nn.Conv2d(inner, outer, 1)
        self.bn = nn.BatchNorm2d(outer)

    def forward(self, values: torch.Tensor, size: torch.Size | tuple[int, int]) -> torch.Tensor:
        """Compute (n, outer, *size) weights from (n, inner, H, W)."""
        pooled = adaptive_max_pool2d(values, list(size))
        return torch.sigmoid(self.bn(self.conv_point(self.conv_depth(pooled))))


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
        for number, (inner, outer, kernel) in enumerate(_ATTENTIONS, 1):
            self.add_module(f"att{number}", Attention(inner, outer, kernel))
        self.fc = nn.Linear(_STAGES[-1][2], dim)
        self.spectrogram: Spectrogram | None = None
        self._by_batch = False

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
        self._by_batch = mode == "jina"
        if self._by_batch:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):  # without running statistics it uses those of its input
                    module.track_running_stats = False
                    module.running_mean = module.running_var = None

    def forward(self, waves: torch.Tensor) -> torch.Tensor:
        """Embed waveforms of equal length.

        Args:
            waves: (n, channels, samples) float32.

        Returns:
            (n, dim) float32, not normalised. The channels are pooled separately, and their features summed.
        """
        assert self.spectrogram is not None  # see `prepare`
        count, channels, samples = waves.shape
        spectrograms = self.spectrogram(waves.reshape(count * channels, samples))
        if self._by_batch:
            # each with a copy of itself, so that every channel has two values for its statistics
            pooled = torch.cat([self._features(torch.stack([one, one]))[:1] for one in spectrograms])
        else:
            pooled = self._features(spectrograms)
        return self.fc(pooled.reshape(count, channels, -1).sum(dim=1))

    def _features(self, spectrograms: torch.Tensor) -> torch.Tensor:
        """Return (n, 2048) of (n, 3, 341, frames)."""
        values = relu(self.bn1(self.conv1(spectrograms)))
        values = max_pool2d(values, 3, stride=2, padding=1)
        for number in range(1, len(_STAGES) + 1):
            made = self.get_submodule(f"layer{number}")(values)
            values = made * self.get_submodule(f"att{number}")(values, made.shape[2:])
        weights = self.get_submodule("att5")(values, (1, 1))
        return (adaptive_avg_pool2d(values, 1) * weights).flatten(1)
