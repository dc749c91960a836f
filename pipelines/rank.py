"""`clipmill rank`: prints candidates ranked for one query, or runs a job that ranks documents or rows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from ..encoders import EncoderSpec
from ..encoders.encoder import Encoder
from ..encoders.item import Item, Uri
from ..encoders.outcome import Vector
from ..encoders.plans.kinds import check_kind
from ..encoders.plans.rank_plan import RANKED, DocumentRankPlan, RankPlan
from ..encoders.plans.ranking import Ranked, Scorer, check_any_scale, check_scoring
from ..encoders.plans.scores import SCALE, Scale, Score
from ..errors import SpecError
from ..failures import Failure
from ..messages import setting
from . import console
from .cli_messages import Refused, in_flags
from .first_use import load_shown
from .listed import list_files, table_of

if TYPE_CHECKING:
    from ..jobs.options import JobOptions

Modality = Literal["text", "image", "audio"]
_OF_ROWS = ("query_kind", "candidate_kind", "ranked_column", "drop")
_OF_DOCUMENTS = ("keep_embeddings", "keep_content", "tags")
_FLAT = (
    "flat rows, a candidate in each, are ranked within groups by the transforms themselves, and not from the command "
    "line: clipmill.transforms.Rank(query=…, candidate=…, by=…) on Beam, clipmill.udfs.rank_groups(df, by=…) on Spark. "
    "Here a row has a list of candidates: --query-column and --candidates-column"
)


class Query(NamedTuple):
    """The query that candidates are ranked for.

    Attributes:
        value: The text, or the path or URL of a file.
    """

    kind: Modality
    value: str

    def item(self) -> Item:
        """Return the query as an item."""
        return _item(self.kind, self.value)


def _item(kind: Modality, value: str) -> Item:
    """Return an item for a value of the command line, which may name a local file."""
    return Item("text", value) if kind == "text" else Item(kind, Uri(value, trusted=True))


def scale_of(given: str | None) -> Scale:
    """Return the scale of an option; raise `click.UsageError` if it is neither a number nor `model`."""
    if given is None:
        return SCALE
    if given == "model":
        return "model"
    try:
        scale = float(given)
        check_any_scale(scale)
    except (ValueError, SpecError):
        raise click.UsageError(f"--scale {given!r} is neither a finite number above 0 nor 'model'") from None
    return scale


def rank_options(spec: EncoderSpec, values: dict[str, Any]) -> JobOptions:
    """Return the options of a job for a command line of `clipmill rank`."""
    from .jobs import job_options_of  # late, since printing needs none of it

    if values["by"] or values["candidate_column"]:
        raise Refused(_FLAT)
    scale, top_k = scale_of(values["scale"]), values["top_k"]
    if values["dtype"] != "float32" and not values["keep_embeddings"]:
        raise click.UsageError("--dtype is of vectors, which are written with --keep-embeddings alone (of documents)")
    query, candidates = values["query_column"], values["candidates_column"]
    if bool(query) != bool(candidates):
        there, missing = ("query", "candidates") if query else ("candidates", "query")
        raise click.UsageError(f"--{there}-column needs --{missing}-column beside it: a row has a query and candidates")
    for name in _OF_DOCUMENTS if query else _OF_ROWS:
        if values[name]:
            home = "documents with matches" if query else "rows (--query-column and --candidates-column)"
            raise click.UsageError(in_flags(setting(name) + f" is for {home} and has no effect here"))
    if not query:
        plan = DocumentRankPlan(top_k, values["keep_embeddings"], values["keep_content"], scale, values["score"])
        return job_options_of(values, plan)
    of_rows = RankPlan(
        query,
        candidates,
        query_kind=values["query_kind"] or "auto",
        candidate_kind=values["candidate_kind"] or "auto",
        output=values["ranked_column"] or RANKED,
        top_k=top_k,
        key=values["id_column"] or "id",
        scale=scale,
        score=values["score"],
    )
    return job_options_of(values, of_rows.checked(spec))


def print_ranked(spec: EncoderSpec, query: Query, given: Sequence[str], values: dict[str, Any]) -> int:
    """Rank candidates for one query and print them, best first, then failures; return 1 if every candidate failed.

    Candidates are texts, or files, folders, patterns and URLs.
    """
    kind: Modality = values["candidate_kind"] or ("image" if query.kind == "text" else "text")
    if kind in ("auto", "vector"):
        raise click.UsageError(f"--candidate-kind {kind} is for jobs; named one by one they are text, image or audio")
    scale = scale_of(values["scale"])
    if query.kind not in spec.modalities:
        flag = "query" if query.kind == "text" else query.kind
        raise click.UsageError(f"--{flag}: {spec.model} embeds {' and '.join(sorted(spec.modalities))}")
    check_kind("candidate_kind", kind, spec)
    check_scoring(scale, values["score"])
    candidates = list(given) if kind == "text" else list_files(given)
    if not candidates:
        what = "texts" if kind == "text" else "files, folders, patterns or URLs"
        raise Refused(f"there is no candidate: give {what} after the options")
    if values["candidate_kind"] is None and kind == "text":
        _say_if_files(candidates)
    encoder = load_shown(spec)
    scorer = Scorer(encoder, scale, values["score"])
    asked, *outcomes = encoder.embed_items([query.item(), *(_item(kind, one) for one in candidates)])
    if not isinstance(asked, Vector):
        raise Refused(f"the query {query.value!r}: {asked}")
    ranked = scorer.rank(asked, outcomes, values["top_k"])
    if values["as_json"]:
        about = {"model": spec.model, "query": query._asdict(), **scoring_as_json(encoder, scale, values["score"])}
        click.echo(json.dumps({**about, "candidates": _as_json(candidates, ranked)}, indent=1))
    else:
        _print(candidates, ranked)
    return 0 if any(one.clip_score is not None for one in ranked) else 1


def _places(ranked: Sequence[Ranked]) -> list[int | None]:
    """Return the place of each candidate from 1, None without scores; equal scores share a place."""
    places: list[int | None] = []
    for number, one in enumerate(ranked):
        ties = number > 0 and one[1:3] == ranked[number - 1][1:3]
        places.append(None if one.cosine is None else places[-1] if ties else number + 1)
    return places


def scoring_as_json(encoder: Encoder, scale: Scale, score: Score) -> dict[str, Any]:
    """Return what clip_scores are, the factor of cosines and whether the model learnt it, and with sigmoid the bias."""
    if score == "sigmoid":
        learnt = {"scale": encoder.learnt_scales, "bias": encoder.learnt_biases}
        return {"score": score, **{name: _by_pair(numbers) for name, numbers in learnt.items()}, "learnt": True}
    return {"score": score, **scale_as_json(encoder, scale)}


def scale_as_json(encoder: Encoder, scale: Scale) -> dict[str, Any]:
    """Return the factor of cosines, and whether the model learnt it: a number, or one for each of its pairs."""
    if scale != "model":
        return {"scale": scale, "learnt": False}
    return {"scale": _by_pair(encoder.learnt_scales), "learnt": True}


def _by_pair(numbers: Mapping[frozenset[str], float]) -> Any:
    """Return a number, or one for each pair of modalities."""
    named = {" and ".join(sorted(pair)): number for pair, number in numbers.items()}
    return next(iter(named.values())) if len(named) == 1 else named


def _say_if_files(texts: Sequence[str]) -> None:
    """Warn that candidates that look like files are texts; no error, because a caption may look like a file name."""
    if named := sum(map(os.path.exists, texts)):
        who = "1 candidate is the name of a file or folder and is ranked as a text"
        if named > 1:
            who = f"{named} candidates are names of files or folders and are ranked as texts"
        console.say(f"Note: {who}; --candidate-kind image ranks the pictures")


def _as_json(candidates: Sequence[str], ranked: Sequence[Ranked]) -> list[dict[str, Any]]:
    rows = zip(_places(ranked), ranked, strict=True)
    return [{"rank": place, **one.as_dict(candidates[one.position])} for place, one in rows]


def _print(candidates: Sequence[str], ranked: Sequence[Ranked]) -> None:
    rows = [
        (str(place), candidates[one.position], f"{one.clip_score:.4f}", f"{one.cosine:.4f}")
        for place, one in zip(_places(ranked), ranked, strict=True)
        if place is not None
    ]
    if rows:
        console.out.print(table_of(("place", "candidate", "clip_score", "cosine"), rows))
    failed = [(candidates[one.position], in_flags(one.failure)) for one in ranked if isinstance(one.failure, Failure)]
    if failed:
        title = ("\n" if rows else "") + "candidates that failed"
        console.out.print(table_of(("candidate", "reason"), failed, title))
