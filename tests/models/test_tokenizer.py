"""CLIP's tokenizer: same ids as the reference, bounded in time and memory."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import open_clip
import pytest

from clipmill.models.tokenizers.clip_bpe import ClipTokenizer

TEXTS = [
    "a photo of a cat",
    "Hello   WORLD!!! it's we'll DON'T\tnew\nline",
    "日本語 テスト emoji 😀🏳️‍🌈",
    "&amp;lt;b&gt; &amp;amp; fish &amp; chips",
    "schÃ¶n",
    "<start_of_text> hi <end_of_text> x <END_OF_TEXT>",
    "\x00\x01 \u200b x",
    "word " * 200,
    "a" * 3000,
    "3.14 1234567890 ½ ²",
    "“quoted” ‘x’ …",
]


@pytest.fixture(scope="module")
def reference() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer()


@pytest.fixture(scope="module")
def ours() -> ClipTokenizer:
    return ClipTokenizer()


def _random_texts(count: int) -> list[str]:
    rng = random.Random(0)
    source = (Path(open_clip.__file__).parent / "factory.py").read_text()
    pieces = [source[(i := rng.randrange(len(source) - 400)) : i + rng.randrange(1, 400)] for _ in range(count)]
    planes = [(32, 127), (0x80, 0x2FFF), (0x4E00, 0x9FFF), (0x1F300, 0x1F6FF)]
    signs = ["".join(chr(rng.randrange(*rng.choice(planes))) for _ in range(rng.randrange(1, 60))) for _ in pieces]
    return [*pieces, *signs]


def test_ids_equal_the_references(ours: ClipTokenizer, reference: open_clip.SimpleTokenizer) -> None:
    """For chosen texts and 1,000 random ones of many scripts: the same ids, and truncation is reported."""
    for text in [*TEXTS, *_random_texts(500)]:
        ids, truncated = ours(text)
        padded = np.pad(ids, (0, 77 - len(ids)), constant_values=ours.pad_id)
        np.testing.assert_array_equal(padded, reference([text])[0].numpy(), err_msg=repr(text))
        assert truncated == (len(reference.encode(text)) > 75), repr(text)


def test_another_context_length(reference: open_clip.SimpleTokenizer) -> None:
    """Texts are cut to shorter contexts, and end with the end token."""
    ids, truncated = ClipTokenizer(context_length=8)(TEXTS[1])
    np.testing.assert_array_equal(ids, reference([TEXTS[1]], context_length=8)[0].numpy())
    assert truncated and ids[-1] == 49407


def test_an_extremely_long_word_is_cut(ours: ClipTokenizer) -> None:
    """A word of a million letters is read as far as it affects the result."""
    ids, truncated = ours("ab" * 500_000)
    assert truncated
    np.testing.assert_array_equal(ids, ours("ab" * 2_000)[0])
