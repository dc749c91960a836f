"""What every engine promises about columns that are made of a row's vectors; see `contract.py` for the fixture `embed`.

A module of an engine subclasses `VectorsContract` like `Contract`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from contract import DIM, Result, assert_vectors, by_id, captions, png, vector_of_png, vector_of_text

from clipmill.encoders import Head

WEIGHTS = {"photo": 0.7, "caption": 0.3}
FUSE = {"embedding": WEIGHTS}
BOTH = {"caption": "text", "photo": "image"}


def fused(weights: Mapping[str, float], parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return what a fused vector is, step by step in float64: normalise, weigh, add, normalise."""
    total = np.zeros(len(next(iter(parts.values()))))
    for name, weight in weights.items():
        vector = parts[name].astype(np.float64)
        total += weight * vector / np.sqrt((vector**2).sum())
    return total / np.sqrt((total**2).sum())


def scored(weight: np.ndarray, bias: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return what a linear head makes of a vector of length 1, in float64."""
    values = vector.astype(np.float64)
    scores: np.ndarray = weight.astype(np.float64) @ (values / np.sqrt((values**2).sum())) + bias
    return scores


def both(number: int) -> list[dict[str, Any]]:
    """Return rows with a caption and a photo each."""
    return [row | {"photo": png(2, n + 1, (n, 7, 90))} for n, row in enumerate(captions(number))]


def parts_of(row: Mapping[str, Any], number: int) -> dict[str, np.ndarray]:
    return {"caption": vector_of_text(row["caption"]), "photo": vector_of_png(2, number + 1, (number, 7, 90))}


def assert_close(result: Result, column: str, expected: Mapping[str, Any]) -> None:
    """Assert the vectors, scores or Nones of a column, and that no row is missing or new."""
    found = {name: row[column] for name, row in by_id(result).items()}
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            assert found[name] is not None, name
            np.testing.assert_allclose(np.asarray(found[name], np.float64), value, rtol=0, atol=2e-7, err_msg=name)


class VectorsContract:
    """See the module."""

    @pytest.fixture
    def embed(self):
        raise NotImplementedError("a subclass gives this fixture")

    @pytest.mark.parametrize("normalize", [False, True])
    @pytest.mark.parametrize(
        "weights", [WEIGHTS, {"photo": 2, "caption": -0.5}, {"caption": 1.0, "photo": 0.0}], ids=str
    )
    def test_a_fused_vector_is_the_weighted_sum_of_unit_vectors(self, embed, weights, normalize):
        rows = both(9)
        result = embed(rows, BOTH, fuse={"embedding": weights}, normalize=normalize, max_batch_rows=4)
        expected = {row["id"]: fused(weights, parts_of(row, n)) for n, row in enumerate(rows)}
        assert_close(result, "embedding", expected)
        lengths = [np.linalg.norm(np.asarray(row["embedding"], np.float64)) for row in result.rows]
        np.testing.assert_allclose(lengths, 1, rtol=1e-6)
        assert result.failures == []

    @pytest.mark.parametrize("keep_parts", [True, False])
    def test_parts_have_columns_of_their_own_unless_they_are_not_wanted(self, embed, keep_parts):
        rows = both(3)
        result = embed(rows, BOTH, fuse=FUSE, keep_parts=keep_parts)
        own = {"caption_embedding", "photo_embedding"} if keep_parts else set()
        row = by_id(result)["row-1"]
        assert {name for name in row if name.endswith("embedding")} == {"embedding", *own}
        if keep_parts:
            np.testing.assert_array_equal(np.asarray(row["caption_embedding"]), vector_of_text(rows[1]["caption"]))
        assert_close(result, "embedding", {f"row-{n}": fused(WEIGHTS, parts_of(rows[n], n)) for n in range(3)})

    def test_columns_that_are_not_fused_keep_theirs(self, embed):
        rows = [row | {"title": row["caption"][::-1]} for row in both(2)]
        columns = {**BOTH, "title": "text"}
        (row, _) = embed(rows, columns, fuse=FUSE, keep_parts=False).rows
        assert {name for name in row if name.endswith("embedding")} == {"title_embedding", "embedding"}

    @pytest.mark.parametrize("keep_parts", [True, False])
    def test_a_null_or_a_failure_among_the_parts_gives_null(self, embed, keep_parts):
        """Nothing takes the place of what is missing, and a failed row affects no other."""
        rows = both(6)
        rows[1]["photo"] = None
        rows[2]["photo"] = b"no picture"
        rows[3]["caption"] = ""
        rows[4] |= {"caption": None, "photo": b""}
        result = embed(rows, BOTH, fuse=FUSE, keep_parts=keep_parts)
        expected = {row["id"]: None for row in rows}
        expected |= {f"row-{n}": fused(WEIGHTS, parts_of(rows[n], n)) for n in (0, 5)}
        assert_close(result, "embedding", expected)
        assert sorted(result.failures) == [
            ("row-2", "photo", "undecodable"),
            ("row-3", "caption", "empty"),
            ("row-4", "photo", "empty"),
        ]
        if keep_parts:
            assert by_id(result)["row-1"]["caption_embedding"] is not None

    def test_parts_that_cancel_each_other_out_are_a_failure_of_the_fused_vector(self, embed):
        rows = [{"id": "same", "caption": "one", "title": "one"}, {"id": "other", "caption": "one", "title": "two"}]
        weights = {"caption": 0.5, "title": -0.5}
        result = embed(rows, {"caption": "text", "title": "text"}, fuse={"difference": weights})
        vectors = {"caption": vector_of_text("one"), "title": vector_of_text("two")}
        assert_close(result, "difference", {"same": None, "other": fused(weights, vectors)})
        assert result.failures == [("same", "difference", "out_of_range")]
        assert by_id(result)["same"]["title_embedding"] is not None

    def test_a_head_scores_the_unit_vectors_beside_them(self, embed, tmp_path):
        """In the same pass; nulls have no scores, and failed rows name what failed."""
        weight, bias = np.random.default_rng(0).standard_normal((1, DIM)).astype(np.float32), np.float32([0.25])
        np.savez(tmp_path / "head.npz", weight=weight, bias=bias)
        rows = [*captions(9), {"id": "null", "caption": None}, {"id": "bad", "caption": ""}]
        result = embed(rows, {"caption": "text"}, heads={"aesthetic": str(tmp_path / "head.npz")}, max_batch_rows=4)
        vectors = {row["id"]: vector_of_text(row["caption"]) for row in captions(9)}
        assert_vectors(result, "caption_embedding", vectors | {"null": None, "bad": None})
        expected = {name: scored(weight, bias, vector)[0] for name, vector in vectors.items()}
        assert_close(result, "aesthetic", expected | {"null": None, "bad": None})
        assert result.failures == [("bad", "caption", "empty")]
        assert {type(row["aesthetic"]) for row in result.rows} == {float, type(None)}

    def test_heads_with_several_scores_on_columns_and_fused_vectors(self, embed, tmp_path):
        rng = np.random.default_rng(1)
        weight, bias = rng.standard_normal((2, DIM)), rng.standard_normal(2)
        np.savez(tmp_path / "probe.npz", weight=weight, bias=bias)
        file = tmp_path / "probe.npz"
        heads = {
            "style": Head(file, column="photo", outputs=("drawn", "shot"), activation="softmax"),
            "topic": Head(file, column="embedding", activation="sigmoid"),
            "raw": Head(file, column="caption", normalize=False),
        }
        rows = both(5)
        result = embed(rows, BOTH, fuse=FUSE, keep_parts=False, heads=heads)
        parts = {row["id"]: parts_of(row, n) for n, row in enumerate(rows)}
        photo = {name: np.exp(scored(weight, bias, one["photo"])) for name, one in parts.items()}
        whole = {name: 1 / (1 + np.exp(-scored(weight, bias, fused(WEIGHTS, one)))) for name, one in parts.items()}
        for number, output in enumerate(("drawn", "shot")):
            assert_close(result, f"style_{output}", {name: one[number] / one.sum() for name, one in photo.items()})
            assert_close(result, f"topic_{number}", {name: one[number] for name, one in whole.items()})
            raw = {name: float(weight[number] @ one["caption"] + bias[number]) for name, one in parts.items()}
            found = {name: row[f"raw_{number}"] for name, row in by_id(result).items()}
            assert found == pytest.approx(raw, rel=1e-12)
        assert result.failures == []

    def test_fused_vectors_are_made_of_cut_ones(self, embed):
        rows = both(2)
        result = embed(rows, BOTH, fuse=FUSE, model="fake::dim=8&least_dimensions=2", dimensions=3)
        cut = [{name: part[:3] for name, part in parts_of(row, n).items()} for n, row in enumerate(rows)]
        assert_close(result, "embedding", {f"row-{n}": fused(WEIGHTS, parts) for n, parts in enumerate(cut)})
