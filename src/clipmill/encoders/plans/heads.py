"""Linear heads on the vectors of a row: columns of scores, such as aesthetics or the output of an own probe."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ...errors import SpecError, WeightsError, check_choice, check_flags
from ...failures import Code, Failure, Stage
from ...messages import Message, by_surface, setting
from ...models.linear_head import LinearHead, read_linear_head
from ...models.spec import EncoderSpec
from .scores import scaled_rows, sigmoid, softmax

Activation = Literal["none", "sigmoid", "softmax"]


@dataclasses.dataclass(frozen=True, slots=True)
class Head:
    """A linear head: `weight · vector + bias`.

    Its file is read when the job is planned, and its values go to the workers with the plan. It must have been trained
    on vectors of the same model; only their length can be checked.

    Attributes:
        path: Local file: safetensors, `.npz` or `.npy`, or a state dict of torch (`.pth`, `.pt`, `.bin`), also in the
            layouts of LAION's predictors of aesthetics; see `clipmill.models.linear_head.read_linear_head`.
        column: Path of the embedded column, or name of the fused vector, that it scores. It may be left out if there is
            only one.
        outputs: Names of its scores, whose columns are `<head>_<output>`. Without them, a head with one score has a
            column of its own name, and one with several `<head>_0`, `<head>_1`, …
        normalize: Whether vectors are scaled to length 1 for the head, as LAION's predictors expect it; without,
            the head gets them as they are written.
        activation: `none`, or what makes probabilities of scores: `sigmoid` of each, or `softmax` over all.
    """

    path: str | os.PathLike[str]
    column: str | None = None
    outputs: tuple[str, ...] = ()
    normalize: bool = True
    activation: Activation = "none"

    def __post_init__(self) -> None:
        """Check the options; the file is read when the job is planned.

        Raises:
            SpecError: If one is invalid.
        """
        if not isinstance(self.path, str | os.PathLike) or not os.fspath(self.path):
            raise SpecError(f"the path of a head must be that of a file, got {self.path!r}", "path")
        if "://" in os.fspath(self.path):
            raise SpecError(f"the path of a head is that of a local file, and {self.path!r} is a URL", "path")
        if self.column is not None and (not isinstance(self.column, str) or not self.column):
            raise SpecError(f"the column of a head must be a name, got {self.column!r}", "column")
        if isinstance(self.outputs, str) or not all(isinstance(name, str) and name for name in self.outputs):
            raise SpecError(
                f"the outputs of a head must be names, such as ('safe', 'unsafe'), got {self.outputs!r}", "outputs"
            )
        object.__setattr__(self, "outputs", tuple(self.outputs))
        check_flags(normalize=self.normalize)
        check_choice("activation", self.activation, get_args(Activation))

    def score(self, vectors: Any) -> np.ndarray:
        """Score vectors that exist already, without an engine.

        >>> import numpy as np
        >>> from clipmill import Head
        >>> np.savez("/tmp/clipmill-head.npz", weight=np.float32([[1, 0], [0, 2]]), bias=np.float32([0, 1]))
        >>> Head("/tmp/clipmill-head.npz").score(np.array([[3.0, 0.0]])).tolist()
        [[1.0, 1.0]]

        Args:
            vectors: (n, dim) numbers.

        Returns:
            (n, outputs) float64. Rows of a vector without direction (all zeros, with `normalize`) are NaN.

        Raises:
            ValueError: If the vectors have another shape.
            WeightsError: If the file is no head for vectors of this length.
            SpecError: If the activation has no effect on such a head.
        """
        rows = np.asarray(vectors, np.float64)
        if rows.ndim != 2:
            raise ValueError(f"vectors have the shape {rows.shape}; a head scores (n, dim)")
        linear = read_linear_head(self.path, rows.shape[1])
        _check_activation(self, linear, f"the head {os.fspath(self.path)!r}", "activation")
        return _scored(linear, rows, self.normalize, self.activation)


@dataclasses.dataclass(frozen=True, slots=True)
class HeadPlan:
    """A head as it is planned.

    Attributes:
        column: Path of the column, or name of the fused vector, that it scores.
        names: The new columns, one for each score.
        file: Name of its file, for the provenance.
    """

    column: str
    names: tuple[str, ...]
    file: str
    linear: LinearHead
    normalize: bool
    activation: Activation

    def scores(self, vector: Any) -> list[float | None] | Failure:
        """Return the scores of a row's vector, (dim,) float32.

        Returns:
            One for each of `names`; None for a null, and a failure for a vector without direction, an array of vectors,
            or scores that are not finite.
        """
        if vector is None:
            return [None] * len(self.names)
        if isinstance(vector, list):
            message = f"the column holds an array in this row, and {self.names[0]!r} is of single values"
            return Failure(Stage.READ, Code.UNSUPPORTED, message, column=self.column)
        if self.normalize and not np.any(vector):
            message = "the vector is all zeros: it has no direction, so that a head cannot score it"
            return Failure(Stage.SCORE, Code.OUT_OF_RANGE, message, column=self.names[0])
        (found,) = _scored(self.linear, np.asarray(vector, np.float64)[None], self.normalize, self.activation)
        if not np.isfinite(found).all():
            return Failure(Stage.SCORE, Code.OUT_OF_RANGE, "the score is not finite", column=self.names[0])
        return found.tolist()  # type: ignore[no-any-return]

    def provenance(self, number: int) -> dict[str, Any]:
        """Return what the provenance says of the column of a score."""
        head = {"sha256": self.linear.sha256, "output": number}
        head |= {"normalize": self.normalize, "activation": self.activation}
        return {"head": head, "head_file": self.file}

    def description(self) -> dict[str, Any]:
        """Return the head as plain values, for a dataset's description."""
        plain = {"column": self.column, "names": list(self.names), "sha256": self.linear.sha256}
        return {**plain, "normalize": self.normalize, "activation": self.activation}


def _scored(linear: LinearHead, vectors: np.ndarray, normalize: bool, activation: Activation) -> np.ndarray:
    """Return the scores, (n, outputs) float64, of (n, dim) float64 vectors; NaN for one without direction."""
    if normalize:
        vectors = np.where(vectors.any(axis=1, keepdims=True), scaled_rows(vectors), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        scores = linear.apply(vectors)
    if activation == "sigmoid":
        return sigmoid(scores)
    return softmax(scores) if activation == "softmax" else scores


def _check_activation(head: Head, linear: LinearHead, said: str, option: str) -> None:
    if head.activation == "softmax" and linear.outputs < 2:
        raise SpecError(said + " has one score, whose softmax is always 1", option, "sigmoid is for a single score")


def checked_heads(
    heads: Any, columns: Collection[str], fused: Sequence[str], spec: EncoderSpec | None
) -> tuple[HeadPlan, ...]:
    """Read the files of the option `heads`, and check them against the model.

    Args:
        heads: A `Head`, or its path, by the name of the new column; None for no heads.
        columns: Paths of the embedded columns.
        fused: Names of the fused vectors.
        spec: The encoder.

    Raises:
        SpecError: If a head is invalid, cannot be read, does not fit the model, or it is not clear what it scores.
    """
    if heads is None:
        return ()
    if not isinstance(heads, Mapping) or not all(isinstance(name, str) and name for name in heads):
        raise SpecError(setting("heads", heads) + " must be a mapping such as {'aesthetic': Head('weights.pth')}")
    if spec is None:
        raise SpecError(setting("heads") + " needs a model, whose vectors are scored")
    return tuple(_planned(name, given, [*columns, *fused], spec) for name, given in heads.items())


def _planned(name: str, given: Any, columns: Sequence[str], spec: EncoderSpec) -> HeadPlan:
    if not isinstance(given, Head | str | os.PathLike):
        raise SpecError(setting("heads", {name: given}) + " is neither a Head nor the path of one")
    head = given if isinstance(given, Head) else Head(given)
    said = _as_given(name, head)
    column = head.column or columns[0]
    if column not in columns or (head.column is None and len(columns) > 1):
        raise SpecError(
            said + (f" scores {column!r}, which is not embedded" if head.column else " does not say what it scores"),
            "heads",
            hint=f"its column is one of {', '.join(map(repr, columns))}",
        )
    try:
        linear = read_linear_head(head.path, spec.dim)
    except WeightsError as err:
        raise SpecError(said + f" for {spec.model}: {err}", "heads") from err
    if head.outputs and len(head.outputs) != linear.outputs:
        raise SpecError(said + f" has {linear.outputs} scores, and outputs names {len(head.outputs)}", "heads")
    _check_activation(head, linear, said, "heads")
    names = head.outputs or tuple(map(str, range(linear.outputs)))
    own = (name,) if linear.outputs == 1 and not head.outputs else tuple(f"{name}_{output}" for output in names)
    return HeadPlan(column, own, Path(head.path).name, linear, head.normalize, head.activation)


def _as_given(name: str, head: Head) -> Message:
    """Return a head as its user wrote it."""
    path, column = os.fspath(head.path), f":{head.column}" if head.column else ""
    given = {name: path}
    return by_surface(python=f"heads={given!r}", flags=f"--head {name}{column}={path}")
