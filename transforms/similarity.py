"""`Similarity`: rows with two values in, the score of the pair out; rows below a least score are rejected."""

from __future__ import annotations

from typing import Any, NamedTuple

from apache_beam.pvalue import PCollection

from ..encoders.plans.kinds import Kind
from ..encoders.plans.plan import REJECTION
from ..encoders.plans.scores import PairScore
from ..encoders.plans.similarity_plan import SIMILARITY, SimilarityPlan
from ..models.spec import EncoderSpec, explains_slips, reject_unknown_keywords
from .encoding import Encoding, label_of
from .rows import widened_type
from .templates import with_known_values
from .windowed import FAILURES, REJECTED, OnFailure


class Compared(NamedTuple):
    """The output of `Similarity`, and an input of `WriteEmbeddings`.

    Attributes:
        rows: The rows that are kept, with their scores; all of them without `min_score`, nulls too.
        failures: A `FailedRow` for each row of which a value failed.
        rejected: The rows below `min_score`, with their scores and, in the column `rejection`, the reason.
    """

    rows: PCollection
    failures: PCollection
    rejected: PCollection


class Filtered(NamedTuple):
    """The output of `Similarity` with `min_score` whose failures go to an error handler; see `Compared`."""

    rows: PCollection
    rejected: PCollection


class Similarity(Encoding):
    """Scores pairs, such as an image and its caption. Every row comes out once: kept, rejected, or as a failure.

    Rows get the column `similarity`, by `score`:

    - `cosine`: the cosine of the two vectors, from -1 to 1
    - `clip_score`: the metric CLIPScore of Hessel et al. (2021), 2.5 · max(cosine, 0). It is not the `clip_score` of
      `Rank` and `Classify`, which compares candidates with each other.
    - `logit`: scale · cosine + bias, with what the model has learnt for the two modalities; no bias if it has none
    - `sigmoid`: the sigmoid of the logit, the probability by which SigLIP's models were trained; needs a learnt bias

    With `min_score`, rows with a lower score go to `rejected`, where the column `rejection` is `below_min_score`; so do
    rows without one, because a value is null (`no_score`). They are no failures. Without `min_score`, null gives null.
    The filters of LAION-400M (cosine 0.3 of ViT-B-32::openai) and of DataComp are this transform.

    Values are texts, images, audio clips or precomputed vectors, in any pair; see `Rank` for their kinds.

    >>> import apache_beam as beam
    >>> from clipmill.transforms import Similarity
    >>> with beam.Pipeline() as p:
    ...     rows = p | beam.Create([{"a": "red circle", "b": "red circle"}, {"a": "red circle", "b": "blue square"}])
    ...     compared = rows | Similarity("demo", a="a", b="b", min_score=0.99)
    ...     _ = compared.rows | "Kept" >> beam.Map(lambda row: print("kept", row["b"]))
    ...     _ = compared.rejected | "Rejected" >> beam.Map(lambda row: print(row["rejection"], row["b"]))
    kept red circle
    below_min_score blue square

    Attributes:
        spec: The encoder.
        plan: How rows are scored, checked.
    """

    plan: SimilarityPlan
    _row_options = "a= and b="
    _more_outputs = (REJECTED,)

    @with_known_values
    @explains_slips
    def __init__(
        self,
        model: str | EncoderSpec | None = None,
        *,
        a: str,
        b: str,
        a_kind: Kind = "auto",
        b_kind: Kind = "auto",
        score: PairScore = "cosine",
        min_score: float | None = None,
        output: str = SIMILARITY,
        key: str = "id",
        max_wait_s: float | None = None,
        on_failure: OnFailure = "split",
        **spec_options: Any,
    ) -> None:
        """Check everything that can be checked without weights.

        Args:
            model: Name of a model or a spec; `ViT-B-32::openai` without one.
            a: Column, or path into a struct, of one value of the pair.
            b: Of the other.
            a_kind: `text`, `image`, `audio` (as `Embed` takes such columns: strings in the last two are URIs),
                `vector`, or `auto`: strings are texts, bytes are identified by their content, structs are documents.
            b_kind: The same of `b`.
            score: `cosine`, `clip_score`, `logit` or `sigmoid`.
            min_score: The least score of a row that is kept; None keeps all.
            output: Name of the new column.
            key: Column that names a row in its failures.
            max_wait_s: Seconds that an element of a stream may wait for others; None waits until the bundle ends.
            on_failure: `split`, or `raise` to end the job at the first failure. Rejected rows are none.
            **spec_options: Fields of `EncoderSpec`, such as `max_batch_rows`.

        Raises:
            SpecError: If something cannot work.
            TypeError: If an option is unknown or has another name here.
        """
        reject_unknown_keywords(spec_options, Similarity)
        super().__init__(EncoderSpec.of(model, **spec_options), max_wait_s=max_wait_s, on_failure=on_failure)
        self.plan = SimilarityPlan(a, b, a_kind, b_kind, output, score, min_score, key).checked(self.spec)

    def default_label(self) -> str:
        """Name the model and the columns, so that a pipeline can use two of these."""
        return label_of("Similarity", [self.spec.model, *self.plan.reads])

    def display_data(self) -> dict[str, Any]:
        """Show the model, the columns and the threshold in the runner's user interface."""
        shown = {"model": self.spec.model, "columns": ", ".join(self.plan.reads), "score": self.plan.score}
        return shown | {"min_score": "none" if self.plan.min_score is None else self.plan.min_score}

    def expand(self, pcoll: PCollection) -> Any:
        """Add the stage.

        Returns:
            `Compared`. With an error handler, which takes the failures, the rows alone, or `Filtered` with `min_score`.

        Raises:
            SpecError: If rows with a schema lack a column, or have one already that would be added.
        """
        rows_type, elements = self._elements(pcoll.element_type)
        compared: Any = self._encode(pcoll, rows_type, elements)
        added = {} if self.plan.min_score is None else {REJECTION: str}
        compared.rejected.element_type = widened_type(rows_type, added)
        rows: Any = self._hand_out(compared)
        return Filtered(rows, compared.rejected) if self._single_output and self.plan.min_score is not None else rows

    def _named(self, outputs: Any) -> Compared:
        return Compared(outputs.rows, outputs[FAILURES], outputs[REJECTED])
