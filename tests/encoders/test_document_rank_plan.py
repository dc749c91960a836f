"""Ranking the matches of documents: order, scores, failures with their places, and which content is kept."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from contract import png, vector_of_png, vector_of_text, vector_of_wav, wav
from planned import run_plan
from rank_expected import MODEL, RED, TOLERANCE, WITH_SOUNDS, Place, data_uri, places

from clipmill.encoders import Document, Failure, load_encoder
from clipmill.encoders.plans.rank_plan import DocumentRankPlan
from clipmill.encoders.testing import read_log
from clipmill.errors import SpecError
from clipmill.failures import Code, Stage


def rank(
    documents: list[Document], plan: DocumentRankPlan | None = None, model: str = MODEL, **options: Any
) -> list[Any]:
    """Run the plan on documents in one session; return each with the failures of its matches."""
    encoder = load_encoder(model, **options)
    plan = pickle.loads(pickle.dumps(plan or DocumentRankPlan()))
    return [(done.result.value, done.result.inner) for done in run_plan(plan, encoder, documents)]


def assert_matches(document: Document, expected: list[Place], given: list[Document]) -> None:
    """Assert the matches of a ranked document: their order, scores and failures."""
    assert [match.id for match in document.matches] == [given[place.position].id for place in expected]
    for match, place in zip(document.matches, expected, strict=True):
        assert [str(failure.code) for failure in match.failures] == ([place.code] if place.code else [])
        if place.cosine is None:
            assert match.scores == {}
        else:
            assert set(match.scores) == {"clip_score", "cosine", "position"}
            assert match.scores["position"] == place.position
            assert match.scores["cosine"] == pytest.approx(place.cosine, abs=TOLERANCE)
            assert match.scores["clip_score"] == pytest.approx(place.clip_score, abs=TOLERANCE)


@pytest.mark.parametrize("max_batch_rows", [1, 3, 32])
def test_matches_are_sorted(max_batch_rows: int) -> None:
    """Several documents share micro-batches, with queries and matches of every modality."""
    photo, other = png(9, 60, RED), png(60, 9, RED)
    contents = [
        ({"text": "words"}, vector_of_text("words")),
        ({"blob": photo}, vector_of_png(9, 60, RED)),
        ({"uri": data_uri(other)}, vector_of_png(60, 9, RED)),
        ({"blob": wav(500)}, vector_of_wav(500)),
        ({"tensor": np.full((9, 61, 3), RED, np.uint8)}, vector_of_png(9, 61, RED)),
        ({"embedding": [3.0, 1, 4, 1, 5, 9, 2, 6]}, [3.0, 1, 4, 1, 5, 9, 2, 6]),
    ]
    documents = [
        Document(id=f"d{n}", matches=[Document(**fields) for fields, _ in contents], **fields)
        for n, (fields, _) in enumerate(contents)
    ]
    ranked = rank(documents, model=WITH_SOUNDS, max_batch_rows=max_batch_rows)
    for given, (found, inner), (_, query) in zip(documents, ranked, contents, strict=True):
        assert_matches(found, places(query, [vector for _, vector in contents]), given.matches)
        assert math.fsum(match.scores["clip_score"] for match in found.matches) == pytest.approx(1, abs=1e-6)
        assert (found.id, found.failures, [*inner]) == (given.id, (), [])


def test_failed_matches_come_last() -> None:
    """They have the reason, their original places and the document's name. The others are ranked without them."""
    unread = Failure(Stage.READ, Code.MALFORMED, "a broken line")
    matches = [Document(text=" "), Document(text="red"), Document(blob=b"junk"), Document(text="x"), Document()]
    matches[3].failures = (unread,)
    matches.append(Document(text="reddish"))
    document = Document(text="red?", id="root", matches=matches)
    ((found, inner),) = rank([document], DocumentRankPlan(top_k=1))
    vectors = ["empty", vector_of_text("red"), "undecodable", "malformed", "empty", vector_of_text("reddish")]
    expected = places(vector_of_text("red?"), vectors)
    assert_matches(found, expected[:1] + expected[2:], matches)
    assert found.failures == ()
    assert [(failure.column, failure.row, str(failure.code)) for failure in inner] == [
        ("@m[0]", "root", "empty"),
        ("@m[2]", "root", "undecodable"),
        ("@m[3]", "root", "malformed"),
        ("@m[4]", "root", "empty"),
    ]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"text": " "}, "empty"),
        ({"blob": b"junk"}, "undecodable"),
        ({"embedding": [1.0]}, "wrong_shape"),
        ({}, "empty"),
    ],
    ids=["blank", "no-picture", "other-model", "nothing"],
)
def test_a_document_whose_content_fails_is_not_ranked(fields: dict, code: str) -> None:
    """Its matches keep their order, and scores of an earlier ranking are removed."""
    matches = [Document(text="b", scores={"clip_score": 1.0}), Document(text="a")]
    document = Document(id="root", matches=matches, **fields)
    ((found, inner),) = rank([document])
    assert [(failure.column, failure.row, str(failure.code)) for failure in found.failures] == [(None, "root", code)]
    assert [(match.text, match.scores) for match in found.matches] == [("b", {}), ("a", {})]
    assert not inner
    assert matches[0].scores == {"clip_score": 1.0}


def test_truncated_texts_are_flagged() -> None:
    """They get the same tag as from `Embed`."""
    long = "a red circle " * 100
    document = Document(text=long, matches=[Document(text="blue"), Document(text=long)])
    ((found, _),) = rank([document], model="demo")
    assert found.tags == {"truncated": True}
    assert [match.tags for match in found.matches] == [{"truncated": True}, {}]


def test_documents_without_matches_and_unreadable_documents() -> None:
    unread = Document(id="unread", matches=[Document(text="a")])
    unread.failures = (Failure(Stage.READ, Code.MALFORMED, "a broken line"),)
    (alone, _), (found, _) = rank([Document(text=" ", id="alone"), unread])
    assert (alone.text, alone.matches, alone.failures) == (" ", [], ())
    assert [(failure.row, str(failure.code)) for failure in found.failures] == [("unread", "malformed")]


def test_existing_embeddings_are_used_instead_of_the_content(tmp_path) -> None:
    """For queries and matches. Computed embeddings are dropped, and the query's existing one is kept."""
    matches = [Document(text="unused", embedding=np.arange(8.0) + n) for n in range(3)]
    document = Document(blob=b"junk", embedding=np.ones(8), matches=matches)
    ((found, inner),) = rank([document], model=f"{MODEL}&log={tmp_path}")
    assert_matches(found, places(np.ones(8), [np.arange(8.0) + n for n in range(3)]), matches)
    assert read_log(tmp_path).batches == [] and not inner
    assert found.embedding is not None
    assert all(match.embedding is None for match in found.matches)


@pytest.mark.parametrize("keep", [False, True])
def test_kept_contents_and_embeddings(keep: bool) -> None:
    photo = png(9, 60, RED)
    document = Document(blob=photo, matches=[Document(blob=photo), Document(text="words")])
    ((found, _),) = rank([document], DocumentRankPlan(keep_embeddings=keep, keep_content=keep))
    assert [one.blob is not None for one in (found, found.matches[0])] == [keep, keep]
    if keep:
        np.testing.assert_array_equal(found.embedding, vector_of_png(9, 60, RED))
        np.testing.assert_array_equal(found.matches[1].embedding, vector_of_text("words"))
    else:
        assert found.embedding is None and {match.embedding is None for match in found.matches} == {True}


def test_the_callers_documents_are_not_modified() -> None:
    document = Document(text="q", matches=[Document(text="b"), Document(blob=b"junk"), Document(embedding=np.ones(8))])
    before = copy.deepcopy(document)
    rank([document])
    for one, twin in zip([document, *document.matches], [before, *before.matches], strict=True):
        assert (one.text, one.blob, one.scores, one.failures, one.tags) == (
            twin.text,
            twin.blob,
            twin.scores,
            twin.failures,
            twin.tags,
        )
    np.testing.assert_array_equal(document.matches[2].embedding, np.ones(8))


@pytest.mark.parametrize("options", [{"top_k": 0}, {"top_k": True}, {"scale": -1}, {"scale": "learnt"}], ids=str)
def test_invalid_plans_are_refused(options: dict) -> None:
    with pytest.raises(SpecError, match=next(iter(options))):
        DocumentRankPlan(**options)


def test_the_scale_of_an_existing_embedding_follows_its_content() -> None:
    """The modality is known if the document also has the content. For an embedding alone it is unknown."""
    model = f"{WITH_SOUNDS}&scale=2&scale_ai=3&scale_at=4"
    vector = [1.0, 2, 3, 4, 5, 6, 7, 8]
    matches = [Document(tensor=np.zeros((2, 2, 3), np.uint8), embedding=vector), Document(embedding=vector)]
    ((found, _),) = rank([Document(text="q", matches=matches)], DocumentRankPlan(scale="model"), model)
    assert_matches(found, places(vector_of_text("q"), [vector, "unsupported"], scale=2), matches)
