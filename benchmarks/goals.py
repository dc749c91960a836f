"""Goals for the rates, as ratios."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from turns import Rates, ratio


class Goal(NamedTuple):
    """One ratio.

    Attributes:
        what: A description of the ratio.
        part: The part of the benchmark with the rates.
        own: The contender that should be fast.
        base: The contender that it is compared with.
        at_least: The minimum ratio.
    """

    what: str
    part: str
    own: str
    base: str
    at_least: float


GOALS = (
    Goal("images, auto, against A", "speed", "core, auto", "A", 5.0),
    Goal("images, auto, against B", "speed", "core, auto", "B", 2.0),
    Goal("images, auto, against the model only", "speed", "core, auto", "model only, auto", 0.88),
    Goal("images, auto, against a bare loop", "speed", "core, auto", "bare loop, auto", 0.95),
    Goal("captions of 5-15 words, auto, against the limit", "texts", "core, auto", "limit, auto", 0.9),
    Goal("images, fp32, against the model only", "speed", "core, fp32", "model only, fp32", 0.88),
    Goal("images, fp32, against B", "speed", "core, fp32", "B", 1.1),
    Goal("captions of 5-15 words, auto, against A", "texts", "core, auto", "A", 20.0),
    Goal("captions of 5-15 words, auto, against B", "texts", "core, auto", "B", 12.0),
    Goal("12-megapixel JPEGs, auto, against B", "big", "core, auto", "B", 3.0),
    Goal("images, Beam, auto, against the core", "speed", "Beam, auto", "core, auto", 0.95),
    Goal("images, Spark, auto, against the core", "speed", "Spark, auto", "core, auto", 0.95),
    Goal("images, Beam, fp32, against the core", "speed", "Beam, fp32", "core, fp32", 0.95),
    Goal("images, Spark, fp32, against the core", "speed", "Spark, fp32", "core, fp32", 0.95),
    Goal("captions, Beam, auto, against the core", "texts", "Beam, auto", "core, auto", 0.95),
    Goal("captions, Spark, auto, against the core", "texts", "Spark, auto", "core, auto", 0.95),
    Goal("images, Beam, auto, against C", "speed", "Beam, auto", "C", 4.0),
    Goal("images, Spark, auto, against D", "speed", "Spark, auto", "D", 4.0),
)


def goal_table(measured: Mapping[str, Rates]) -> list[str]:
    """Return the lines of the table of ratios, for the parts that were measured."""
    lines = ["| ratio | measured | at least | |", "|---|---|---|---|"]
    for goal in GOALS:
        if goal.own in measured.get(goal.part, ()):  # quick runs skip some
            found = ratio(measured[goal.part], goal.own, goal.base)
            reached = "reached" if found >= goal.at_least else "**not reached**"
            lines.append(f"| {goal.what} | {found:.2f} | {goal.at_least:g} | {reached} |")
    return lines
