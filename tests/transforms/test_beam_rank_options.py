"""What `Rank` is told: its three ways, what it refuses at once, its labels, pickles and hints."""

from __future__ import annotations

import pickle

import apache_beam as beam
import pytest
from beam_helpers import Keep, kept, pipeline
from rank_expected import assert_places, text_places

from clipmill.encoders import Document, EncoderSpec, unload_all
from clipmill.errors import SpecError
from clipmill.transforms import Classify, Embed, Embedded, FailedRow, Rank
from clipmill.transforms.embed import embed_of

LISTS = {"query": "q", "candidates": "c"}
FLAT = {"query": "q", "candidate": "c", "by": "g"}


@pytest.fixture(autouse=True)
def _nothing_loaded():
    unload_all()


@pytest.mark.parametrize(
    "given",
    [
        {"query": "q"},
        {"candidates": "c"},
        {"by": "g"},
        {"query": "q", "candidate": "c"},
        {"query": "q", "by": "g"},
        {"candidate": "c", "by": "g"},
        {"query": "q", "candidates": "c", "by": "g"},
        {"query": "q", "candidates": "c", "candidate": "d"},
        {"query": "q", "candidates": "c", "candidate": "d", "by": "g"},
    ],
    ids="-".join,
)
def test_what_is_not_one_of_the_three_ways_is_refused_with_all_three(given):
    with pytest.raises(SpecError) as raised:
        Rank("fake::dim=8", **given)
    message = str(raised.value)
    assert all(f"{name}={value!r}" in message for name, value in given.items())
    assert "query= and candidates= (a list column), or query=, candidate= and by= (flat rows)" in message
    assert "documents with matches" in message


@pytest.mark.parametrize(
    ("way", "option", "message"),
    [
        ({}, {"output": "best"}, "output is for query= with candidates=; it has no effect on documents"),
        ({}, {"query_kind": "text"}, "query_kind is for rows; it has no effect on documents"),
        ({}, {"candidate_kind": "text"}, "candidate_kind is for rows; it has no effect on documents"),
        ({}, {"key": "number"}, "key is for rows; it has no effect on documents"),
        (LISTS, {"keep_embeddings": True}, "keep_embeddings is for documents; it has no effect on lists"),
        (LISTS, {"keep_content": True}, "keep_content is for documents; it has no effect on lists"),
        (FLAT, {"keep_content": True}, "keep_content is for documents; it has no effect on flat rows"),
        (FLAT, {"output": "best"}, "output is for query= with candidates=; it has no effect on flat rows"),
    ],
    ids=str,
)
def test_options_that_would_say_nothing_are_refused(way, option, message):
    with pytest.raises(SpecError, match=message):
        Rank("fake::dim=8", **way, **option)


@pytest.mark.parametrize("way", [{}, LISTS, FLAT], ids=["documents", "lists", "flat rows"])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"top_k": 0}, "top_k=0 is not an integer of at least 1; None means all"),
        ({"top_k": True}, "top_k=True is not an integer"),
        ({"scale": -1}, "scale=-1 is neither a finite number above 0 nor 'model'"),
        ({"max_wait_s": 0}, "max_wait_s=0 is not a number of seconds above 0"),
        ({"on_failure": "skip"}, "on_failure='skip' must be one of 'split', 'raise'"),
    ],
    ids=str,
)
def test_values_that_cannot_be_are_refused(way, option, message):
    with pytest.raises(SpecError, match=message):
        Rank("fake::dim=8", **way, **option)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (LISTS | {"query": ""}, "query='' names no column"),
        (LISTS | {"output": ""}, "output='' names no column"),
        (FLAT | {"by": []}, r"by=\(\) names no columns"),
        (FLAT | {"by": 5}, r"by=\(5,\) names no columns"),
        (FLAT | {"candidate": 5}, "candidate=5 names no column"),
    ],
    ids=str,
)
def test_names_that_are_none_are_refused(given, message):
    with pytest.raises(SpecError, match=message):
        Rank("fake::dim=8", **given)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"candidate_kinds": "text"}, "unknown option 'candidate_kinds'; did you mean 'candidate_kind'"),
        ({"minibatch_size": 3}, "option 'minibatch_size' is called 'max_batch_rows' here"),
        ({"columns": {"a": "text"}}, "unknown option 'columns'"),
    ],
    ids=str,
)
def test_unknown_options_are_refused_with_the_right_name(option, message):
    with pytest.raises(TypeError, match=message):
        Rank("fake::dim=8", **option)


def test_the_label_names_model_and_columns():
    assert Rank("fake::dim=8").label == "Rank(fake::dim=8)"
    assert Rank("fake::dim=8", **LISTS).label == "Rank(fake::dim=8, q, c)"
    assert Rank("fake::dim=8", query="a.b", candidate="c", by=["d", "e"]).label == "Rank(fake::dim=8, a.b, c, d, e)"
    assert "/" not in Rank("hf-hub:org/name").label


def test_the_runners_page_shows_what_is_ranked():
    assert Rank("fake::dim=8", scale="model", top_k=3, **LISTS).display_data() == {
        "model": "fake::dim=8",
        "columns": "q, c",
        "score": "softmax",
        "scale": "model",
        "top_k": "3",
    }
    assert Rank("fake::dim=8").display_data()["columns"] == "documents"


def test_a_spec_may_stand_in_for_the_name():
    spec = EncoderSpec("fake::dim=8", normalize=True)
    assert Rank(spec, max_batch_rows=3).spec == EncoderSpec("fake::dim=8", normalize=True, max_batch_rows=3)


@pytest.mark.parametrize(
    "transform",
    [
        Embed("fake::dim=8", columns={"q": "text"}),
        Rank("fake::dim=8", **LISTS),
        Rank("fake::dim=8", **FLAT, top_k=2),
        Classify(["a", "b"], model="fake::dim=8", columns={"q": "text"}),
        Embed("fake::dim=8"),
        Rank("fake::dim=8"),
        Classify(["a", "b"], model="fake::dim=8"),
    ],
    ids=lambda transform: transform.label,
)
def test_what_comes_out_knows_its_transform_and_pair(transform):
    p = pipeline()
    rows = [{"q": "a", "c": "b", "g": 1}] if transform.plan.of_rows else [Document(text="a")]
    both = p | beam.Create(rows) | transform
    assert type(both) is Embedded
    assert embed_of(both.rows) is transform
    assert embed_of(both.failures) is transform
    assert embed_of(both.rows | beam.Map(lambda row: row)) is None
    assert both.failures.element_type is FailedRow
    node = next(t for t in p.to_runner_api().components.transforms.values() if t.unique_name == transform.label)
    assert set(node.outputs) == {"rows", "failures"}


@pytest.mark.parametrize("way", [{}, LISTS, FLAT], ids=["documents", "lists", "flat rows"])
def test_a_pickle_is_small_and_ranks_again(way, tmp_path):
    again = pickle.loads(pickle.dumps(Rank("fake::dim=8", **way)))
    assert len(pickle.dumps(again)) < 10_000
    document = Document(text="red", matches=[Document(text="x"), Document(text="reddish")])
    rows = {"lists": {"q": "red", "c": ["x", "reddish"]}, "flat": {"q": "red", "c": "x", "g": 1}}
    with pipeline() as p:
        made = p | beam.Create([document if not way else rows["lists" if way is LISTS else "flat"]])
        _ = (made | again).rows | Keep(tmp_path)
    (row,) = kept(tmp_path)
    if way is LISTS:
        assert_places(row["ranked"], text_places("red", ["x", "reddish"]))
    elif way is FLAT:
        assert row["clip_score"] == 1
    else:
        assert [match.text for match in row.matches] == ["reddish", "x"]


@pytest.mark.parametrize("way", [{}, LISTS, FLAT], ids=["documents", "lists", "flat rows"])
def test_resource_hints_reach_the_stage_that_encodes(way):
    p = pipeline()
    rows = p | beam.Create([{"q": "a", "c": "b", "g": 1}] if way else [Document(text="a")])
    _ = rows | Rank("fake::dim=8", **way).with_resource_hints(accelerator="type:nvidia-l4;count:1")
    components = p.to_runner_api().components
    (stage,) = (t for t in components.transforms.values() if t.unique_name.endswith("/Encode/ParDo(EmbedFn)"))
    hints = components.environments[stage.environment_id].resource_hints
    assert hints["beam:resources:accelerator:v1"] == b"type:nvidia-l4;count:1"


def test_a_scale_that_the_model_did_not_learn_ends_the_job():
    p = pipeline()
    _ = p | beam.Create([Document(text="a")]) | Rank("fake::dim=8", scale="model")
    with pytest.raises(Exception, match="fake::dim=8 has no learnt scale"):
        p.run().wait_until_finish()
