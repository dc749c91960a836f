"""Fixtures of the tests of models: graphs that are made once, and caches without graphs."""

from __future__ import annotations

import dataclasses
import shutil

import pytest


@pytest.fixture(scope="session")
def made_graphs():
    """The demo model's graphs, made once for all processes of a run."""
    from clipmill.encoders import EncoderSpec
    from clipmill.models.runtimes.store import Store
    from clipmill.models.towers import find_source

    source = dataclasses.replace(find_source(EncoderSpec("demo")), float_graphs=None)
    return Store(source, None).graphs("float")


@pytest.fixture
def quick_maker(made_graphs, monkeypatch) -> None:
    """Make stores copy the demo model's graphs instead of making them, for tests of when and where that happens."""
    from clipmill.models.runtimes import graphs, store

    def copy(towers, frontend, folder) -> graphs.Graphs:
        for path in made_graphs.folder.iterdir():
            if path.is_file() and path.name != "graphs.json":
                shutil.copy(path, folder)
        return dataclasses.replace(made_graphs, folder=folder)

    monkeypatch.setattr(store, "make_graphs", copy)
