"""`Classify`: documents or rows in, their best labels out, without training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from ..encoders.plans.classify_plan import SUFFIX, ClassifyPlan, DocumentClassifyPlan
from ..encoders.plans.document_embed_plan import DocumentEmbedPlan
from ..encoders.plans.embed_plan import Column, ColumnPlan
from ..encoders.plans.labels import LabelSet
from ..encoders.plans.scores import SCALE, Scale, Score
from ..errors import SpecError
from ..messages import setting
from ..models.spec import EncoderSpec, Modality, explains_slips, reject_unknown_keywords
from .encoding import Encoding, label_of
from .templates import with_known_values
from .windowed import OnFailure


class Classify(Encoding):
    """Classifies documents or columns of rows, zero-shot. Every element comes out once, as a row or as a failure.

    As in the CLIP paper, each label gets one vector, the normalised mean of its templates' normalised vectors, computed
    once in each process. The `clip_score`s are the softmax of the scaled cosines over all labels; with
    `score="sigmoid"`, each is the probability of its label alone, and `min_score` selects any number of labels. The
    best labels come out as dicts of `label`, `clip_score` and `cosine`, best first: in the tag `labels` of documents,
    in the column `<column>_labels` of rows (`Column("image", output="…")` sets another name). Null in, null out.

    A row goes to `failures` if one of its columns cannot be embedded, with the labels of the others; see `on_failure`.

    >>> import apache_beam as beam
    >>> from clipmill.transforms import Classify
    >>> with beam.Pipeline() as p:
    ...     rows = p | beam.Create([{"id": "a", "caption": "a red circle"}])
    ...     classified = rows | Classify(["red circle", "blue square"], model="demo", columns={"caption": "text"})
    ...     _ = classified.rows | beam.Map(lambda row: print(row["caption_labels"][0]["label"]))
    red circle

    Attributes:
        spec: The encoder.
        plan: How rows or documents are classified, checked.
        labels: The labels and their templates, read and checked.
    """

    plan: ClassifyPlan | DocumentClassifyPlan
    _row_options = "columns={'name': 'image'}"

    @with_known_values
    @explains_slips
    def __init__(
        self,
        labels: Sequence[str] | str | os.PathLike[str],
        *,
        model: str | EncoderSpec | None = None,
        columns: Mapping[str, Modality | Column] | None = None,
        templates: Sequence[str] | str | os.PathLike[str] | None = None,
        top_k: int = 5,
        scale: Scale = SCALE,
        score: Score = "softmax",
        min_score: float | None = None,
        access_paths: str = "@r",
        keep_content: bool = False,
        key: str = "id",
        max_wait_s: float | None = None,
        on_failure: OnFailure = "split",
        **spec_options: Any,
    ) -> None:
        """Read the labels, and check everything that can be checked without weights.

        Args:
            labels: At least one label; or the path or URL of a file of labels, which is read when the pipeline is
                built: one per line, or a JSON array if the name ends in `.json`.
            model: Name of a model that embeds texts, or a spec; `ViT-B-32::openai` without one.
            columns: Kind (`text`, `image`, `audio`, or a `Column`) by column or path into a struct; None for documents.
            templates: Texts with a `{}`, where the label goes, or a file of them; a short general set if None.
            top_k: How many of the best labels are returned.
            scale: What cosines are multiplied by before the softmax: a number, or `model` for what the model learnt.
            score: What `clip_score` is: `softmax` over all labels; or `sigmoid`, that of scale · cosine + bias of each
                label alone, with the scale and the bias that the model learnt, as SigLIP's have them.
            min_score: The least `clip_score` of a label that is returned; None returns the `top_k` best in any case.
            access_paths: Which documents of a tree are classified: `@r` themselves, `@m` matches, `@c` chunks, `@r,m`.
            keep_content: Whether documents keep `blob` and `tensor`.
            key: Column that names a row in its failures.
            max_wait_s: Seconds that an element of a stream may wait for others; None waits until the bundle ends.
            on_failure: `split`, or `raise` to end the job at the first failure.
            **spec_options: Fields of `EncoderSpec`, such as `max_batch_rows`.

        Raises:
            SpecError: If something cannot work: no labels, a label twice, a template without `{}`, a file that cannot
                be read.
            TypeError: If an option is unknown or has another name here.
        """
        reject_unknown_keywords(spec_options, Classify)
        super().__init__(EncoderSpec.of(model, **spec_options), max_wait_s=max_wait_s, on_failure=on_failure)
        for name, given in {"access_paths": access_paths != "@r", "keep_content": keep_content}.items():
            if given and columns is not None:
                raise SpecError(setting(name) + " is for documents; it has no effect with columns")
        if key != "id" and columns is None:
            raise SpecError("key is for rows; documents are named by their id")
        self.labels = LabelSet.of(
            labels, templates=templates, top_k=top_k, scale=scale, score=score, min_score=min_score, spec=self.spec
        )
        if columns is None:
            self.plan = DocumentClassifyPlan(DocumentEmbedPlan(access_paths, keep_content), self.labels)
        else:
            plan = ColumnPlan.of(columns, spec=self.spec, key=key, suffix=SUFFIX)
            self.plan = ClassifyPlan(plan, self.labels)

    def default_label(self) -> str:
        """Name the model and the columns, so that a pipeline can use two of these."""
        return label_of("Classify", [self.spec.model, *self.plan.reads])

    def display_data(self) -> dict[str, Any]:
        """Show the model, the columns and how many labels there are in the runner's user interface."""
        shown = ", ".join(f"{path}: {kind}" for path, kind in self.plan.reads.items())
        return {"model": self.spec.model, "columns": shown or "documents", "labels": len(self.labels.labels)}
