"""What every engine promises about rows, as tests that know no engine: Beam and Spark both run them.

A module of an engine subclasses `Contract` and gives it the fixture `embed`:

        from contract import Contract, Result

    class TestBeam(Contract):
        @pytest.fixture
        def embed(self):
            def embed(rows, columns, *, model="fake::dim=8", **options) -> Result: ...
            return embed

Rows are dicts of one shape for each call: `id` is a string, `caption` a string or None, `photo` bytes or None,
`captions` a list of strings and Nones, `sound` bytes or None, `wave` a dict of `array` (a list of floats) and
`sampling_rate` or None. `Result.rows` holds *all* rows that came out, failed ones too, as dicts with
the columns that went in and those that were added; their order is free. Vectors are arrays or lists of numbers.
"""

from __future__ import annotations

import copy
import io
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
from PIL import Image

from clipmill.encoders.testing import fake_audio_vector, fake_image_vector, fake_text_vector, read_log

DIM = 8
WITH_SOUNDS = f"fake::dim={DIM}&modalities=text,image,audio"


class Result(NamedTuple):
    """What an engine made of a call.

    Attributes:
        rows: Every row that came out.
        failures: (row's id, column, code) of every failure.
    """

    rows: list[dict[str, Any]]
    failures: list[tuple[str | None, str | None, str]]


def png(height: int, width: int, colour: tuple[int, int, int]) -> bytes:
    """Return the file of a picture of one colour."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def tone(samples: int, channels: int = 1) -> np.ndarray:
    """Return (samples, channels) float32 that 16 bits hold exactly; another for each number of samples."""
    steps = np.arange(samples * channels).reshape(samples, channels) * 37 % 1000 + samples
    return (steps / 32768).astype(np.float32)


def wav(samples: int, channels: int = 1, rate: int = 8000) -> bytes:
    """Return the file of a tone."""
    file = io.BytesIO()
    soundfile.write(file, tone(samples, channels), rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def vector_of_wav(samples: int, channels: int = 1, rate: int = 8000) -> np.ndarray:
    """Return what the fake makes of `wav(…)`."""
    return fake_audio_vector(tone(samples, channels).T, rate, DIM)


def vector_of_text(text: str) -> np.ndarray:
    """Return what the fake makes of a text."""
    return fake_text_vector(text, DIM)


def vector_of_png(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    """Return what the fake makes of `png(…)`."""
    return fake_image_vector(np.full((height, width, 3), colour, np.uint8), DIM)


def by_id(result: Result) -> dict[str, dict[str, Any]]:
    """Return the rows by their ids, of which none may come twice."""
    ids = [row["id"] for row in result.rows]
    assert len(ids) == len(set(ids)), "a row came out twice"
    return {row["id"]: row for row in result.rows}


def assert_vectors(result: Result, column: str, expected: dict[str, Any]) -> None:
    """Assert the vectors (or Nones, or lists of both) of a column, and that no row is missing or new."""
    found = {name: row[column] for name, row in by_id(result).items()}
    assert sorted(found) == sorted(expected)
    for name, vector in expected.items():
        assert_same(found[name], vector, f"{name}.{column}")


def assert_same(found: Any, expected: Any, where: str) -> None:
    """Assert that a vector, a None or a list of both is what it should be."""
    if expected is None:
        assert found is None, where
    elif isinstance(expected, list):
        assert found is not None and len(found) == len(expected), where
        for number, (inner, wanted) in enumerate(zip(found, expected, strict=True)):
            assert_same(inner, wanted, f"{where}[{number}]")
    else:
        assert found is not None, where
        np.testing.assert_array_equal(np.asarray(found, np.float32), expected, err_msg=where, strict=True)


def captions(number: int) -> list[dict[str, Any]]:
    """Return rows with distinct captions of different lengths."""
    return [{"id": f"row-{n}", "caption": f"caption {n} " + "x" * (n % 7)} for n in range(number)]


class Contract:
    """See the module."""

    @pytest.fixture
    def embed(self):
        raise NotImplementedError("a subclass gives this fixture")

    def test_every_row_comes_out_once_with_its_own_vector(self, embed):
        rows = captions(100)
        result = embed(rows, {"caption": "text"}, max_batch_rows=8)
        assert_vectors(result, "caption_embedding", {r["id"]: vector_of_text(r["caption"]) for r in rows})
        assert result.failures == []

    def test_what_went_in_comes_out_beside_the_vectors(self, embed):
        rows = [{"id": "a", "caption": "one", "photo": png(2, 3, (1, 2, 3))}]
        (row,) = embed(rows, {"caption": "text", "photo": "image"}).rows
        assert set(row) - {"embedding_failures"} == {"id", "caption", "photo", "caption_embedding", "photo_embedding"}
        assert {name: row[name] for name in rows[0]} == rows[0]

    def test_pictures_and_texts_of_one_row(self, embed):
        rows = [{"id": str(n), "caption": f"n{n}", "photo": png(n, 5, (n, 20, 30))} for n in range(1, 20)]
        result = embed(rows, {"caption": "text", "photo": "image"}, max_batch_rows=4)
        assert_vectors(result, "caption_embedding", {r["id"]: vector_of_text(r["caption"]) for r in rows})
        assert_vectors(result, "photo_embedding", {str(n): vector_of_png(n, 5, (n, 20, 30)) for n in range(1, 20)})
        assert result.failures == []

    def test_sounds_of_unequal_length_each_get_their_own_vector(self, embed):
        rows = [{"id": str(n), "sound": wav(20 + n % 50, 1 + n % 2)} for n in range(120)]
        result = embed(rows, {"sound": "audio"}, model=WITH_SOUNDS, max_batch_rows=4)
        expected = {str(n): vector_of_wav(20 + n % 50, 1 + n % 2) for n in range(120)}
        assert_vectors(result, "sound_embedding", expected)
        assert result.failures == []

    def test_sounds_as_samples_with_their_rate(self, embed):
        rows = [
            {"id": "a", "wave": {"array": tone(30)[:, 0].tolist(), "sampling_rate": 8000}},
            {"id": "b", "wave": {"array": tone(40)[:, 0].tolist(), "sampling_rate": 44100}},
            {"id": "null", "wave": None},
            {"id": "rateless", "wave": {"array": tone(30)[:, 0].tolist(), "sampling_rate": None}},
            {"id": "loud", "wave": {"array": [0.5, 32000.0], "sampling_rate": 8000}},
        ]
        result = embed(rows, {"wave": "audio"}, model=WITH_SOUNDS)
        expected = {"a": vector_of_wav(30), "b": vector_of_wav(40, rate=44100)}
        assert_vectors(result, "wave_embedding", expected | dict.fromkeys(("null", "rateless", "loud")))
        assert sorted(result.failures) == [("loud", "wave", "out_of_range"), ("rateless", "wave", "malformed")]

    def test_bad_sounds_between_good_ones(self, embed):
        good = wav(50)
        bad = {"cut": good[:60], "noise": b"no sound", "empty": b"", "picture": png(2, 2, (1, 2, 3)), "long": wav(900)}
        rows = [{"id": f"{kind}{n}", "sound": bad.get(kind, good)} for n in range(4) for kind in ("good", *bad, "last")]
        result = embed(rows, {"sound": "audio"}, model=WITH_SOUNDS, max_batch_rows=4, max_audio_seconds=0.1)
        expected = {r["id"]: None if r["id"].rstrip("0123") in bad else vector_of_wav(50) for r in rows}
        assert_vectors(result, "sound_embedding", expected)
        codes = {kind: "undecodable" for kind in bad} | {"empty": "empty", "long": "too_large"}
        assert sorted(result.failures) == sorted(
            (f"{k}{n}", "sound", code) for n in range(4) for k, code in codes.items()
        )

    def test_bad_rows_between_good_ones(self, embed):
        good = png(4, 4, (9, 9, 9))
        bad = {"cut": good[: len(good) // 2], "noise": b"no picture", "empty": b""}
        rows = [
            {"id": f"{place}{n}", "photo": bad.get(place, good)}
            for n in range(5)
            for place in ("good", "cut", "fine", "noise", "empty", "last")
        ]
        result = embed(rows, {"photo": "image"}, max_batch_rows=4)
        vector = vector_of_png(4, 4, (9, 9, 9))
        assert_vectors(
            result, "photo_embedding", {r["id"]: None if r["id"].rstrip("01234") in bad else vector for r in rows}
        )
        codes = {"cut": "undecodable", "noise": "undecodable", "empty": "empty"}
        assert sorted(result.failures) == sorted(
            (f"{place}{n}", "photo", code) for n in range(5) for place, code in codes.items()
        )

    def test_a_row_that_breaks_the_call_fails_alone(self, embed):
        rows = captions(20)
        rows[7]["caption"] = "poison"
        result = embed(rows, {"caption": "text"}, model=f"fake::dim={DIM}&bad=poison", max_batch_rows=8)
        expected = {r["id"]: vector_of_text(r["caption"]) for r in rows} | {"row-7": None}
        assert_vectors(result, "caption_embedding", expected)
        assert result.failures == [("row-7", "caption", "encode_failed")]

    def test_a_row_of_which_one_column_fails_keeps_the_other_vector(self, embed):
        rows = [
            {"id": "a", "caption": "fine", "photo": b"no picture"},
            {"id": "b", "caption": "", "photo": png(1, 1, (5, 6, 7))},
            {"id": "c", "caption": "   ", "photo": b"neither"},
        ]
        result = embed(rows, {"caption": "text", "photo": "image"})
        assert_vectors(result, "caption_embedding", {"a": vector_of_text("fine"), "b": None, "c": None})
        assert_vectors(result, "photo_embedding", {"a": None, "b": vector_of_png(1, 1, (5, 6, 7)), "c": None})
        assert sorted(result.failures) == [
            ("a", "photo", "undecodable"),
            ("b", "caption", "empty"),
            ("c", "caption", "empty"),
            ("c", "photo", "undecodable"),
        ]

    def test_nulls_give_nulls_and_no_failure(self, embed):
        rows = [
            {"id": "both", "caption": "yes", "photo": png(1, 2, (3, 4, 5))},
            {"id": "text", "caption": "text", "photo": None},
            {"id": "none", "caption": None, "photo": None},
        ]
        result = embed(rows, {"caption": "text", "photo": "image"})
        assert_vectors(
            result,
            "caption_embedding",
            {"both": vector_of_text("yes"), "text": vector_of_text("text"), "none": None},
        )
        assert_vectors(result, "photo_embedding", {"both": vector_of_png(1, 2, (3, 4, 5)), "text": None, "none": None})
        assert result.failures == []

    def test_only_nulls(self, embed):
        rows = [{"id": str(n), "caption": None} for n in range(5)]
        result = embed(rows, {"caption": "text"})
        assert_vectors(result, "caption_embedding", {str(n): None for n in range(5)})
        assert result.failures == []

    def test_no_rows(self, embed):
        assert embed([], {"caption": "text", "photo": "image"}) == Result([], [])

    def test_unicode(self, embed):
        texts = [
            "naïve café",
            "日本語のテキスト",
            "emoji 👩‍👩‍👧 👍🏽",
            "e\u0301 is not é",
            "\u202eright to left",
            "nul \0 inside",
        ]
        rows = [{"id": f"ключ-{n}", "caption": text} for n, text in enumerate(texts)]
        rows.append({"id": "пусто", "caption": " \u3000\t"})
        result = embed(rows, {"caption": "text"})
        expected = {r["id"]: vector_of_text(r["caption"]) for r in rows} | {"пусто": None}
        assert_vectors(result, "caption_embedding", expected)
        assert result.failures == [("пусто", "caption", "empty")]
        assert {name: row["caption"] for name, row in by_id(result).items()} == {r["id"]: r["caption"] for r in rows}

    def test_an_array_column_gives_an_array_of_vectors(self, embed):
        rows = [
            {"id": "two", "captions": ["one", "two"]},
            {"id": "hole", "captions": ["one", None, "three"]},
            {"id": "bad", "captions": ["one", "", "three"]},
            {"id": "empty", "captions": []},
        ]
        result = embed(rows, {"captions": "text"}, max_batch_rows=3)
        one, two, three = map(vector_of_text, ("one", "two", "three"))
        assert_vectors(
            result,
            "captions_embedding",
            {"two": [one, two], "hole": [one, None, three], "bad": [one, None, three], "empty": []},
        )
        assert result.failures == [("bad", "captions[1]", "empty")]

    @pytest.mark.parametrize("max_batch_rows", [1, 3, 64])
    def test_vectors_do_not_depend_on_the_batch_size(self, embed, max_batch_rows):
        rows = captions(30)
        result = embed(rows, {"caption": "text"}, max_batch_rows=max_batch_rows)
        assert_vectors(result, "caption_embedding", {r["id"]: vector_of_text(r["caption"]) for r in rows})

    def test_vectors_do_not_depend_on_the_order(self, embed):
        rows = captions(30)
        result = embed(rows[::-1], {"caption": "text"}, max_batch_rows=7)
        assert_vectors(result, "caption_embedding", {r["id"]: vector_of_text(r["caption"]) for r in rows})

    def test_running_out_of_memory_halves_the_batch(self, embed):
        rows = captions(40)
        result = embed(rows, {"caption": "text"}, model=f"fake::dim={DIM}&max_rows=3", max_batch_rows=16)
        assert_vectors(result, "caption_embedding", {r["id"]: vector_of_text(r["caption"]) for r in rows})
        assert result.failures == []

    def test_normalised_vectors_have_length_one(self, embed):
        result = embed(captions(3), {"caption": "text"}, normalize=True)
        lengths = [np.linalg.norm(np.asarray(row["caption_embedding"], np.float32)) for row in result.rows]
        np.testing.assert_allclose(lengths, [1, 1, 1], rtol=1e-6)

    @pytest.mark.parametrize("normalize", [False, True])
    def test_vectors_are_cut_to_their_first_values_and_then_scaled(self, embed, normalize):
        rows = [*captions(5), {"id": "null", "caption": None}, {"id": "bad", "caption": ""}]
        model = f"fake::dim={DIM}&least_dimensions=2"
        result = embed(rows, {"caption": "text"}, model=model, dimensions=3, normalize=normalize)
        whole = {row["id"]: vector_of_text(row["caption"])[:3] for row in captions(5)}
        lengths = {name: np.linalg.norm(vector) if normalize else np.float32(1) for name, vector in whole.items()}
        expected = {name: vector / lengths[name] for name, vector in whole.items()}
        assert_vectors(result, "caption_embedding", expected | {"null": None, "bad": None})
        assert result.failures == [("bad", "caption", "empty")]

    def test_a_process_loads_once_and_encodes_each_value_once(self, embed, tmp_path):
        rows = [row | {"photo": png(1, n + 1, (n, 0, 0))} for n, row in enumerate(captions(50))]
        model = f"fake::dim={DIM}&log={tmp_path / 'log'}"
        embed(rows, {"caption": "text", "photo": "image"}, model=model, max_batch_rows=8)
        log = read_log(tmp_path / "log")
        assert set(log.loads.values()) == {1}
        assert {kind: sum(n for k, n in log.batches if k == kind) for kind in ("text", "image")} == {
            "text": 50,
            "image": 50,
        }
        assert max(n for _, n in log.batches) <= 8

    def test_the_callers_data_is_unchanged(self, embed):
        rows = [
            {"id": "a", "caption": "one", "photo": png(1, 1, (1, 1, 1)), "captions": ["x", None]},
            {"id": "b", "caption": None, "photo": b"no picture", "captions": []},
        ]
        columns = {"caption": "text", "photo": "image", "captions": "text"}
        before = copy.deepcopy((rows, columns))
        result = embed(rows, columns)
        assert len(result.rows) == 2
        assert (rows, columns) == before
