"""`clipmill models`: lists model names and facts, and downloads models in advance."""

from __future__ import annotations

import difflib
from typing import Any

from rich.table import Table

from ..errors import SpecError
from ..models.catalog import ModelRef, facts_of, resolve_model
from ..models.catalog.names import named_models
from ..models.progress import observed_by
from ..models.spec import EncoderSpec
from .bars import Bars


def list_models(pattern: str | None = None) -> list[ModelRef]:
    """Return every named model, or those whose name contains a pattern (any case)."""
    return [resolve_model(name) for name in named_models() if not pattern or pattern.lower() in name.lower()]


def nearest(pattern: str) -> list[str]:
    """Return the names nearest to a pattern that matches none."""
    return difflib.get_close_matches(pattern, [ref.name for ref in list_models()], n=5, cutoff=0.3)


def describe(ref: ModelRef) -> dict[str, Any]:
    """Return one model's facts as plain values; None for unknown ones."""
    facts = facts_of(ref)
    return {
        "name": ref.name,
        "modalities": sorted(facts.modalities),
        "dim": facts.dim,
        "least_dimensions": facts.least_dimensions,
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
        parameters, least = facts["parameters"], facts["least_dimensions"]
        table.add_row(
            ref.name,
            ", ".join(facts["modalities"]),
            str(facts["dim"]) if least is None else f"{least}–{facts['dim']}",
            str(facts["image_size"] or "–"),
            f"{parameters / 1e6:,.1f} M" if parameters else "?",
            facts["licence"] or "?",
        )
    return table


def download_model(spec: EncoderSpec) -> dict[str, Any]:
    """Download all files that a model needs on this machine, with progress on a terminal.

    Returns:
        `name`, `weights` (paths), `weights_sha256`, `bytes` of the weights, and `files`: paths of all that was looked
        for, weights included.

    Raises:
        WeightsError: If something cannot be had.
    """
    if spec.ref.family in ("fake", "custom", "onnx"):
        raise SpecError(f"{spec.model} has nothing to download: it is run from where its name says")
    from ..models.towers import find_source

    with Bars() as shown, observed_by(shown):
        source = find_source(spec)
        digest = source.weights_sha256
    weights = [str(path) for path in source.files]
    return {
        "name": spec.model,
        "weights": weights,
        "weights_sha256": digest,
        "bytes": sum(path.stat().st_size for path in source.files),
        "files": list(dict.fromkeys([*shown.files, *weights])),
    }
