"""Files of a previous plan are found in a new listing by their paths."""

from __future__ import annotations

import random

import pytest

from clipmill.datasets.inputs import kept_files
from clipmill.datasets.inputs.kept_files import KeptFiles
from clipmill.datasets.inputs.planning import cut_inputs, number_of
from clipmill.datasets.inputs.recognition import InputFile
from clipmill.datasets.inputs.walking import Listed


def files(numbers) -> list[Listed]:
    return [Listed(f"/d/{n:03d}\udcff.jpg", n, f"v{n}", (".txt",) if n % 3 else ()) for n in numbers]


@pytest.mark.parametrize("buckets", [None, 3, 1], ids=["different hashes", "equal hashes", "one hash"])
def test_files_are_found_once_and_the_others_keep_their_order(monkeypatch, buckets):
    if buckets:
        monkeypatch.setattr(kept_files, "_hash_of", lambda path: int(path[3:6]) % buckets)
    listed = KeptFiles(iter(files(range(20))))
    assert listed.take([file.path for file in files([7, 3, 25, 3])]) == files([7, 3])
    assert listed.take([file.path for file in files([3, 19])]) == files([19])
    assert list(listed.others()) == files(n for n in range(20) if n not in (3, 7, 19))


def test_no_files():
    listed = KeptFiles([])
    assert listed.take(["/d/1.jpg"]) == [] and list(listed.others()) == []


@pytest.mark.parametrize("seed", range(5))
def test_a_plan_that_goes_on_keeps_its_shards_however_often_files_come_and_go(seed):
    draw = random.Random(seed)
    there = set(range(0, 60, 2))
    plan = cut_inputs((InputFile(file, "files") for file in files(sorted(there))), rows_per_shard=4)
    for _ in range(4):
        homes = {path: number_of(shard) for shard in plan for path in shard.paths}
        there = {n for n in there if draw.random() < 0.8} | {draw.randrange(60) for _ in range(8)}
        now = files(sorted(there))
        plan = cut_inputs((InputFile(file, "files") for file in now), rows_per_shard=4, previous=plan)
        assert sorted(path for shard in plan for path in shard.paths) == [file.path for file in now]
        numbers = [number_of(shard) for shard in plan]
        assert numbers == sorted(set(numbers))
        found = {path: number_of(shard) for shard in plan for path in shard.paths}
        assert all(found[path] == number for path, number in homes.items() if path in found)
