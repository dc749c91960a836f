"""What tests of models share: graphs that were made once, and caches in which there are none."""

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

    return Store(find_source(EncoderSpec("demo")), None).graphs("float")


@pytest.fixture
def quick_maker(made_graphs, monkeypatch) -> None:
    """Let stores make the demo model's graphs by copying them, for tests of when they are made and where they stay."""
    from clipmill.models.runtimes import graphs, store

    def copy(towers, frontend, folder) -> graphs.Graphs:
        for path in made_graphs.folder.iterdir():
            if path.is_file() and path.name != "graphs.json":
                shutil.copy(path, folder)
        return dataclasses.replace(made_graphs, folder=folder)

    monkeypatch.setattr(store, "make_graphs", copy)
