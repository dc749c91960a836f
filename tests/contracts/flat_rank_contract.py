"""What every engine promises about ranking flat rows; see `rank_contract`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from contract import png, vector_of_png, vector_of_text
from rank_expected import COLOURS, GREEN, MODEL, QUERIES, RED, TOLERANCE, Scored, by_id, cosine_of, softmax_of

from clipmill.encoders.testing import read_log
from clipmill.errors import SpecError


def flat(number: int, groups: int) -> list[dict[str, Any]]:
    """Return pairs of a few groups that lie mixed, each with its query."""
    return [
        {
            "id": f"{n}",
            "group": f"g{n % groups}",
            "query": f"{QUERIES[n % groups % 5]}",
            "candidate": f"{COLOURS[n % 6]} {n * 7919 % number}",
        }
        for n in range(number)
    ]


class Pair(NamedTuple):
    """What a flat row should get; None where it has no scores."""

    cosine: float | None = None
    clip_score: float | None = None
    rank: int | None = None


def pairs(members: Mapping[str, float | None], *, scale: float = 100.0, top_k: int | None = None) -> dict[str, Pair]:
    """Return what the rows of a group should get, from their cosines; equal ones share a place."""
    good = {name: cosine for name, cosine in members.items() if cosine is not None}
    clip_scores = dict(zip(good, softmax_of([scale * cosine for cosine in good.values()]), strict=True)) if good else {}
    expected = dict.fromkeys(members, Pair())
    for name, cosine in good.items():
        place = 1 + sum(other > cosine for other in good.values())
        expected[name] = Pair(cosine, clip_scores[name], place if top_k and place <= top_k else None)
    return expected


def text_pairs(rows: Sequence[dict[str, Any]], by: Sequence[str] = ("group",), **options: Any) -> dict[str, Pair]:
    """Return what flat rows of texts should get; those with a null or without letters have no scores."""
    groups: dict[tuple[Any, ...], dict[str, float | None]] = {}
    for row in rows:
        texts = [row["query"], row["candidate"]]
        good = all(text is not None and text.strip() for text in texts)
        cosine = cosine_of(*map(vector_of_text, texts)) if good else None
        groups.setdefault(tuple(row[name] for name in by), {})[row["id"]] = cosine
    return {name: pair for members in groups.values() for name, pair in pairs(members, **options).items()}


def assert_pairs(result: Scored, expected: Mapping[str, Pair], *, ranks: bool) -> None:
    """Assert the scores of all flat rows, and that no row is missing or new."""
    found = by_id(result)
    assert sorted(found) == sorted(expected)
    for name, pair in expected.items():
        row = found[name]
        assert ("rank" in row) == ranks
        assert "logit" not in row
        if pair.cosine is None:
            assert row["cosine"] is None and row["clip_score"] is None, name
        else:
            assert row["cosine"] == pytest.approx(pair.cosine, abs=TOLERANCE), name
            assert row["clip_score"] == pytest.approx(pair.clip_score, abs=TOLERANCE, rel=1e-4), name
        assert row.get("rank") == pair.rank, name


class FlatContract:
    """Flat rows, one pair in each; see the module."""

    @pytest.fixture
    def rank_groups(self):
        raise NotImplementedError("a subclass gives this fixture")

    @pytest.mark.parametrize("max_batch_rows", [1, 3, 32])
    def test_scores_over_each_group_whatever_the_batch_size(self, rank_groups, max_batch_rows):
        rows = flat(60, 5)
        result = rank_groups(rows, max_batch_rows=max_batch_rows)
        assert_pairs(result, text_pairs(rows), ranks=False)
        assert result.failures == []

    def test_what_went_in_comes_out_beside_the_scores(self, rank_groups):
        rows = flat(6, 2)
        result = rank_groups(rows, top_k=1)
        for row in result.rows:
            assert set(row) - {"embedding_failures"} == {*rows[0], "cosine", "clip_score", "rank"}
            assert {name: row[name] for name in rows[0]} == rows[int(row["id"])]

    @pytest.mark.parametrize("top_k", [1, 3, 100])
    def test_the_best_of_each_group_have_their_rank(self, rank_groups, top_k):
        rows = flat(40, 3)
        assert_pairs(rank_groups(rows, top_k=top_k), text_pairs(rows, top_k=top_k), ranks=True)

    def test_equal_pairs_share_a_place(self, rank_groups):
        texts = ["two", "red", "two", "red", "red", "blue"]
        rows = [{"id": str(n), "group": "g", "query": "red!", "candidate": text} for n, text in enumerate(texts)]
        for top_k in (1, 3, 4, 6):
            result = rank_groups(rows, top_k=top_k)
            assert_pairs(result, text_pairs(rows, top_k=top_k), ranks=True)
        assert len({row["rank"] for row in result.rows}) == 3

    def test_a_null_in_by_is_a_group_as_in_sql(self, rank_groups):
        rows = flat(30, 3)
        for row in rows:
            row["group"] = None if row["group"] == "g1" else "None" if row["group"] == "g2" else row["group"]
        result = rank_groups(rows, top_k=2)
        assert_pairs(result, text_pairs(rows, top_k=2), ranks=True)
        assert result.failures == []

    def test_several_columns_name_a_group(self, rank_groups):
        rows = [row | {"number": None if n % 4 == 3 else n % 4} for n, row in enumerate(flat(48, 2))]
        result = rank_groups(rows, by=["group", "number"], top_k=2)
        assert_pairs(result, text_pairs(rows, ("group", "number"), top_k=2), ranks=True)

    def test_a_group_need_not_share_its_query(self, rank_groups):
        rows = [row | {"query": f"asked {n}"} for n, row in enumerate(flat(10, 2))]
        assert_pairs(rank_groups(rows), text_pairs(rows), ranks=False)

    def test_a_group_of_one(self, rank_groups):
        rows = flat(4, 4)
        result = rank_groups(rows, top_k=1)
        assert [(row["clip_score"], row["rank"]) for row in result.rows] == [(1, 1)] * 4

    def test_a_group_far_larger_than_a_micro_batch(self, rank_groups):
        rows = [row | {"group": "one" if n % 10 else "other"} for n, row in enumerate(flat(3000, 4))]
        result = rank_groups(rows, max_batch_rows=16, scale=1)
        assert_pairs(result, text_pairs(rows, scale=1), ranks=False)

    @pytest.mark.parametrize("scale", [0.5, 1000])
    def test_a_scale_that_is_a_number(self, rank_groups, scale):
        rows = flat(20, 2)
        assert_pairs(rank_groups(rows, scale=scale), text_pairs(rows, scale=scale), ranks=False)

    def test_the_scale_that_the_model_learnt(self, rank_groups):
        rows = flat(20, 2)
        result = rank_groups(rows, scale="model", model=f"{MODEL}&scale=7.5")
        assert_pairs(result, text_pairs(rows, scale=7.5), ranks=False)

    def test_sigmoids_of_each_row_alone(self, rank_groups):
        """The clip_score does not depend on the group; the rank does."""
        rows = [
            {"id": str(n), "group": f"g{n % 2}", "photo": png(9, 10 + 9 * n, RED), "query": "red"} for n in range(6)
        ]
        options = {"candidate": "photo", "candidate_kind": "image", "score": "sigmoid", "top_k": 1}
        result = by_id(rank_groups(rows, model=f"{MODEL}&scale=4.5&bias=-2.25", **options))
        cosines = {str(n): cosine_of(vector_of_text("red"), vector_of_png(9, 10 + 9 * n, RED)) for n in range(6)}
        for name, cosine in cosines.items():
            expected = 1 / (1 + math.exp(2.25 - 4.5 * cosine))
            assert result[name]["clip_score"] == pytest.approx(expected, abs=TOLERANCE)
            group = [other for n, other in cosines.items() if int(n) % 2 == int(name) % 2]
            assert result[name]["rank"] == (1 if cosine == max(group) else None)

    def test_pairs_that_fail_or_are_null_take_no_part(self, rank_groups):
        rows = flat(12, 2)
        rows[0]["candidate"], rows[1]["candidate"], rows[2]["candidate"] = None, " ", ""
        rows[3]["query"], rows[4]["query"], rows[5]["query"] = None, "", "red"
        rows[6] |= {"query": None, "candidate": None}
        rows[7] |= {"query": " ", "candidate": " "}
        result = rank_groups(rows, top_k=2, max_batch_rows=3)
        assert_pairs(result, text_pairs(rows, top_k=2), ranks=True)
        assert sorted(result.failures) == [
            ("1", "candidate", "empty"),
            ("2", "candidate", "empty"),
            ("4", "query", "empty"),
            ("7", "candidate", "empty"),
            ("7", "query", "empty"),
        ]

    def test_a_group_in_which_all_fail(self, rank_groups):
        rows = [{"id": str(n), "group": "g", "query": "red", "candidate": " "} for n in range(3)]
        rows.append({"id": "3", "group": "null", "query": "red", "candidate": None})
        result = rank_groups(rows, top_k=1)
        assert_pairs(result, text_pairs(rows), ranks=True)
        assert sorted(result.failures) == [(str(n), "candidate", "empty") for n in range(3)]

    def test_a_candidate_that_is_no_picture(self, rank_groups):
        photos = [png(9, 60, RED), b"junk", None, png(70, 3, GREEN)]
        rows = [{"id": str(n), "group": "g", "query": "red", "photo": photo} for n, photo in enumerate(photos)]
        result = rank_groups(rows, candidate="photo", candidate_kind="image")
        vectors = [vector_of_png(9, 60, RED), None, None, vector_of_png(70, 3, GREEN)]
        cosines = {str(n): v if v is None else cosine_of(vector_of_text("red"), v) for n, v in enumerate(vectors)}
        assert_pairs(result, pairs(cosines), ranks=False)
        assert result.failures == [("1", "photo", "undecodable")]

    def test_given_vectors_are_used_and_not_made_again(self, rank_groups, tmp_path):
        rng = np.random.default_rng(7)
        vectors = [rng.standard_normal(8).astype(np.float32).tolist() for _ in range(8)]
        rows = [{"id": str(n), "group": f"g{n % 2}", "query": "red", "vector": v} for n, v in enumerate(vectors)]
        rows.append({"id": "short", "group": "g0", "query": "red", "vector": [1.0]})
        model = f"{MODEL}&log={tmp_path / 'log'}"
        result = rank_groups(rows, candidate="vector", candidate_kind="vector", model=model)
        expected: dict[str, Pair] = {"short": Pair()}
        for group in ("g0", "g1"):
            members = [r for r in rows if r["group"] == group and r["id"] != "short"]
            expected |= pairs({r["id"]: cosine_of(vector_of_text("red"), r["vector"]) for r in members})
        assert_pairs(result, expected, ranks=False)
        assert result.failures == [("short", "vector", "wrong_shape")]
        log = read_log(tmp_path / "log")
        assert log.rows == len(log.loads)  # the query

    def test_equal_values_are_encoded_once_in_each_worker(self, rank_groups, tmp_path):
        rows = [
            {"id": f"{n}", "group": f"g{n // 20}", "query": f"query {n // 20}", "candidate": f"label {n % 20}"}
            for n in range(400)
        ]
        result = rank_groups(rows, model=f"{MODEL}&log={tmp_path / 'log'}", max_batch_rows=16)
        assert_pairs(result, text_pairs(rows), ranks=False)
        log = read_log(tmp_path / "log")
        assert set(log.loads.values()) == {1}
        assert 40 <= log.rows <= 40 * len(log.loads)
        assert max(size for _, size in log.batches) == 16

    def test_no_rows(self, rank_groups):
        assert rank_groups([]) == Scored([], [])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"by": []}, r"by=\(?\[?"),
            ({"query_kind": "picture"}, r"query_kind='picture'"),
            ({"candidate_kind": "audio"}, r"candidate_kind='audio'"),
            ({"top_k": -1}, r"top_k=-1"),
            ({"scale": math.inf}, r"scale=inf"),
        ],
        ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
    )
    def test_options_that_cannot_work_are_refused_at_once(self, rank_groups, options, message):
        with pytest.raises(SpecError, match=message):
            rank_groups(flat(2, 1), **options)

    def test_the_callers_data_is_unchanged(self, rank_groups):
        rows = flat(10, 2)
        before = copy.deepcopy(rows)
        assert len(rank_groups(rows, top_k=1).rows) == 10
        assert rows == before
