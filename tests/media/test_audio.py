"""Sounds as content: what is decoded, resampled and refused, and how many are held at once."""

from __future__ import annotations

import io
import sys
import threading

import numpy as np
import pytest
import soundfile
import soxr
from contract import WITH_SOUNDS, png, wav

from clipmill.encoders import EncoderSpec, Item, Vector, load_encoder
from clipmill.encoders.loaded import Loaded
from clipmill.encoders.preparation import count_pixels
from clipmill.encoders.session import EmbedSession
from clipmill.encoders.vector_cache import VectorCache
from clipmill.errors import MissingExtraError
from clipmill.failures import RowError
from clipmill.media.audio import Waveform, open_audio, require_audio, sniff_audio_type, waveform_for
from clipmill.media.options import AudioFrontend
from clipmill.metrics.stats import Stats
from clipmill.models.frontend import Frontend
from clipmill.models.model import ClipModel, Model, Prepared

FORMATS = [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("RF64", "PCM_16"), ("FLAC", "PCM_16")]
LOSSY = [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
TYPES = {"WAV": "audio/wav", "RF64": "audio/wav", "FLAC": "audio/flac", "OGG": "audio/ogg", "MP3": "audio/mpeg"}


def sine(samples: int, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(samples) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int, kind: str = "WAV", subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def failure_of(content, **options) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        open_audio(content, **{"max_seconds": 60, **options})
    return str(caught.value.failure.code), caught.value.failure.message


# --- decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "subtype"), [*FORMATS, *LOSSY])
@pytest.mark.parametrize("channels", [1, 2])
def test_files_are_decoded(kind, subtype, channels) -> None:
    """Samples, sample rate and media type of every format, with one or two channels."""
    given = np.stack([sine(48_000, 48_000, 440 * (n + 1)) for n in range(channels)], axis=1)
    data = encoded(given, 48_000, kind, subtype)
    audio = open_audio(data, max_seconds=2)
    assert (audio.sample_rate, audio.media_type) == (48_000, TYPES[kind])
    assert audio.samples.shape == (48_000, channels)
    assert audio.samples.dtype == np.float32
    error = np.abs(audio.samples - given)[2000:-2000].mean()
    assert error < (2e-5 if (kind, subtype) in FORMATS else 2e-2)


def test_audio_is_identified_by_its_first_bytes() -> None:
    """RIFF is an image or audio depending on its form type; texts and images are not audio."""
    assert sniff_audio_type(b"RIFF\0\0\0\0WEBPVP8 ") is None
    assert sniff_audio_type(b"RIFF\0\0\0\0WAVEfmt ") == "audio/wav"
    assert sniff_audio_type(b"ID3\x04\0\0\0\0\0\0") == "audio/mpeg"
    for other in (b"", b"\xff", b"\xff\xd8\xff\xe0", b"\xff\xfeh\0i\0", b"\xff\xf1\x50\x80", png(1, 1, (0, 0, 0))):
        assert sniff_audio_type(other) is None, other


def test_samples_of_lossy_files_may_overshoot_a_little() -> None:
    """A decoder may return 1.03, but a float file with 16-bit values is a mistake of the caller."""
    assert open_audio(encoded(np.full(100, 1.5, np.float32), 8000, "WAV", "FLOAT"), max_seconds=1).samples.max() == 1.5
    code, message = failure_of(encoded(np.full(100, 20_000, np.float32), 8000, "WAV", "FLOAT"))
    assert code == "out_of_range"
    assert "2e+04" in message
    assert failure_of(encoded(np.full(100, np.nan, np.float32), 8000, "WAV", "FLOAT"))[0] == "out_of_range"


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
def test_truncated_files_are_refused(kind) -> None:
    """Half a file is not taken for a shorter clip."""
    data = encoded(sine(48_000, 48_000), 48_000, kind)
    assert failure_of(data[: len(data) // 2])[0] == "undecodable"
    assert failure_of(data[:30])[0] == "undecodable"


def test_files_without_a_length_are_refused() -> None:
    """A recorder that writes to a pipe cannot add the length to the header."""
    data = bytearray(encoded(sine(9000, 8000), 8000, "FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    code, message = failure_of(bytes(data))
    assert code == "undecodable"
    assert "the header has no length" in message


def test_bytes_of_waveforms_are_counted() -> None:
    """Lists count as the array made from them; both channels count."""
    for samples in (np.zeros((2, 9)), [[0.0] * 9] * 2, [np.zeros(9)] * 2):
        assert Item("audio", Waveform(samples, 8000)).nbytes == 144
    assert Item("audio", Waveform([0.0] * 9)).nbytes == 72
    assert Item("audio", Waveform(None)).nbytes == 0


def test_files_without_audio_are_refused() -> None:
    for data, code in (
        (b"", "empty"),
        (encoded(np.zeros(0, np.float32), 8000), "empty"),
        (b"no sound at all", "undecodable"),
        (b"fLaC" + bytes(100), "undecodable"),
        (png(2, 2, (0, 0, 0)), "undecodable"),
        (encoded(np.zeros((100, 3), np.float32), 8000), "wrong_shape"),
        (encoded(np.zeros(100, np.float32), 400), "out_of_range"),
        (encoded(np.zeros(100, np.float32), 400_000), "out_of_range"),
    ):
        assert failure_of(data)[0] == code, data[:20]


def test_long_audio_is_refused_before_it_is_decoded(monkeypatch) -> None:
    """By its header; audio within the limit is decoded up to the length in its header."""
    data = encoded(sine(24_001, 8000), 8000, "FLAC")
    assert open_audio(data, max_seconds=3.1).samples.shape == (24_001, 1)
    read: list[int] = []
    plain = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda file, frames, **how: read.append(frames) or plain(file, frames, **how)
    )
    code, message = failure_of(data, max_seconds=3)
    assert code == "too_large"
    assert "option max_audio_seconds" in message
    assert read == []
    open_audio(data, max_seconds=3.1)
    assert read == [24_001]


# --- waveforms -------------------------------------------------------------------------------------------------------


def test_waveforms() -> None:
    """(n,), (1, n) and (2, n), floats of any width, and int16 with 32768 as full scale."""
    mono = sine(100, 8000)
    for given in (mono, mono[None], mono.astype(np.float64), mono.tolist()):
        audio = open_audio(Waveform(given, 8000), max_seconds=1)
        np.testing.assert_array_equal(audio.samples, mono[:, None])
    np.testing.assert_array_equal(
        open_audio(Waveform(np.stack([mono, -mono]), 8000.0), max_seconds=1).samples, np.stack([mono, -mono], axis=1)
    )
    whole = open_audio(Waveform(np.array([-32768, 0, 16384], np.int16), np.int64(8000)), max_seconds=1)
    assert whole.samples[:, 0].tolist() == [-1.0, 0.0, 0.5]
    half = open_audio(Waveform(mono.astype(np.float16), 8000), max_seconds=1).samples
    np.testing.assert_allclose(half[:, 0], mono, atol=1e-3)


@pytest.mark.parametrize(
    ("samples", "rate", "code", "expected"),
    [
        (np.zeros(9), None, "malformed", "without its sample rate"),
        (np.zeros(9), "44100", "malformed", "'44100'"),
        (np.zeros(9), True, "malformed", "True"),
        (np.zeros(9), 0, "out_of_range", "allowed are 1,000 to 384,000"),
        (np.zeros(9), float("nan"), "out_of_range", "nan"),
        (np.zeros((9, 2)), 8000, "wrong_shape", "transpose it"),
        (np.zeros((3, 9)), 8000, "wrong_shape", "one or two channels"),
        (np.zeros((1, 2, 9)), 8000, "wrong_shape", "(1, 2, 9)"),
        (np.float32(1), 8000, "wrong_shape", "()"),
        ([[0.0, 1.0], [0.0]], 8000, "wrong_shape", "(n,) or (2, n)"),
        (np.zeros(0), 8000, "empty", "no samples"),
        (np.array([0, np.nan]), 8000, "out_of_range", "nan"),
        (np.array([0, -np.inf]), 8000, "out_of_range", "-inf"),
        (np.array([0, 1.01]), 8000, "out_of_range", "1.01"),
        (np.array([0, 300]), 8000, "unsupported", "int64"),
        (np.array(["a"]), 8000, "unsupported", "float in [-1, 1]"),
        (np.zeros(8001), 8000, "too_large", "option max_audio_seconds"),
    ],
)
def test_waveforms_that_are_refused(samples, rate, code, expected) -> None:
    found, message = failure_of(Waveform(samples, rate), max_seconds=1)
    assert found == code
    assert expected in message


def test_the_callers_waveform_is_unchanged() -> None:
    given = sine(4000, 8000)
    kept = given.copy()
    waveform_for(open_audio(Waveform(given, 8000), max_seconds=1), AudioFrontend(44_100, scale=32768.0))
    np.testing.assert_array_equal(given, kept)


# --- the input of a model --------------------------------------------------------------------------------------------


def test_resampling() -> None:
    """With soxr at high quality to the model's rate; audio at that rate is only scaled."""
    given = np.stack([sine(24_000, 48_000), sine(24_000, 48_000, 3000)])
    made = waveform_for(open_audio(Waveform(given, 48_000), max_seconds=1), AudioFrontend(44_100, scale=2.0))
    assert made.shape == (2, 22_050)
    assert made.dtype == np.float32
    assert made.flags.c_contiguous
    expected = [2 * soxr.resample(channel, 48_000, 44_100, quality="HQ") for channel in given]
    np.testing.assert_allclose(made, expected, atol=1e-6)
    ideal = np.stack([sine(22_050, 44_100), sine(22_050, 44_100, 3000)])
    assert np.abs(made / 2 - ideal)[:, 500:-500].max() < 1e-3
    left = waveform_for(open_audio(Waveform(ideal, 44_100), max_seconds=1), AudioFrontend(44_100))
    np.testing.assert_array_equal(left, ideal)


def test_audio_that_is_too_short_is_refused() -> None:
    """A single sample is enough, if one is left at the model's rate."""
    one = np.array([0.5], np.float32)
    assert waveform_for(open_audio(Waveform(one, 44_100), max_seconds=1), AudioFrontend(44_100)).shape == (1, 1)
    with pytest.raises(RowError, match="too short: 0 samples at 44,100 Hz"):
        waveform_for(open_audio(Waveform(one, 384_000), max_seconds=1), AudioFrontend(44_100))
    with pytest.raises(RowError, match="needs at least 50"):
        waveform_for(open_audio(Waveform(sine(49, 8000), 8000), max_seconds=1), AudioFrontend(8000, min_samples=50))


def test_missing_audio_libraries_fail_when_the_model_is_loaded(monkeypatch, tmp_path) -> None:
    """The message has the command that installs them; rows do not fail one by one."""
    for package in ("soundfile", "soxr"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(MissingExtraError, match=rf"{package}.*pip install 'clipmill\[audio\]'"):
                require_audio()
            with pytest.raises(MissingExtraError, match=r"clipmill\[audio\]"):
                load_encoder(f"AudioCLIP::{tmp_path / 'none.pt'}", device="cpu")
            with pytest.raises(MissingExtraError, match=r"clipmill\[audio\]"):
                load_encoder(f"{WITH_SOUNDS}&missing={package}")


# --- in a session ----------------------------------------------------------------------------------------------------


class Echo:
    """A runtime that records the shapes of its inputs, and returns the sums of samples."""

    name, precision, device, streams = "echo", "fp32", "cpu", 1

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, model_input, inputs):
        assert model_input == "audio"
        self.shapes.append(inputs[0].shape)
        return inputs[0].sum(axis=(1, 2))[:, None]


def test_only_equal_lengths_share_a_call() -> None:
    """With many lengths, every row gets its own vector, in order, from calls of one shape."""
    echo = Echo()
    loaded = Loaded(ClipModel(Frontend(1, audio=AudioFrontend(8000)), echo, {}), 2)
    session = EmbedSession(EncoderSpec(WITH_SOUNDS, max_batch_rows=4), loaded, Stats(), VectorCache(0))
    lengths = [100 + 7 * (n * n % 23) for n in range(200)]
    items = [Item("audio", Waveform(np.full(length, 0.5, np.float32), 8000)) for length in lengths]
    done = [one for n, item in enumerate(items) for one in session.push(n, [item])] + session.flush()
    assert [one.token for one in done] == list(range(200))
    np.testing.assert_allclose([one.outcomes[0].values[0] for one in done], np.array(lengths) / 2)
    assert sum(shape[0] for shape in echo.shapes) == 200
    assert max(shape[0] for shape in echo.shapes) <= 4
    assert len(echo.shapes) < 150, "equal lengths should share calls"
    loaded.close()


def test_calls_keep_to_the_budget_of_the_largest_layer() -> None:
    """Ten values per sample, 20,000 per call: two clips of 1,000 samples, or a single larger one."""
    echo = Echo()
    loaded = Loaded(ClipModel(Frontend(1, audio=AudioFrontend(8000, values_per_sample=10.0)), echo, {}), 1)
    session = EmbedSession(EncoderSpec(WITH_SOUNDS, max_batch_pixels=20_000), loaded, Stats(), VectorCache(0))
    for n, length in enumerate([1000] * 5 + [3000] * 2):
        session.push(n, [Item("audio", Waveform(np.zeros(length), 8000))])
    session.flush()
    assert sorted(shape[0] * shape[2] for shape in echo.shapes) == [1000, 2000, 2000, 3000, 3000]
    loaded.close()


class Holding(Model):
    """Prepares large values from small ones, and counts those that are held at the same time."""

    dim, modalities = 1, frozenset({"audio"})

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.held = self.most = 0
        self.lock = threading.Lock()

    def prepare(self, modality, content, spec):
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
        return Prepared(np.zeros(self.nbytes, np.uint8), group=content)

    def encode(self, modality, payloads):
        with self.lock:
            self.held -= len(payloads)
        return np.zeros((len(payloads), 1), np.float32)


@pytest.mark.parametrize("distinct", [1, 400])
def test_prepared_values_are_bounded_in_bytes(distinct) -> None:
    """Files of four bytes become a megabyte each; at most four batches of bytes are held at once."""
    model = Holding(2**20)
    loaded = Loaded(model, 4)
    spec = EncoderSpec(WITH_SOUNDS, max_batch_bytes=4 * 2**20, max_audio_seconds=10)
    session = EmbedSession(spec, loaded, Stats(), VectorCache(0))
    rows = [Item("audio", b"%04d" % (n % distinct)) for n in range(400)]
    done = [one for n, item in enumerate(rows) for one in session.push(n, [item])] + session.flush()
    assert [one.token for one in done] == list(range(400))
    assert all(isinstance(one.outcomes[0], Vector) for one in done)
    assert 4 <= model.most <= 16
    assert model.held == 0
    loaded.close()


def test_decoding_counts_against_the_budget_of_pixels() -> None:
    """The samples of all channels count; 0 where the number is unknown."""
    encoder = load_encoder(WITH_SOUNDS)

    def count(content: object) -> int:
        return count_pixels("audio", content, encoder._loaded, encoder.spec)

    assert (count(wav(1000, 2)), count(b"noise"), count(Waveform(np.zeros(9), 8000))) == (2000, 0, 0)
