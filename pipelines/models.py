"""`clipmill models`: what can be named, and what is known of it before it is loaded."""

from __future__ import annotations

import difflib
from typing import Any

from rich.table import Table

from ..encoders.catalog import ModelRef, resolve_model
from ..encoders.catalog.tables import pairs


def list_models(pattern: str | None = None) -> list[ModelRef]:
    """Return every named model, or those whose name contains a pattern (any case)."""
    names = ["demo", *(f"{architecture}::{tag}" for architecture, tag in pairs())]
    return [resolve_model(name) for name in names if not pattern or pattern.lower() in name.lower()]


def nearest(pattern: str) -> list[str]:
    """Return the names nearest to a pattern that none contains."""
    return difflib.get_close_matches(pattern, [ref.name for ref in list_models()], n=5, cutoff=0.3)


def describe(ref: ModelRef) -> dict[str, Any]:
    """Return one model's facts as plain values; None where something is not known."""
    facts = ref.facts()
    return {
        "name": ref.name,
        "modalities": sorted(facts.modalities),
        "dim": facts.dim,
        "image_size": facts.image_size,
        "context_length": facts.context_length,
        "parameters": facts.parameters,
        "licence": facts.licence,
    }


def models_table(refs: list[ModelRef]) -> Table:
    """Return the facts as a table for the terminal."""
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("modalities")
    for numeric in ("dim", "image size", "parameters"):
        table.add_column(numeric, justify="right")
    table.add_column("licence")
    for ref in refs:
        facts = describe(ref)
        parameters = facts["parameters"]
        table.add_row(
            ref.name,
            ", ".join(facts["modalities"]),
            str(facts["dim"]),
            str(facts["image_size"]),
            f"{parameters / 1e6:,.1f} M" if parameters else "?",
            facts["licence"] or "?",
        )
    return table
