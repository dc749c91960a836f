"""Two drivers in one directory: at most one of them goes on, or both end one after the other; rows are never mixed."""

from __future__ import annotations

import random

import pytest
from store_jobs import on_store
from two_drivers import check_two_drivers

pytest_plugins = ["resume_jobs"]


@pytest.mark.parametrize("seed", range(6))
def test_two_drivers_at_once(directory, tmp_path, monkeypatch, seed):
    ended = check_two_drivers(random.Random(seed), tmp_path / "work", directory, monkeypatch)
    assert ended.get("ended well", 0) + ended.get("refused", 0) == 2


@pytest.mark.parametrize("seed", range(3))
def test_two_drivers_on_an_object_store(tmp_path, monkeypatch, seed):
    ended = on_store(check_two_drivers, random.Random(seed), tmp_path / "work", monkeypatch)
    assert ended.get("ended well", 0) + ended.get("refused", 0) == 2
