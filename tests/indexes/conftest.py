"""What tests of indexes share."""

from __future__ import annotations

import faiss
import pytest


@pytest.fixture(autouse=True)
def _short_rotations(monkeypatch):
    """Let OPQ learn its rotation in 4 rounds instead of 50: re-ranking finds the neighbours all the same."""
    usual = faiss.index_factory

    def index_factory(*given):
        index = usual(*given)
        if isinstance(index, faiss.IndexPreTransform):
            rotation = faiss.downcast_VectorTransform(index.chain.at(0))
            if isinstance(rotation, faiss.OPQMatrix):
                rotation.niter = 4
        return index

    monkeypatch.setattr(faiss, "index_factory", index_factory)
