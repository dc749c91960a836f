"""Timing in turns: every contender runs once in each round (A B C A B C), so that a busy minute affects all of them."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import click
import numpy as np

LEAST_COSINE = 0.9
"""The minimum cosine of two contenders' vectors after subtracting their means; vectors of different rows have 0."""

Rates = Mapping[str, Sequence[float]]
"""Rows per second by contender, one value per round."""


def _nothing() -> None:
    pass


@dataclasses.dataclass(frozen=True)
class Contender:
    """One system that does the same work as the others.

    Attributes:
        name: Its name in the tables.
        rows: Rows per run; slow contenders do fewer, since rates are compared.
        run: Embeds them, with everything already loaded. Returns the vectors, (rows, dim) float32 in order, or None if
            they stay in an engine.
        warm: Called before every run and not timed, for workers that end when they are idle.
    """

    name: str
    rows: int
    run: Callable[[], np.ndarray | None]
    warm: Callable[[], None] = _nothing


def take_turns(
    contenders: Sequence[Contender], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Return the rates of each contender, one per round, after a round that warms up and checks the vectors.

    Raises:
        RuntimeError: If two contenders do not embed the same rows, which would make their rates meaningless.
    """
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    vectors: dict[str, np.ndarray] = {}
    for number in range(rounds + 1):
        for contender in contenders:
            contender.warm()
            started = clock()
            made = contender.run()
            rate = contender.rows / (clock() - started)
            click.echo(f"round {number}: {contender.name}: {rate:,.1f} rows/s", err=True)
            if number:
                rates[contender.name].append(rate)
            elif made is not None:
                vectors[contender.name] = made
        if not number:
            check_same(vectors)
    return rates


def check_same(vectors: Mapping[str, np.ndarray]) -> None:
    """Compare the contenders' vectors for the rows that all of them have.

    Raises:
        RuntimeError: If two contenders differ, with their names.
    """
    if len(vectors) < 2:
        return
    count = min(len(matrix) for matrix in vectors.values())
    first, *others = vectors
    for other in others:
        cosine = float(_centred_cosines(vectors[first][:count], vectors[other][:count]).min())
        if not cosine >= LEAST_COSINE:
            raise RuntimeError(f"{first} and {other} embed the same rows differently: cosine {cosine:.3f} at the least")


def _centred_cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the cosine of each row's difference from the mean: with random weights, all vectors are much alike."""
    left, right = (matrix - matrix.mean(axis=0) for matrix in (left.astype(float), right.astype(float)))
    with np.errstate(invalid="ignore"):  # equal rows give NaN, which the caller rejects
        return (left * right).sum(axis=1) / (np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1))


def ratio(rates: Rates, own: str, base: str) -> float:
    """Return the ratio of one contender's rate to another's, as the median over the rounds."""
    return statistics.median(mine / theirs for mine, theirs in zip(rates[own], rates[base], strict=True))


def rate_table(rates: Rates, unit: str, bases: Sequence[str] = ()) -> list[str]:
    """Return a table's lines: median rates, and the medians of each round's ratio to some of the contenders."""
    lines = [f"| way | {unit}/s |" + "".join(f" against {base} |" for base in bases)]
    lines.append("|" + "---|" * (2 + len(bases)))
    for name, values in rates.items():
        ratios = "".join(f" {ratio(rates, name, base):.2f} |" for base in bases)
        lines.append(f"| {name} | {statistics.median(values):,.1f} |{ratios}")
    return lines
