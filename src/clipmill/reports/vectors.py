"""Figures of one column of vectors, from a sample."""

from __future__ import annotations

import dataclasses

import numpy as np

from ..errors import SpecError, check_choice
from ..indexes import OpenIndex
from ..messages import setting
from .columns import VectorColumn
from .duplicates import Duplicates, duplicates_through, duplicates_within
from .histograms import Histogram, histogram_of
from .pictures import Picture, PictureRules, pictures_of
from .projection import METHODS, Method, Projection, project
from .sample import Entry, Rows, RowSample, draw_sample
from .similarity import Likeness, likeness_of

MAX_SAMPLE = 20_000
"""All pairs of a sample are compared: these take a minute on two cores."""


@dataclasses.dataclass(frozen=True, slots=True)
class SampleOptions:
    """The options for sampling and showing vectors.

    Attributes:
        rows: Rows of which vectors are drawn, from 1 to 20,000; memory and time follow from it, not from the dataset.
        thumbnails: Of how many of them there is a thumbnail, at most; each is about 3 kB in the page.
        seed: Equal seeds draw equal rows.
        duplicates_above: Cosine from which on two vectors are nearly the same.
        pairs: How many such pairs are listed.
        projection: `pca`, `umap`, or `auto`: the second where it is installed.

    Raises:
        SpecError: If a number is out of its range.
    """

    rows: int = 2000
    thumbnails: int = 1000
    seed: int = 0
    duplicates_above: float = 0.95
    pairs: int = 40
    projection: Method = "auto"

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rows", 1, MAX_SAMPLE),
            ("thumbnails", 0, MAX_SAMPLE),
            ("duplicates_above", -1.0, 1.0),
            ("pairs", 0, 1000),
            ("seed", 0, 2**63 - 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise SpecError(setting(name, getattr(self, name)) + f" is not from {low:,} to {high:,}")
        check_choice("projection", self.projection, METHODS)


@dataclasses.dataclass
class VectorSection:
    """One column of vectors.

    Attributes:
        norms: Lengths of the vectors; None where they were normalised when they were written, as in an index.
        likeness: Cosines of all pairs of the sample.
        pictures: Thumbnails, by position and element of an entry, or why there is none.
        thumbnails: Of how many entries a thumbnail was tried.
    """

    column: VectorColumn
    sample: RowSample
    norms: Histogram | None
    likeness: Likeness
    projection: Projection
    pictures: dict[tuple[int, int | None], Picture]
    thumbnails: int
    duplicates: Duplicates

    def picture(self, entry: Entry) -> Picture:
        """Return the picture of an entry."""
        return self.pictures.get((entry.position, entry.element), Picture())


def vector_section(
    source: Rows, column: VectorColumn, options: SampleOptions, rules: PictureRules, *, index: OpenIndex | None = None
) -> VectorSection:
    """Draw a sample of a column of vectors and look at it.

    Args:
        source: The rows.
        column: Of vectors.
        options: How much is drawn.
        rules: Which files may be opened for thumbnails.
        index: The index of these rows, whose vectors have lengths that say nothing: near-duplicates of the sample are
            then looked for in all of it.

    Raises:
        SpecError: If UMAP is chosen and not installed.
    """
    sample = draw_sample(source, column, count=options.rows, seed=options.seed)
    vectors = sample.vectors
    likeness = likeness_of(vectors, threshold=options.duplicates_above, most=options.pairs)
    threshold = options.duplicates_above
    duplicates = (
        duplicates_within(sample, likeness, threshold)
        if index is None
        else duplicates_through(index, source, column, sample, threshold=threshold, most=options.pairs)
    )
    seen = _seen(sample.entries, duplicates, options.thumbnails)
    return VectorSection(
        column,
        sample,
        None if index is not None else histogram_of(np.linalg.norm(vectors, axis=1)),
        likeness,
        project(vectors, method=options.projection, seed=options.seed),
        pictures_of(source, column, seen, rules),
        len(seen),
        duplicates,
    )


def _seen(entries: list[Entry], duplicates: Duplicates, most: int) -> list[Entry]:
    """Choose what gets a thumbnail: near-duplicates first, then evenly through the sample."""
    chosen = [entry for pair in duplicates.pairs for entry in (pair.first, pair.second)]
    if len(entries) <= most:
        chosen += entries
    elif most:
        chosen += [entries[number] for number in np.linspace(0, len(entries) - 1, most).astype(int).tolist()]
    return list({(entry.position, entry.element): entry for entry in chosen}.values())[:most]
