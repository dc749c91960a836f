"""The contracts of `rank_contract.py`, run by `Rank` and `Classify` on the local runner."""

from __future__ import annotations

import apache_beam as beam
import pytest
from beam_helpers import Keep, kept, pipeline
from beam_rows import to_dicts, to_rows
from rank_contract import MODEL, ClassifyContract, FlatContract, RankContract, Scored

from clipmill.encoders import unload_all
from clipmill.transforms import Classify, Rank
from clipmill.transforms.rows import plain


def scored(directory, rows, make, transform, *, shuffled) -> Scored:
    """Run a transform on rows that `make` makes of dicts, and return all that came out of it as plain dicts."""
    unload_all()
    with pipeline() as p:
        made = p | beam.Create(rows) | make(list(rows[0]) if rows else [])
        both = made | transform
        out = both.rows | beam.Reshuffle() if shuffled else both.rows
        _ = out | "KeepRows" >> Keep(directory / "rows")
        _ = both.failures | "KeepFailures" >> Keep(directory / "failures")
    failed = kept(directory / "failures")
    found = [*kept(directory / "rows"), *(one.row for one in failed)]
    for path in [*directory.glob("rows/*"), *directory.glob("failures/*")]:
        path.unlink()  # a test may run more than one
    return Scored(
        [plain(row) for row in found],
        [(failure.row, failure.column, str(failure.code)) for one in failed for failure in one.failures],
    )


def ranking(directory, make, *, shuffled):
    def rank(rows, *, query="query", candidates="candidates", model=MODEL, **options):
        transform = Rank(model, query=query, candidates=candidates, **options)
        return scored(directory, rows, make, transform, shuffled=shuffled)

    return rank


def ranking_groups(directory, make, *, shuffled):
    def rank_groups(rows, *, by="group", query="query", candidate="candidate", model=MODEL, **options):
        transform = Rank(model, query=query, candidate=candidate, by=by, **options)
        return scored(directory, rows, make, transform, shuffled=shuffled)

    return rank_groups


def classifying(directory, make, *, shuffled):
    def classify(rows, columns, *, labels, model=MODEL, **options):
        transform = Classify(labels, model=model, columns=columns, **options)
        return scored(directory, rows, make, transform, shuffled=shuffled)

    return classify


class TestRankDicts(RankContract):
    splits = True

    @pytest.fixture
    def rank(self, tmp_path):
        return ranking(tmp_path / "kept", to_dicts, shuffled=False)


class TestRankRowsAfterAShuffle(RankContract):
    """Rows with a schema go through Beam's own coder of it, which declares how every field comes back."""

    splits = True

    @pytest.fixture
    def rank(self, tmp_path):
        return ranking(tmp_path / "kept", to_rows, shuffled=True)


class TestGroupsOfDicts(FlatContract):
    @pytest.fixture
    def rank_groups(self, tmp_path):
        return ranking_groups(tmp_path / "kept", to_dicts, shuffled=False)


class TestGroupsOfRowsAfterAShuffle(FlatContract):
    @pytest.fixture
    def rank_groups(self, tmp_path):
        return ranking_groups(tmp_path / "kept", to_rows, shuffled=True)


class TestClassifyDicts(ClassifyContract):
    @pytest.fixture
    def classify(self, tmp_path):
        return classifying(tmp_path / "kept", to_dicts, shuffled=False)


class TestClassifyRowsAfterAShuffle(ClassifyContract):
    @pytest.fixture
    def classify(self, tmp_path):
        return classifying(tmp_path / "kept", to_rows, shuffled=True)
