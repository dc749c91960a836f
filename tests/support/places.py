"""Folders of the repository that tests read, or hand on to processes."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SUPPORT = ROOT / "tests" / "support"
"""What PYTHONPATH has to hold for worker processes that unpickle something of these modules."""
