"""`clipmill classify`: prints labels of files, or runs a job that labels documents or rows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from ..encoders import EncoderSpec
from ..encoders.encoder import Encoder
from ..encoders.item import Item, Uri
from ..encoders.outcome import Classified, Labelled
from ..encoders.plans.classify_plan import SUFFIX, ClassifyPlan, DocumentClassifyPlan
from ..encoders.plans.document_embed_plan import DocumentEmbedPlan
from ..encoders.plans.labels import Classifier, LabelSet
from ..failures import Failure
from . import console
from .cli_messages import Refused, in_flags
from .first_use import load_shown
from .listed import list_files, table_of
from .rank import scale_of, scoring_as_json

if TYPE_CHECKING:
    from ..jobs.options import JobOptions


def label_set(spec: EncoderSpec, values: dict[str, Any]) -> LabelSet:
    """Return the classification that `--labels`, `--templates`, `--top-k` and `--scale` describe."""
    given = values["labels"]
    if not given:
        raise click.UsageError("missing option --labels: a file, one label a line, or a,b,c")
    labels: str | list[str] = given
    if not _names_a_file(given):
        labels = [one.strip() for one in given.split(",")]
        if not labels[-1]:  # a trailing comma
            labels.pop()
        if len(labels) < 2 and values["score"] == "softmax":
            raise click.UsageError(
                f"--labels {given!r} names no file that is there, and one label alone decides nothing; give a file "
                "or a,b,c"
            )
    scale = scale_of(values["scale"])
    scoring = {name: values[name] for name in ("templates", "score", "min_score")}
    return LabelSet.of(labels, top_k=values["top_k"] or 5, scale=scale, spec=spec, **scoring)


def _names_a_file(given: str) -> bool:
    """Return whether the value is a file name, of an existing file or not, instead of labels."""
    return os.path.exists(given) or "://" in given or ("," not in given and ("/" in given or "." in given))


def classify_options(spec: EncoderSpec, values: dict[str, Any]) -> JobOptions:
    """Return the options of a job for a command line of `clipmill classify`."""
    from .jobs import column_plan, job_options_of  # late, since printing needs none of it

    labels = label_set(spec, values)
    columns = column_plan(spec, values, suffix=SUFFIX)
    if columns is not None:
        return job_options_of(values, ClassifyPlan(columns, labels))
    documents = DocumentEmbedPlan(values["access_paths"], values["keep_content"])
    return job_options_of(values, DocumentClassifyPlan(documents, labels))


def print_labels(spec: EncoderSpec, given: Sequence[str], values: dict[str, Any]) -> int:
    """Print the labels of files, best first, then the failures with their reasons; return 1 if every file failed."""
    labels = label_set(spec, values)
    files = list_files(given)
    if not files:
        raise Refused("there is nothing to classify: give files, folders, patterns or URLs")
    encoder = load_shown(spec)
    found = list(_classified(encoder, labels, files))
    if values["as_json"]:
        click.echo(json.dumps(_as_json(encoder, labels, found), indent=1))
    else:
        _print(found)
    return 0 if any(isinstance(outcome, Labelled) for _, outcome in found) else 1


def _classified(encoder: Encoder, labels: LabelSet, files: Sequence[str]) -> Iterator[tuple[str, Classified]]:
    """Yield each file with its labels; keep no vectors."""
    classifier = Classifier(labels, encoder)
    with encoder.session() as session:
        for path in files:
            for token, outcomes in session.push(path, [Item("auto", Uri(path, trusted=True))]):
                yield token, classifier.classify(outcomes[0])
        for token, outcomes in session.flush():
            yield token, classifier.classify(outcomes[0])


def _as_json(encoder: Encoder, labels: LabelSet, found: Sequence[tuple[str, Classified]]) -> dict[str, Any]:
    return {
        "model": encoder.spec.model,
        "labels": len(labels.labels),
        "templates": list(labels.templates),
        **scoring_as_json(encoder, labels.scale, labels.score),
        "items": [
            {
                "uri": path,
                "labels": outcome.values if isinstance(outcome, Labelled) else None,
                "failure": _reason(outcome) if isinstance(outcome, Failure) else None,
            }
            for path, outcome in found
        ],
    }


def _reason(failure: Failure) -> dict[str, str]:
    return {"stage": str(failure.stage), "code": str(failure.code), "message": in_flags(failure.message)}


def _print(found: Sequence[tuple[str, Classified]]) -> None:
    rows: list[tuple[str, str, str, str]] = []
    for path, outcome in found:
        if isinstance(outcome, Labelled):
            labels = [(one["label"], f"{one['clip_score']:.4f}", f"{one['cosine']:.4f}") for one in outcome.values]
            for number, columns in enumerate(labels or [("none", "", "")]):
                rows.append(("" if number else path, *columns))
    if rows:
        console.out.print(table_of(("photo", "label", "clip_score", "cosine"), rows))
    failed = [(path, in_flags(outcome)) for path, outcome in found if isinstance(outcome, Failure)]
    if failed:
        title = ("\n" if rows else "") + "files that failed"
        console.out.print(table_of(("photo", "reason"), failed, title))
