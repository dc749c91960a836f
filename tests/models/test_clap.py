"""CLAP through `hf:`: vectors equal those of transformers on the same weights, and every comparison can fail."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import clap_weights
import numpy as np
import pytest
import torch
from audioclip_reference import sound
from clap_weights import RATE, WINDOW, Case
from transformers import ClapFeatureExtractor
from transformers.audio_utils import mel_filter_bank
from untrusted_files import sign
from weights import relative_error

from clipmill.encoders import EncoderSpec, load_encoder, unload_all
from clipmill.errors import SpecError, WeightsError
from clipmill.media.audio import DecodedAudio, waveform_for
from clipmill.media.mel import MelSpectrogram, mel_filters, mel_windows, windows
from clipmill.models.catalog.manifest import FILE
from clipmill.models.exporting import export_model
from clipmill.models.towers import find_source

TEXTS = ["a dog barks", "rain", "ÜBER-straße 日本 🙂", "word " * 200]
EXACT = {"device": "cpu", "runtime": "torch", "precision": "fp32"}
TOLERANCE, IN_GRAPHS, VISIBLE = 1e-5, 1e-4, 1e-3
LENGTHS = [1, 700, 31_000, WINDOW - 1, WINDOW]
MEL = MelSpectrogram(480_000, bins=64, fft=1024, hop=480, low=50.0, high=14_000.0, padding="repeatpad")


@pytest.fixture(scope="module")
def case(tmp_path_factory) -> Case:
    yield clap_weights.write(tmp_path_factory.mktemp("clap"), clap_weights.drawn(clap_weights.config()))
    unload_all()


@pytest.fixture(scope="module")
def waves() -> list[np.ndarray]:
    return [sound(seed, samples) for seed, samples in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def ours(case, waves) -> np.ndarray:
    return load_encoder(case.model, **EXACT).embed_audios([(wave, RATE) for wave in waves])


@pytest.fixture(scope="module")
def directory(case, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "clap"
    export_model(EncoderSpec(case.model), folder)
    return folder


# --- audio -----------------------------------------------------------------------------------------------------------


def test_audio_equals_transformers(case, waves, ours) -> None:
    """Clips of up to ten seconds: repeated, filled with zeros, or whole; vectors have length 1."""
    assert relative_error(ours, case.audio(waves)) <= TOLERANCE
    np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{"frequency_min": 0}, {"frequency_max": 16_000}, {"hop_length": 500}, {"padding": "pad"}, {"padding": "repeat"}],
    ids=lambda settings: next(iter(settings)) + str(next(iter(settings.values()))),
)
def test_another_setting_of_the_extractor_is_detected(case, waves, ours, settings) -> None:
    assert relative_error(ours[2:3], case.audio(waves[2:3], **settings)) > VISIBLE


def test_another_mel_scale_is_detected(case, waves, ours, monkeypatch) -> None:
    """Transformers has the scale of HTK as well, which fused models use."""
    make = ClapFeatureExtractor.__init__

    def htk(self, *args, **options) -> None:
        make(self, *args, **options)
        self.mel_filters_slaney = self.mel_filters

    monkeypatch.setattr(ClapFeatureExtractor, "__init__", htk)
    assert relative_error(ours[2:3], case.audio(waves[2:3])) > VISIBLE


def test_another_sample_rate_is_detected_and_resampled(case, waves) -> None:
    encoder = load_encoder(case.model, **EXACT)
    seconds = np.arange(RATE) / RATE
    tones = [np.sin(2 * np.pi * 600 * seconds[::step]).astype(np.float32) * 0.3 for step in (1, 2)]
    right, same, wrong = encoder.embed_audios([(tones[0], RATE), (tones[1], RATE // 2), (tones[1], RATE)])
    assert right @ same > right @ wrong
    assert relative_error(wrong[None], right[None]) > VISIBLE


def test_channels_are_mixed_down(case, waves) -> None:
    encoder = load_encoder(case.model, **EXACT)
    stereo = np.stack([waves[2], sound(9, len(waves[2]))])
    right = case.audio([stereo.mean(axis=0)])
    assert relative_error(encoder.embed_audios([(stereo, RATE)]), right) <= TOLERANCE
    assert relative_error(encoder.embed_audios([(stereo[0], RATE)]), right) > VISIBLE


def test_a_longer_clip_has_the_mean_of_its_windows(case) -> None:
    """As few as cover it, the first at its start and the last at its end; always the same vector."""
    long = sound(5, 2 * WINDOW + 12_345)
    starts = [0, (WINDOW + 12_345) // 2, WINDOW + 12_345]
    parts = case.audio([long[start : start + WINDOW] for start in starts])
    mean = parts.mean(axis=0, keepdims=True)
    encoder = load_encoder(case.model, **EXACT)
    ours = encoder.embed_audios([(long, RATE)])
    assert relative_error(ours, mean / np.linalg.norm(mean)) <= TOLERANCE
    assert np.array_equal(ours, load_encoder(case.model, max_cache_bytes=0, **EXACT).embed_audios([(long, RATE)]))
    assert relative_error(ours, parts[:1]) > VISIBLE


@pytest.mark.parametrize(("samples", "count"), [(1, 1), (10, 1), (11, 2), (20, 2), (21, 3), (30, 3), (95, 10)])
def test_windows_cover_a_waveform(samples, count) -> None:
    """Each sample of a longer one is in a window, and no window is padded."""
    wave = np.arange(1, samples + 1)
    cut = windows(wave, dataclasses.replace(MEL, window_samples=10, fft=4, hop=2))
    assert len(cut) == count
    assert all(len(window) == 10 for window in cut)
    assert set(np.concatenate(cut)) - {0} == set(wave)
    if samples > 10:
        assert (cut[0][0], cut[-1][-1]) == (1, samples)
        assert all(np.array_equal(window, np.arange(window[0], window[0] + 10)) for window in cut)


@pytest.mark.parametrize(
    ("padding", "expected"),
    [("repeatpad", [1, 2, 3, 1, 2, 3, 0]), ("repeat", [1, 2, 3, 1, 2, 3, 1]), ("pad", [1, 2, 3, 0, 0, 0, 0])],
)
def test_padding(padding, expected) -> None:
    (window,) = windows(np.array([1, 2, 3]), dataclasses.replace(MEL, window_samples=7, fft=4, hop=2, padding=padding))
    assert window.tolist() == expected


def test_filters_equal_those_of_transformers() -> None:
    """Slaney's, as librosa has them; HTK's are far."""
    known = {"num_frequency_bins": 513, "num_mel_filters": 64, "min_frequency": 50, "max_frequency": 14_000}
    right = mel_filter_bank(**known, sampling_rate=RATE, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_filters(64, 1024, RATE, 50.0, 14_000.0), right, rtol=1e-9, atol=1e-15)
    assert not np.allclose(mel_filters(64, 1024, RATE, 50.0, 14_000.0), mel_filter_bank(**known, sampling_rate=RATE))


def test_spectrograms_equal_those_of_transformers(case, waves) -> None:
    """Within the last digit of a decibel in float32; those of silence are -100."""
    for wave in waves:
        ours = mel_windows(wave, RATE, MEL)
        assert ours.shape == (1, 1001, 64)
        np.testing.assert_allclose(ours, case.features([wave])[0].numpy(), atol=2e-4)
    assert np.all(mel_windows(np.zeros(5, np.float32), RATE, MEL) == -100)


# --- texts -----------------------------------------------------------------------------------------------------------


def test_texts_equal_transformers(case) -> None:
    """Padding is masked, and does not count as a position."""
    ours = load_encoder(case.model, **EXACT).embed_texts(TEXTS)
    assert relative_error(ours, case.texts(TEXTS)) <= TOLERANCE
    assert relative_error(ours[:1], case.texts(TEXTS, masked=False)[:1]) > VISIBLE


def test_a_text_has_the_same_vector_alone(case) -> None:
    encoder = load_encoder(case.model, **EXACT)
    assert relative_error(encoder.embed_texts(TEXTS[:1]), encoder.embed_texts(TEXTS)[:1]) <= TOLERANCE


def test_the_scale_is_that_of_the_texts_of_a_clip(case, waves) -> None:
    """Transformers' `logits_per_audio`; the files have another one for the clips of a text."""
    encoder = load_encoder(case.model, **EXACT)
    ((pair, scale),) = encoder.learnt_scales.items()
    assert pair == {"audio", "text"}
    assert scale == pytest.approx(case.module.logit_scale_a.exp().item())
    assert scale != pytest.approx(case.module.logit_scale_t.exp().item())


# --- graphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_exported_directory_gives_the_same_vectors(case, directory, waves, ours, runtime) -> None:
    """Of short and long clips, and of texts; from the directory alone."""
    encoder = load_encoder(f"onnx:{directory}", device="cpu", runtime=runtime, precision="fp32")
    towers = load_encoder(case.model, **EXACT)
    assert encoder.spec.modalities == {"text", "audio"}
    assert relative_error(encoder.embed_audios([(wave, RATE) for wave in waves]), ours) <= IN_GRAPHS
    long = (sound(5, 2 * WINDOW + 12_345), RATE)
    assert relative_error(encoder.embed_audios([long]), towers.embed_audios([long])) <= IN_GRAPHS
    assert relative_error(encoder.embed_texts(TEXTS), case.texts(TEXTS)) <= IN_GRAPHS
    assert encoder.learnt_scales == towers.learnt_scales


def test_a_directory_needs_no_torch(directory) -> None:
    """Spectrograms are computed with numpy, even if importing torch and transformers fails."""
    program = (
        "import sys, numpy as np\n"
        "for name in ('torch', 'onnx', 'transformers'): sys.modules[name] = None\n"
        "import importlib.util as util; find = util.find_spec\n"
        "util.find_spec = lambda name, *more: None if sys.modules.get(name, 1) is None else find(name, *more)\n"
        "from clipmill.encoders import load_encoder\n"
        f"encoder = load_encoder('onnx:{directory}', device='cpu', runtime='onnx')\n"
        "print(encoder.embed_audios([(np.full(9000, 0.1), 44_100)]).shape, encoder.embed_texts(['rain']).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "(1, 24) (1, 24)\n", done.stderr


def test_auto_chooses_what_is_close(case) -> None:
    encoder = load_encoder(case.model, device="cpu")
    assert encoder.resolved["runtime"] in ("torch", "onnx", "openvino")
    texts = encoder.embed_texts(TEXTS)
    assert float(np.sum(texts * case.texts(TEXTS), axis=1).min()) > 0.999


# --- what is read, and refused ---------------------------------------------------------------------------------------


def test_facts_without_loading(case) -> None:
    spec = EncoderSpec(case.model)
    assert (spec.dim, spec.modalities) == (24, {"text", "audio"})
    assert (spec.facts.context_length, spec.facts.image_size, spec.facts.preprocessing) == (64, None, None)
    assert find_source(spec).frontend.audio.mel == MEL


def test_an_image_is_a_failure_of_its_row(case, waves) -> None:
    from clipmill.encoders import Item
    from clipmill.encoders.item import item_of_value

    encoder = load_encoder(case.model, **EXACT)
    image, audio = encoder.embed_items([Item("image", b"\x89PNG\r\n\x1a\n"), item_of_value("audio", (waves[2], RATE))])
    assert image.code == "unsupported"
    assert audio.values.shape == (24,)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"truncation": "fusion"}, "truncation"),
        ({"top_db": 80}, "top_db"),
        ({"padding": "edge"}, "padding"),
        ({"padding_value": 1.0}, "padding_value"),
        ({"feature_size": 80}, "feature_size"),
        ({"frequency_max": 30_000}, "frequency_max"),
        ({"frequency_min": -1}, "frequency_min"),
        ({"frequency_min": float("nan")}, "frequency_min"),
        ({"hop_length": 100}, "hop_length"),
        ({"hop_length": 0}, "hop_length"),
        ({"fft_window_size": 2**40}, "fft_window_size"),
        ({"sampling_rate": 10**9}, "sampling_rate"),
        ({"max_length_s": 10**9, "hop_length": 48 * 10**9}, "max_length_s"),
        ({"max_length_s": 10**9, "hop_length": 48 * 10**9, "fft_window_size": 48 * 10**9}, "max_length_s"),
        ({"hop_length": 1026}, "hop_length"),
        ({"fft_window_size": 1023}, "fft_window_size"),
        ({"feature_extractor_type": "WhisperFeatureExtractor"}, "feature_extractor_type"),
    ],
    ids=str,
)
def test_settings_that_are_not_supported_are_refused(case, tmp_path, changed, named) -> None:
    for path in case.directory.iterdir():
        (tmp_path / path.name).symlink_to(path)
    own = tmp_path / "preprocessor_config.json"
    own.unlink()
    own.write_text(json.dumps({**clap_weights.EXTRACTOR, **changed}), encoding="utf-8")
    with pytest.raises(WeightsError, match=named):
        find_source(EncoderSpec(f"hf:{tmp_path}"))


@pytest.mark.parametrize(
    "changed",
    [
        *({"hop": 0}, {"hop": 1026}, {"fft": 1023}, {"fft": 480_002}, {"bins": 0}, {"bins": 10**6}, {"hop": 1}),
        *({"fft": 2, "hop": 1, "bins": 10**4}, {"window_samples": 10**18, "hop": 10**15, "fft": 10**15}),
        *({"window_samples": 2**20, "fft": 2**20, "bins": 2**20, "hop": 2**20}, {"low": 14_000.0}, {"padding": "edge"}),
    ],
    ids=str,
)
def test_settings_that_would_take_all_memory_are_refused(changed) -> None:
    with pytest.raises(ValueError, match="spectrogram" if "padding" not in changed else "padding"):
        dataclasses.replace(MEL, **changed)


@pytest.mark.parametrize("changed", [{"hop": 0}, {"bins": 10**6}, {"low": None}], ids=str)
def test_settings_of_an_exported_directory_are_bounded_too(directory, tmp_path, changed) -> None:
    """Whoever writes its manifest can sign it as well."""
    other = shutil.copytree(directory, tmp_path / "other")
    audio = json.loads((other / FILE).read_text())["audio"]
    sign(other, audio=audio | {"mel": audio["mel"] | changed})
    with pytest.raises(WeightsError):
        find_source(EncoderSpec(f"onnx:{other}"))


def test_a_whole_processor_as_transformers_5_saves_it(case, tmp_path) -> None:
    for path in case.directory.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match="no feature extractor"):
        find_source(EncoderSpec(f"hf:{tmp_path}"))
    whole = {"processor_class": "ClapProcessor", "feature_extractor": clap_weights.EXTRACTOR}
    (tmp_path / "processor_config.json").write_text(json.dumps(whole), encoding="utf-8")
    assert find_source(EncoderSpec(f"hf:{tmp_path}")).frontend.audio.mel == MEL


def test_a_fused_model_is_refused_with_an_unfused_one(tmp_path) -> None:
    values = clap_weights.config(enable_fusion=True)
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(WeightsError, match="laion/clap-htsat-unfused"):
        _ = EncoderSpec(f"hf:{tmp_path}").facts


def test_options_that_do_not_apply_are_refused(case) -> None:
    for options in ({"base_image_processor": str(case.directory)}, {"max_text_tokens": 65}):
        with pytest.raises(SpecError) as refused:
            find_source(EncoderSpec(case.model, **options))
        assert refused.value.option == next(iter(options))
    assert len(find_source(EncoderSpec(case.model, max_text_tokens=5)).frontend.text.tokenizer("a b c d e f")[0]) == 5


def test_weights_of_another_model_are_refused(case, tmp_path) -> None:
    other = clap_weights.drawn(clap_weights.config(depths=[2, 1]))
    broken = clap_weights.write(tmp_path, other)
    (tmp_path / "config.json").write_text((case.directory / "config.json").read_text(), encoding="utf-8")
    with pytest.raises(WeightsError, match="names missing"):
        find_source(EncoderSpec(broken.model)).build()


def test_files_of_older_versions_with_buffers(case, tmp_path) -> None:
    """`pytorch_model.bin` with the tables that the constructor computes, as the hub has it."""
    for path in case.directory.iterdir():
        if path.name != "model.safetensors":
            (tmp_path / path.name).symlink_to(path)
    torch.save(dict(case.module.state_dict()), tmp_path / "pytorch_model.bin")
    towers = find_source(EncoderSpec(f"hf:{tmp_path}")).build()
    wave = DecodedAudio(sound(0, 5_000)[:, None], RATE)
    frontend = find_source(EncoderSpec(case.model)).frontend.audio
    with torch.inference_mode():
        ours = towers["audio"].eval()(torch.from_numpy(waveform_for(wave, frontend))[None]).numpy()
    assert relative_error(ours, case.audio([wave.samples[:, 0]])) <= TOLERANCE
