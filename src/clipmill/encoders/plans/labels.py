"""Labels of zero-shot classification: their templates, their vectors, and classifying a vector."""

from __future__ import annotations

import collections
import dataclasses
import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from ...errors import DatasetError, SpecError
from ...failures import Failure
from ...files.json_text import parse_json
from ...messages import by_surface, setting
from ...metrics.stats import Stats
from ...models.spec import EncoderSpec
from ..encoder import Encoder
from ..item import Item
from ..outcome import Classified, Labelled, Outcome, Vector
from .ranking import Scorer, check_scoring, check_top_k, described_scoring
from .scores import SCALE, Scale, Score, checked_min_score, order, sigmoid, softmax, unit_cosines, unit_rows

PLACEHOLDER = "{}"
TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a close-up of a {}.", "a drawing of a {}.", "{}")
"""The default templates: a few, for photographs and drawings. To use OpenAI's eighty templates for ImageNet, give a
file with one per line."""
_HINTS = {
    "labels": by_surface(python="labels themselves go into a list", flags="labels themselves are given as a,b,c"),
    "templates": by_surface(python="templates themselves go into a list", flags="templates go into a file, one a line"),
}


@dataclasses.dataclass(frozen=True, slots=True)
class LabelSet:
    """The labels of a classification and its options. Small and picklable: workers compute the vectors from it.

    A label's vector is computed as in the CLIP paper (Radford et al. 2021, section 3.1.4): every template is filled in
    and embedded, the vectors are normalised and averaged, and the mean is normalised.

    Attributes:
        labels: The labels, in the given order.
        templates: The templates, each with a `{}` for the label.
        top_k: Number of best labels to return.
        scale: Factor for cosines before the softmax; see `scores`.
        score: `softmax`, over all labels; or `sigmoid`, of each label for itself.
        min_score: Labels with a lower clip_score are not returned; None returns all of the `top_k` best.
    """

    labels: tuple[str, ...]
    templates: tuple[str, ...] = TEMPLATES
    top_k: int = 5
    scale: Scale = SCALE
    score: Score = "softmax"
    min_score: float | None = None

    @classmethod
    def of(
        cls,
        labels: Sequence[str] | str | os.PathLike[str],
        *,
        templates: Sequence[str] | str | os.PathLike[str] | None = None,
        top_k: int = 5,
        scale: Scale = SCALE,
        score: Score = "softmax",
        min_score: float | None = None,
        spec: EncoderSpec | None = None,
    ) -> Self:
        """Check the labels of a call.

        Args:
            labels: Labels, or the path or URL of a file with a JSON array of strings (`.json`), or with one label per
                line. Blank lines are ignored.
            templates: Texts with a `{}`, or such a file. `TEMPLATES` if None.
            top_k: Number of best labels to return, or all if there are fewer.
            scale: Factor for cosines before the softmax over all labels.
            score: `softmax` or `sigmoid`, which takes the scale and the bias that the model learnt.
            min_score: The least clip_score of a label that is returned, from 0 to 1.
            spec: If given, it is checked that its model embeds texts.

        Raises:
            SpecError: If there are no labels, a label is blank or occurs twice, a template has no `{}`, or a file
                cannot be read.
        """
        check_scoring(scale, score)
        least = checked_min_score(min_score, score)
        check_top_k(top_k)
        if top_k is None:
            raise SpecError(setting("top_k", None) + ": give the number of best labels to return")
        if spec is not None and "text" not in spec.modalities:
            raise SpecError(f"{spec.model} embeds {' and '.join(sorted(spec.modalities))}: labels are texts")
        names = _strings("labels", labels)
        patterns = TEMPLATES if templates is None else _strings("templates", templates)
        for pattern in patterns:
            if PLACEHOLDER not in pattern:
                raise SpecError(f"the template {pattern!r} has no {PLACEHOLDER}, where the label goes")
        return cls(names, patterns, top_k, scale, score, least)

    def scoring(self) -> dict[str, Any]:
        """Return how clip_scores are computed and selected, for the provenance."""
        return {**described_scoring(self.scale, self.score), "min_score": self.min_score, "top_k": self.top_k}

    def vectors(self, encoder: Encoder) -> np.ndarray:
        """Return the labels' vectors, which are computed once for each encoder of this process.

        Returns:
            (labels, dim) float64, each of length 1.
        """
        with _lock:
            cache = _caches.setdefault(encoder, _LabelCache())
        with cache.lock:
            if self in cache.vectors:
                cache.vectors.move_to_end(self)
                return cache.vectors[self]
            vectors = cache.vectors[self] = self._embed(encoder)
            while len(cache.vectors) > _MAX_SETS:
                cache.vectors.popitem(last=False)
            return vectors

    def _embed(self, encoder: Encoder) -> np.ndarray:
        """Embed label by label: a thousand labels with eighty templates are too many texts to hold at once."""
        means = []
        with encoder.session(Stats(), cached=False) as session:  # labels are not rows: don't count them
            for label in self.labels:
                texts = [template.replace(PLACEHOLDER, label) for template in self.templates]
                done = session.push(texts, [Item("text", text) for text in texts])
                means += [_mean(encoder, *finished) for finished in done]
            means += [_mean(encoder, *finished) for finished in session.flush()]
        return unit_rows(np.stack(means))


def _mean(encoder: Encoder, texts: Sequence[str], outcomes: Sequence[Outcome]) -> np.ndarray:
    """Return the mean of a label's normalised vectors; raise `SpecError` if a text failed or is too long."""
    vectors = []
    for text, outcome in zip(texts, outcomes, strict=True):
        if not isinstance(outcome, Vector):
            raise SpecError(f"the label {text!r} cannot be embedded: {outcome}")
        if outcome.truncated:  # labels that differ only after the context length would be indistinguishable
            raise SpecError(f"the label {text!r} is longer than {encoder.spec.model} reads; shorten it")
        vectors.append(outcome.values)
    mean: np.ndarray = unit_rows(np.stack(vectors)).mean(axis=0)
    return mean


_MAX_SETS = 8
"""Number of label sets whose vectors a worker keeps for each encoder: the most recently used ones."""


class _LabelCache:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.vectors: collections.OrderedDict[LabelSet, np.ndarray] = collections.OrderedDict()


_lock = threading.Lock()
_caches: weakref.WeakKeyDictionary[Encoder, _LabelCache] = weakref.WeakKeyDictionary()


class Classifier:
    """A label set with the labels' vectors, ready to classify."""

    def __init__(self, labels: LabelSet, encoder: Encoder) -> None:
        """Embed the labels, unless this process has done so.

        Raises:
            SpecError: If a label cannot be embedded, or the model has not learnt the scale or the bias.
        """
        self._labels = labels
        self._scorer = Scorer(encoder, labels.scale, labels.score)
        self._units = labels.vectors(encoder)
        self._label_vector = Vector(self._units[0], modality="text")

    def classify(self, outcome: Outcome) -> Classified:
        """Return the `top_k` best labels of a value. Failures and nulls are returned unchanged.

        The clip_scores are the softmax over all labels, not only over the best ones; or each label's own sigmoid.
        """
        outcome = self._scorer.check(outcome)
        if not isinstance(outcome, Vector):
            return outcome
        factors = self._scorer.factors_of(outcome, self._label_vector)
        if isinstance(factors, Failure):
            return factors
        labels = self._labels
        cosines = unit_cosines(unit_rows(outcome.values[None]), self._units)[0]
        logits = factors.scale * cosines + factors.bias
        clip_scores = sigmoid(logits) if labels.score == "sigmoid" else softmax(logits)
        best = [
            {"label": labels.labels[n], "clip_score": float(clip_scores[n]), "cosine": float(cosines[n])}
            for n in order(cosines)[: labels.top_k]
            if labels.min_score is None or clip_scores[n] >= labels.min_score
        ]
        return Labelled(best, outcome.truncated, outcome.media_type)


def _strings(what: str, given: Any) -> tuple[str, ...]:
    """Return labels or templates from a sequence or a file, after checking them."""
    source = what
    if isinstance(given, str | os.PathLike):
        source = f"{what} in {os.fspath(given)}"
        given = _read(what, os.fspath(given))
    # a string is itself a sequence of strings, and a JSON file may contain just one
    strings = tuple(given) if isinstance(given, Sequence | np.ndarray) and not isinstance(given, str) else None
    if strings is None or not all(isinstance(one, str) for one in strings):
        raise SpecError(f"{source} are {given!r:.80}, not a list of texts")
    if not strings:
        raise SpecError(f"{source}: there are none; at least one is needed")
    if blank := [number for number, one in enumerate(strings) if not one.strip()]:
        raise SpecError(f"{source}: number {blank[0] + 1} is blank")
    ((most, times),) = collections.Counter(strings).most_common(1)
    if times > 1:
        raise SpecError(f"{source}: {most!r} occurs {times} times; each must be unique")
    return strings


def _read(what: str, path: str) -> Any:
    """Read a file of labels or templates: a JSON array, or one per line."""
    from ...files.file_systems import open_input  # imported here: it imports fsspec

    try:
        with open_input(path) as file:
            text = file.read().decode("utf-8-sig")
    except (OSError, DatasetError) as err:
        raise SpecError(f"{path!r} cannot be read as a file of {what}: {err}", hint=_HINTS[what]) from err
    except UnicodeDecodeError as err:
        raise SpecError(f"the file of {what} {path!r} is not UTF-8: {err}") from err
    if not path.lower().endswith(".json"):
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        return parse_json(text)
    except ValueError as err:
        raise SpecError(f"the file of {what} {path!r} is not JSON: {err}") from err
