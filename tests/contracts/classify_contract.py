"""What every engine promises about classifying rows; see `rank_contract`."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from contract import png, vector_of_png, vector_of_text
from rank_expected import MODEL, TOLERANCE, Scored, by_id, cosine_of, softmax_of

from clipmill.encoders.testing import read_log
from clipmill.errors import SpecError

LABELS = ["red", "a green thing", "blue", "two circles", "grey"]


def label_vector(label: str, templates: Sequence[str]) -> np.ndarray:
    """Return the normalised mean of the normalised vectors of a label in its templates."""
    vectors = [vector_of_text(template.replace("{}", label)).astype(np.float64) for template in templates]
    mean = np.mean([vector / np.linalg.norm(vector) for vector in vectors], axis=0)
    return mean / np.linalg.norm(mean)


def labelled(vector: Any, labels: Sequence[str], templates: Sequence[str], *, scale: float = 100.0) -> list[Any]:
    """Return (label, cosine, clip_score) of all labels, best first."""
    cosines = [cosine_of(vector, label_vector(label, templates)) for label in labels]
    clip_scores = softmax_of([scale * cosine for cosine in cosines])
    found = sorted(range(len(labels)), key=lambda n: (-round(cosines[n], 7), n))
    return [(labels[n], cosines[n], clip_scores[n]) for n in found]


def assert_labels(result: Scored, column: str, expected: Mapping[str, list[Any] | None]) -> None:
    """Assert the labels of all rows, and that no row is missing or new."""
    found = {name: row[f"{column}_labels"] for name, row in by_id(result).items()}
    assert sorted(found) == sorted(expected)
    for name, wanted in expected.items():
        if wanted is None:
            assert found[name] is None, name
            continue
        assert [one["label"] for one in found[name]] == [label for label, _, _ in wanted], name
        for one, (_, cosine, clip_score) in zip(found[name], wanted, strict=True):
            assert set(one) == {"label", "clip_score", "cosine"}
            assert one["cosine"] == pytest.approx(cosine, abs=TOLERANCE), name
            assert one["clip_score"] == pytest.approx(clip_score, abs=TOLERANCE, rel=1e-4), name


DEFAULT_TEMPLATES = ["a photo of a {}.", "a picture of a {}.", "a close-up of a {}.", "a drawing of a {}.", "{}"]
PLAIN = ["{}"]


def photos(number: int) -> list[dict[str, Any]]:
    """Return rows with distinct pictures."""
    return [{"id": str(n), "photo": png(1 + n * 40, 100, (n * 9 % 250, 20, 250 - n % 250))} for n in range(number)]


def photo_vector(number: int) -> np.ndarray:
    """Return the vector of the picture of that row of `photos`."""
    return vector_of_png(1 + number * 40, 100, (number * 9 % 250, 20, 250 - number % 250))


class ClassifyContract:
    """Rows of which columns are classified; see the module."""

    @pytest.fixture
    def classify(self):
        raise NotImplementedError("a subclass gives this fixture")

    @pytest.mark.parametrize("max_batch_rows", [1, 3, 32])
    def test_labels_of_pictures_whatever_the_batch_size(self, classify, max_batch_rows):
        rows = photos(8)
        result = classify(rows, {"photo": "image"}, labels=LABELS, max_batch_rows=max_batch_rows)
        assert_labels(result, "photo", {str(n): labelled(photo_vector(n), LABELS, DEFAULT_TEMPLATES) for n in range(8)})
        assert result.failures == []

    def test_templates_are_averaged(self, classify):
        templates = ["{}", "one {} and another {}", "a very long description of {}"]
        result = classify(photos(4), {"photo": "image"}, labels=LABELS, templates=templates)
        assert_labels(result, "photo", {str(n): labelled(photo_vector(n), LABELS, templates) for n in range(4)})

    def test_the_best_labels_with_scores_over_all(self, classify):
        result = classify(photos(4), {"photo": "image"}, labels=LABELS, templates=PLAIN, top_k=2, scale=10)
        expected = {str(n): labelled(photo_vector(n), LABELS, PLAIN, scale=10)[:2] for n in range(4)}
        assert_labels(result, "photo", expected)

    def test_five_of_many_labels_unless_told(self, classify):
        labels = [f"{'abcdefgh'[n]} label {'x' * n}" for n in range(8)]
        result = classify(photos(2), {"photo": "image"}, labels=labels, templates=PLAIN)
        assert_labels(result, "photo", {str(n): labelled(photo_vector(n), labels, PLAIN)[:5] for n in range(2)})

    def test_the_scale_that_the_model_learnt(self, classify):
        model = f"{MODEL}&scale=7.5"
        result = classify(photos(3), {"photo": "image"}, labels=LABELS, templates=PLAIN, scale="model", model=model)
        expected = {str(n): labelled(photo_vector(n), LABELS, PLAIN, scale=7.5) for n in range(3)}
        assert_labels(result, "photo", expected)

    def test_sigmoids_of_each_label_alone(self, classify):
        """Several labels, or none, as a threshold selects them."""
        model = f"{MODEL}&scale=4.5&bias=-2.25"
        cosines = {str(n): labelled(photo_vector(n), LABELS, PLAIN) for n in range(4)}
        probable = {
            name: [(label, cosine, 1 / (1 + math.exp(2.25 - 4.5 * cosine))) for label, cosine, _ in found]
            for name, found in cosines.items()
        }
        options = {"labels": LABELS, "templates": PLAIN, "score": "sigmoid", "model": model}
        assert_labels(classify(photos(4), {"photo": "image"}, **options), "photo", probable)
        every = sorted(score for found in probable.values() for _, _, score in found)
        for least in ((every[-2] + every[-1]) / 2, every[len(every) // 2] + 1e-4, 1.0, 0.0):
            selected = {name: [one for one in found if one[2] >= least] for name, found in probable.items()}
            result = classify(photos(4), {"photo": "image"}, min_score=least, **options)
            assert_labels(result, "photo", selected)
            assert result.failures == []

    def test_a_threshold_of_shares(self, classify):
        """The softmax takes one as well: it is over all labels, also those that are not returned."""
        result = classify(photos(2), {"photo": "image"}, labels=LABELS, templates=PLAIN, scale=1, min_score=0.2)
        expected = {str(n): labelled(photo_vector(n), LABELS, PLAIN, scale=1) for n in range(2)}
        assert_labels(result, "photo", {name: [one for one in f if one[2] >= 0.2] for name, f in expected.items()})

    def test_a_model_that_learnt_no_bias_says_so(self, classify):
        with pytest.raises(Exception, match=r"has no learnt bias.*SigLIP"):
            classify(photos(1), {"photo": "image"}, labels=LABELS, score="sigmoid", model=f"{MODEL}&scale=7")

    def test_texts_are_classified_too(self, classify):
        rows = [{"id": "a", "caption": "something red"}, {"id": "b", "caption": "two blue circles"}]
        result = classify(rows, {"caption": "text"}, labels=LABELS, templates=PLAIN)
        assert_labels(result, "caption", {r["id"]: labelled(vector_of_text(r["caption"]), LABELS, PLAIN) for r in rows})

    def test_several_columns(self, classify):
        rows = [row | {"caption": f"caption {n}"} for n, row in enumerate(photos(3))]
        result = classify(rows, {"photo": "image", "caption": "text"}, labels=LABELS, templates=PLAIN)
        assert_labels(result, "photo", {str(n): labelled(photo_vector(n), LABELS, PLAIN) for n in range(3)})
        texts = {str(n): labelled(vector_of_text(f"caption {n}"), LABELS, PLAIN) for n in range(3)}
        assert_labels(result, "caption", texts)

    def test_what_went_in_comes_out_beside_the_labels(self, classify):
        rows = [row | {"note": "kept"} for row in photos(1)]
        (row,) = classify(rows, {"photo": "image"}, labels=LABELS).rows
        assert set(row) - {"embedding_failures"} == {"id", "photo", "note", "photo_labels"}
        assert {name: row[name] for name in rows[0]} == rows[0]

    def test_bad_pictures_between_good_ones(self, classify):
        rows = photos(6)
        rows[1]["photo"], rows[3]["photo"], rows[4]["photo"] = b"no picture", None, b""
        result = classify(rows, {"photo": "image"}, labels=LABELS, templates=PLAIN, max_batch_rows=2)
        good = {str(n): labelled(photo_vector(n), LABELS, PLAIN) for n in (0, 2, 5)}
        assert_labels(result, "photo", good | {"1": None, "3": None, "4": None})
        assert sorted(result.failures) == [("1", "photo", "undecodable"), ("4", "photo", "empty")]

    def test_labels_are_encoded_once_in_each_worker(self, classify, tmp_path):
        labels = [f"label {n}" for n in range(20)]
        model = f"{MODEL}&log={tmp_path / 'log'}"
        classify(photos(40), {"photo": "image"}, labels=labels, templates=["{}", "a {}"], model=model, max_batch_rows=8)
        log = read_log(tmp_path / "log")
        assert set(log.loads.values()) == {1}
        assert sum(size for kind, size in log.batches if kind == "text") == 40 * len(log.loads)
        assert sum(size for kind, size in log.batches if kind == "image") == 40

    @pytest.mark.parametrize("ending", ["txt", "json"])
    def test_labels_and_templates_from_files(self, classify, tmp_path, ending):
        templates = ["{}", "one {} more"]
        write = json.dumps if ending == "json" else "\n\n".join
        (tmp_path / f"labels.{ending}").write_text(write(LABELS), encoding="utf-8")
        (tmp_path / f"templates.{ending}").write_text(write(templates), encoding="utf-8")
        result = classify(
            photos(2),
            {"photo": "image"},
            labels=str(tmp_path / f"labels.{ending}"),
            templates=str(tmp_path / f"templates.{ending}"),
        )
        assert_labels(result, "photo", {str(n): labelled(photo_vector(n), LABELS, templates) for n in range(2)})

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "at least one"),
            ("\n \n", "at least one"),
            ("red\nblue\nred\n", r"'red' occurs 2 times"),
            (None, "cannot be read"),
        ],
        ids=["empty", "blank", "duplicates", "missing"],
    )
    def test_files_of_labels_that_cannot_work(self, classify, tmp_path, content, message):
        path = tmp_path / "labels.txt"
        if content is not None:
            path.write_text(content, encoding="utf-8")
        with pytest.raises(SpecError, match=message) as raised:
            classify(photos(1), {"photo": "image"}, labels=str(path))
        assert "labels.txt" in str(raised.value)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"labels": []}, "at least one"),
            ({"labels": ["red", "red"]}, r"'red' occurs 2 times"),
            ({"labels": ["red", " "]}, "blank"),
            ({"labels": LABELS, "templates": ["{}", "a photo"]}, r"'a photo' has no \{\}"),
            ({"labels": LABELS, "templates": []}, "at least one"),
            ({"labels": LABELS, "top_k": 0}, "top_k=0"),
            ({"labels": LABELS, "scale": -1}, "scale=-1"),
            ({"labels": LABELS, "score": "cosine"}, "score='cosine' must be one of 'softmax', 'sigmoid'"),
            ({"labels": LABELS, "score": "sigmoid", "scale": 7}, "scale=7 has no effect"),
            ({"labels": LABELS, "min_score": 1.5}, "min_score=1.5 is not a number from 0 to 1"),
            ({"labels": LABELS, "model": "fake::modalities=image"}, "labels are texts"),
        ],
        ids=[
            "none",
            "duplicates",
            "blank",
            "no-placeholder",
            "no-templates",
            "top_k",
            "scale",
            "score",
            "other-scale",
            "min_score",
            "no-text-tower",
        ],
    )
    def test_options_that_cannot_work_are_refused_at_once(self, classify, options, message):
        with pytest.raises(SpecError, match=message):
            classify(photos(1), {"photo": "image"}, **options)

    def test_no_rows(self, classify):
        assert classify([], {"photo": "image"}, labels=LABELS) == Scored([], [])

    def test_the_callers_data_is_unchanged(self, classify):
        rows, labels, templates = photos(3), list(LABELS), ["{}"]
        before = copy.deepcopy((rows, labels, templates))
        assert len(classify(rows, {"photo": "image"}, labels=labels, templates=templates).rows) == 3
        assert (rows, labels, templates) == before
