"""The fake encoder, for your tests: `EncoderSpec("fake::dim=8")`. `clipmill.models.fake` documents its options."""

from ..models.fake import (
    FakeLog,
    FakeModel,
    fake_audio_vector,
    fake_image_vector,
    fake_text_vector,
    read_log,
)

__all__ = ["FakeLog", "FakeModel", "fake_audio_vector", "fake_image_vector", "fake_text_vector", "read_log"]
