"""On a runner that retries bundles, whatever fails, dies or is run twice: every row once, and nothing half-written.

A few drawn schedules of each scenario; `make soak` runs many. The last tests show that the schedules find mistakes.
"""

from __future__ import annotations

import logging
import os
import random
import uuid

import apache_beam as beam
import pytest
from retried_jobs import SCENARIOS, run_drawn
from retrying_runner import RetryingRunner

from clipmill.transforms import bundles, prepare


@pytest.fixture(autouse=True)
def _quiet(caplog):
    caplog.set_level(logging.CRITICAL, logger="apache_beam")  # bundles fail all the time


@pytest.mark.parametrize("name", SCENARIOS)
def test_retried_bundles_lose_and_repeat_nothing(tmp_path, name):
    counts = run_drawn(name, random.Random(f"tests {name}"), tmp_path, times=2)
    assert counts["undisturbed"]


def test_attempts_fail_and_are_repeated(tmp_path):
    """The runner itself: a bundle that outputs before it fails is run again, and counts once."""
    runner = RetryingRunner("runner", tmp_path)
    p = beam.Pipeline(runner=runner)
    numbers = p | beam.Create(range(30))
    sums = numbers | beam.Map(lambda n: (n % 3, n)) | beam.GroupByKey() | beam.MapTuple(lambda key, ns: (key, sum(ns)))
    p.run()
    assert sorted(runner.output(numbers)) == list(range(30))
    assert sorted(runner.output(sums)) == [(0, 135), (1, 145), (2, 155)]
    assert runner.counts["killed"] + runner.counts["failed"] + runner.counts["lost"] > 0


def _publish_at_once(monkeypatch):
    """Bundles write to the place of their files, under names of their own."""

    class Direct(bundles.ShardWriter):
        def __init__(self, directory, *args, **options):
            super().__init__(directory.partition("/_staging/")[0], *args, **options)

    monkeypatch.setattr(bundles, "ShardWriter", Direct)
    monkeypatch.setattr(bundles, "move", lambda *_: None)


def _move_once(monkeypatch):
    """Moving a file that was moved before is an error."""
    monkeypatch.setattr(bundles, "move", lambda folder, old, new: os.replace(folder.at(old), folder.at(new)))


def _new_run_each_time(monkeypatch):
    """The id of a run is made by the step that uses it, with no shuffle between."""
    monkeypatch.setattr(
        prepare._PrepareFn,
        "process",
        lambda self, _: [
            (
                run := uuid.uuid4().hex,
                prepare.prepare_output(self._directory, run, self._description, self._if_exists),
            )
        ],
    )


def _nobody_asks(monkeypatch):
    """Workers of an orphan go on, and what it has published stays."""
    monkeypatch.setattr(bundles, "check_prepared", lambda *_: None)
    monkeypatch.setattr(bundles, "delete_shards_of_others", lambda *_: None)


@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("write_once", _publish_at_once),
        ("write_once", _move_once),
        ("write_over", _new_run_each_time),
        ("orphan", _nobody_asks),
    ],
)
def test_the_schedules_find_mistakes(tmp_path, monkeypatch, name, mistake):
    mistake(monkeypatch)
    with pytest.raises(Exception, match=r".") as found:
        run_drawn(name, random.Random("mistakes"), tmp_path, times=20)
    assert "seed" in found.value.__notes__[0]
