"""`clipmill embed`: the options of its job, and printing vectors without a job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..encoders import EncoderSpec, load_encoder
from ..encoders.item import Item, Uri
from ..encoders.outcome import Vector
from ..encoders.plans.embed_plan import DocumentEmbedPlan
from ..jobs.options import JobOptions
from .jobs import Refused, column_plan, job_options_of
from .skip_existing import skip_existing_of

if TYPE_CHECKING:
    from ..failures import Failure


def embed_options(spec: EncoderSpec, values: dict[str, Any]) -> JobOptions:
    """Return the options of a job for a command line of `clipmill embed`."""
    plan = column_plan(spec, values) or DocumentEmbedPlan(values["access_paths"], values["keep_content"])
    return job_options_of(values, plan, content_hash=values["content_hash"], skip_existing=skip_existing_of(values))


def print_vectors(spec: EncoderSpec, texts: Sequence[str], images: Sequence[str], audios: Sequence[str] = ()) -> None:
    """Print the vectors of texts, images and sounds, one JSON array a line; raise `Refused` if one fails."""
    items = [Item("text", text) for text in texts]
    items += [Item("image", Uri(path, trusted=True)) for path in images]
    items += [Item("audio", Uri(path, trusted=True)) for path in audios]
    outcomes = load_encoder(spec).embed_items(items)
    for given, outcome in zip((*texts, *images, *audios), outcomes, strict=True):
        if not isinstance(outcome, Vector):
            failure: Failure | None = outcome
            raise Refused(f"{given!r}: {failure}")
    for outcome in outcomes:
        assert isinstance(outcome, Vector)
        click.echo(json.dumps([float(f"{value:.7g}") for value in outcome.values]))
