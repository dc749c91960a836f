"""`clipmill embed`: the options of its job, and printing vectors without a job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..encoders import EncoderSpec, Head
from ..encoders.item import Item, Uri
from ..encoders.outcome import Vector
from ..encoders.plans.document_embed_plan import DocumentEmbedPlan
from ..messages import setting
from .cli_messages import Refused, in_flags
from .first_use import load_shown
from .skip_existing import skip_existing_of

if TYPE_CHECKING:
    from ..failures import Failure
    from ..jobs.options import JobOptions


def embed_options(spec: EncoderSpec, values: dict[str, Any]) -> JobOptions:
    """Return the options of a job for a command line of `clipmill embed`."""
    from .jobs import column_plan, job_options_of  # late, since printing needs none of it

    heads = _heads_of(values["heads"])
    more = {"fuse": _fuse_of(values["fuse"]), "keep_parts": values["keep_parts"], "heads": heads}
    plan = column_plan(spec, values, **more) or DocumentEmbedPlan(values["access_paths"], values["keep_content"])
    given = {"fuse": values["fuse"], "keep_parts": not values["keep_parts"], "heads": heads}
    for name, one in given.items():
        if one and not plan.of_rows:
            raise click.UsageError(in_flags(setting(name) + " is for rows; it has no effect without --column"))
    return job_options_of(values, plan, content_hash=values["content_hash"], skip_existing=skip_existing_of(values))


def _fuse_of(pairs: Sequence[str]) -> dict[str, dict[str, float]] | None:
    """Return the weights by column of each fused column, as `--fuse` gives them; None without it."""
    fuse: dict[str, dict[str, float]] = {}
    for pair in pairs:
        output, _, parts = pair.partition("=")
        weights: dict[str, float] = {}
        for part in parts.split(","):
            path, _, weight = part.rpartition(":")
            try:
                value = float(weight)
            except ValueError:
                value = None  # type: ignore[assignment]
            if not output or not path or value is None:
                raise click.UsageError(
                    f"--fuse {pair!r} is not of the form NAME=COLUMN:WEIGHT,COLUMN:WEIGHT, such as "
                    "embedding=photo:0.7,caption:0.3"
                )
            if path in weights:
                raise click.UsageError(f"--fuse {pair!r} names {path!r} twice")
            weights[path] = value
        if output in fuse:
            raise click.UsageError(f"--fuse gives {output!r} twice")
        fuse[output] = weights
    return fuse or None


def _heads_of(pairs: Sequence[str]) -> dict[str, Head] | None:
    """Return the heads by name, as `--head` gives them; None without it."""
    heads: dict[str, Head] = {}
    for pair in pairs:
        given, _, path = pair.partition("=")
        name, _, column = given.partition(":")
        if not name or not path or given.endswith(":"):
            raise click.UsageError(f"--head {pair!r} is not of the form NAME=FILE or NAME:COLUMN=FILE")
        if name in heads:
            raise click.UsageError(f"--head gives {name!r} twice")
        heads[name] = Head(path, column=column or None)
    return heads or None


def print_vectors(spec: EncoderSpec, texts: Sequence[str], images: Sequence[str], audios: Sequence[str] = ()) -> None:
    """Print the vectors of texts, images and sounds, one JSON array a line; raise `Refused` if one fails."""
    items = [Item("text", text) for text in texts]
    items += [Item("image", Uri(path, trusted=True)) for path in images]
    items += [Item("audio", Uri(path, trusted=True)) for path in audios]
    outcomes = load_shown(spec).embed_items(items)
    for given, outcome in zip((*texts, *images, *audios), outcomes, strict=True):
        if not isinstance(outcome, Vector):
            failure: Failure | None = outcome
            raise Refused(f"{given!r}: {failure}")
    for outcome in outcomes:
        assert isinstance(outcome, Vector)
        click.echo(json.dumps([float(f"{value:.7g}") for value in outcome.values]))
