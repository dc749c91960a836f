"""A job goes on over input that changed: what changed is done again, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from resume_jobs import begin, begun, contents, undisturbed, work, write_photographs, write_texts

from clipmill.datasets import finish_job
from clipmill.datasets.dataset import read_job
from clipmill.datasets.inputs import planning as planning_module

pytest_plugins = ["resume_jobs"]


def test_a_changed_table_is_done_again_and_another_is_not_looked_at(directory, texts, tmp_path, monkeypatch):
    other = write_texts(tmp_path / "other.jsonl", 4)
    undisturbed(directory, texts, other)
    write_texts(texts, 11)
    with monkeypatch.context() as patch:
        patch.setattr(planning_module, "cut", only_of(texts, planning_module.cut))
        job, progress = begin(directory, texts, other)
    assert (progress.done, progress.reasons) == (2, {"changed input": 5, "new input": 1})
    assert progress.rows == 4
    work(job, progress.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "all"), texts, other)


def only_of(path: Path, cut):
    def checked(file, kind, rows):
        assert file.path == str(path), "a table that did not change was cut again"
        return cut(file, kind, rows)

    return checked


def test_a_table_with_the_same_size_and_another_time_is_done_again(directory, texts):
    undisturbed(directory, texts)
    os.utime(texts, ns=(1, 1))
    _, progress = begin(directory, texts)
    assert progress.reasons == {"changed input": 5}


def test_a_shorter_table_leaves_nothing_of_the_longer_one(directory, texts, tmp_path):
    undisturbed(directory, texts)
    write_texts(texts, 3)
    job, progress = begin(directory, texts)
    assert (len(progress.to_do), progress.gone) == (2, 3)
    work(job, progress.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "all"), texts)


def test_one_new_photograph_moves_none(directory, tmp_path):
    photos = write_photographs(tmp_path / "photos", "bdfh")
    undisturbed(directory, photos)
    write_photographs(photos, "ac")
    (photos / "e.png").write_bytes((photos / "a.png").read_bytes())
    job, progress = begin(directory, photos)
    assert (progress.done, progress.reasons) == (2, {"new input": 2})
    assert [[Path(path).stem for path in shard.paths] for shard in progress.to_do] == [["a", "c"], ["e"]]
    work(job, progress.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "all"), photos)


def test_photographs_that_changed_or_went_cost_their_shard(directory, tmp_path):
    photos = write_photographs(tmp_path / "photos", "abcdefg")
    undisturbed(directory, photos)
    (photos / "a.png").write_bytes((photos / "b.png").read_bytes())
    for name in "dg":
        (photos / f"{name}.png").unlink()
    job, progress = begin(directory, photos)
    assert (progress.done, progress.reasons, progress.gone) == (1, {"changed input": 2}, 1)
    assert [[Path(path).stem for path in shard.paths] for shard in progress.to_do] == [["a", "b"], ["c"]]
    work(job, progress.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "all"), photos)


def test_what_only_went_is_deleted_too(directory, tmp_path):
    """Nothing is to be embedded, and the dataset is another one all the same."""
    photos = write_photographs(tmp_path / "photos", "abcd")
    undisturbed(directory, photos)
    for name in "cd":
        (photos / f"{name}.png").unlink()
    _, progress = begin(directory, photos)
    assert (list(progress.to_do), progress.gone, progress.is_complete) == ([], 1, False)
    finish_job(directory)
    assert [Path(row["id"]).stem for row in contents(directory)] == ["a", "b"]
    assert begin(directory, photos)[1].is_complete


def test_input_that_comes_after_the_job_was_killed_is_done(directory, texts, tmp_path):
    begun(directory, texts)
    more = write_texts(tmp_path / "more.jsonl", 3)
    job, progress = begin(directory, texts, more)
    assert (progress.done, progress.reasons) == (2, {"not finished": 3, "new input": 2})
    work(job, progress.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "all"), texts, more)
    assert begin(directory, texts, more)[1].is_complete


def test_a_second_kill_and_a_second_change_are_taken_too(directory, tmp_path):
    photos = write_photographs(tmp_path / "photos", "abcd")
    begun(directory, photos, done=1)
    write_photographs(photos, "e")
    begun(directory, photos, done=1)
    write_photographs(photos, "fg")
    (photos / "a.png").unlink()
    job, progress = begin(directory, photos)
    assert [[Path(path).stem for path in shard.paths] for shard in progress.shards] == [
        ["b"], ["c", "d"], ["e"], ["f", "g"],
    ]  # fmt: skip
    assert (progress.done, progress.reasons) == (1, {"changed input": 1, "not finished": 1, "new input": 1})
    work(job, progress.to_do)
    finish_job(directory)
    assert contents(directory) == undisturbed(str(tmp_path / "all"), photos)
    assert len(read_job(directory)["resumed"]) == 2
