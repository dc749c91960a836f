"""`Classify` on documents, and what Beam adds to the contract of `classify_contract.py` on rows."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms.window import FixedWindows, IntervalWindow, TimestampedValue
from beam_helpers import Keep, counters, kept, kept_in_time, pipeline
from classify_contract import DEFAULT_TEMPLATES, LABELS, PLAIN, assert_labels, labelled
from contract import png, tone, vector_of_png, vector_of_text, vector_of_wav
from places import SUPPORT
from rank_expected import TOLERANCE, Scored

from clipmill.encoders import Code, Document, load_encoder, unload_all
from clipmill.encoders.plans.embed_plan import Column
from clipmill.encoders.testing import read_log
from clipmill.errors import SpecError
from clipmill.transforms import Classify
from clipmill.transforms.rows import STRUCTS, plain, row_fields

RED, BLUE = (200, 10, 10), (10, 10, 200)


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


def classify(directory, elements, *, labels=LABELS, model="fake::dim=8", **options):
    """Run `Classify` and return its rows, its failures and the finished pipeline."""
    p = pipeline()
    classified = p | beam.Create(elements) | Classify(labels, model=model, **options)
    _ = classified.rows | "KeepRows" >> Keep(directory / "rows")
    _ = classified.failures | "KeepFailures" >> Keep(directory / "failures")
    result = p.run()
    result.wait_until_finish()
    return kept(directory / "rows"), kept(directory / "failures"), result


def assert_tagged(document: Document, vector, templates=PLAIN, top_k=5) -> None:
    """Assert that a document's labels are those of its vector."""
    wanted = labelled(vector, LABELS, templates)[:top_k]
    assert [one["label"] for one in document.tags["labels"]] == [label for label, _, _ in wanted]
    for one, (_, cosine, clip_score) in zip(document.tags["labels"], wanted, strict=True):
        assert (one["cosine"], one["clip_score"]) == pytest.approx((cosine, clip_score), abs=TOLERANCE)


# --- documents --------------------------------------------------------------------------------------------------------


def test_documents_of_any_kind_get_their_labels_as_a_tag(tmp_path):
    documents = [
        Document(text="something red", id="text", tags={"mine": 1}),
        Document(blob=png(3, 50, BLUE), id="picture"),
        Document(tensor=tone(50)[:, 0], tags={"sample_rate": 8000}, id="sound"),
    ]
    model = "fake::dim=8&modalities=text,image,audio"
    rows, failures, _ = classify(tmp_path, documents, model=model, top_k=3)
    found = {row.id: row for row in rows}
    assert failures == []
    assert_tagged(found["text"], vector_of_text("something red"), DEFAULT_TEMPLATES, top_k=3)
    assert_tagged(found["picture"], vector_of_png(3, 50, BLUE), DEFAULT_TEMPLATES, top_k=3)
    assert_tagged(found["sound"], vector_of_wav(50), DEFAULT_TEMPLATES, top_k=3)
    assert found["text"].tags["mine"] == 1
    assert [(row.embedding, row.blob) for row in rows] == [(None, None)] * 3
    assert documents[0].tags == {"mine": 1}, "the caller's stay"


def test_access_paths_and_content(tmp_path):
    tree = Document(text="root", id="root", matches=[Document(text="m")], chunks=[Document(blob=png(2, 2, RED))])
    (root,), _, _ = classify(tmp_path, [tree], templates=PLAIN, access_paths="@m,c", keep_content=True)
    assert "labels" not in root.tags
    assert_tagged(root.matches[0], vector_of_text("m"))
    assert_tagged(root.chunks[0], vector_of_png(2, 2, RED))
    assert root.chunks[0].blob == png(2, 2, RED)


def test_documents_that_fail_are_failures(tmp_path):
    documents = [Document(text=" ", id="empty"), Document(blob=b"junk", id="junk"), Document(text="fine", id="fine")]
    rows, failures, result = classify(tmp_path, documents)
    assert [row.id for row in rows] == ["fine"]
    found = {failed.row.id: [failure.code for failure in failed.failures] for failed in failures}
    assert found == {"empty": [Code.EMPTY], "junk": [Code.UNDECODABLE]}
    assert all("labels" not in failed.row.tags for failed in failures)
    assert (counters(result, "failed_empty"), counters(result, "failed_undecodable")) == (1, 1)


def test_what_is_no_document_says_how_rows_are_classified(tmp_path):
    _, (failed,), _ = classify(tmp_path, [{"photo": b""}])
    assert failed.failures[0].message == "expected a Document, got dict; for rows give columns={'name': 'image'}"


def test_the_demo_model_tells_colours(tmp_path):
    """Real vectors, through the pipeline, as the plain functions give them."""
    import numpy as np

    from clipmill.encoders import score

    labels = ["a red circle", "a blue square", "a green triangle"]
    picture = np.full((96, 96, 3), 255, np.uint8)
    picture[24:72, 24:72] = (30, 60, 220)
    (found,), _, _ = classify(
        tmp_path, [Document(tensor=picture)], labels=labels, templates=PLAIN, model="demo", device="cpu"
    )
    encoder = load_encoder("demo", device="cpu")
    cosine, clip_score = score(encoder.embed_images([picture])[0], encoder.embed_texts(labels))
    for one in found.tags["labels"]:
        number = labels.index(one["label"])
        assert (one["cosine"], one["clip_score"]) == pytest.approx((cosine[number], clip_score[number]), abs=1e-5)
    assert found.tags["labels"][0]["label"] == "a blue square"


# --- rows -------------------------------------------------------------------------------------------------------------


class Page(NamedTuple):
    title: str | None


class Photo(NamedTuple):
    id: str
    page: Page
    captions: Sequence[str]


def test_named_tuples_become_rows_with_a_schema(tmp_path):
    """A path into a struct, an array, a column with a name of its own; the same values before and after a shuffle."""
    columns = {"page.title": "text", "captions": Column("text", output="told", truncated="cut")}
    photo = Photo("a", Page("something red"), ["blue", "two"])
    with pipeline() as p:
        made = p | beam.Create([photo]).with_output_types(Photo)
        classified = made | Classify(LABELS, model="fake::dim=8", templates=PLAIN, columns=columns)
        _ = classified.rows | "Now" >> Keep(tmp_path / "now")
        _ = classified.rows | beam.Reshuffle() | "Later" >> Keep(tmp_path / "later")
    kinds = dict(row_fields(classified.rows.element_type))
    assert list(kinds) == ["id", "page", "captions", "page_title_labels", "told", "cut"]
    structs = dict(row_fields(beam.typehints.row_type.RowTypeConstraint.from_fields([("s", STRUCTS)])))["s"]
    assert kinds["page_title_labels"] == structs
    assert kinds["cut"] is bool
    (now,), (later,) = kept(tmp_path / "now"), kept(tmp_path / "later")
    for row in map(plain, (now, later)):
        assert_labels(Scored([row], []), "page_title", {"a": labelled(vector_of_text("something red"), LABELS, PLAIN)})
        for told, text in zip(row["told"], ["blue", "two"], strict=True):
            one = Scored([{"id": "a", "x_labels": told}], [])
            assert_labels(one, "x", {"a": labelled(vector_of_text(text), LABELS, PLAIN)})
        assert row["cut"] is False
    assert plain(now) == plain(later)


def test_a_column_that_is_there_already_is_refused_or_fails(tmp_path):
    p = pipeline()
    rows = p | beam.Create([beam.Row(caption="x", caption_labels=1)])
    with pytest.raises(SpecError, match="column 'caption_labels' exists already; choose a name: Column"):
        _ = rows | Classify(LABELS, model="fake::dim=8", columns={"caption": "text"})
    made = [{"id": 1, "caption": "x", "caption_labels": "mine"}, {"id": 2, "caption": "x"}]
    (row,), (failed,), _ = classify(tmp_path, made, columns={"caption": "text"})
    assert (row["id"], failed.row) == (2, made[0])
    assert [(f.row, f.column, f.code) for f in failed.failures] == [("1", "caption_labels", Code.MALFORMED)]


def test_a_missing_column_is_refused_or_fails(tmp_path):
    p = pipeline()
    rows = p | beam.Create([beam.Row(caption="x")])
    with pytest.raises(SpecError, match="the rows have no column 'photo'; they have 'caption'"):
        _ = rows | Classify(LABELS, model="fake::dim=8", columns={"photo": "image"})
    _, (failed,), _ = classify(tmp_path, [{"number": 7}], columns={"photo": "image"}, key="number")
    assert [(f.row, f.column, f.code) for f in failed.failures] == [("7", "photo", Code.MISSING_COLUMN)]
    assert failed.row == {"number": 7, "photo_labels": None}


# --- labels, options, runners -----------------------------------------------------------------------------------------


def test_files_of_labels_are_read_when_the_transform_is_made(tmp_path):
    """Workers need not see them."""
    (tmp_path / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    (tmp_path / "templates.json").write_text('["{}"]', encoding="utf-8")
    transform = Classify(tmp_path / "labels.txt", model="fake::dim=8", templates=str(tmp_path / "templates.json"))
    for name in ("labels.txt", "templates.json"):
        Path(tmp_path / name).unlink()
    again = pickle.loads(pickle.dumps(transform))
    assert (again.labels.labels, again.labels.templates) == (tuple(LABELS), ("{}",))
    with pipeline() as p:
        _ = (p | beam.Create([Document(text="red, red")]) | again).rows | Keep(tmp_path / "rows")
    assert_tagged(kept(tmp_path / "rows")[0], vector_of_text("red, red"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"access_paths": "@m", "columns": {"a": "text"}}, "access_paths is for documents; it has no effect"),
        ({"keep_content": True, "columns": {"a": "text"}}, "keep_content is for documents; it has no effect"),
        ({"key": "number"}, "key is for rows; documents are named by their id"),
        ({"access_paths": "m"}, "access_paths='m' is not '@' and paths"),
        ({"on_failure": "skip"}, "on_failure='skip' must be one of 'split', 'raise'"),
        ({"columns": {"a": "audio"}}, "column 'a': fake::dim=8 embeds image and text only"),
        ({"columns": {}}, "names nothing to embed"),
        ({"top_k": None}, "top_k=None"),
    ],
    ids=str,
)  # fmt: skip
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(SpecError, match=message):
        Classify(LABELS, model="fake::dim=8", **options)


def test_unknown_options_are_refused_with_the_right_name():
    with pytest.raises(TypeError, match="unknown option 'template'; did you mean 'templates'"):
        Classify(LABELS, model="fake::dim=8", template=["{}"])


def test_the_label_and_the_runners_page():
    rows = Classify(LABELS, model="fake::dim=8", columns={"photo": "image"})
    assert rows.label == "Classify(fake::dim=8, photo)"
    assert Classify(LABELS, model="fake::dim=8").label == "Classify(fake::dim=8)"
    assert rows.display_data() == {"model": "fake::dim=8", "columns": "photo: image", "labels": 5}


def test_a_label_that_cannot_be_embedded_ends_the_job(tmp_path):
    with pytest.raises(Exception, match="the label 'poison' cannot be embedded"):
        classify(tmp_path, [Document(text="a")], labels=["poison", "b"], templates=PLAIN, model="fake::bad=poison")


def test_raising_ends_the_job(tmp_path):
    with pytest.raises(Exception, match="row 'bad' failed at tokenize with empty, model fake::dim=8"):
        classify(tmp_path, [Document(text=" ", id="bad")], on_failure="raise")


@pytest.mark.parametrize("max_wait_s", [None, 5], ids=["in the bundle", "across bundles"])
def test_windows_and_timestamps_of_a_stream(tmp_path, max_wait_s):
    stream = test_stream.TestStream()
    for second in (1, 61, 2):
        stream = stream.add_elements([TimestampedValue({"id": str(second), "caption": f"red {second}"}, second)])
    stream = stream.advance_watermark_to(130).advance_watermark_to_infinity()
    model = f"fake::dim=8&log={tmp_path / 'log'}"
    columns: Any = {"caption": "text"}
    transform = Classify(LABELS, model=model, templates=PLAIN, columns=columns, max_wait_s=max_wait_s)
    with beam.Pipeline(options=PipelineOptions(["--streaming"])) as p:
        classified = p | stream | beam.WindowInto(FixedWindows(60)) | transform
        _ = classified.rows | Keep(tmp_path / "rows")
    found = kept_in_time(tmp_path / "rows")
    first, second = IntervalWindow(0, 60), IntervalWindow(60, 120)
    assert sorted((row["id"], timestamp, window) for row, timestamp, window in found) == [
        ("1", 1, first),
        ("2", 2, first),
        ("61", 61, second),
    ]
    expected = {name: labelled(vector_of_text(f"red {name}"), LABELS, PLAIN) for name in ("1", "2", "61")}
    assert_labels(Scored([row for row, _, _ in found], []), "caption", expected)


def test_labels_are_embedded_once_in_each_process(tmp_path, monkeypatch):
    """Two transforms with the same labels in one pipeline, on two workers: two times ten texts."""
    monkeypatch.setenv("PYTHONPATH", str(SUPPORT))
    p = pipeline("--direct_running_mode=multi_processing", "--direct_num_workers=2")
    model = f"fake::dim=8&log={tmp_path / 'log'}"
    rows = [{"id": str(n), "photo": png(1 + n, 9, RED), "other": png(9, 1 + n, BLUE)} for n in range(40)]
    made = p | beam.Create(rows) | beam.Reshuffle()
    first = made | Classify(LABELS, model=model, templates=["{}", "a {}"], columns={"photo": "image"})
    second = first.rows | Classify(LABELS, model=model, templates=["{}", "a {}"], columns={"other": "image"})
    _ = second.rows | Keep(tmp_path / "rows")
    p.run().wait_until_finish()
    found = Scored(kept(tmp_path / "rows"), [])
    templates = ["{}", "a {}"]
    photos = {str(n): labelled(vector_of_png(1 + n, 9, RED), LABELS, templates) for n in range(40)}
    assert_labels(found, "photo", photos)
    others = {str(n): labelled(vector_of_png(9, 1 + n, BLUE), LABELS, templates) for n in range(40)}
    assert_labels(found, "other", others)
    log = read_log(tmp_path / "log")
    assert list(log.loads.values()) == [1, 1]
    assert sum(rows for kind, rows in log.batches if kind == "text") == 20
    assert sum(rows for kind, rows in log.batches if kind == "image") == 80
