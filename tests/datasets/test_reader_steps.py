"""Every reader is linear in its input, whatever is broken: the `reader-time` of `make soak` in short."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from broken_inputs import ALL, read_one, steps_of, write_broken


@pytest.mark.parametrize("name", ALL)
def test_four_times_the_input_takes_at_most_five_times_the_steps(tmp_path: Path, name: str) -> None:
    read_one(name, write_broken(name, 3_000, tmp_path))  # what is imported or compiled at first
    steps = []
    for size in (3_000, 12_000):
        path = write_broken(name, size, tmp_path)
        steps.append(steps_of(functools.partial(read_one, name, path)))
    assert steps[1] <= 5 * steps[0] + 2_000
