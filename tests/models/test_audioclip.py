"""AudioCLIP's vectors equal those of a second implementation, and every comparison can fail."""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
from pathlib import Path
from typing import Any

import audioclip_reference as reference
import numpy as np
import open_clip
import pytest
import torch
from audioclip_reference import Variant, sound
from open_clip.transform import image_transform
from pictures import encode, photographs
from PIL import Image
from weights import relative_error

from clipmill.datasets.tables.provenance import differences, provenance_of
from clipmill.encoders import EncoderSpec, Item, load_encoder, unload_all
from clipmill.encoders.item import item_of_value
from clipmill.media.audio import DecodedAudio, waveform_for
from clipmill.media.options import AudioFrontend
from clipmill.models.towers import find_source
from clipmill.models.towers.audioclip_audio import AudioTower, halve
from clipmill.models.towers.audioclip_build import build, build_module
from clipmill.models.towers.audioclip_spectrogram import Wavelets, frame

RATE = 44_100
TEXTS = ["cat", "an alarm clock, ringing", "ÜBER-straße 日本 🙂", "word " * 200]
EXACT = {"device": "cpu", "runtime": "torch", "precision": "fp32"}
TOLERANCE = 1e-4
VISIBLE = 1e-3
"""Every mistake changes vectors by more than this; most by a thousand times the tolerance."""


@pytest.fixture(scope="module")
def state() -> reference.State:
    return reference.draw()


@pytest.fixture(scope="module")
def path(state, tmp_path_factory) -> Path:
    """Return a file in the published layout."""
    path = tmp_path_factory.mktemp("weights") / "AudioCLIP-Full-Training.pt"
    torch.save(state, path)
    yield path
    unload_all()
    path.unlink()  # half a gigabyte, which pytest would keep for three runs


@pytest.fixture(scope="module")
def towers(path) -> dict[str, torch.nn.Module]:
    return build(path, "reference")


@pytest.fixture
def encoder(path):
    return load_encoder(f"AudioCLIP::{path}", **EXACT)


@pytest.fixture(scope="module")
def waves() -> np.ndarray:
    """Return (2, 8001) float32 in [-1, 1], a fifth of a second each."""
    return np.stack([sound(seed, 8_001) for seed in range(2)])


@pytest.fixture(scope="module")
def right(state, waves) -> np.ndarray:
    """Return the reference's vectors of the waves."""
    return audio(state, waves).numpy()


@pytest.fixture(scope="module")
def ours(path, waves) -> np.ndarray:
    """Return our vectors of the waves, both in one call."""
    return load_encoder(f"AudioCLIP::{path}", **EXACT).embed_audios([(wave, RATE) for wave in waves])


def audio(state: reference.State, waves: np.ndarray, variant: Variant = reference.RIGHT, scale: float = 32768.0):
    """Return the reference's vectors of (n, samples) or (n, channels, samples) in [-1, 1]."""
    waves = torch.from_numpy(waves[:, None] if waves.ndim == 2 else waves) * scale
    with torch.inference_mode():
        return reference.audio(state, waves, variant)


# --- the three towers ------------------------------------------------------------------------------------------------


def test_names_and_shapes_are_those_of_the_published_files() -> None:
    """861 names, with the published numbers of parameters in each part; the network has them all and no others."""
    layout = reference.layout()
    own = {name: tuple(tensor.shape) for name, tensor in build_module().state_dict().items()}
    assert len(layout) == 861
    assert own == {name: shape for name, shape in layout.items() if name != "audio.fbsp.bias"}
    trained = {name: shape for name, shape in layout.items() if not name.endswith(("tracked", "mean", "var", "window"))}
    parts = {"transformer.": 37_828_608, "visual.": 38_316_896, "audio.": 32_104_771, "": 134_111_910}
    for part, count in parts.items():
        assert sum(int(np.prod(shape)) for name, shape in trained.items() if name.startswith(part)) == count, part
    assert EncoderSpec("AudioCLIP").facts.parameters == 134_111_910


def test_audio_equals_the_reference(state, encoder, waves, ours, right) -> None:
    """Mono, stereo (whose pooled features are summed before the last layer), and clips of one frame."""
    assert relative_error(ours, right) <= TOLERANCE
    summed = right.sum(axis=0, keepdims=True) - state["audio.fc.bias"].numpy()
    assert relative_error(encoder.embed_audios([(waves, RATE)]), summed) <= TOLERANCE
    short = waves[:1, 5000:6000]
    assert relative_error(encoder.embed_audios([(short[0], RATE)]), audio(state, short)) <= TOLERANCE


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"scale": 1.0}, id="not scaled to 16 bits"),
        pytest.param({"scale": 32767.0 / 1.01}, id="scaled by one percent less"),
        pytest.param({"variant": Variant(centred=True)}, id="frames centred and mirrored"),
        pytest.param({"variant": Variant(double_kernel=True)}, id="kernel in double precision"),
        pytest.param({"variant": Variant(sinc_of_pi=True)}, id="the other sinc"),
        pytest.param({"variant": Variant(natural=True)}, id="natural logarithm"),
        pytest.param({"variant": Variant(bins_from=1)}, id="first bin left out"),
        pytest.param({"variant": Variant(by_batch=True)}, id="batch statistics"),
    ],
)
def test_a_mistake_in_the_audio_tower_is_detected(state, waves, ours, wrong) -> None:
    assert relative_error(ours[:1], audio(state, waves[:1], **wrong)) > VISIBLE


def test_channels_are_summed_after_the_network_and_not_mixed(state, encoder, waves, right) -> None:
    """The vector differs from those of the channels' mean, their sum, and either one."""
    stereo = encoder.embed_audios([(waves, RATE)])
    for mixed in (audio(state, waves.mean(axis=0)[None]), audio(state, waves.sum(axis=0)[None].clip(-1, 1)), right[:1]):
        assert relative_error(stereo, mixed) > VISIBLE


def test_two_equal_channels_give_twice_the_pooled_vector(state, encoder, waves, ours) -> None:
    once, twice = ours[:1], encoder.embed_audios([(waves[[0, 0]], RATE)])
    bias = state["audio.fc.bias"].numpy()
    assert relative_error(twice - bias, 2 * (once - bias)) <= 1e-5


def test_texts_equal_the_reference(state, encoder) -> None:
    """QuickGELU, the end token's vector, no padding; the exact GELU is detected."""
    ids = open_clip.tokenize(TEXTS)
    ours = encoder.embed_texts(TEXTS)
    with torch.inference_mode():
        assert relative_error(ours, reference.text(state, ids)) <= TOLERANCE
        assert relative_error(ours[:1], reference.text(state, ids[:1], Variant(gelu=True))) > VISIBLE


def test_images_equal_the_reference(state, encoder) -> None:
    """From files; swapped channels are detected."""
    files = [encode(array, "JPEG", quality=90) for array in list(photographs().values())[:2]]
    exact = load_encoder(dataclasses.replace(encoder.spec, decode="exact"))
    prepare = image_transform(224, is_train=False)
    pixels = torch.stack([prepare(Image.open(io.BytesIO(file))) for file in files])
    ours = exact.embed_images(files)
    with torch.inference_mode():
        assert relative_error(ours, reference.image(state, pixels)) <= TOLERANCE
        assert relative_error(ours[:1], reference.image(state, pixels[:1].flip(1))) > VISIBLE


def test_a_mixed_stream_comes_out_in_order(encoder, waves, ours) -> None:
    """Sixty texts, images, clips of three lengths and broken ones: other rows of a batch change no vector.

    Equal lengths share calls, unequal ones are not padded into each other.
    """
    picture = next(iter(photographs().values()))
    stereo, short = (waves, RATE), (waves[0, :3000], RATE)
    kinds: list[tuple[Item, Any]] = [
        *((item_of_value("audio", (wave, RATE)), vector) for wave, vector in zip(waves, ours, strict=True)),
        (item_of_value("audio", short), encoder.embed_audios([short])[0]),
        (item_of_value("audio", stereo), encoder.embed_audios([stereo])[0]),
        *((Item("text", text), encoder.embed_texts([text])[0]) for text in TEXTS[:2]),
        (Item("image", picture), encoder.embed_images([picture])[0]),
        (Item("auto", b"noise"), "undecodable"),
        (Item("audio"), None),
        (item_of_value("audio", (waves[0] * 100, RATE)), "out_of_range"),
    ]
    rows = [kinds[n * 7 % len(kinds)] for n in range(60)]
    for (_, expected), outcome in zip(rows, encoder.embed_items(item for item, _ in rows), strict=True):
        if isinstance(expected, np.ndarray):
            assert relative_error(outcome.values[None], expected[None]) <= 1e-5
        else:
            assert getattr(outcome, "code", None) == expected
    different = [vector for _, vector in kinds if isinstance(vector, np.ndarray)]
    assert all(relative_error(one[None], other[None]) > VISIBLE for one, other in itertools.combinations(different, 2))


def test_auto_does_not_take_bfloat16_for_weights_that_lose_by_it(path) -> None:
    """Its smallest cosine to float32 is 0.992 on these."""
    encoder = load_encoder(f"AudioCLIP::{path}", device="cpu", runtime="torch")
    assert encoder.resolved["precision"] == "fp32"


# --- the mode of Jina's executor -------------------------------------------------------------------------------------


def test_jina_mode_equals_its_reference(state, path, waves, right) -> None:
    """Unscaled samples and the statistics of each clip, independent of the rest of the batch."""
    encoder = load_encoder(f"AudioCLIP::{path}", mode="jina", **EXACT)
    with torch.inference_mode():
        mono = torch.cat([reference.jina_audio(state, torch.from_numpy(wave)[None]) for wave in waves]).numpy()
    summed = mono.sum(axis=0, keepdims=True) - state["audio.fc.bias"].numpy()
    ours = encoder.embed_audios([(wave, RATE) for wave in waves])
    assert relative_error(ours, mono) <= TOLERANCE
    assert relative_error(encoder.embed_audios([(waves, RATE)]), summed) <= TOLERANCE
    assert relative_error(ours, right) > VISIBLE
    assert relative_error(ours[:1], audio(state, waves[:1], scale=1.0)) > VISIBLE


def test_the_two_modes_are_never_compatible(path, encoder) -> None:
    jina = EncoderSpec(f"AudioCLIP::{path}", mode="jina")
    ours, theirs = provenance_of(encoder.spec, "audio"), provenance_of(jina, "audio")
    assert differences(ours, theirs) == ["mode"]
    assert differences(theirs, {name: value for name, value in theirs.items() if name != "mode"}) == ["mode"]
    assert differences(ours, {name: value for name, value in ours.items() if name != "mode"}) == []
    assert find_source(encoder.spec).key != find_source(jina).key
    assert encoder.resolved["mode"] == "reference"
    assert find_source(jina).resolved["mode"] == "jina"


# --- the spectrogram -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("samples", "frames", "left", "right"),
    [(1, 1, 826, 827), (1654, 1, 0, 0), (1655, 2, 280, 280), (220_500, 392, 252, 253)],
)
def test_frames(samples, frames, left, right) -> None:
    """Zeros on both sides; an odd one is on the right."""
    framed = frame(torch.ones(1, samples))[0]
    assert framed.shape == (frames, 1654)
    assert int((framed[0] == 0).sum()) == (left if frames > 1 else left + right)
    assert torch.equal(framed[0, :left], torch.zeros(left))
    assert torch.equal(framed[-1, 1654 - right :], torch.zeros(right))


def test_pooling_by_halves_equals_the_adaptive_one() -> None:
    """For even and odd sizes, down to one value."""
    generator = torch.Generator().manual_seed(0)
    for height, width in itertools.product((1, 2, 3, 4, 7, 10), (1, 2, 5, 6, 13)):
        values = torch.randn(2, 3, height, width, generator=generator)
        size = [math.ceil(height / 2), math.ceil(width / 2)]
        assert torch.equal(halve(values), torch.nn.functional.adaptive_max_pool2d(values, size)), (height, width)


def test_sixteen_bit_values_become_the_unit_range() -> None:
    samples = np.array([-32768, 32767, 0], np.float32)[:, None] / np.float32(32768)
    values = waveform_for(DecodedAudio(samples, RATE), AudioFrontend(RATE, scale=32768.0, from_16_bits=True))
    assert values[0, :2].tolist() == [-1.0, 1.0]
    assert float(values[0, 2]) == pytest.approx(1 / 65535, rel=1e-2)


@pytest.mark.parametrize(("hertz", "peak"), [(440, 20), (1_000, 46), (8_000, 371)])
def test_wavelets_without_exponents_are_a_fourier_transform(hertz, peak) -> None:
    """With m = 0, fb = 1 and fc = k rows have norm 1, and a sinusoid peaks at bin 2047 f / 44100."""
    kernel = Wavelets().kernel(1025)
    norms = kernel.double().square().sum(dim=(0, 2)).sqrt()
    torch.testing.assert_close(norms, torch.ones(1025, dtype=torch.float64), rtol=0, atol=1e-6)
    wave = torch.sin(2 * torch.pi * hertz * torch.arange(2048) / RATE)
    assert int((kernel @ wave).square().sum(dim=0).argmax()) == peak


def test_shapes_of_a_clip_of_five_seconds(towers) -> None:
    tower = towers["audio"]
    shapes: dict[str, tuple[int, ...]] = {}
    names = ("spectrogram", "conv1", *(f"layer{n}" for n in range(1, 5)), *(f"att{n}" for n in range(1, 6)))

    def recording(name: str):
        return lambda module, given, made: shapes.__setitem__(name, tuple(made.shape[1:]))

    hooks = [tower.get_submodule(name).register_forward_hook(recording(name)) for name in names]
    with torch.inference_mode():
        assert tower(torch.from_numpy(sound(0, 220_500))[None, None]).shape == (1, 1024)
    for hook in hooks:
        hook.remove()
    stages = [(256, 86, 98), (512, 43, 49), (1024, 22, 25), (2048, 11, 13)]
    assert shapes.pop("spectrogram") == (3, 341, 392)
    assert shapes.pop("conv1") == (64, 171, 196)
    assert [shapes.pop(f"layer{n}") for n in range(1, 5)] == stages
    assert shapes == {f"att{n}": shape for n, shape in enumerate([*stages, (2048, 1, 1)], 1)}


def test_modules_that_read_decibels_stay_in_single_precision(towers, waves) -> None:
    """If a runtime reduced them like the rest, weak bins would be lost."""
    tower = AudioTower(1024)
    tower.spectrogram = towers["audio"].spectrogram
    tower.to(torch.bfloat16)
    assert tower.fc.weight.dtype == torch.bfloat16
    given = torch.from_numpy(waves[:1])
    whole = tower.spectrogram(given)
    first = towers["audio"].conv1
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tower.spectrogram(given), whole)
        reduced = first(whole)
    assert whole.dtype == torch.float32
    assert torch.equal(reduced, first(whole))
