"""Options that there are not: every function of Spark knows its own keywords beside the spec's. Needs no session."""

from __future__ import annotations

import pytest

from clipmill.udfs import (
    audio_udf,
    classify,
    clip_similarity,
    embed_audio,
    embed_columns,
    embed_image,
    embed_text,
    image_udf,
    rank,
    rank_groups,
    register,
    search,
    text_udf,
)

MODEL = "fake::dim=8&modalities=text,image,audio"


@pytest.mark.parametrize(
    ("call", "slip", "meant"),
    [
        (lambda **slip: rank("q", "c", **slip), "topk", "top_k"),
        (lambda **slip: rank("q", "c", **slip), "candidates_kind", "candidate_kind"),
        (lambda **slip: rank("q", "c", **slip), "scales", "scale"),
        (lambda **slip: clip_similarity("a", "b", **slip), "failure", "failures"),
        (lambda **slip: clip_similarity("a", "b", **slip), "akind", "a_kind"),
        (lambda **slip: classify("a", labels=["x"], **slip), "template", "templates"),
        (lambda **slip: rank_groups(None, by="g", **slip), "topk", "top_k"),
        (lambda **slip: rank_groups(None, by="g", **slip), "candidat", "candidate"),
        (lambda **slip: register(None, **slip), "prefx", "prefix"),
        (lambda **slip: register(None, **slip), "candidates_type", "candidate_type"),
        (lambda **slip: embed_columns(None, {"a": "text"}, **slip), "observations", "observation"),
        (lambda **slip: rank("q", "c", **slip), "normalise", "normalize"),
        *(
            (lambda make=make, **slip: make("a", **slip), "determinstic", "deterministic")
            for make in (embed_text, embed_image, embed_audio)
        ),
        *((lambda make=make, **slip: make(**slip), "failure", "failures") for make in (text_udf, image_udf, audio_udf)),
    ],
)
def test_a_slip_is_told_what_was_meant(call, slip, meant):
    with pytest.raises(TypeError, match=f"unknown option '{slip}'; did you mean '{meant}'\\?"):
        call(model=MODEL, **{slip: 1})


@pytest.mark.parametrize(
    ("call", "slip", "meant"),
    [
        (embed_columns, "colums", "columns"),
        (rank_groups, "buy", "by"),
        (lambda *df, **slip: classify(**slip), "label", "labels"),
        (lambda *df, **slip: search("q", **slip), "indx", "index"),
        (lambda *df, **slip: rank("q", **slip), "candidate_column", "candidates_column"),
        (lambda *df, **slip: embed_text(**slip), "colum", "column"),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_a_slip_in_a_required_argument_is_told_too(call, slip, meant):
    with pytest.raises(TypeError, match=f"unknown option '{slip}'; did you mean '{meant}'\\?"):
        call(None, **{slip: {"caption": "text"}})


def test_what_is_missing_is_told_by_python():
    with pytest.raises(TypeError, match="missing a required argument: 'columns'"):
        embed_columns(None)


def test_own_keywords_are_among_the_options_told():
    with pytest.raises(
        TypeError, match=r"unknown option 'xyzzy'; the options are .*candidate_kind, .*scale, score, top_k, "
    ):
        rank("q", "c", model=MODEL, xyzzy=1)


def test_other_names_of_clip_as_service_are_told_still():
    with pytest.raises(TypeError, match="'batch_size' is called 'max_batch_rows' here"):
        rank_groups(None, by="g", model=MODEL, batch_size=3)
