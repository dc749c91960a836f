"""`clipmill score`: prints the score of one pair, or runs a job that scores the pairs of rows."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..encoders import EncoderSpec
from ..encoders.item import Uri
from ..encoders.plans.kinds import Kind
from ..encoders.plans.plan import PlanResult
from ..encoders.plans.row_values import get_by_path
from ..encoders.plans.runner import PlanRunner
from ..encoders.plans.similarity_plan import SIMILARITY, SimilarityPlan
from ..messages import setting
from ..metrics.stats import Stats
from .cli_messages import Refused, in_flags
from .first_use import load_shown
from .listed import table_of

if TYPE_CHECKING:
    from ..jobs.options import JobOptions

_OF_DOCUMENTS = ("keep_content", "tags")


def score_options(spec: EncoderSpec, values: dict[str, Any]) -> JobOptions:
    """Return the options of a job for a command line of `clipmill score`."""
    from .jobs import job_options_of  # late, since printing needs none of it

    for name, other in (("a", "b"), ("b", "a")):
        if not values[name]:
            there = f"--{other} {values[other]!r} needs" if values[other] else "a job needs"
            raise click.UsageError(f"{there} --{name} NAME: a row has a pair of values, in two columns")
    for name in _OF_DOCUMENTS:
        if values[name]:
            raise click.UsageError(in_flags(setting(name) + " is for documents and has no effect here"))
    plan = SimilarityPlan(
        values["a"],
        values["b"],
        a_kind=values["a_kind"] or "auto",
        b_kind=values["b_kind"] or "auto",
        output=values["score_column"] or SIMILARITY,
        score=values["score"],
        min_score=values["min_score"],
        key=values["id_column"] or "id",
    )
    return job_options_of(values, plan.checked(spec))


def print_score(spec: EncoderSpec, given: Sequence[str], values: Mapping[str, Any]) -> int:
    """Print the score of a pair of values, texts, or paths and URLs of files."""
    if len(given) != 2:
        raise click.UsageError(
            f"give two values to compare, such as photo.jpg 'a red circle', got {len(given)}; or --output DIR, --a and "
            "--b to run a job"
        )
    kinds: tuple[Kind, Kind] = values["a_kind"] or "image", values["b_kind"] or "text"
    for name, kind in zip(("a", "b"), kinds, strict=True):
        if kind in ("auto", "vector"):
            raise click.UsageError(f"--{name}-kind {kind} is for jobs; one by one they are text, image or audio")
    plan = SimilarityPlan("a", "b", *kinds, score=values["score"]).checked(spec)
    pair = zip(("a", "b"), given, kinds, strict=True)
    row = {name: value if kind == "text" else Uri(value, trusted=True) for name, value, kind in pair}
    result = _score(spec, plan, row)
    if result.failures:
        failure = result.failures[0]
        raise Refused(f"{given[0 if failure.column == 'a' else 1]!r}: " + in_flags(failure.message))
    found = result.value[SIMILARITY]
    if values["as_json"]:
        click.echo(json.dumps({"model": spec.model, "a": given[0], "b": given[1], values["score"]: found}, indent=1))
    else:
        from . import console

        rows = [(given[0], given[1], f"{found:.4f}")]
        console.out.print(table_of(("a", "b", values["score"]), rows))
    return 0


def _score(spec: EncoderSpec, plan: SimilarityPlan, row: Mapping[str, Any]) -> PlanResult:
    with PlanRunner(plan, load_shown(spec)).session(Stats()) as session:
        (done,) = [*session.push(None, functools.partial(get_by_path, row)), *session.flush()]
    return done.result
