"""The commands `rank`, `score` and `classify`: each prints a table for what is given, or runs a job."""

from __future__ import annotations

from typing import Any, get_args

import click

from ..encoders.plans.kinds import KINDS
from ..encoders.plans.scores import PairScore
from .commands import Command
from .options import (
    format_option,
    job_options,
    own_flags,
    reading_options,
    refuse_others,
    refuse_unknown,
    scoring_options,
    spec_from,
    spec_options,
    unchecked_of,
)

_SETTINGS = {"ignore_unknown_options": True, "allow_interspersed_args": True}
_QUERIES = "--query, --image and --audio"
_BY_KIND: Any = {"text": "query", "image": "image", "audio": "audio"}
_PRINTED_RANK = {"query", "image", "audio", "candidate_kind", "top_k", "scale", "score", "as_json"}
_PRINTED_SCORE = {"a_kind", "b_kind", "score", "as_json"}
_PRINTED_LABELS = {"labels", "templates", "top_k", "scale", "score", "min_score", "as_json"}


@click.command(cls=Command, context_settings=_SETTINGS)
@click.argument("tokens", metavar="CANDIDATE...|INPUT...", nargs=-1, type=click.UNPROCESSED)
@click.option("--query", metavar="TEXT", help="Rank the candidates for this text and print them; run no job.")
@click.option("--image", metavar="FILE", help="Rank the candidates for this image and print them; run no job.")
@click.option("--audio", metavar="FILE", help="Rank the candidates for this audio file and print them; run no job.")
@click.option("--query-column", metavar="NAME", help="Column of rows with the query.")
@click.option("--candidates-column", metavar="NAME", help="Column of rows with the list of candidates.")
@click.option("--candidate-column", hidden=True)  # for flat rows, which are refused with a hint
@click.option("--by", hidden=True)
@click.option("--query-kind", type=click.Choice(KINDS), help="What queries of rows are. [default: auto]")
@click.option(
    "--candidate-kind",
    type=click.Choice(KINDS),
    help="What candidates are. [default: images for a text, texts for an image or audio file; of rows auto]",
)
@click.option("--ranked-column", metavar="NAME", help="Column of rows that is added. [default: ranked]")
@click.option("--keep-embeddings", is_flag=True, help="Write the documents' vectors too.")
@scoring_options
@job_options
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@spec_options
@click.pass_context
def rank(context: click.Context, /, tokens: tuple[str, ...], **values: Any) -> None:
    """Rank candidates for a query: one right away, or millions as a job.

    With --query TEXT the CANDIDATEs are images (files, folders, patterns, URLs), with --image FILE or --audio FILE they
    are texts, unless --candidate-kind says otherwise; a table is printed. Candidates that begin with '-' go after '--'.

    With --output DIR an INPUT is JSON lines of documents with matches, or JSON lines or Parquet with a column of
    queries and one of lists of candidates. Options that are not listed here go to the engine, as in embed.
    """
    from .rank import Query, print_ranked, rank_options

    spec = spec_from(values)
    queries = [(kind, values[name]) for kind, name in _BY_KIND.items() if values[name] is not None]
    if queries:
        if len(queries) > 1:
            raise click.UsageError(f"{_QUERIES} each give the query; use one of them")
        refuse_others(context, _PRINTED_RANK, f"with {_QUERIES}, which run no job")
        refuse_unknown(tokens)
        context.exit(print_ranked(spec, Query(*queries[0]), (*tokens, *unchecked_of(context)), values))
    if tokens and not values["output"]:
        raise click.UsageError(f"give a query ({_QUERIES}) to rank the candidates, or --output DIR to run a job")
    otherwise = f"or a query ({_QUERIES}) with candidates"
    from .jobs import CommandLine, JobArguments, run  # late, since printing needs none of it

    line = CommandLine("rank", tokens, own_flags(context), unchecked_of(context), values, otherwise)
    context.exit(run(JobArguments.of(line, spec, lambda: rank_options(spec, values))))


@click.command(cls=Command, context_settings=_SETTINGS)
@click.argument("tokens", metavar="INPUT...|A B", nargs=-1, type=click.UNPROCESSED)
@click.option("--a", metavar="NAME", help="Column of rows with one value of the pair, such as the image.")
@click.option("--b", metavar="NAME", help="Column of rows with the other value, such as the caption.")
@click.option("--a-kind", type=click.Choice(KINDS), help="What --a holds. [default: auto; of A and B image]")
@click.option("--b-kind", type=click.Choice(KINDS), help="What --b holds. [default: auto; of A and B text]")
@click.option(
    "--score",
    type=click.Choice(get_args(PairScore)),
    default="cosine",
    show_default=True,
    help="clip_score is 2.5 · max(cosine, 0); logit and sigmoid take the scale and the bias that the model learnt.",
)
@click.option("--min-score", type=float, metavar="N", help="Reject rows with a lower score: they go to DIR/_rejected.")
@click.option("--score-column", metavar="NAME", help="Column that is added. [default: similarity]")
@format_option
@job_options
@spec_options
@click.pass_context
def score(context: click.Context, /, tokens: tuple[str, ...], **values: Any) -> None:
    """Score pairs, such as images and their captions, and keep the rows whose score is high enough.

    With --output DIR an INPUT is JSON lines, CSV or Parquet with both columns, or tars and folders of samples. Options
    that are not listed here go to the engine, as in embed.

    Without --output, the score of the image A (a file or URL) and the text B is printed; --a-kind and --b-kind say
    otherwise.
    """
    from .score import print_score, score_options

    spec = spec_from(values)
    if not values["output"] and not (values["a"] or values["b"]):
        refuse_others(context, _PRINTED_SCORE, "without --output, which runs a job")
        refuse_unknown(tokens)
        context.exit(print_score(spec, (*tokens, *unchecked_of(context)), values))
    from .jobs import CommandLine, JobArguments, run  # late, since printing needs none of it

    line = CommandLine("score", tokens, own_flags(context), unchecked_of(context), values)
    context.exit(run(JobArguments.of(line, spec, lambda: score_options(spec, values))))


@click.command(cls=Command, context_settings=_SETTINGS)
@click.argument("tokens", metavar="INPUT...", nargs=-1, type=click.UNPROCESSED)
@click.option("--labels", metavar="FILE|A,B,C", help="The labels: a list, or a file with one a line.")
@click.option("--templates", metavar="FILE", help="Texts with a {} for the label. [default: a short set]")
@click.option("--min-score", type=float, metavar="N", help="Only labels with at least this clip_score, perhaps none.")
@scoring_options
@job_options
@reading_options
@spec_options
@click.pass_context
def classify(context: click.Context, /, tokens: tuple[str, ...], **values: Any) -> None:
    """Find the labels that fit images, audio, texts or columns of tables best.

    Without --output the INPUTs are files, folders, patterns and URLs, and a table is printed. With --output DIR they
    are whatever embed takes, and the labels become a column. --top-k is 5 unless it is given.
    """
    from .classify import classify_options, print_labels

    spec = spec_from(values)
    if not values["output"]:
        refuse_others(context, _PRINTED_LABELS, "without --output, which runs a job")
        refuse_unknown(tokens)
        context.exit(print_labels(spec, (*tokens, *unchecked_of(context)), values))
    from .jobs import CommandLine, JobArguments, run  # late, since printing needs none of it

    line = CommandLine("classify", tokens, own_flags(context), unchecked_of(context), values)
    context.exit(run(JobArguments.of(line, spec, lambda: classify_options(spec, values))))
