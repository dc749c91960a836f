"""How often a running job's directory is listed."""

from __future__ import annotations

import pytest
from resume_jobs import begun

from clipmill.files.folder import Folder
from clipmill.jobs import job_counts
from clipmill.jobs.job_counts import JobCounts, pause_before_look

pytest_plugins = ["resume_jobs"]


@pytest.mark.parametrize(
    ("directory", "took_s", "pause_s"),
    [("/data/out", 0, 1), ("/data/out", 3, 60), ("memory://b/out", 0.1, 30), ("memory://b/out", 10, 200)],
)
def test_the_pause_grows_with_what_a_look_takes_and_stores_are_asked_seldom(directory, took_s, pause_s):
    assert pause_before_look(directory, took_s) == pause_s


def test_counts_are_asked_for_often_and_looked_up_seldom(tmp_path, monkeypatch):
    looks = []
    counts = JobCounts(str(tmp_path), shards=1)
    monkeypatch.setattr(counts, "_look", lambda: looks.append(1))
    now = [100.0]
    monkeypatch.setattr(job_counts.time, "monotonic", lambda: now[0])
    counts.counts()
    assert not looks  # the directory may hold another dataset
    counts.start()
    for at in (100.0, 100.5, 100.9, 101.0, 101.2):
        now[0] = at
        counts.counts()
    assert len(looks) == 2
    counts.counts(now=True)
    assert len(looks) == 3


def test_a_manifest_that_moves_while_they_are_read_is_counted_later(directory, texts, monkeypatch):
    """As when the dataset takes the place of an older one."""
    begun(directory, texts, done=3)
    read_many, away = Folder.read_many, {}

    def moving(self: Folder, names: list[str]) -> dict[str, bytes]:
        if not away:
            away[names[0]] = self.read(names[0])
            self.delete(names[0])
        return read_many(self, names)

    monkeypatch.setattr(Folder, "read_many", moving)
    counts = JobCounts(directory, shards=5)
    counts.start()
    assert counts.counts(now=True)["shards", ""] == 2
    for name, content in away.items():
        Folder.of(directory).write(name, content)
    assert counts.counts(now=True)["shards", ""] == 3
