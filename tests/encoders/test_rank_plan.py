"""The contracts of ranking and classifying, run on the plans themselves, without an engine."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from contract import png, vector_of_png, vector_of_text
from planned import run_plan
from rank_contract import MODEL, ClassifyContract, FlatContract, RankContract, Scored
from rank_expected import assert_places, places, text_places

from clipmill.encoders import EncoderSpec, load_encoder
from clipmill.encoders.plans.classify_plan import SUFFIX, ClassifyPlan
from clipmill.encoders.plans.embed_plan import ColumnPlan
from clipmill.encoders.plans.labels import LabelSet
from clipmill.encoders.plans.pair_plan import PairPlan
from clipmill.encoders.plans.plan import PlanResult
from clipmill.encoders.plans.rank_plan import RankPlan
from clipmill.encoders.plans.ranking import GroupTotals
from clipmill.errors import SpecError

PLAN_OPTIONS = ("query_kind", "candidate_kind", "top_k", "scale", "score")


def run(plan: Any, spec: EncoderSpec, rows: list[dict[str, Any]]) -> Scored:
    """Run a plan on rows, all in one session."""
    if not rows:
        return Scored([], [])
    encoder = load_encoder(spec)
    found, failures = [], []
    for done in run_plan(plan, encoder, rows):
        found.append(done.token | done.result.value)
        failures += [(one.row, one.column, str(one.code)) for one in done.result.failures]
    return Scored(found, failures)


def split(options: dict[str, Any], model: str) -> tuple[dict[str, Any], EncoderSpec]:
    """Separate a plan's options from a spec's."""
    plan = {name: options.pop(name) for name in PLAN_OPTIONS if name in options}
    return plan, EncoderSpec(model, **options)


class TestRankPlan(RankContract):
    splits = True

    @pytest.fixture
    def rank(self):
        def rank(rows, *, query="query", candidates="candidates", model=MODEL, **options):
            plan, spec = split(options, model)
            return run(RankPlan(query, candidates, **plan).checked(spec), spec, rows)

        return rank


class TestPairPlan(FlatContract):
    @pytest.fixture
    def rank_groups(self):
        def rank_groups(rows, *, by="group", query="query", candidate="candidate", model=MODEL, **options):
            plan, spec = split(options, model)
            by = (by,) if isinstance(by, str) else tuple(by)
            result = run(PairPlan(query, candidate, by, **plan).checked(spec), spec, rows)
            groups: dict[Any, list[Any]] = {}
            for row in result.rows:
                groups.setdefault(tuple(row[name] for name in by), []).append(row)
            for members in groups.values():
                logits = [row["logit"] for row in members if row["logit"] is not None]
                totals = GroupTotals.of(logits, plan.get("top_k"))
                for row in members:
                    logit = row.pop("logit")
                    score = plan.get("score", "softmax")
                    row["clip_score"] = None if logit is None else totals.clip_score(logit, score)
                    if plan.get("top_k"):
                        row["rank"] = None if logit is None else totals.rank(logit)
            return result

        return rank_groups


class TestClassifyPlan(ClassifyContract):
    @pytest.fixture
    def classify(self):
        def classify(rows, columns, *, labels, model=MODEL, **options):
            names = ("templates", "top_k", "scale", "score", "min_score")
            own = {name: options.pop(name) for name in names if name in options}
            spec = EncoderSpec(model, **options)
            label_set = LabelSet.of(labels, spec=spec, **own)
            return run(ClassifyPlan(ColumnPlan.of(columns, spec=spec, suffix=SUFFIX), label_set), spec, rows)

        return classify


# --- beyond the contracts --------------------------------------------------------------------------------------------


def results(plan: Any, row: dict[str, Any], model: str = MODEL, **options: Any) -> PlanResult:
    """Run a plan on one row, and return the whole result."""
    (done,) = run_plan(plan, load_encoder(model, **options), [row])
    return done.result


def test_plans_can_be_pickled() -> None:
    """They are small, and equal after unpickling."""
    for plan in (
        RankPlan("q", "c", "image", "text", "out", 5, "key", "model"),
        PairPlan("q", "c", ("a", "b"), "auto", "vector", 5, "key", 7.5),
    ):
        assert pickle.loads(pickle.dumps(plan)) == plan
        assert len(pickle.dumps(plan)) < 500


def test_new_columns() -> None:
    assert RankPlan("q", "c").new_names == ["ranked"]
    assert RankPlan("q", "c", output="best").new_names == ["best"]
    assert PairPlan("q", "c", ("g",)).new_names == ["cosine", "clip_score"]
    assert PairPlan("q", "c", ("g",), top_k=3).new_names == ["cosine", "clip_score", "rank"]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (RankPlan("", "c"), "query='' names no column"),
        (RankPlan("q", None), "candidates=None names no column"),
        (RankPlan("q", "c", output=""), "output='' names no column"),
        (RankPlan("q", "c", key=5), "key=5 names no column"),
        (PairPlan("q", "", ("g",)), "candidate='' names no column"),
        (PairPlan("q", "c", ()), r"by=\(\) names no columns"),
        (PairPlan("q", "c", "group"), "by='group' names no columns"),
        (PairPlan("q", "c", ("g", None)), "names no columns"),
    ],
    ids=lambda value: "" if isinstance(value, str) else type(value).__name__,
)
def test_invalid_names_are_refused(plan: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        plan.checked(EncoderSpec(MODEL))


def test_a_missing_column_is_a_failure_that_lists_the_existing_ones() -> None:
    for plan, row, column in (
        (RankPlan("query", "candidates"), {"id": 7, "query": "red"}, "candidates"),
        (RankPlan("query", "candidates"), {"id": 7, "candidates": ["red"]}, "query"),
        (PairPlan("query", "candidate", ("group",)), {"id": 7, "query": "red", "candidate": "red"}, "group"),
    ):
        embedded = results(plan, row)
        (failure,) = embedded.failures
        assert (failure.code, failure.column, failure.row) == ("missing_column", column, "7")
        assert f"no {column!r}" in failure.message and "'id'" in failure.message
        assert set(embedded.value.values()) == {None}


@pytest.mark.parametrize(
    "candidates", ["red", b"red", 5, {"text": "red"}, {"red"}], ids=lambda value: type(value).__name__
)
def test_candidates_that_are_not_a_list(candidates: object) -> None:
    embedded = results(RankPlan("query", "candidates"), {"id": "a", "query": "red", "candidates": candidates})
    (failure,) = embedded.failures
    assert (str(failure.code), failure.column, failure.row) == ("malformed", "candidates", "a")
    assert f"holds a {type(candidates).__name__}, not a list" in failure.message
    assert embedded.value == {"ranked": None}


def test_tuples_and_arrays_count_as_lists() -> None:
    vectors = np.random.default_rng(2).standard_normal((5, 8)).astype(np.float32)
    expected = places(vector_of_text("red"), list(vectors))
    for given in (tuple(vectors), vectors, vectors.tolist(), np.empty((0, 8))):
        row = {"query": "red", "candidates": given}
        embedded = results(RankPlan("query", "candidates", candidate_kind="vector"), row)
        assert_places(embedded.value["ranked"], expected if len(given) else [])


def test_a_struct_of_nulls_is_a_null_query() -> None:
    """Datasets of images represent missing ones in this way."""
    row = {"query": {"bytes": None, "path": None}, "candidates": ["red"]}
    assert results(RankPlan("query", "candidates", "image"), row) == PlanResult({"ranked": None})
    row = {
        "query": "red",
        "candidates": [{"bytes": None, "path": None}, {"bytes": png(1, 90, (5, 6, 7)), "path": None}],
    }
    embedded = results(RankPlan("query", "candidates", "text", "image"), row)
    assert_places(embedded.value["ranked"], places(vector_of_text("red"), [None, vector_of_png(1, 90, (5, 6, 7))]))
    assert embedded.inner == []


def test_paths_into_structs() -> None:
    row = {"page": {"title": "red", "texts": ["red", "blue"]}, "id": "a"}
    embedded = results(RankPlan("page.title", "page.texts"), row)
    assert_places(embedded.value["ranked"], text_places("red", ["red", "blue"]))


def test_failures_of_candidates_have_places() -> None:
    """In the ranked list and beside it, with the row's name. The row itself does not fail."""
    row = {"key": 5, "query": "red", "candidates": ["red", " ", None, 7]}
    embedded = results(RankPlan("query", "candidates", candidate_kind="text", key="key"), row)
    assert embedded.failures == ()
    assert [(f.row, f.column, str(f.code)) for f in embedded.inner] == [
        ("5", "candidates[1]", "empty"),
        ("5", "candidates[3]", "unsupported"),
    ]


def test_failures_of_invalid_values_do_not_quote_the_content() -> None:
    secret = "my secret words"
    for kind, value in (("vector", secret), ("vector", [secret]), ("vector", {secret: 1}), ("image", {"x": secret})):
        row = {"query": "red", "candidates": [value]}
        (one,) = results(RankPlan("query", "candidates", candidate_kind=kind), row).value["ranked"]
        assert one["failure"]["code"] == "unsupported"
        assert secret not in one["failure"]["message"] or kind == "image"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = {"query": "red", "candidates": [[1e300] * 8]}
        (one,) = results(RankPlan("query", "candidates", candidate_kind="vector"), row).value["ranked"]
    assert one["failure"]["code"] == "out_of_range"


def test_untrusted_data_cannot_mark_itself_as_trusted(tmp_path) -> None:
    """No field of a struct allows it to read local files."""
    path = tmp_path / "secret.png"
    path.write_bytes(png(2, 3, (4, 5, 6)))
    struct = {"uri": str(path), "_trusted_uri": True, "trusted": True, "tags": {"_trusted_uri": True}}
    row = {"query": "red", "candidates": [struct, {"path": str(path), "bytes": None}]}
    ranked = results(RankPlan("query", "candidates"), row).value["ranked"]
    assert [one["failure"]["code"] for one in ranked] == ["forbidden_uri"] * 2
    (one, _) = results(RankPlan("query", "candidates"), row, allow_local_files=True).value["ranked"]
    assert one["failure"] is None


def test_a_pair_reports_both_failures() -> None:
    embedded = results(PairPlan("query", "candidate", ("g",)), {"id": "a", "g": 1, "query": " ", "candidate": b"junk"})
    assert [(f.column, str(f.code)) for f in embedded.failures] == [("query", "empty"), ("candidate", "undecodable")]
    assert embedded.value == {"cosine": None, "logit": None}


def test_a_pair_without_a_learnt_scale_fails() -> None:
    model = "fake::dim=8&modalities=text,image,audio&scale=2&scale_ai=3&scale_at=4"
    embedded = results(PairPlan("q", "c", ("g",), scale="model"), {"id": "a", "g": 1, "q": "x", "c": "y"}, model)
    (failure,) = embedded.failures
    assert (str(failure.stage), str(failure.code), failure.column) == ("score", "unsupported", "c")
