"""Beam YAML: `Embed`, `Rank`, `Similarity`, `Classify` and `WriteEmbeddings` as transforms of a YAML pipeline.

    providers:
      - type: python
        config: {}
        transforms:
          ClipEmbed: clipmill.transforms.yaml.Embed
          ClipRank: clipmill.transforms.yaml.Rank
          ClipSimilarity: clipmill.transforms.yaml.Similarity
          ClipClassify: clipmill.transforms.yaml.Classify
          ClipWrite: clipmill.transforms.yaml.WriteEmbeddings

They take rows with a schema, as every source of Beam YAML gives them, and the options of the transforms they are named
after. Vectors are lists of numbers, which Beam's sinks can write. A bad row ends the job, unless the config has

    error_handling:
      output: failures

Then `ClipEmbed.failures` has a row for each failure: `row`, `column`, `stage`, `code`, `message` and `transient`, as in
the files of failures, and `element`, the row that was given. `ClipSimilarity.rejected` has the rejected rows, if it has
a `min_score`.
"""

# Beam YAML reads the types of these functions' arguments, and does not understand postponed ones.

from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import PCollection, Row
from apache_beam.typehints.row_type import RowTypeConstraint

from ..datasets.tables.records import failure_records
from ..encoders.plans.embed_plan import Column
from ..encoders.plans.heads import Head
from ..errors import SpecError
from ..messages import setting
from ..models.spec import reject_unknown_options
from . import classify as _classify
from . import embed as _embed
from . import rank as _rank
from . import similarity as _similarity
from . import write as _write
from .encoding import Encoding
from .failed_row import FailedRow
from .rows import RowFields, fields_of, make_row, row_fields
from .windowed import REJECTED

__all__ = ["Classify", "Embed", "Rank", "Similarity", "WriteEmbeddings"]

_REASON = {"row": str | None, "column": str | None, "stage": str, "code": str, "message": str}
_ROWS = "good"
"""The name by which Beam YAML finds the main output of a transform that has several."""
_NAMES = (*_REASON, "transient")


class _Yaml(beam.PTransform):
    """An `Encoding` whose failures end the job, or come out under the name that YAML gives them."""

    def __init__(self, encoding: Encoding, error_handling: Mapping[str, Any] | None) -> None:
        super().__init__()
        self._encoding = encoding
        self._output = _output_of(error_handling)

    def expand(self, pcoll: PCollection) -> Any:
        if row_fields(pcoll.element_type) is None:
            raise SpecError(f"Beam YAML's rows have a schema, and these are {pcoll.element_type}")
        if self._output is None:
            hint = "error_handling: {output: failures} gives such rows an output of their own"
            found = pcoll | self._encoding.with_error_handler(None, hint=hint)
            return {_ROWS: found.rows, REJECTED: found.rejected} if isinstance(found, _similarity.Filtered) else found
        rows, failures, *rejected = pcoll | self._encoding
        plan: Any = self._encoding.plan
        fields: list[Any] = [*_REASON.items(), ("transient", bool), ("element", pcoll.element_type)]
        records = failures | "Reasons" >> beam.FlatMap(_reasons, plan).with_output_types(
            RowTypeConstraint.from_fields(fields)
        )
        more = {} if getattr(plan, "min_score", None) is None else {REJECTED: rejected[0]}
        return {_ROWS: rows, self._output: records, **more}


class Embed(_Yaml):
    """Adds a column of vectors for each column that is embedded."""

    def __init__(
        self,
        columns: Mapping[str, Any],
        model: str | None = None,
        *,
        error_handling: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """See `clipmill.transforms.Embed`.

        Args:
            columns: Kind by column: `text`, `image`, `audio`; or a mapping of `modality`, `output` and `truncated`.
            model: Name of a model.
            error_handling: `output`, the name of the output of failures.
            **options: Other options of `Embed`, and fields of `EncoderSpec`. Of `heads`, each is the path of a file, or
                a mapping of the fields of `Head`.
        """
        options = {"vectors": "list", **options}
        if isinstance(heads := options.get("heads"), Mapping):
            options["heads"] = {name: _head(one) for name, one in heads.items()}
        super().__init__(_embed.Embed(model, columns=_columns(columns), **options), error_handling)


class Rank(_Yaml):
    """Scores candidates against their query."""

    def __init__(
        self,
        query: str,
        candidates: str | None = None,
        candidate: str | None = None,
        by: str | Sequence[str] | None = None,
        model: str | None = None,
        *,
        error_handling: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """See `clipmill.transforms.Rank`.

        Args:
            query: Column of the query.
            candidates: Column of the list of candidates.
            candidate: Column of the one candidate of flat rows.
            by: Column or columns whose values the flat rows of one query share.
            model: Name of a model.
            error_handling: `output`, the name of the output of failures.
            **options: Other options of `Rank`, and fields of `EncoderSpec`.
        """
        rank = _rank.Rank(model, query=query, candidates=candidates, candidate=candidate, by=by, **options)
        super().__init__(rank, error_handling)


class Similarity(_Yaml):
    """Adds a column with the score of a pair of columns, and rejects rows below a least score."""

    def __init__(
        self,
        a: str,
        b: str,
        model: str | None = None,
        min_score: float | None = None,
        *,
        error_handling: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """See `clipmill.transforms.Similarity`.

        Args:
            a: Column of one value of the pair.
            b: Column of the other.
            model: Name of a model.
            min_score: The least score of a row that is kept; the others are in the output `rejected`.
            error_handling: `output`, the name of the output of failures.
            **options: Other options of `Similarity`, and fields of `EncoderSpec`.
        """
        super().__init__(_similarity.Similarity(model, a=a, b=b, min_score=min_score, **options), error_handling)
        if self._output == REJECTED:
            raise SpecError(
                setting("error_handling", error_handling) + f": {REJECTED!r} is the output of rejected rows",
                hint="choose another name",
            )


class Classify(_Yaml):
    """Adds a list of the best labels for each column that is classified."""

    def __init__(
        self,
        labels: str | Sequence[str],
        columns: Mapping[str, Any],
        model: str | None = None,
        *,
        error_handling: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """See `clipmill.transforms.Classify`.

        Args:
            labels: Labels, or a file of them.
            columns: Kind by column; see `Embed`.
            model: Name of a model.
            error_handling: `output`, the name of the output of failures.
            **options: Other options of `Classify`, and fields of `EncoderSpec`.
        """
        classify = _classify.Classify(labels, model=model, columns=_columns(columns), **options)
        super().__init__(classify, error_handling)


class WriteEmbeddings(_write.WriteEmbeddings):
    """Writes what comes right out of `Embed`, `Rank`, `Classify` or `Similarity`: Parquet with provenance."""

    def __init__(self, path: str, **options: Any) -> None:
        """See `clipmill.transforms.WriteEmbeddings`.

        Args:
            path: Path or URL of the directory.
            **options: Other options of `WriteEmbeddings`.
        """
        super().__init__(path, **options)


def _columns(given: Mapping[str, Any]) -> Any:
    """Return columns with what YAML can say of one: a kind, or a mapping of the fields of `Column`."""
    if not isinstance(given, Mapping):
        return given  # `Embed` says what it takes
    fields = set(Column.__dataclass_fields__)
    columns = {}
    for path, one in given.items():
        if isinstance(one, Mapping) and (unknown := sorted(set(one) - fields)):
            raise SpecError(f"column {path!r} has {unknown[0]!r}; it may have {', '.join(sorted(fields))}")
        if isinstance(one, Mapping) and "modality" not in one:
            raise SpecError(f"column {path!r} has no 'modality'; give {path}: {{modality: text, output: …}}")
        columns[path] = Column(**one) if isinstance(one, Mapping) else one
    return columns


def _head(given: Any) -> Any:
    if not isinstance(given, Mapping):
        return given
    reject_unknown_options(given, Head.__dataclass_fields__)
    if "path" not in given:
        raise SpecError(setting("heads") + " has one without 'path', the file of its weights")
    return Head(**given)


def _output_of(error_handling: Mapping[str, Any] | None) -> str | None:
    if error_handling is None:
        return None
    output = error_handling.get("output") if isinstance(error_handling, Mapping) else None
    if not isinstance(output, str) or set(error_handling) != {"output"} or output in ("", _ROWS):
        raise SpecError(
            setting("error_handling", error_handling)
            + f" must be a mapping with 'output' alone, a name other than {_ROWS!r}, which is that of the rows"
        )
    return output


def _reasons(failed: FailedRow, plan: Any) -> list[Row]:
    """Return a row for each failure."""
    fields = fields_of(failed.row) or {}
    records = failure_records(plan, RowFields(fields), failed.failures)
    element = make_row(failed.row, {name: one for name, one in fields.items() if name not in plan.new_names}, {})
    return [Row(**{name: record[name] for name in _NAMES}, element=element) for record in records]
