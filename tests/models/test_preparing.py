"""Prepared values: payload, size in a model call, and group."""

from __future__ import annotations

import numpy as np
import pytest
from image_files import FILES
from letters import Letters

from clipmill.encoders import EncoderSpec
from clipmill.failures import RowError
from clipmill.media.audio import Waveform
from clipmill.media.options import AudioFrontend, Preprocessing
from clipmill.models.frontend import Frontend, TextFrontend
from clipmill.models.model import ClipModel

SPEC = EncoderSpec("fake::dim=1")


class NoRuntime:
    """Nothing is executed here."""

    name, precision, device, streams = "none", "fp32", "cpu", 1


def model(**parts) -> ClipModel:
    return ClipModel(Frontend(1, **parts), NoRuntime(), {})


def test_an_image_counts_as_the_pixels_of_its_crop():
    prepared = model(image=Preprocessing(image_size=32)).prepare("image", FILES["jpeg"], SPEC)
    assert (prepared.payload.shape, prepared.payload.dtype) == ((32, 32, 3), np.uint8)
    assert (prepared.pixels, prepared.group, prepared.media_type) == (1024, "image", "image/jpeg")


def test_a_normalised_image_counts_as_its_pixels_and_has_a_separate_group():
    spec = EncoderSpec("fake::dim=1", preprocess=False)
    prepared = model(image=Preprocessing(image_size=32)).prepare("image", np.zeros((3, 32, 32), np.float32), spec)
    assert (prepared.pixels, prepared.group) == (1024, "normalised_image")


@pytest.mark.parametrize(("fixed", "length"), [(False, 5), (True, 0)])
def test_a_text_has_a_length_unless_it_is_padded_to_the_context(fixed, length):
    prepared = model(text=TextFrontend(Letters(), fixed_length=fixed)).prepare("text", "five!", SPEC)
    assert (prepared.length, prepared.group, prepared.truncated) == (length, "text", False)
    assert prepared.payload.tolist() == [1, 2, 3, 4, 5]


def test_audio_counts_as_the_largest_layer_and_shares_calls_with_equal_shapes():
    audio = AudioFrontend(8000, values_per_sample=2.5)
    found = [model(audio=audio).prepare("audio", Waveform(np.zeros(n), 8000), SPEC) for n in (1000, 1000, 400)]
    assert [prepared.pixels for prepared in found] == [2500, 2500, 1000]
    assert found[0].group == found[1].group != found[2].group


def test_a_text_of_invalid_unicode_fails_with_its_stage():
    class Strict(Letters):
        def __call__(self, text):
            text.encode()
            return super().__call__(text)

    with pytest.raises(RowError) as caught:
        model(text=TextFrontend(Strict(), fixed_length=False)).prepare("text", "a\ud800", SPEC)
    assert (str(caught.value.failure.stage), str(caught.value.failure.code)) == ("tokenize", "unsupported")
