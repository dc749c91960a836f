"""Pairs of an Arrow batch are scored together, to the same scores and failures as one by one. Needs no session."""

from __future__ import annotations

import collections

import numpy as np
import pyarrow as pa
import pytest
from contract import png
from rank_expected import WITH_SOUNDS

from clipmill.encoders import EncoderSpec, Vector, load_encoder
from clipmill.encoders.plans.pair_plan import LOGIT, PairPlan
from clipmill.encoders.plans.rank_plan import COSINE
from clipmill.encoders.plans.ranking import Scorer
from clipmill.encoders.plans.similarity_plan import SimilarityPlan
from clipmill.udfs.schema import InputColumn
from clipmill.udfs.score_batches import score_batches, similarity_array

MODEL = f"{WITH_SOUNDS}&scale=7.5&scale_ai=3&scale_at=20"
SPEC = EncoderSpec(MODEL, max_batch_rows=16)
ROWS = 300
DOCUMENT = pa.struct([("text", pa.string()), ("blob", pa.binary()), ("embedding", pa.list_(pa.float32()))])
PICTURES = [png(5, 3 + n, (7, 9, n)) for n in range(8)]


def columns():
    """Return queries and candidates, most of them good, with every sort of failure and null among them."""
    odd = {
        3: {"text": "a text to a text has no scale of its own"},
        4: {"blob": b"no picture"},
        5: None,
        6: {"embedding": [1.0]},
        8: {"embedding": [float("nan")] * 8},
        9: {"text": ""},
    }
    queries = [None if n % 10 == 7 else "" if n % 10 in (2, 9) else f"query {n % 11}" for n in range(ROWS)]
    candidates = [odd.get(n % 10, {"blob": PICTURES[n % 7]}) for n in range(ROWS)]
    return pa.array(queries), pa.array(candidates, DOCUMENT)


def read(queries, candidates):
    """Return cosine, logit and the codes of the failures of each row."""
    plan = PairPlan("query", "candidate", ("query",), scale="model")
    batch = pa.record_batch([queries, candidates], ["query", "candidate"])
    sources = [InputColumn("query", (0,), False), InputColumn("candidate", (1,), False)]
    made = [row for one in score_batches([batch], SPEC, plan, sources) for row in one.to_pylist()]
    assert [row["query"] for row in made] == queries.to_pylist()
    return [
        (row[COSINE], row[LOGIT], [(f["column"], f["code"]) for f in row["embedding_failures"] or []]) for row in made
    ]


def test_pairs_of_one_batch_get_what_each_would_get_alone():
    queries, candidates = columns()
    together = read(queries, candidates)
    assert together == [read(queries[n : n + 1], candidates[n : n + 1])[0] for n in range(ROWS)]
    outcomes = collections.Counter((row[0] is not None, tuple(row[2])) for row in together)
    query, candidate = ("query", "empty"), ("candidate", "empty")
    assert outcomes == {
        (True, ()): 60,
        (False, (query,)): 30,
        (False, (("candidate", "unsupported"),)): 30,
        (False, (("candidate", "undecodable"),)): 30,
        (False, ()): 60,
        (False, (("candidate", "wrong_shape"),)): 30,
        (False, (("candidate", "out_of_range"),)): 30,
        (False, (query, candidate)): 30,
    }
    assert {row[1] / row[0] for row in together if row[0]} == {7.5}


@pytest.mark.parametrize("dim", [1, 2, 3, 7, 64, 513, 1024, 9001])
def test_a_pair_has_the_same_bits_in_every_batch(dim):
    scorer = Scorer(load_encoder(f"fake::dim={dim}"), 100.0)
    rng = np.random.default_rng(dim)
    left, right = ([Vector(row) for row in rng.standard_normal((40, dim)).astype(np.float32)] for _ in range(2))
    together = scorer.pairs(left, right)
    assert together == [scorer.pairs([query], [one])[0] for query, one in zip(left, right, strict=True)]
    for query, candidate, (cosine, logit) in zip(left, right, together, strict=True):
        (ranked,) = scorer.rank(query, [candidate])
        assert (cosine, logit) == (ranked.cosine, 100 * ranked.cosine) and type(cosine) is float
    assert scorer.pairs([], []) == []


def test_a_batch_is_scored_in_few_products(monkeypatch):
    seen = []
    pairs = Scorer.pairs

    def counted(self, queries, candidates):
        seen.append(len(queries))
        return pairs(self, queries, candidates)

    monkeypatch.setattr(Scorer, "pairs", counted)
    texts = pa.array([f"text {n}" for n in range(ROWS)])
    plan = SimilarityPlan("a", "b")
    assert similarity_array(texts, texts, SPEC, plan, "raise").to_pylist() == [1.0] * ROWS
    assert sum(seen) == ROWS and len(seen) == 3
    seen.clear()
    pictures = pa.array([{"blob": PICTURES[n % 7]} for n in range(ROWS)], DOCUMENT)
    assert [row[2] for row in read(texts, pictures)] == [[]] * ROWS
    assert sum(seen) == ROWS and len(seen) <= ROWS // 16 + 1
