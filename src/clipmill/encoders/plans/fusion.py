"""One weighted vector of several columns of a row: each is normalised and weighed, their sum is normalised.

    fused = unit(Σ weight · unit(vector))

The sum is computed in float64. A null among the parts gives null, and so does a failed part, whose failure names it: a
vector of the parts that are left would have another meaning, and nothing in it would show that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import SpecError
from ...failures import Code, Failure, Stage
from ...messages import Message, by_surface, setting
from .scores import finite_number, scaled_rows

_NO_DIRECTION = 1e-6
"""A sum is zero if its length, relative to the sum of the absolute weights, is of the size of float32's rounding."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fusion:
    """A column of fused vectors.

    Attributes:
        output: Its name.
        weights: Weight by path of each embedded column that it is made of.
    """

    output: str
    weights: Mapping[str, float]

    def vector(self, parts: Mapping[str, Any]) -> np.ndarray | Failure | None:
        """Return the fused vector of a row.

        Args:
            parts: The vectors of the row's columns by path, (dim,) float32; None for a null and for one that failed.

        Returns:
            (dim,) float32 of length 1; None if a part is None; a failure if a part is a list of vectors, or the sum has
            no direction.
        """
        own = {path: parts[path] for path in self.weights}
        if any(part is None for part in own.values()):
            return None
        if arrays := [path for path, part in own.items() if isinstance(part, list)]:
            message = f"the column holds an array in this row, and {self.output!r} is made of single values"
            return Failure(Stage.READ, Code.UNSUPPORTED, message, column=arrays[0])
        units = {path: _unit_vector(part) for path, part in own.items()}
        if zeros := [path for path, part in units.items() if part is None]:
            message = f"the vector is all zeros: it has no direction, so it cannot be part of {self.output!r}"
            return Failure(Stage.SCORE, Code.OUT_OF_RANGE, message, column=zeros[0])
        total = sum(self.weights[path] * part for path, part in units.items() if part is not None)
        length = float(np.linalg.norm(total))
        if length <= _NO_DIRECTION * sum(map(abs, self.weights.values())):
            message = "the weighted vectors cancel each other out: their sum has no direction"
            return Failure(Stage.SCORE, Code.OUT_OF_RANGE, message, column=self.output)
        return np.asarray(total / length, np.float32)


def _unit_vector(vector: np.ndarray) -> np.ndarray | None:
    """Return a (dim,) vector with length 1, in float64; None if it is all zeros."""
    (unit,) = scaled_rows(vector[None])
    return unit if unit.any() else None


def checked_fusions(fuse: Any, columns: Mapping[str, Any]) -> tuple[Fusion, ...]:
    """Check the option `fuse`.

    Args:
        fuse: Weights by column, by the name of the new column; None for no such column.
        columns: The embedded columns by path.

    Raises:
        SpecError: If it is not of that form, names a column that is not embedded, or has invalid weights.
    """
    if fuse is None:
        return ()
    if not isinstance(fuse, Mapping) or not all(isinstance(name, str) and name for name in fuse):
        raise SpecError(
            setting("fuse", fuse) + " must be a mapping such as {'embedding': {'photo': 0.7, 'caption': 0.3}}"
        )
    return tuple(Fusion(output, _checked_weights(output, weights, columns)) for output, weights in fuse.items())


def _checked_weights(output: str, weights: Any, columns: Mapping[str, Any]) -> dict[str, float]:
    given = fuse_as_given(output, weights)
    if output in columns:
        hint = "choose another name for the fused vector"
        raise SpecError(given + f": {output!r} is an embedded column", "fuse", hint)
    if not isinstance(weights, Mapping) or len(weights) < 2:
        example = by_surface(python="{'photo': 0.7, 'caption': 0.3}", flags="photo:0.7,caption:0.3")
        raise SpecError(given + " needs the weights of two or more columns, such as " + example, "fuse")
    for path, weight in weights.items():
        if path not in columns:
            raise SpecError(
                given + f": {path!r} is not embedded; the embedded columns are {', '.join(map(repr, columns))}", "fuse"
            )
        if finite_number(weight) is None:
            raise SpecError(given + f": the weight of {path!r} is {weight!r}, not a finite number", "fuse")
    if not any(weights.values()):
        raise SpecError(given + " has no weight other than 0", "fuse")
    return {path: float(weight) for path, weight in weights.items()}


def fuse_as_given(output: str, weights: Any) -> Message:
    """Return a fused column as its user wrote it."""
    parts = weights.items() if isinstance(weights, Mapping) else ()
    flags = ",".join(
        f"{path}:{weight:g}" if isinstance(weight, float) else f"{path}:{weight}" for path, weight in parts
    )
    fuse = {output: weights}
    return by_surface(python=f"fuse={fuse!r}", flags=f"--fuse {output}={flags}")
