"""AudioCLIP written down a second time, as plain functions over a state dict, and random weights for it.

Nothing here calls the package's networks: names and shapes come from the published table, the arithmetic from the
model's description, with torch's functions alone. `Variant` makes it wrong in one point, for negative controls.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]
DIM = 1024
_AUDIO_STAGES = ((3, 128, 256, 64, 1), (4, 256, 512, 256, 2), (6, 512, 1024, 512, 2), (3, 1024, 2048, 1024, 2))
_ATTENTIONS = (
    (64, 256, 3, 1),
    (256, 512, 1, 5),
    (512, 1024, 3, 1),
    (1024, 2048, 1, 5),
    (2048, 2048, 3, 5),
)


def layout() -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the published files."""
    found: dict[str, tuple[int, ...]] = {
        "positional_embedding": (77, 512),
        "text_projection": (512, DIM),
        "logit_scale": (),
        "logit_scale_ai": (),
        "logit_scale_at": (),
        "token_embedding.weight": (49408, 512),
        **_pair("ln_final", 512),
    }
    for block in range(12):
        at = f"transformer.resblocks.{block}."
        found |= _pair(at + "ln_1", 512) | _pair(at + "ln_2", 512) | _pair(at + "attn.out_proj", 512, 512)
        found |= {at + "attn.in_proj_weight": (1536, 512), at + "attn.in_proj_bias": (1536,)}
        found |= _pair(at + "mlp.c_fc", 2048, 512) | _pair(at + "mlp.c_proj", 512, 2048)
    for number, (inner, outer) in enumerate(((3, 32), (32, 32), (32, 64)), 1):
        found |= {f"visual.conv{number}.weight": (outer, inner, 3, 3), **_norm(f"visual.bn{number}", outer)}
    inner = 64
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        width = 32 * 2**stage
        found |= _stage(f"visual.layer{stage}", blocks, width, 4 * width, inner, 1)
        inner = 4 * width
    found["visual.attnpool.positional_embedding"] = (50, 2048)
    for name in ("q_proj", "k_proj", "v_proj"):
        found |= _pair(f"visual.attnpool.{name}", 2048, 2048)
    found |= _pair("visual.attnpool.c_proj", DIM, 2048)
    found |= {"audio.window": (1654,), "audio.fbsp.bias": (0,)}
    found |= {f"audio.fbsp.{name}": (1025,) for name in ("m", "fb", "fc")}
    found |= {"audio.conv1.weight": (64, 3, 7, 7), **_norm("audio.bn1", 64)}
    for stage, (blocks, width, outer, inner, _) in enumerate(_AUDIO_STAGES, 1):
        found |= _stage(f"audio.layer{stage}", blocks, width, outer, inner, 32)
    for number, (inner, outer, height, width) in enumerate(_ATTENTIONS, 1):
        at = f"audio.att{number}."
        found |= {at + "conv_depth.weight": (inner, 1, height, width), at + "conv_depth.bias": (inner,)}
        found |= {at + "conv_point.weight": (outer, inner, 1, 1), at + "conv_point.bias": (outer,)}
        found |= _norm(at + "bn", outer)
    return found | _pair("audio.fc", DIM, 2048)


def _pair(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    statistics = {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}
    return {**_pair(name, channels), **statistics, f"{name}.num_batches_tracked": ()}


def _stage(at: str, blocks: int, width: int, outer: int, inner: int, groups: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for block in range(blocks):
        name, fed = f"{at}.{block}.", inner if block == 0 else outer
        found |= {name + "conv1.weight": (width, fed, 1, 1), name + "conv3.weight": (outer, width, 1, 1)}
        found |= {name + "conv2.weight": (width, width // groups, 3, 3)}
        found |= _norm(name + "bn1", width) | _norm(name + "bn2", width) | _norm(name + "bn3", outer)
    found[f"{at}.0.downsample.0.weight"] = (outer, inner, 1, 1)
    return found | _norm(f"{at}.0.downsample.1", outer)


# --- weights ---------------------------------------------------------------------------------------------------------


def draw(seed: int = 0) -> State:
    """Draw weights that matter: biases far from zero, learnt wavelets, and the statistics that real input gives."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: tuple[int, ...], scale: float) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * scale

    state: State = {}
    for name, shape in layout().items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1)
        elif name.startswith("logit_scale"):
            state[name] = torch.tensor(math.log(100.0))
        elif "embedding" in name or name == "text_projection":
            state[name] = normal(shape, 0.05)
        elif name.endswith("bias") or name.endswith("running_mean"):
            state[name] = normal(shape, 0.1)
        elif len(shape) == 1:  # scales of norms, and variances
            scale = 0.4 if "bn3" in name else 1.0  # blocks add to what is there, as trained ones do
            state[name] = (torch.rand(shape, generator=generator) * 0.5 + 0.75) * scale
        else:
            gain = 2.0 if "transformer" in name or "attnpool" in name else 1.4
            state[name] = normal(shape, gain / math.sqrt(math.prod(shape[1:])))
    turn = 2 * math.pi * torch.arange(1654, dtype=torch.float64) / 1654
    window = 0.35875 - 0.48829 * torch.cos(turn) + 0.14128 * torch.cos(2 * turn) - 0.01168 * torch.cos(3 * turn)
    state["audio.window"] = window.float()
    bins = torch.arange(1025, dtype=torch.float32)
    state["audio.fbsp.m"] = torch.rand(1025, generator=generator) * 0.4
    state["audio.fbsp.fb"] = 1 + normal((1025,), 0.05)
    state["audio.fbsp.fc"] = bins + normal((1025,), 0.2)
    settle = Variant(settle=True)
    with torch.inference_mode():
        audio(state, torch.from_numpy(np.stack([sound(n, 12_000) for n in range(3)]))[:, None] * 32768.0, settle)
        coarse = torch.randn(2, 3, 14, 14, generator=generator)
        image(state, F.interpolate(coarse, 224, mode="bilinear") * 1.5, settle)
    return {name: tensor.clone() for name, tensor in state.items()}


def sound(seed: int, samples: int = 30_000) -> np.ndarray:
    """Return (samples,) float32 within [-1, 1]: tones that fade over noise, another for each seed."""
    generator = np.random.default_rng(seed)
    at = np.arange(samples) / 44_100
    made = generator.standard_normal(samples) * 10 ** generator.uniform(-2.5, -1.5)
    for frequency in generator.uniform(80, 9_000, 5):
        made += (
            generator.uniform(0.02, 0.15) * np.sin(2 * np.pi * frequency * at) * np.exp(-at * generator.uniform(0, 4))
        )
    return np.clip(made, -1, 1).astype(np.float32)


# --- the towers ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Variant:
    """What is done differently, each a mistake that is easily made (but for `settle` and `by_batch`).

    Attributes:
        settle: Take the statistics of what goes through as the batch norms' own.
        by_batch: Normalise by the statistics of what goes through.
        centred: Frame as a short-time Fourier transform does, mirrored by half a window on each side.
        double_kernel: Compute the wavelets in double precision.
        sinc_of_pi: Take the sinc that has its zeros at whole numbers.
        natural: Take the natural logarithm.
        bins_from: First bin of the picture.
        gelu: Use the exact GELU in the text tower.
    """

    settle: bool = False
    by_batch: bool = False
    centred: bool = False
    double_kernel: bool = False
    sinc_of_pi: bool = False
    natural: bool = False
    bins_from: int = 0
    gelu: bool = False


RIGHT = Variant()


def _conv(state: State, name: str, values: torch.Tensor, **options: int | tuple[int, int]) -> torch.Tensor:
    return F.conv2d(values, state[f"{name}.weight"], state.get(f"{name}.bias"), **options)


def _normed(state: State, name: str, values: torch.Tensor, variant: Variant) -> torch.Tensor:
    if variant.settle:
        state[f"{name}.running_mean"] = values.mean(dim=(0, 2, 3))
        state[f"{name}.running_var"] = values.var(dim=(0, 2, 3)).clamp(min=1e-3)
    if variant.by_batch:
        mean, var = values.mean(dim=(0, 2, 3)), values.var(dim=(0, 2, 3), correction=0)
    else:
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    column = (slice(None), None, None)
    scaled = (values - mean[column]) / torch.sqrt(var[column] + 1e-5)
    return scaled * state[f"{name}.weight"][column] + state[f"{name}.bias"][column]


def kernel(state: State, variant: Variant = RIGHT) -> torch.Tensor:
    """Return the (1025, 2048) complex wavelets."""
    kind = torch.float64 if variant.double_kernel else torch.float32
    m, fb, fc = (state[f"audio.fbsp.{name}"].to(kind).unsqueeze(1) for name in ("m", "fb", "fc"))
    t = np.pi * torch.linspace(-1, 1, 2048, dtype=kind) + 1e-8
    x = fb * t / (m + 1e-8)
    if variant.sinc_of_pi:
        x = np.pi * x
    s = torch.where(x == 0, torch.ones_like(x), torch.sin(x) / x)
    angle = torch.atan2(torch.zeros_like(s), s)
    radius = (torch.sqrt(s**2) ** 2) ** (0.5 * m)
    (a, b), (c, d) = (
        (radius * torch.cos(m * angle), radius * torch.sin(m * angle)),
        (torch.cos(fc * t), -torch.sin(fc * t)),
    )
    # multiplied by hand: the rounding of torch's complex product alone moves vectors of un-scaled sounds by 1e-4
    norm = math.sqrt(2048)
    return torch.complex(torch.sqrt(fb) * (a * c - b * d) / norm, torch.sqrt(fb) * (a * d + b * c) / norm).to(
        torch.complex64
    )


def frames(wave: np.ndarray, variant: Variant = RIGHT) -> np.ndarray:
    """Return (n, 1654) frames of a waveform of (samples,), after the map to [-1, 1]."""
    if variant.centred:
        wave = np.pad(wave, 1024, mode="reflect")
    count = 1 if len(wave) <= 1654 else 1 + math.ceil((len(wave) - 1654) / 561)
    total = (count - 1) * 561 + 1654
    left = math.floor((total - len(wave)) / 2)
    padded = np.zeros(total, np.float32)
    padded[left : left + len(wave)] = wave
    return np.stack([padded[561 * j : 561 * j + 1654] for j in range(count)])


def picture(state: State, waves: torch.Tensor, variant: Variant = RIGHT) -> torch.Tensor:
    """Return (n, 3, 341, frames) of (n, samples)."""
    mapped = ((waves - (-32768)) * 2) / 65535 + (-1)
    cut = np.stack([frames(wave.numpy(), variant) for wave in mapped]) * state["audio.window"].numpy()
    filled = torch.from_numpy(np.pad(cut, ((0, 0), (0, 0), (197, 197))))
    wavelets = kernel(state, variant)
    real, imaginary = filled @ wavelets.real.T, filled @ wavelets.imag.T
    first = variant.bins_from
    power = (real**2 + imaginary**2).transpose(1, 2)[:, first : first + 1023]
    power = torch.where(power > 0, power, torch.full_like(power, 1e-18))
    decibels = 10 * (torch.log(power) if variant.natural else torch.log10(power))
    return torch.stack([decibels[:, 341 * band : 341 * (band + 1)] for band in range(3)], dim=1)


def features(state: State, pictures: torch.Tensor, variant: Variant = RIGHT) -> torch.Tensor:
    """Return (n, 2048), what is summed over the channels."""
    values = torch.relu(
        _normed(state, "audio.bn1", _conv(state, "audio.conv1", pictures, stride=2, padding=3), variant)
    )
    values = F.max_pool2d(values, 3, 2, 1)
    for stage, (blocks, _, _, _, stride) in enumerate(_AUDIO_STAGES, 1):
        fed = values
        for block in range(blocks):
            name, step = f"audio.layer{stage}.{block}.", stride if block == 0 else 1
            inside = torch.relu(_normed(state, name + "bn1", _conv(state, name + "conv1", values), variant))
            inside = _conv(state, name + "conv2", inside, stride=step, padding=1, groups=32)
            inside = torch.relu(_normed(state, name + "bn2", inside, variant))
            inside = _normed(state, name + "bn3", _conv(state, name + "conv3", inside), variant)
            if block == 0:
                values = _conv(state, name + "downsample.0", values, stride=step)
                values = _normed(state, name + "downsample.1", values, variant)
            values = torch.relu(inside + values)
        values = values * _attention(state, stage, fed, values.shape[2:], variant)
    weights = _attention(state, 5, values, (1, 1), variant)
    return (values.mean(dim=(2, 3), keepdim=True) * weights).flatten(1)


def _attention(state: State, number: int, fed: torch.Tensor, size: tuple[int, int], variant: Variant) -> torch.Tensor:
    at = f"audio.att{number}."
    inner, _, height, width = _ATTENTIONS[number - 1]
    pooled = F.adaptive_max_pool2d(fed, size)
    deep = _conv(state, at + "conv_depth", pooled, padding=(height // 2, width // 2), groups=inner)
    return torch.sigmoid(_normed(state, at + "bn", _conv(state, at + "conv_point", deep), variant))


def audio(state: State, waves: torch.Tensor, variant: Variant = RIGHT) -> torch.Tensor:
    """Return (n, 1024) of (n, channels, samples), scaled as they should be."""
    by_channel = [features(state, picture(state, wave, variant), variant) for wave in waves.unbind(1)]
    return sum(by_channel) @ state["audio.fc.weight"].T + state["audio.fc.bias"]


def jina_audio(state: State, wave: torch.Tensor) -> torch.Tensor:
    """Return (1, 1024) of one sound (channels, samples) in [-1, 1], as Jina's executor computed it."""
    return audio(state, torch.stack([wave, wave]), Variant(by_batch=True))[:1]


def text(state: State, ids: torch.Tensor, variant: Variant = RIGHT) -> torch.Tensor:
    """Return (n, 1024) of (n, 77) ids."""
    values = state["token_embedding.weight"][ids] + state["positional_embedding"]
    hidden = torch.full((77, 77), -math.inf).triu(1)
    for block in range(12):
        at = f"transformer.resblocks.{block}."
        normed = _layer_norm(state, at + "ln_1", values)
        queries, keys, contents = (
            part.unflatten(-1, (8, 64)).transpose(1, 2)
            for part in (normed @ state[at + "attn.in_proj_weight"].T + state[at + "attn.in_proj_bias"]).chunk(3, -1)
        )
        weights = torch.softmax(queries @ keys.transpose(-1, -2) / 8 + hidden, dim=-1)
        values = values + _linear(state, at + "attn.out_proj", (weights @ contents).transpose(1, 2).flatten(2))
        inside = _linear(state, at + "mlp.c_fc", _layer_norm(state, at + "ln_2", values))
        inside = F.gelu(inside) if variant.gelu else inside * torch.sigmoid(1.702 * inside)
        values = values + _linear(state, at + "mlp.c_proj", inside)
    last = _layer_norm(state, "ln_final", values)[torch.arange(len(ids)), ids.argmax(dim=1)]
    return last @ state["text_projection"]


def _linear(state: State, name: str, values: torch.Tensor) -> torch.Tensor:
    return values @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _layer_norm(state: State, name: str, values: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(values, (512,), state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)


def image(state: State, pixels: torch.Tensor, variant: Variant = RIGHT) -> torch.Tensor:
    """Return (n, 1024) of normalised (n, 3, 224, 224)."""
    values = pixels
    for number, stride in ((1, 2), (2, 1), (3, 1)):
        values = _conv(state, f"visual.conv{number}", values, stride=stride, padding=1)
        values = torch.relu(_normed(state, f"visual.bn{number}", values, variant))
    values = F.avg_pool2d(values, 2)
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        for block in range(blocks):
            name, stride = f"visual.layer{stage}.{block}.", 2 if block == 0 and stage > 1 else 1
            inside = torch.relu(_normed(state, name + "bn1", _conv(state, name + "conv1", values), variant))
            inside = _conv(state, name + "conv2", inside, padding=1)
            inside = F.avg_pool2d(torch.relu(_normed(state, name + "bn2", inside, variant)), stride)
            inside = _normed(state, name + "bn3", _conv(state, name + "conv3", inside), variant)
            if block == 0:
                values = _conv(state, name + "downsample.0", F.avg_pool2d(values, stride))
                values = _normed(state, name + "downsample.1", values, variant)
            values = torch.relu(inside + values)
    tokens = values.flatten(2).transpose(1, 2)
    tokens = (
        torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + state["visual.attnpool.positional_embedding"]
    )
    heads = [_linear(state, f"visual.attnpool.{kind}_proj", tokens).unflatten(-1, (32, 64)) for kind in "qkv"]
    queries, keys, contents = (part.transpose(1, 2) for part in heads)
    weights = torch.softmax(queries[:, :, :1] @ keys.transpose(-1, -2) / 8, dim=-1)
    return _linear(state, "visual.attnpool.c_proj", (weights @ contents).transpose(1, 2).flatten(2))[:, 0]
