"""Rows and documents through a plan, without an engine."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from clipmill.encoders import Encoder, Stats
from clipmill.encoders.plans.plan import Plan
from clipmill.encoders.plans.row_values import get_by_path
from clipmill.encoders.plans.runner import Done, PlanRunner


def run_plan(plan: Plan, encoder: Encoder, rows: Iterable[Any], stats: Stats | None = None) -> list[Done]:
    """Take rows (dicts) or documents through a plan in one session."""
    with PlanRunner(plan, encoder).session(Stats() if stats is None else stats) as session:
        sources = [functools.partial(get_by_path, row) if isinstance(row, dict) else row for row in rows]
        done = [one for row, source in zip(rows, sources, strict=True) for one in session.push(row, source)]
        return done + session.flush()
