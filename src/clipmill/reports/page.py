"""The page of a report: its sections, and its self-contained file."""

from __future__ import annotations

import datetime
import os
import secrets
from collections.abc import Mapping
from typing import Any

from rich.filesize import decimal

from .. import __version__
from ..indexes import IndexManifest
from . import plots, words
from .columns import VectorColumn
from .overview import Overview
from .page_file import template_of
from .pair_scores import PairScores
from .provenance import plain, provenance_rows, resolved_rows
from .sample import Entry, last_part, readable, shortened
from .scores import ColumnScores
from .vectors import VectorSection

MARK = '<meta name="generator" content="clipmill report">'
"""Marks a page of ours, which may be overwritten."""


class Page:
    """Gathers the plots of a page while its sections are described."""

    def __init__(self) -> None:
        """Begin with none."""
        self.plots: dict[str, dict[str, Any]] = {}

    def add(self, plot: Any) -> str:
        """Take a plot and return the name of its place."""
        from bokeh.core.types import ID
        from bokeh.embed import json_item

        name = f"plot-{len(self.plots) + 1}"
        self.plots[name] = dict(json_item(plot, ID(name)))
        return name


def render(found: Overview) -> str:
    """Return the page."""
    from bokeh.resources import Resources

    page = Page()
    context = {
        "name": os.path.basename(found.location.rstrip("/")) or found.location,
        "location": found.location,
        "made": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": __version__,
        "mark": MARK,
        "nonce": secrets.token_urlsafe(16),
        "warnings": found.warnings,
        "notes": found.notes,
        "tiles": _tiles(found),
        "failures": _failures(found),
        "vectors": [_vectors(section, page) for section in found.vectors],
        "scores": [_scores(one, page) for one in found.scores],
        "compared": [_pair_scores(one, page) for one in found.pairs],
        "work": _work(found, page),
        "index": None if found.index is None else _index(found.index, page),
        "job": _job(found.job),
        "words": words,
        "last_part": last_part,
    }
    context["sections"] = _sections(context)
    context["scripts"] = Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw
    context["plots"] = page.plots
    return template_of("page.html", "clipmill report").render(context)


def _sections(context: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the identifiers and titles of the sections, in the order of the page."""
    columns = [(f"vectors-{number}", f"Vectors: {one['name']}") for number, one in enumerate(context["vectors"], 1)]
    if context["index"]:
        return [("index", "Recall and speed"), *columns]
    for kind, title in (("scores", "Scores"), ("compared", "Scores of pairs")):
        names = [one["found"].column.name for one in context[kind]]
        columns += [(f"{kind}-{number}", f"{title}: {name}") for number, name in enumerate(names, 1)]
    return [("failures", "Failures"), *columns, ("job", "The job")]


def _tiles(found: Overview) -> list[tuple[str, str, str]]:
    """Return the numbers at the top: what, how many, and a word on it."""
    tiles = []
    if found.summary is not None and found.job is not None:
        summary, planned = found.summary, found.job.get("shards")
        tiles.append(("rows read", words.count(summary.input_rows), ""))
        made = (
            ("values embedded", summary.embedded)
            if summary.embedded or not summary.scored
            else ("values scored", summary.scored)
        )
        tiles.append((made[0], words.count(made[1]), f"{words.count(summary.nulls)} null" if summary.nulls else ""))
        failed = sum(summary.failed.values())
        said = f"in {words.share(summary.failed_rows, summary.input_rows)} of the rows" if failed else "no row failed"
        tiles.append(("values failed", words.count(failed), said))
        if summary.rejected:
            said = f"{words.share(summary.rejected, summary.input_rows)} of the rows"
            tiles.append(("rows rejected", words.count(summary.rejected), said))
        tiles.append(("shards", words.count(summary.shards), f"of {words.count(planned)}" if planned else ""))
        rate = summary.rows_per_second
        if rate is not None:
            tiles.append(("rows a second", words.number(rate), "between the first and the last row"))
        if summary.seconds:
            said = f"in {words.count(summary.processes)} process{'es' if summary.processes != 1 else ''}"
            tiles.append(("time of work", words.duration(summary.seconds), said))
    if found.index is not None:
        return [*tiles, *_index_tiles(found.index)]
    if found.rows is not None:
        tiles.append(("rows in the files", words.count(found.rows), words.many(found.files, "Parquet file")))
    return tiles


def _index_tiles(index: IndexManifest) -> list[tuple[str, str, str]]:
    tiles = [
        ("vectors", words.count(index.rows), f"of {words.count(index.dim)} values"),
        ("kind", index.kind, index.factory),
    ]
    if index.recall is not None:
        recall = index.recall
        said = "reached" if recall.reached else "not reached"
        tiles.append((f"recall@{recall.k}", f"{recall.recall:.4f}", f"target {recall.target:g}, {said}"))
        tiles.append(("queries a second", words.number(recall.queries_per_second), "on the machine that built it"))
    return [*tiles, ("on the disk", decimal(sum(index.files.values())), f"full vectors in {index.dtype}")]


def _index(index: IndexManifest, page: Page) -> dict[str, Any]:
    parts: dict[str, Any] = {"manifest": index, "recall": index.recall, "reasons": index.plan.get("reasons") or []}
    if index.recall is not None and index.recall.curve:
        parts["curve"] = page.add(plots.recall_plot(index.recall))
    failed = ", ".join(f"{words.count(rows)} {reason}" for reason, rows in index.failed.items() if rows)
    memory = index.plan.get("max_memory_bytes")
    rows = [
        ("built", index.created),
        ("rows added last", index.updated if index.updated != index.created else "–"),
        ("made of", ", ".join(readable(str(one.get("location"))) for one in index.datasets)),
        ("column", index.column),
        ("factory", index.factory),
        ("a search looks at", plots.settings(index.search)),
        ("rows without a vector", words.count(index.nulls)),
        ("vectors left out", failed or "none"),
        ("rows there already", words.count(index.skipped)),
        ("memory it was planned for", "–" if memory is None else decimal(memory)),
    ]
    return {**parts, "rows": rows}


def _failures(found: Overview) -> dict[str, Any] | None:
    if found.summary is None:
        return None
    total = sum(reason.count for reason in found.reasons)
    most = max((reason.count for reason in found.reasons), default=1)
    rows = [
        {"reason": reason, "share": words.share(reason.count, total), "bar": round(100 * reason.count / most, 1)}
        for reason in found.reasons
    ]
    return {"total": total, "rows": rows, "transient": sum(reason.transient for reason in found.reasons)}


def _vectors(section: VectorSection, page: Page) -> dict[str, Any]:
    sample, likeness = section.sample, section.likeness
    count = len(sample.entries)
    parts: dict[str, Any] = {
        "name": section.column.name,
        "made_of": _made_of(section.column),
        "sample": sample,
        "count": count,
        "sampled": "all of them" if sample.drawn >= sample.rows else f"drawn at random from {sample.rows:,}",
        "dim": sample.vectors.shape[1],
        "likeness": likeness,
        "duplicates": section.duplicates,
        "threshold": f"{section.duplicates.threshold:g}",
        "provenance": provenance_rows(section.column.provenance),
        "reasons": _reasons(section),
        "pairs": [
            {"cosine": f"{pair.cosine:.4f}", "sides": [_shown(section, pair.first), _shown(section, pair.second)]}
            for pair in section.duplicates.pairs
        ],
    }
    if count:
        parts["map"] = page.add(plots.map_plot(section))
        parts["method"] = section.projection.method
    if section.norms is not None and count:
        parts["norms"] = page.add(plots.histogram_plot(section.norms, "length of the vector"))
    if likeness.vectors > 1:
        both = {"every two vectors": likeness.pairs, "a vector and the one nearest to it": likeness.nearest}
        parts["cosines"] = page.add(plots.shares_plot(both, "cosine", "density"))
    return parts


def _made_of(column: VectorColumn) -> str | None:
    """Return the content of the vectors, None if it is unknown."""
    modality = (column.provenance or {}).get("modality")
    if modality is None:
        return None
    if modality == "auto":
        return "documents: texts, pictures or sounds"
    source = column.content.text or column.content.uri or column.content.blob
    kinds = {"text": "texts", "image": "pictures", "audio": "sounds"}.get(modality, modality)
    return f"{kinds}, in the column {source}" if source else kinds


def _reasons(section: VectorSection) -> list[tuple[str, int]]:
    """Return why there are no thumbnails, and of how many."""
    found: dict[str, int] = {}
    for picture in section.pictures.values():
        if picture.reason:
            kind = picture.reason.partition(":")[2].strip() if picture.reason.startswith("not ") else picture.reason
            found[kind] = found.get(kind, 0) + 1
    return sorted(found.items(), key=lambda pair: -pair[1])[:3]


def _shown(section: VectorSection, entry: Entry) -> dict[str, Any]:
    picture = section.picture(entry)
    return {
        "name": last_part(entry.name),
        "whole_name": entry.name,
        "text": entry.text,
        "picture": picture.data_uri,
        "reason": picture.reason,
    }


def _scores(found: ColumnScores, page: Page) -> dict[str, Any]:
    parts: dict[str, Any] = {"found": found}
    most = found.labels[0][1] if found.labels else 1
    parts["labels"] = [(name, count, round(100 * count / most, 1)) for name, count in found.labels]
    if found.values:
        if found.best is not None:
            both = {"every candidate": found.cosines, "the best of each row": found.best}
            parts["cosines"] = page.add(plots.shares_plot(both, "cosine", "density"))
        else:
            parts["cosines"] = page.add(plots.histogram_plot(found.cosines, "cosine", "rows"))
        parts["clip_scores"] = page.add(plots.histogram_plot(found.clip_scores, "clip_score", "scores", plots.GREEN))
    return parts


def _pair_scores(found: PairScores, page: Page) -> dict[str, Any]:
    parts: dict[str, Any] = {"found": found, "counted": found.counted()}
    if found.kept or found.below:
        parts["plot"] = page.add(plots.threshold_plot(found.scores, found.column.score, found.column.min_score))
    return parts


def _work(found: Overview, page: Page) -> dict[str, Any] | None:
    work, summary = found.work, found.summary
    if work is None or summary is None:
        return None
    parts: dict[str, Any] = {"work": work, "summary": summary}
    rate = work.rate()
    if rate is not None:
        parts["rate"] = page.add(plots.rate_plot(rate))
        parts["pauses"] = rate.pauses
    if work.batch_rows:
        parts["batches"] = page.add(plots.batches_plot(work.batch_rows))
        calls = sum(work.batch_rows.values())
        parts["calls"] = calls
        parts["rows_a_call"] = sum(rows * number for rows, number in work.batch_rows.items()) / calls
    spent = [(name, msec / 1000) for name, msec in work.msec.items()]
    longest = max((seconds for _, seconds in spent), default=0.0)
    if longest:
        parts["spent"] = [(name, words.duration(seconds), round(100 * seconds / longest, 1)) for name, seconds in spent]
    if work.resolved:
        parts["resolved"] = resolved_rows(work.resolved)
    return parts


def _job(job: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return what the job was, as names and values."""
    if job is None:
        return []
    rows = [("begun", str(job["started"]))] if job.get("started") else []
    rows += [("inputs", ", ".join(readable(str(one)) for one in job["inputs"]))] if job.get("inputs") else []
    plan = job.get("plan")
    if isinstance(plan, Mapping):
        rows.append(("plan", f"{plan.get('name')}: " + _pairs({k: v for k, v in plan.items() if k != "name"})))
    if job.get("arguments"):
        rows.append(("arguments", _pairs(job["arguments"])))
    return rows


def _pairs(values: Mapping[str, Any]) -> str:
    return shortened(", ".join(f"{name}={plain(value)}" for name, value in values.items()), 1000)


def said(found: Overview, output: str, nbytes: int) -> str:
    """Return the lines that the command prints: the path of the page, and a summary."""
    parts = []
    for section in found.vectors:
        there, tried = len(section.sample.entries), sum(one.jpeg is not None for one in section.pictures.values())
        pictures = f", {words.count(tried)} thumbnails" if tried else ""
        parts.append(f"{section.column.name}: {words.count(there)} vectors of {words.count(found.rows)} rows{pictures}")
    parts += [f"{one.column.name}: {words.count(one.values)} scores" for one in found.scores]
    for pair in found.pairs:
        parts.append(f"{pair.column.name}: {pair.counted()}")
    lines = [f"{output} ({decimal(nbytes)})", *(f"  {part}" for part in parts)]
    return "\n".join([*lines, *(f"  {warning}" for warning in found.warnings)])
