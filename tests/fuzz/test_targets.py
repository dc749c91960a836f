"""Every target of `make fuzz`, without the fuzzer: its seeds, a few hundred changes of them, and what was found."""

from __future__ import annotations

import random

import pytest
from fuzzing import damaged
from targets import TARGETS

CHANGES = 100


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damaged metadata; clipmill ignores them too
@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_changes_of_them(name: str) -> None:
    target, draw = TARGETS[name], random.Random(name)
    seeds = list(target.seeds())
    for data in [*seeds, *(damaged(draw.choice(seeds), draw) for _ in range(CHANGES))]:
        try:
            target.check(data)
        except Exception as err:
            err.add_note(f"the input is {data!r:.300}")
            raise
