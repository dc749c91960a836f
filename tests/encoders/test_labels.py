"""Label sets: their sources, what is refused, the vectors of labels, and classification."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import threading

import numpy as np
import pytest
import scipy.special
from classify_contract import label_vector
from contract import png, vector_of_png, vector_of_text
from planned import run_plan
from rank_expected import cosine_of

from clipmill.encoders import Document, EncoderSpec, Failure, Item, Vector, load_encoder, unload_all
from clipmill.encoders.outcome import Labelled
from clipmill.encoders.plans.classify_plan import SUFFIX, ClassifyPlan, DocumentClassifyPlan
from clipmill.encoders.plans.document_embed_plan import DocumentEmbedPlan
from clipmill.encoders.plans.embed_plan import Column, ColumnPlan
from clipmill.encoders.plans.labels import TEMPLATES, Classifier, LabelSet
from clipmill.encoders.testing import read_log
from clipmill.errors import SpecError
from clipmill.failures import Code, Stage
from clipmill.metrics.stats import Stats

LABELS = ["red", "green thing", "blue"]


@pytest.fixture(autouse=True)
def nothing_loaded():
    unload_all()


# --- sources ---------------------------------------------------------------------------------------------------------


def test_default_templates() -> None:
    labels = LabelSet.of(LABELS)
    assert labels == LabelSet(("red", "green thing", "blue"), TEMPLATES, 5, 100.0)
    assert 3 <= len(TEMPLATES) <= 8
    assert all(template.count("{}") == 1 for template in TEMPLATES)


@pytest.mark.parametrize("given", [LABELS, tuple(LABELS), np.array(LABELS)], ids=["list", "tuple", "array"])
def test_labels_in_memory(given: object) -> None:
    assert LabelSet.of(given).labels == ("red", "green thing", "blue")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.txt", "red\ngreen thing\nblue\n"),
        ("labels.txt", "\n red \r\n\r\ngreen thing\r\nblue"),
        ("labels.txt", "\ufeffred\ngreen thing\nblue"),
        ("labels", "red\ngreen thing\nblue"),
        ("labels.json", json.dumps(LABELS)),
        ("LABELS.JSON", "\ufeff" + json.dumps(LABELS, indent=1)),
    ],
    ids=["lines", "blanks-and-crlf", "mark", "no-ending", "json", "json-with-mark"],
)
def test_files(tmp_path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8", newline="")
    assert LabelSet.of(path).labels == LabelSet.of(str(path)).labels == tuple(LABELS)


def test_files_of_templates(tmp_path) -> None:
    (tmp_path / "templates.txt").write_text("a {}\n{} and {}\n", encoding="utf-8")
    assert LabelSet.of(LABELS, templates=tmp_path / "templates.txt").templates == ("a {}", "{} and {}")


def test_files_with_labels_in_any_script(tmp_path) -> None:
    (tmp_path / "labels.txt").write_text("жёлтый\n日本\n🙂", encoding="utf-8")
    assert LabelSet.of(tmp_path / "labels.txt").labels == ("жёлтый", "日本", "🙂")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.txt", b"", r"l\.txt: there are none; at least one"),
        ("l.txt", b"\n \n\t\n", r"l\.txt: there are none"),
        ("l.json", b"[]", r"l\.json: there are none"),
        ("l.txt", b"a\nb\na\nb\na", r"l\.txt: 'a' occurs 3 times"),
        ("l.json", b'["a", " "]', r"l\.json: number 2 is blank"),
        ("l.json", b'["a", 5]', r"l\.json are \['a', 5\], not a list of texts"),
        ("l.json", b'{"a": 1}', r"l\.json are \{'a': 1\}, not a list of texts"),
        ("l.json", b'"red"', r"l\.json are 'red', not a list of texts"),
        ("l.json", b"red\nblue", r"l\.json' is not JSON"),
        ("l.txt", b"caf\xe9", r"l\.txt' is not UTF-8"),
        ("l.txt", None, r"l\.txt' cannot be read.*themselves go into a list"),
    ],
)
def test_invalid_files_are_refused(tmp_path, name: str, content: bytes | None, message: str) -> None:
    """The message names the file and the problem, for labels and for templates."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=message) as raised:
        LabelSet.of(path)
    assert "labels" in str(raised.value)
    with pytest.raises(SpecError, match=message) as raised:
        LabelSet.of(LABELS, templates=str(path))
    assert "templates" in str(raised.value)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([], {}, "labels: there are none"),
        (["a", "b", "a"], {}, "'a' occurs 2 times"),
        (["a", ""], {}, "number 2 is blank"),
        (["a", None], {}, "not a list of texts"),
        (b"ab", {}, "not a list of texts"),
        ({"a"}, {}, "not a list of texts"),
        (5, {}, "not a list of texts"),
        (None, {}, "not a list of texts"),
        (LABELS, {"templates": []}, "templates: there are none"),
        (LABELS, {"templates": ["{}", "{}"]}, r"'\{\}' occurs 2 times"),
        (LABELS, {"templates": ["a {}", "a photo"]}, r"'a photo' has no \{\}"),
        (LABELS, {"templates": ["a {label}"]}, r"has no \{\}"),
        (LABELS, {"top_k": 0}, "top_k=0"),
        (LABELS, {"top_k": None}, "top_k=None"),
        (LABELS, {"top_k": True}, "top_k=True"),
        (LABELS, {"scale": 0}, "scale=0"),
        (LABELS, {"scale": "learnt"}, "'learnt'"),
        (LABELS, {"spec": EncoderSpec("fake::modalities=image")}, "embeds image: labels are texts"),
    ],
    ids=str,
)
def test_invalid_labels_and_options_are_refused(labels: object, options: dict, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        LabelSet.of(labels, **options)  # type: ignore[arg-type]


def test_a_set_is_pickled_and_compared_by_value() -> None:
    labels = LabelSet.of(LABELS, templates=["{}"], top_k=2, scale="model")
    twin = pickle.loads(pickle.dumps(labels))
    assert twin == labels and hash(twin) == hash(labels)
    assert len(pickle.dumps(labels)) < 500
    assert labels != dataclasses.replace(labels, templates=("a {}",))


# --- vectors ---------------------------------------------------------------------------------------------------------


def test_templates_are_averaged_as_in_the_paper() -> None:
    """Normalised, averaged, normalised: in the mean of raw vectors, long templates would dominate."""
    templates = ["{}", "a photo of a {}.", "Ω {} and {} Ω"]
    found = LabelSet.of(LABELS, templates=templates).vectors(load_encoder("fake::dim=8"))
    expected = np.stack([label_vector(label, templates) for label in LABELS])
    np.testing.assert_allclose(found, expected, atol=1e-7)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-7)
    raw = np.stack([np.mean([vector_of_text(t.replace("{}", label)) for t in templates], axis=0) for label in LABELS])
    assert np.abs(raw / np.linalg.norm(raw, axis=1, keepdims=True) - expected).max() > 1e-4


def test_a_normalising_encoder_gives_the_same_vectors() -> None:
    labels = LabelSet.of(LABELS)
    raw = labels.vectors(load_encoder("fake::dim=8"))
    np.testing.assert_allclose(labels.vectors(load_encoder("fake::dim=8", normalize=True)), raw, atol=1e-6)


@pytest.mark.parametrize("max_cache_bytes", [0, 2**20], ids=["without-cache", "with-cache"])
def test_labels_are_embedded_once_per_process(tmp_path, max_cache_bytes: int) -> None:
    """With any number of classifiers and threads, and with or without the vector cache."""
    encoder = load_encoder(f"fake::dim=8&log={tmp_path}", max_cache_bytes=max_cache_bytes)
    labels = LabelSet.of(LABELS, templates=["{}", "a {}"])
    threads = [threading.Thread(target=lambda: Classifier(labels, encoder)) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    Classifier(LabelSet.of(tuple(LABELS), templates=("{}", "a {}")), encoder)
    assert read_log(tmp_path).rows == 6


def test_vectors_belong_to_their_encoder() -> None:
    """Another encoder has its own, and those of an encoder that was unloaded are freed."""
    labels = LabelSet.of(LABELS)
    assert labels.vectors(load_encoder("fake::dim=8")).shape == (3, 8)
    assert labels.vectors(load_encoder("fake::dim=5")).shape == (3, 5)


def test_a_label_that_cannot_be_embedded() -> None:
    with pytest.raises(SpecError, match=r"label 'a poison'.*encode_failed"):
        LabelSet.of(["red", "poison"], templates=["a {}"]).vectors(load_encoder("fake::dim=8&bad=poison"))
    with pytest.raises(SpecError, match="too_large"):
        LabelSet.of(["red"], templates=["a very {}"]).vectors(load_encoder("fake::dim=8", max_text_chars=5))


# --- classifying -----------------------------------------------------------------------------------------------------


def test_labels_longer_than_the_context_are_refused(tmp_path) -> None:
    """Two labels that differ only after the context length would have the same vector."""
    encoder = load_encoder("demo", device="cpu")
    labels = LabelSet.of(["a red circle " * 30 + end for end in ("left", "right")], templates=["{}"])
    with pytest.raises(SpecError, match="is longer than demo reads; shorten it"):
        labels.vectors(encoder)


def test_the_number_of_kept_sets_is_bounded_and_their_texts_are_not_cached() -> None:
    """A worker that runs for months may see many label sets."""
    encoder = load_encoder("fake::dim=8")
    sets = [LabelSet.of([f"label {n}"], templates=["{}"]) for n in range(20)]
    first = sets[0].vectors(encoder)
    assert sets[0].vectors(encoder) is first
    for one in sets[1:]:
        one.vectors(encoder)
    again = sets[0].vectors(encoder)
    assert again is not first
    np.testing.assert_array_equal(again, first)
    stats = Stats()
    with encoder.session(stats) as session:
        session.push(None, [Item("text", "label 0")])
        session.flush()
    assert (stats.cache_hits, stats.cache_misses) == (0, 1)


def test_the_best_labels_of_a_vector() -> None:
    classifier = Classifier(LabelSet.of(LABELS, templates=["{}"], top_k=2, scale=30), load_encoder("fake::dim=8"))
    value = vector_of_text("greed")
    labelled = classifier.classify(Vector(value, truncated=True, media_type="text/plain"))
    assert isinstance(labelled, Labelled)
    assert labelled.truncated and labelled.media_type == "text/plain"
    cosines = np.array([cosine_of(value, vector_of_text(label)) for label in LABELS])
    clip_scores = scipy.special.softmax(30 * cosines)
    best = np.argsort(-cosines)[:2]
    assert [one["label"] for one in labelled.values] == [LABELS[n] for n in best]
    np.testing.assert_allclose([one["cosine"] for one in labelled.values], cosines[best], atol=1e-6)
    np.testing.assert_allclose([one["clip_score"] for one in labelled.values], clip_scores[best], atol=1e-5)


def test_ties_keep_the_order_of_the_labels() -> None:
    """The fake distinguishes texts only by their first letters."""
    labels = ["same letters, b", "other letters x", "same letters, a"]
    classifier = Classifier(LabelSet.of(labels, templates=["{}"]), load_encoder("fake::dim=8"))
    labelled = classifier.classify(Vector(vector_of_text("same letters, a")))
    assert isinstance(labelled, Labelled)
    assert [one["label"] for one in labelled.values] == [labels[0], labels[2], labels[1]]
    assert labelled.values[0]["clip_score"] == labelled.values[1]["clip_score"]


def test_failures_and_nulls_are_returned_unchanged() -> None:
    classifier = Classifier(LabelSet.of(LABELS), load_encoder("fake::dim=8"))
    failure = Failure(Stage.DECODE, Code.UNDECODABLE, "no picture")
    assert classifier.classify(failure) is failure
    assert classifier.classify(None) is None
    short = classifier.classify(Vector(np.ones(3, np.float32)))
    assert isinstance(short, Failure) and short.code == Code.WRONG_SHAPE
    broken = classifier.classify(Vector(np.full(8, math.nan, np.float32)))
    assert isinstance(broken, Failure) and broken.code == Code.OUT_OF_RANGE


def test_the_learnt_scale_is_that_of_the_value_and_a_text() -> None:
    model = "fake::dim=8&modalities=text,image,audio&scale=2&scale_ai=3&scale_at=4"
    classifier = Classifier(LabelSet.of(LABELS, templates=["{}"], scale="model"), load_encoder(model))
    value = vector_of_text("greed")
    cosines = np.array([cosine_of(value, vector_of_text(label)) for label in LABELS])
    for modality, scale in (("image", 2), ("audio", 4)):
        labelled = classifier.classify(Vector(value, modality=modality))
        assert isinstance(labelled, Labelled)
        clip_scores = np.sort(scipy.special.softmax(scale * cosines))[::-1]
        np.testing.assert_allclose([one["clip_score"] for one in labelled.values], clip_scores, atol=1e-6)
    failure = classifier.classify(Vector(value, modality="text"))
    assert isinstance(failure, Failure) and "no scale between text and text" in failure.message
    with pytest.raises(SpecError, match="has no learnt scale"):
        Classifier(LabelSet.of(LABELS, scale="model"), load_encoder("fake::dim=8"))


# --- plans -----------------------------------------------------------------------------------------------------------


def test_a_plan_for_rows_can_be_pickled_and_names_its_columns() -> None:
    spec = EncoderSpec("fake::dim=8")
    columns = ColumnPlan.of({"photo": "image", "page.title": Column("text", "said")}, spec=spec, suffix=SUFFIX)
    plan = pickle.loads(pickle.dumps(ClassifyPlan(columns, LabelSet.of(LABELS))))
    assert plan.new_names == ["photo_labels", "said"]
    assert plan.key == "id"


def test_documents_get_their_labels_as_a_tag() -> None:
    """At every selected level, with failures at their places. The caller's documents are not modified."""
    encoder = load_encoder("fake::dim=8")
    photo = png(4, 90, (1, 100, 3))
    root = Document(
        text="greed",
        id="root",
        tags={"kept": 1},
        matches=[Document(blob=photo), Document(blob=b"junk"), Document(text="word " * 80)],
    )
    plan = DocumentClassifyPlan(DocumentEmbedPlan("@r,m"), LabelSet.of(LABELS, templates=["{}"], top_k=1))
    (done,) = run_plan(pickle.loads(pickle.dumps(plan)), encoder, [root])
    result = done.result.value

    def best(vector: np.ndarray) -> str:
        return max(LABELS, key=lambda label: cosine_of(vector, vector_of_text(label)))

    assert result.tags["labels"][0]["label"] == best(vector_of_text("greed"))
    assert result.matches[0].tags["labels"][0]["label"] == best(vector_of_png(4, 90, (1, 100, 3)))
    assert set(result.tags["labels"][0]) == {"label", "clip_score", "cosine"}
    assert result.tags["kept"] == 1 and "labels" not in result.matches[1].tags
    assert result.matches[2].tags["truncated"] is True
    assert [(f.column, str(f.code), f.row) for f in result.failures] == [("@m[1]", "undecodable", "root")]
    assert result.embedding is None and result.matches[0].blob is None
    assert done.result.inner == ()
    assert root.tags == {"kept": 1} and root.matches[0].blob == photo and root.matches[0].tags == {}


def test_existing_embeddings_of_documents_are_classified(tmp_path) -> None:
    """As `Embed` returns them, without their content: nothing is embedded again."""
    encoder = load_encoder(f"fake::dim=8&log={tmp_path}")
    value = vector_of_text("greed")
    document = Document(id="a", embedding=value, matches=[Document(text="x", embedding=[1.0, 2.0])])
    plan = DocumentClassifyPlan(DocumentEmbedPlan("@r,m"), LabelSet.of(LABELS, templates=["{}"]))
    (done,) = run_plan(plan, encoder, [document])
    result = done.result.value
    assert read_log(tmp_path).rows == 3
    assert result.tags["labels"][0]["label"] == max(LABELS, key=lambda label: cosine_of(value, vector_of_text(label)))
    np.testing.assert_array_equal(result.embedding, value)
    assert [(f.column, str(f.code)) for f in result.failures] == [("@m[0]", "wrong_shape")]
