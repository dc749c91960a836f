"""A job goes on as it was begun, or not at all: which arguments may change, and what is said of the others."""

from __future__ import annotations

import dataclasses
import json

import pytest
from resume_jobs import SPEC, begin, begun, work, write_texts

from clipmill.datasets import finish_job
from clipmill.datasets.dataset import read_job
from clipmill.encoders import EncoderSpec
from clipmill.errors import DatasetError, WeightsError
from clipmill.files.folder import Folder
from clipmill.jobs import embed_shard
from clipmill.jobs.start import changes_of

pytest_plugins = ["resume_jobs"]

CHANGES = {
    "model": ({"spec": EncoderSpec("fake::dim=5", device="cpu")}, "model was .*dim=4.* and is .*dim=5"),
    "normalize": ({"spec": dataclasses.replace(SPEC, normalize=True)}, "normalize was false and is true"),
    "precision": ({"spec": dataclasses.replace(SPEC, precision="bf16")}, 'precision was "auto" and is "bf16"'),
    "preprocess": ({"spec": dataclasses.replace(SPEC, preprocess=False)}, "preprocess was true and is false"),
    "local files": ({"spec": dataclasses.replace(SPEC, allow_local_files=True)}, "allow_local_files was false"),
    "rows_per_shard": ({"rows": 3}, "rows_per_shard was 2 and is 3"),
    "dtype": ({"dtype": "float16"}, "written column 'embedding' was .*float.* and is .*halffloat"),
    "tags": ({"tags": ["lang"]}, r"reader's tags now also has \[\"lang\"\]"),
    "access_paths": ({"access_paths": "@r,c"}, 'access_paths was "@r" and is "@r,c"'),
    "content": ({"keep_content": True}, "written column 'blob' was not there"),
    "reader": ({"reader": {"text": "body"}}, 'reader\'s text was not there and is "body"'),
    "format": ({"format": "jsonl"}, 'format was "parquet" and is "jsonl"'),
    "columns": ({"columns": {"text": "text"}}, "columns was not there and is"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_arguments_are_refused_with_what_differs(directory, texts, change):
    begun(directory, texts)
    folder = Folder.of(directory)
    before = folder.list()
    settings, message = CHANGES[change]
    with pytest.raises(DatasetError, match=f"was started with different arguments: .*{message}"):
        begin(directory, texts, **settings)
    assert folder.list() == before


def test_of_long_lists_only_the_difference_is_shown():
    nights = [f"/a/long/path/to/the/datasets/of/all/nights/{number}" for number in range(9)]
    then, now = ({"arguments": {"skip_existing": names}} for names in (nights[:8], [*nights[1:8], nights[8]]))
    (change,) = changes_of(then, now)
    assert change == f'skip_existing now lacks ["{nights[0]}"] and also has ["{nights[8]}"]'


def test_another_preparation_under_the_same_arguments_is_refused(directory, texts):
    """As another version of clipmill might bring it."""
    begun(directory, texts)
    folder = Folder.of(directory)
    description = read_job(directory)
    description["provenance"]["embedding"]["text"]["context_length"] = 5
    folder.write("_job.json", json.dumps(description).encode())
    with pytest.raises(DatasetError, match=r"makes the column 'embedding' differs in text\.context_length"):
        begin(directory, texts)


def test_an_option_that_a_later_version_brought_had_its_default(directory, texts):
    begun(directory, texts)
    description = read_job(directory)
    del description["spec"]["max_audio_seconds"]
    Folder.of(directory).write("_job.json", json.dumps(description).encode())
    assert begin(directory, texts)[1].done == 2
    description["spec"]["max_audio_seconds"] = 5.0
    Folder.of(directory).write("_job.json", json.dumps(description).encode())
    with pytest.raises(DatasetError, match=r"max_audio_seconds was 5\.0 and is 60\.0"):
        begin(directory, texts)


def test_an_input_that_is_not_named_any_more_is_refused(directory, texts, tmp_path):
    """A slip of the pen must not delete a night's work."""
    other = write_texts(tmp_path / "other.jsonl", 4)
    begun(directory, texts, other)
    with pytest.raises(DatasetError, match=r"the input .*other.jsonl is not named any more"):
        begin(directory, texts)


def test_the_same_input_may_be_named_otherwise(directory, texts, monkeypatch):
    begun(directory, texts)
    monkeypatch.chdir(texts.parent)
    _, progress = begin(directory, texts.name)
    assert progress.done == 2


def test_how_it_is_run_may_differ_and_is_recorded(directory, texts):
    begun(directory, texts)
    spec = dataclasses.replace(SPEC, max_batch_rows=1, decode="exact", cache_dir="/tmp/elsewhere")
    job, progress = begin(directory, texts, spec=spec)
    assert progress.done == 2
    work(job, progress.to_do)
    finish_job(directory)
    (again,) = read_job(directory)["resumed"]
    assert again["spec"] == {"max_batch_rows": 1, "decode": "exact", "cache_dir": "/tmp/elsewhere"}


def test_other_weights_under_the_same_name_are_refused(directory, texts):
    job, progress = begin(directory, texts)
    manifest = embed_shard(progress.to_do[0], job)
    manifest["resolved"]["weights_sha256"] = "0123"
    Folder.of(directory).write(f"_manifest/part-{manifest['name']}.json", json.dumps(manifest).encode())
    job, progress = begin(directory, texts)
    assert job.weights_sha256 == "0123"
    embed_shard(progress.to_do[0], job)  # the fake has none, and nothing is known against it
    other = EncoderSpec("custom:resume_weights:make", device="cpu")
    with pytest.raises(WeightsError, match=r"SHA-256 0123, .*have 4567 now"):
        embed_shard(progress.to_do[1], dataclasses.replace(job, spec=other))


@pytest.fixture(autouse=True)
def own_encoder(tmp_path, monkeypatch):
    """An encoder whose weights have another digest."""
    (tmp_path / "resume_weights.py").write_text(
        "from clipmill.encoders.testing import FakeModel\n"
        "def make():\n"
        "    model = FakeModel({'dim': '4'})\n"
        "    model.resolved['weights_sha256'] = '4567'\n"
        "    return model\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
