"""A few hundred damaged inputs of each kind: all come out, unnoticed by their neighbours. `make soak` takes more."""

from __future__ import annotations

import random

import pytest
from fuzzing import FUZZERS, damaged
from untrusted_files import UNTRUSTED

COUNT = 200


@pytest.mark.parametrize("kind", [*FUZZERS, *UNTRUSTED])
def test_damaged_inputs_come_out_once_each(kind, tmp_path):
    seen = {**FUZZERS, **UNTRUSTED}[kind](random.Random(kind), COUNT, tmp_path)
    assert seen["inputs"] == COUNT
    assert sum(count for what, count in seen.items() if what != "inputs") >= COUNT // 2


def test_inputs_are_drawn_by_their_seed():
    data = bytes(range(256)) * 9
    first, again = ([damaged(data, draw) for _ in range(50)] for draw in (random.Random(1), random.Random(1)))
    assert first == again
    assert len(set(first)) > 40 and data not in first
