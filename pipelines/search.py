"""`clipmill search`: embeds queries with the model of an index or dataset, and prints the hits or writes a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from ..datasets.tables.scalars import printable_values
from ..encoders import EncoderSpec
from ..encoders.item import Item
from ..encoders.outcome import Outcome
from ..encoders.plans.rank_plan import CLIP_SCORE, COSINE
from ..encoders.preparation import fetch_policy
from ..errors import DatasetError
from ..failures import Failure
from ..files.json_text import clean_text, json_text
from ..indexes.search_plan import ID, SCORE, TOP_K, SearchPlan, spec_of_search
from ..indexes.searcher import Searcher
from ..indexes.targets import Target, find_target
from ..metrics.stats import Stats
from ..reports.contact_sheet import MARK, Asked, content_columns, names_local_files, render, shown_text
from ..reports.page_file import page_file
from ..reports.pictures import PictureRules
from . import console
from .cli_messages import Refused, in_flags
from .first_use import load_shown
from .listed import table_of
from .rank import Query, scale_as_json, scale_of

_SHOWN = ("uri", "text")
"""Columns that describe a hit without an id, or with a text."""


def print_found(location: str, queries: Sequence[Query], options: dict[str, Any], values: dict[str, Any]) -> int:
    """Search for queries, and print or write the hits; return 1 if some of several queries could not be read."""
    asked_for = [name for given in values["columns"] for name in given.split(",")]
    model, allowed = options.pop("model", None), options.get("allow_local_files")
    try:
        target = find_target(location, values["column"])
        spec = spec_of_search(target, "auto", model, **options)
        assert spec is not None  # queries are no vectors
        _check_kinds(spec, queries)
        html = values["html"]
        page = page_file(html, "contact sheet", MARK, overwrite=values["overwrite"]) if html else None
        plan = _plan(target, spec, asked_for, values)
        target.open()  # before loading the model, which may take long
        encoder = load_shown(spec)
        searcher = Searcher(plan, encoder)
        found = searcher.find([_item(query, values["prompt"]) for query in queries], Stats())
    except DatasetError as err:
        raise Refused(err) from err
    asked = [_asked(*one) for one in zip(queries, printable_values(found.hits), found.outcomes, strict=True)]
    if all(one.hits is None for one in asked):
        raise Refused("; ".join(f"the query {one.value!r}: {one.reason}" for one in asked))
    if values["as_json"]:
        scale = scale_as_json(encoder, plan.scale) if plan.rerank else {}
        click.echo(json_text(_as_json(target, spec, asked, values["prompt"], plan, scale), indent=1))
    else:
        _print(asked, asked_for, plan)
    if page is not None:
        local = names_local_files(target) if allowed is None else bool(allowed)
        rules = PictureRules(values["fetch_remote"], lambda _: local, fetch_policy(spec))
        folder, name = page
        folder.make()
        sheet = clean_text(render(target, spec.model, asked, asked_for, rules))
        folder.write(name, sheet.encode())
        console.say(f"contact sheet: {values['html']}")
    return 1 if any(one.hits is None for one in asked) else 0


def _check_kinds(spec: EncoderSpec, queries: Sequence[Query]) -> None:
    for query in queries:
        if query.kind not in spec.modalities:
            what = f"the text {query.value!r}" if query.kind == "text" else f"--{query.kind}"
            raise click.UsageError(f"{what}: {spec.model} embeds {' and '.join(sorted(spec.modalities))}")


def _plan(target: Target, spec: EncoderSpec, columns: Sequence[str], values: dict[str, Any]) -> SearchPlan:
    """Return the search plan, with the columns to show in addition to the requested ones."""
    if values["scale"] is not None and not values["rerank"]:
        raise click.UsageError("--scale is of clip_scores, which hits have with --rerank alone")
    prompt = values["prompt"]
    if prompt is not None and "{}" not in prompt:
        raise click.UsageError(f"--prompt {prompt!r} has no {{}}, where the text goes")
    top_k = values["top_k"] or max(1, min(TOP_K, target.rows))
    SearchPlan(target, columns=tuple(columns), top_k=top_k).checked(spec)  # checks the user's columns
    return SearchPlan(
        target,
        top_k=top_k,
        columns=tuple(dict.fromkeys([*columns, *content_columns(target)])),
        rerank=values["rerank"],
        scale=scale_of(values["scale"]),
        nprobe=values["nprobe"],
        ef_search=values["ef_search"],
    ).checked(spec)


def _item(query: Query, prompt: str | None) -> Item:
    if query.kind == "text" and prompt is not None:
        return Item("text", prompt.replace("{}", query.value))
    return query.item()


def _asked(query: Query, hits: list[dict[str, Any]] | None, outcome: Outcome) -> Asked:
    reason = in_flags(outcome) if isinstance(outcome, Failure) else None
    return Asked(query.kind, query.value, hits, reason)


def _as_json(
    target: Target,
    spec: EncoderSpec,
    asked: Sequence[Asked],
    prompt: str | None,
    plan: SearchPlan,
    scale: Mapping[str, Any],
) -> dict[str, Any]:
    found = []
    for one in asked:
        hits = [{"rank": place, **hit} for place, hit in enumerate(one.hits or (), 1)]
        failed = {} if one.reason is None else {"failure": one.reason}
        found.append({"kind": one.kind, "value": one.value, "hits": hits, **failed})
    about = {"index": target.location, "rows": target.rows, "model": spec.model, "top_k": plan.top_k, **scale}
    return {**about, **({} if prompt is None else {"prompt": prompt}), "queries": found}


def _print(asked: Sequence[Asked], columns: Sequence[str], plan: SearchPlan) -> None:
    scores = [CLIP_SCORE, COSINE] if plan.rerank else [SCORE]
    hits = [hit for one in asked for hit in one.hits or ()]
    names = [name for name in (ID, *_SHOWN) if any(hit.get(name) is not None for hit in hits)]
    if ID in names and "uri" in names:
        names.remove("uri")  # the same as the id in most datasets
    if len({hit[ID] for hit in hits}) < len({hit["position"] for hit in hits}) and ID in names:
        names.insert(1, "position")  # samples of several tars may have the same key
    names = list(dict.fromkeys([*(names or ["position"]), *(name for name in columns if name != ID)]))
    for number, one in enumerate(asked):
        if one.hits is None:
            continue
        rows = [
            [
                str(place),
                *(f"{hit[score]:.4f}" for score in scores),
                *("" if hit[name] is None else shown_text(hit[name]) for name in names),
            ]
            for place, hit in enumerate(one.hits, 1)
        ]
        title = None if len(asked) == 1 else ("\n" if number else "") + one.value
        console.out.print(table_of(("place", *scores, *names), rows, title))
    failed = [(one.value, str(one.reason)) for one in asked if one.hits is None]
    if failed:
        console.out.print(table_of(("query", "reason"), failed, "\nqueries that failed"))
