"""Projections of vectors to two dimensions."""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from typing import Literal

import numpy as np

from ..errors import SpecError
from .similarity import directions

Method = Literal["auto", "pca", "umap"]
METHODS: tuple[Method, ...] = ("auto", "pca", "umap")
_FEWEST_FOR_UMAP = 16
"""It makes a graph of every vector's 15 nearest."""


@dataclasses.dataclass(frozen=True, slots=True)
class Projection:
    """Vectors in two dimensions.

    Attributes:
        points: (m, 2) float32.
        numbers: (m,) int64: which vector each point is; those of zeros have no direction and no point.
        method: `pca` or `umap`.
        explained: Of PCA, which share of the variance of the directions each axis shows; of UMAP None.
    """

    points: np.ndarray
    numbers: np.ndarray
    method: str
    explained: tuple[float, float] | None


def project(vectors: np.ndarray, *, method: Method = "auto", seed: int = 0) -> Projection:
    """Lay vectors out in two dimensions by their directions.

    Args:
        vectors: (n, dim), finite.
        method: `pca`; `umap`, which keeps neighbours together and takes seconds to minutes; `auto` is the second
            where it is installed and there are enough vectors for it.
        seed: Of UMAP; PCA needs none.

    Raises:
        SpecError: If UMAP is chosen and not installed.
    """
    unit, numbers = directions(vectors)
    is_there = importlib.util.find_spec("umap") is not None
    if method == "umap" and not is_there:
        raise SpecError("a map by UMAP needs umap-learn, which is not installed: pip install umap-learn, or take PCA")
    if len(unit) >= _FEWEST_FOR_UMAP and (method == "umap" or (method == "auto" and is_there)):
        return Projection(_umap(unit, seed), numbers, "umap", None)
    points, explained = principal_axes(unit)
    return Projection(points, numbers, "pca", explained)


def principal_axes(vectors: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return vectors on the two axes along which they differ most.

    The sign of an axis, which is nobody's choice, is such that its largest component is positive.

    Args:
        vectors: (n, dim); fewer than two dimensions or vectors leave zeros.

    Returns:
        (n, 2) float32, and the share of the variance that each axis shows (0 where there is none).
    """
    points = np.zeros((len(vectors), 2), np.float32)
    if not len(vectors):
        return points, (0.0, 0.0)
    centred = np.asarray(vectors, np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[np.arange(len(axes[:2])), np.abs(axes[:2]).argmax(axis=1)])[:, None]
    points[:, : len(axes)] = centred @ axes.T
    variances = lengths**2
    total = float(variances.sum())
    shares = [float(one / total) if total > 0 else 0.0 for one in variances[:2]] + [0.0, 0.0]
    return points, (shares[0], shares[1])


def _umap(unit: np.ndarray, seed: int) -> np.ndarray:
    import umap

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on threads, which a seed takes away
        model = umap.UMAP(n_components=2, metric="cosine", random_state=seed)
        return np.asarray(model.fit_transform(unit), np.float32)
